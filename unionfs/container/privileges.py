"""As whom a program runs in a container, and what it may do: user, groups, capabilities, no_new_privs.

Called by `create.py` (which capabilities) and `process.py` (the last steps before exec). Sources: docker's default set,
capabilities(7), passwd(5), group(5).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from unionfs.errors import UnionfsError, did_you_mean
from unionfs.linux import capabilities

DEFAULT = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_CHROOT",
)  # fmt: skip
"""Docker's set without MKNOD, since a device node is inert here anyway, and AUDIT_WRITE."""
_HIGHEST_ID = 2**32 - 2


class User(NamedTuple):
    """Who runs a program: ids, further groups, and the home directory that passwd(5) gives, or ""."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def chosen(add: Iterable[str], drop: Iterable[str]) -> tuple[str, ...]:
    """The capabilities of --cap-add and --cap-drop, sorted; ALL is all. Raises UnionfsError for an unknown name."""
    added, dropped = ({_name(word, option) for word in words} for words, option in ((add, "add"), (drop, "drop")))
    names = set() if "ALL" in dropped else set(capabilities.NAMES) if "ALL" in added else set(DEFAULT)
    if "ALL" not in dropped:
        names -= dropped
    return tuple(sorted(names | added - {"ALL"} - (dropped - {"ALL"})))


def _name(word: str, option: str) -> str:
    name = word.upper().removeprefix("CAP_")
    if name != "ALL" and name not in capabilities.NAMES:
        hint = did_you_mean(name, capabilities.NAMES) or "man 7 capabilities lists them"
        raise UnionfsError(f"--cap-{option} {word}", "there is no such capability", hint)
    return name


def become(user: User, names: Sequence[str], no_new_privs: bool) -> None:
    """This process's user, groups and rights for good. Raises OSError.

    The bounding set keeps `names`; a user who is not root has none in effect, as after a login.
    """
    numbers = [capabilities.NAMES.index(name) for name in names]
    capabilities.limit_bounding_set(numbers)
    _set_groups(user)
    try:
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        why = "is not mapped in this user namespace, which has one user"
        hint = "install newuidmap (package uidmap), with ranges of this user's own in /etc/subuid and /etc/subgid"
        raise UnionfsError(f"user {user.uid}:{user.gid}", why, hint) from error
    if user.uid == 0:
        capabilities.set_all(numbers)
    if no_new_privs:
        capabilities.set_no_new_privs()


def user_here(word: str) -> User:
    """`user_of` by the files of this process's own root, which is a container's."""
    return user_of(word, _content("/etc/passwd"), _content("/etc/group"))


def _content(path: str) -> bytes:
    """A file of the image's; a pipe or a device in its place would hold the caller up."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(fd, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def _set_groups(user: User) -> None:
    """In a user namespace with one user there is one group, and setgroups(2) is off."""
    try:
        os.setgroups(user.groups)
    except OSError:
        with open("/proc/self/setgroups", "rb") as file:  # bytes: no codec can be loaded in the container's root
            if file.read().strip() != b"deny":
                raise


def user_of(word: str, passwd: bytes, group: bytes) -> User:
    """The user of -u and USER, `user|uid[:group|gid]`, by the container's own passwd(5) and group(5).

    Nobody named is root. Raises UnionfsError for a name that is in neither.
    """
    name, _, group_name = word.partition(":")
    entries = _entries(passwd, 7)
    name = name or "0"
    entry = _find(entries, name, 2)
    if entry is None and not name.isdecimal():
        raise UnionfsError(f"unable to find user {name}", "no matching entries in passwd file")
    uid = _number(entry[2] if entry else name, "uid")
    groups = _entries(group, 3)
    gid, further = _number(entry[3], "gid") if entry else 0, []
    if group_name:
        found = _find(groups, group_name, 2)
        if found is None and not group_name.isdecimal():
            raise UnionfsError(f"unable to find group {group_name}", "no matching entries in group file")
        gid = _number(found[2] if found else group_name, "gid")
    elif entry:
        members = [one for one in groups if len(one) > 3 and entry[0] in one[3].split(",")]
        further = [int(one[2]) for one in members if one[2].isdecimal()]
    return User(uid, gid, tuple(dict.fromkeys([gid, *further])), entry[5] if entry else "")


def _entries(content: bytes, fields: int) -> list[list[str]]:
    lines = content.decode("utf-8", "surrogateescape").splitlines()
    return [line.split(":") for line in lines if line.count(":") >= fields - 1 and not line.startswith("#")]


def _find(entries: list[list[str]], word: str, number_field: int) -> list[str] | None:
    """By name; by number where no name is like that, and a number stands there."""
    for entry in entries:
        if entry[0] == word:
            return entry
    if word.isdecimal():
        for entry in entries:
            if entry[number_field].isdecimal() and int(entry[number_field]) == int(word):
                return entry
    return None


def _number(word: str, what: str) -> int:
    if not word.isdecimal() or int(word) > _HIGHEST_ID:
        raise UnionfsError(f"{what} {word}", f"is not a number from 0 to {_HIGHEST_ID}")
    return int(word)
