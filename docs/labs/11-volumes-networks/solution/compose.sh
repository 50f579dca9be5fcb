#!/bin/sh
# Lab 11, a solution.
set -eu
unionfs=${unionfs:-unionfs}

case $1 in
up)
    $unionfs volume create data
    $unionfs network create lab
    $unionfs run --rm --network none -v data:/data --rootfs / sh -c 'echo "hello from a volume" > /data/page'
    $unionfs run -d --name web --network lab -p 127.0.0.1:8080:80 -v data:/srv:ro \
        --rootfs / python3 -m http.server 80 -d /srv
    ;;
down)
    $unionfs rm -f web
    $unionfs volume rm data
    $unionfs network rm lab
    ;;
esac
