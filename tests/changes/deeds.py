"""Random deeds in a union, which leave an upper with everything that an upper can hold."""

from __future__ import annotations

import os
import random
from contextlib import suppress

from unionfs.linux import files
from unionfs.union.union import Union

NAMES = "abcd"


def do_anything(union: Union, chance: random.Random, count: int) -> None:
    for number in range(count):
        with suppress(OSError):
            _one(union, chance, str(number))


def _path(union: Union, chance: random.Random) -> str:
    """A path that is likely to be there, or in a directory that is."""
    path = ""
    for _ in range(chance.choice([1, 1, 2, 2, 3])):
        try:
            names = union.listdir(path)
        except OSError:
            break
        path = os.path.join(path, chance.choice([*names, chance.choice(NAMES)]))
    return path


def _one(union: Union, chance: random.Random, mark: str) -> None:
    path, other = _path(union, chance), _path(union, chance)
    deed = chance.choice(
        ["write", "mkdir", "remove", "remove", "rename", "rename", "rename", "exchange", "link", "change"]
    )
    if deed == "write":
        union.write_bytes(path, f"{mark} {path}".encode())
    elif deed == "mkdir":
        union.mkdir(path)
    elif deed == "remove":
        remove(union, path)
    elif deed == "rename":
        union.rename(path, other)
    elif deed == "exchange":
        union.rename(path, other, files.RENAME_EXCHANGE)
    elif deed == "link":
        union.link(path, other)
    else:
        union.chmod(path, chance.choice([0o700, 0o640]))
        union.setxattr(path, b"user.mark", mark.encode())


def remove(union: Union, path: str) -> None:
    """rm -r"""
    try:
        union.unlink(path)
    except IsADirectoryError:
        for name in union.listdir(path):
            remove(union, os.path.join(path, name))
        union.rmdir(path)
