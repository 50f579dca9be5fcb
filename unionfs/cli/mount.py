"""`unionfs mount`, `unionfs umount`, and the helper that mount(8) runs for the type fuse.unionfs.

Loaded by `main.py`. A mount is served by a daemon; the command returns when the mount answers, or with everything that
is wrong: in the options, with the mount point, with the layers.
"""

from __future__ import annotations

import argparse
import errno
import os
import stat
import syslog
from collections.abc import Callable
from functools import partial

from unionfs import events
from unionfs.cli.command import Command, Parser, UsageError, told
from unionfs.cli.counter import counter
from unionfs.errors import Faults, UnionfsError
from unionfs.fuse import mount as fuse_mount
from unionfs.fuse.daemon import daemonize
from unionfs.fuse.options import DEFAULT_SOURCE, ENGINES, SYSLOG, VALUES, MountRequest, parse
from unionfs.union.operations import Operations

WRONG_USAGE, MOUNT_FAILED = 1, 32
"""mount(8), "EXIT STATUS"."""

OPTIONS = """\
mount options (-o, separated by commas; \\, \\: and \\\\ stand for the character itself):
  lowerdir=A:B:C     the layers that are only read, the topmost first
  upperdir=U         the layer that takes all changes; without it the union is read-only
  workdir=W          an empty directory on the filesystem of U
  dialect=aufs       how deletions are written: aufs (.wh.NAME), or overlay as the kernel's overlayfs
  userxattr          keep the bookkeeping in user.* attributes: no privileges needed
  volatile           leave syncs out: quicker; the upper is not to be trusted after a crash of the machine
  copyup=auto        what the first change of a lower file copies: whole, block (what is written to), or auto: small
                     files whole. In the overlay dialect: whole, or auto: no data for a change of attributes
  copyup_threshold=N the size from which auto copies by block; 64K, 1M
  copyup_complete=W  the rest of a file copied by block is copied in the background once it is much used, after the
                     last close (close), or never
  open=passthrough   the kernel reads and writes files by itself, where it can; or cached: it opens and closes them
                     without asking, their data goes through the daemon and the page cache
  coherent           a file that is open shows what is written, also if it was opened before its copy-up: lower files
                     are read through the daemon
  index=auto         the layer index, which makes looking up and listing quick: on, off, or (auto) where nobody can
                     write to a lower layer; built at the first mount, and checked against the layers at each
  scheduling=follow  the daemon goes to the CPU of its client and gives way to it, as far as it may; or normal
  allow_other        other users may use the mount (always so for root)
  ro, nosuid, nodev, noexec, noatime, ...   as in mount(8)
  fsname=NAME        what the table of mounts shows as source
  log=FILE|syslog    where the daemon's messages go; default: syslog
  engine=NAME        as --engine
"""

_PRIORITIES = {"info": syslog.LOG_INFO, "warning": syslog.LOG_WARNING, "error": syslog.LOG_ERR}


# --- unionfs mount


def _mount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "unionfs mount [SOURCE] DIR -o OPTIONS [-f] [-d] [--engine NAME]"
    add = parser.add_argument
    add("places", nargs="+", metavar="DIR", help="where to mount; a SOURCE before it is what the table of mounts shows")
    add("-o", dest="options", action="append", default=[], metavar="OPTIONS", help="mount options, see below")
    add("-f", "--foreground", action="store_true", help="stay in the foreground, messages on standard error")
    add("-d", "--debug", action="store_true", help="log every request; in the foreground, unless there is log=")
    add("--engine", choices=ENGINES, help="native (pure Python) or fusepy (libfuse 2); auto takes the best that works")


def _mount(arguments: argparse.Namespace) -> None:
    if len(arguments.places) > 2:
        raise UsageError("mount", f"unexpected argument {arguments.places[2]}", "unionfs mount [SOURCE] DIR -o OPTIONS")
    if not arguments.options:
        raise UsageError("mount", "no layers are given", "-o lowerdir=A[:B...][,upperdir=U,workdir=W]")
    *source, place = map(os.fsencode, arguments.places)
    here = _current_directory()
    faults: list[UnionfsError] = []
    request = parse(b",".join(map(os.fsencode, arguments.options)), here, faults)
    request = request._replace(engine=arguments.engine or request.engine)
    if source and request.source == DEFAULT_SOURCE:
        request = request._replace(source=source[0])
    mountpoint = os.path.join(here, place)
    faults += _mountpoint_faults(mountpoint)
    if arguments.foreground or (arguments.debug and not request.log):
        _log_to(request.log, faults)
        _serve(request, mountpoint, faults, arguments.debug, lambda: None)
    else:
        _log_to(request.log or SYSLOG, faults, starting=True)
        daemonize(partial(_serve, request, mountpoint, faults, arguments.debug))


def _current_directory() -> bytes:
    try:
        return os.getcwdb()
    except FileNotFoundError:
        raise UnionfsError("the current directory", "was deleted", "cd to one that exists") from None


