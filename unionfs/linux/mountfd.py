"""Mounts by descriptors: open_tree(2), move_mount(2), mount_setattr(2), openat2(2), fsopen(2).

Called by the container floor, which mounts into roots that it does not trust: a target is opened first, without leaving
the root, and what is mounted on is that descriptor, not a name that somebody may exchange meanwhile. Every function
raises OSError. Sources: the man pages of those names; openat2(2) for RESOLVE_*.
"""

from __future__ import annotations

import ctypes
import os
import struct

from unionfs.linux.libc import check, libc

ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
RESOLVE_NO_SYMLINKS, RESOLVE_IN_ROOT = 4, 16
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 428, 429, 430, 431, 432
_SYS_OPENAT2, _SYS_MOUNT_SETATTR = 437, 442
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE, _AT_SYMLINK_NOFOLLOW = -100, 0x1000, 0x8000, 0x100
_OPEN_TREE_CLONE, _CLOEXEC = 1, os.O_CLOEXEC
_MOVE_F_EMPTY, _MOVE_T_EMPTY = 0x4, 0x40
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 0, 1, 6


def open_in_root(root: int, path: bytes, flags: int = os.O_PATH, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """openat2(2): a descriptor of `path` with the directory `root` as if it were "/": its symbolic links and ".." stay
    inside. Linux 5.6."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode if flags & (os.O_CREAT | os.O_TMPFILE) else 0, resolve)
    name = path.lstrip(b"/") or b"."
    return check(libc.syscall(_SYS_OPENAT2, root, ctypes.c_char_p(name), how, len(how)), path)


def clone_tree(source: bytes, directory: int = _AT_FDCWD, recursive: bool = True) -> int:
    """A detached copy of the mount at `source`, with the mounts inside it (open_tree(2)); `source` may be empty, for
    the descriptor `directory` itself. It goes when its descriptor is closed."""
    flags = _OPEN_TREE_CLONE | _CLOEXEC | (_AT_RECURSIVE if recursive else 0) | (0 if source else _AT_EMPTY_PATH)
    return check(libc.syscall(_SYS_OPEN_TREE, directory, ctypes.c_char_p(source), flags), source)


def set_attributes(
    tree: int, sets: int = 0, clears: int = 0, propagation: int = 0, path: bytes = b"", recursive: bool = True
) -> None:
    """mount_setattr(2) on a tree's descriptor (or on `path`, with the descriptor as its directory). Linux 5.12."""
    attributes = struct.pack("=QQQQ", sets, clears, propagation, 0)
    flags = (_AT_RECURSIVE if recursive else 0) | (0 if path else _AT_EMPTY_PATH)
    check(libc.syscall(_SYS_MOUNT_SETATTR, tree, ctypes.c_char_p(path), flags, attributes, len(attributes)), path)


def set_propagation(path: bytes, propagation: int, recursive: bool = True) -> None:
    """Make the mount at `path` private, a slave or shared."""
    set_attributes(_AT_FDCWD, propagation=propagation, path=path, recursive=recursive)


def attach(tree: int, target: int) -> None:
    """Mount a detached tree on what the descriptor `target` names (move_mount(2))."""
    flags = _MOVE_F_EMPTY | _MOVE_T_EMPTY
    empty = ctypes.c_char_p(b"")
    check(libc.syscall(_SYS_MOVE_MOUNT, tree, empty, target, empty, flags))


def new_filesystem(fstype: bytes, options: list[bytes], attributes: int = 0, source: bytes = b"") -> int:
    """A detached mount of a new instance: fsopen(2), fsconfig(2), fsmount(2). `options` are words of mount(8)."""
    context = check(libc.syscall(_SYS_FSOPEN, ctypes.c_char_p(fstype), 1), fstype)
    try:
        if source:
            _configure(context, _FSCONFIG_SET_STRING, b"source", source)
        for option in options:
            name, equals, value = option.partition(b"=")
            if equals:
                _configure(context, _FSCONFIG_SET_STRING, name, value)
            else:
                _configure(context, _FSCONFIG_SET_FLAG, name, None)
        _configure(context, _FSCONFIG_CREATE, None, None)
        return check(libc.syscall(_SYS_FSMOUNT, context, 1, attributes), fstype)
    finally:
        os.close(context)


def _configure(context: int, command: int, name: bytes | None, value: bytes | None) -> None:
    key, text = ctypes.c_char_p(name), ctypes.c_char_p(value)
    check(libc.syscall(_SYS_FSCONFIG, context, command, key, text, 0), *([name] if name else []))
