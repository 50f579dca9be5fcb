"""Without root: a user namespace in which this user is root, and what it takes besides.

Called by the commands before they touch layers, mounts or namespaces; for root it does nothing. With ids of the user's
own in subuid(5) and the programs newuidmap and newgidmap (package uidmap) the namespace has 65,536 users; without them
it has one, which is enough for images whose files belong to root, and the message says so where it is not. Sources:
user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import os
import pwd
from contextlib import suppress

from unionfs.container import lab
from unionfs.errors import UnionfsError
from unionfs.image.database import default_root
from unionfs.linux import mountfd, namespaces
from unionfs.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER


def enter() -> None:
    """Become root in this user's one user namespace (lab.py), made by the first command that wants it, with a mount
    namespace of this process's own. Raises UnionfsError where users get none.

    Not to be called with further threads. The state stays where it was for this user.
    """
    if os.geteuid() == 0:
        return
    root = os.environ["UNIONFS_ROOT"] = default_root()
    lab.hold(root)
    making = lab.making(root)
    try:
        keeper = lab.find(root)
        if keeper:
            _join(keeper)
        else:
            _make()
            lab.keep(root)
    finally:
        os.close(making)
    mountfd.set_propagation(b"/", mountfd.MS_SLAVE)


def _join(keeper: int) -> None:
    descriptor = os.pidfd_open(keeper)
    try:
        namespaces.setns(descriptor, CLONE_NEWUSER)
        namespaces.unshare(CLONE_NEWNS)
    except OSError as error:
        why = f"cannot be joined: {error.strerror}"
        raise UnionfsError(f"the user namespace of process {keeper}", why, f"end it: kill {keeper}") from error
    finally:
        os.close(descriptor)


def _make() -> None:
    uid, gid = os.geteuid(), os.getegid()
    waiting, go = os.pipe()
    ranges = (_range("/etc/subuid", uid), _range("/etc/subgid", uid))
    helper = _fork_helper(os.getpid(), uid, gid, ranges, waiting, go) if all(ranges) else 0
    try:
        namespaces.unshare(CLONE_NEWUSER | CLONE_NEWNS)
    except OSError as error:
        hint = "as root: sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1; see unionfs doctor"
        raise UnionfsError("a user namespace", f"this user gets none: {error.strerror}", hint) from error
    os.close(go)
    os.close(waiting)
    if not helper or os.waitpid(helper, 0)[1] != 0:
        _map_one(uid, gid)


def _fork_helper(
    pid: int, uid: int, gid: int, ranges: tuple[tuple[int, int] | None, ...], waiting: int, go: int
) -> int:
    """A process that stays outside and writes the maps, once the other one is inside."""
    helper = os.fork()
    if helper:
        return helper
    status = 1
    try:
        os.close(go)
        os.read(waiting, 1)  # its end: the other one has closed it
        for program, own, given in zip(("newuidmap", "newgidmap"), (uid, gid), ranges, strict=True):
            assert given is not None
            words = [program, str(pid), "0", str(own), "1", "1", str(given[0]), str(given[1])]
            status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp(program, words, os.environ), 0)[1])
            if status:
                break
    except OSError:
        pass  # the programs are not there
    finally:
        os._exit(status)


def _range(path: str, uid: int) -> tuple[int, int] | None:
    """First and count of the ids that subuid(5) gives a user."""
    names = {str(uid)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    with suppress(OSError, ValueError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            name, first, count = line.strip().split(":")
            if name in names:
                return int(first), int(count)
    return None


def _map_one(uid: int, gid: int) -> None:
    """This user alone, as root. The kernel wants setgroups(2) off for that."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
            file.write(text)