def _mountpoint_faults(path: bytes) -> list[UnionfsError]:
    shown = os.fsdecode(path)
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            os.statvfs(path)  # of a dead mount, the kernel may know all that stat(2) asks
            return []
        why, hint = "not a directory", "mount on a directory"
    except FileNotFoundError:
        why, hint = "no such directory", f"mkdir -p {shown}"
    except OSError as error:
        dead = error.errno == errno.ENOTCONN
        why = "its mount is dead, the daemon is gone" if dead else (error.strerror or str(error)).lower()
        hint = f"unionfs umount {shown}" if dead else "choose a directory that you may enter"
    return [UnionfsError(f"mount point {shown}", why, hint)]


def _serve(
    request: MountRequest, mountpoint: bytes, faults: list[UnionfsError], debug: bool, ready: Callable[[], None]
) -> None:
    """Open the layers, mount, serve until unmounted. Raises Faults with the given ones and those of the layers."""
    fuse_mount.allow_many_descriptors()
    union = _open(request, faults)
    progress = partial(counter, "looking at the lower layers")
    fuse_mount.serve_request(union, mountpoint, request, debug=debug, ready=ready, progress=progress)


def _open(request: MountRequest, faults: list[UnionfsError]) -> Operations:
    try:
        union = fuse_mount.open_union(request)
    except Faults as more:
        # With a word misspelt, that its layer is missing too is no news.
        raise Faults(faults + [fault for fault in more.faults if not faults or fault.what not in VALUES]) from None
    if faults:
        union.close()
        raise Faults(faults)
    return union


# --- where messages go


def _log_to(log: bytes | None, faults: list[UnionfsError], starting: bool = False) -> None:
    """Send the log there (None: standard error); while the daemon is `starting`, to standard error as well."""
    try:
        sink = _sink(log) if log else events.to_descriptor(2)
    except OSError as error:
        fault = told(error)
        fault.what, fault.hint = f"log {fault.what}", "name a file that you may write, or log=syslog"
        faults.append(fault)
        sink = events.to_descriptor(2)
    events.log_to(_and_terminal(sink) if starting else sink)


def _sink(log: bytes) -> events.Sink:
    if log == SYSLOG:
        syslog.openlog("unionfs", syslog.LOG_PID, syslog.LOG_DAEMON)
        return lambda importance, message: syslog.syslog(_PRIORITIES[importance], message)
    return events.to_descriptor(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644), dated=True)


def _and_terminal(log: events.Sink) -> events.Sink:
    """The log, and standard error too, until the daemon gives that away; there, only what is out of the ordinary."""
    terminal = events.to_descriptor(2)

    def write(importance: str, message: str) -> None:
        log(importance, message)
        if importance != "info":
            terminal(importance, message)

    return write


# --- unionfs umount


def _umount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("places", nargs="+", metavar="DIR", help="where a union is mounted")
    parser.add_argument(
        "-l", "--lazy", action="store_true", help="detach one that is in use; it ends with its last user"
    )


def _umount(arguments: argparse.Namespace) -> None:
    faults = []
    for place in arguments.places:
        try:
            fuse_mount.unmount(os.fsencode(place), lazy=arguments.lazy)
        except UnionfsError as fault:
            faults.append(fault)
    if faults:
        raise Faults(faults)


# --- mount.fuse.unionfs


def _helper_arguments(parser: argparse.ArgumentParser) -> None:
    """mount(8), "EXTERNAL HELPERS": /sbin/mount.TYPE SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]."""
    parser.add_argument("source")
    parser.add_argument("place")
    parser.add_argument("-o", dest="options", action="append", default=[])
    parser.add_argument("-s", dest="sloppy", action="store_true")
    parser.add_argument("-f", dest="fake", action="store_true")
    parser.add_argument("-n", "-v", dest="ignored", action="store_true")
    parser.add_argument("-t", dest="type")
    parser.add_argument("-N", dest="namespace")


def _helper(arguments: argparse.Namespace) -> None:
    """Sloppy options (-s) are refused all the same: an option that does nothing is worse than none."""
    if arguments.namespace:
        raise UsageError("mount", "-N is not supported", "enter the namespace first: nsenter --mount=FILE mount ...")
    if arguments.fake:
        return
    parser = Parser(prog="mount.fuse.unionfs")
    _mount_arguments(parser)
    words = [word for options in arguments.options for word in ("-o", options)]
    try:
        _mount(parser.parse([*words, "--", arguments.source, arguments.place]))
    except (UnionfsError, OSError) as error:
        failure = told(error)
        failure.exit_status = MOUNT_FAILED
        raise failure from None


COMMANDS = {
    "mount": Command(
        "Merge directories and mount the result on DIR. Returns when the mount answers; names every fault at once.",
        _mount_arguments,
        _mount,
        OPTIONS,
    ),
    "umount": Command(
        "Unmount unions and wait until their daemons have ended. umount(8) and fusermount3 -u unmount too.",
        _umount_arguments,
        _umount,
    ),
    "mount.fuse.unionfs": Command("The helper of mount(8).", _helper_arguments, _helper, usage_status=WRONG_USAGE),
}
