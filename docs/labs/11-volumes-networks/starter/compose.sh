#!/bin/sh
# Lab 11: a small service, brought up and taken down by unionfs commands. $unionfs is the command.
#
#   compose.sh up     a volume "data" with a file page that says "hello from a volume";
#                     a network "lab";
#                     a container "web" on it, over this machine's root (--rootfs /), which has the volume at /srv,
#                     read-only, serves that by "python3 -m http.server 80 -d /srv", and is published on 127.0.0.1:8080
#   compose.sh down   all of it gone
set -eu
unionfs=${unionfs:-unionfs}

case $1 in
up)
    echo "write up" >&2
    exit 1
    ;;
down)
    echo "write down" >&2
    exit 1
    ;;
esac
