"""Requests as lines of text, flags by their names: `unionfs mount -d`.

Called by `mount.py`, which makes `watch` a listener; it costs nothing where nobody listens.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from unionfs import events
from unionfs.fuse import protocol

_FLAGS = {
    "flags": protocol.OPEN_FLAGS,
    "valid": protocol.SETATTR_FLAGS,
    "write_flags": protocol.WRITE_FLAGS,
    "rename_flags": protocol.RENAME_FLAGS,
    "xattr_flags": protocol.XATTR_FLAGS,
    "fallocate_mode": protocol.FALLOCATE_FLAGS,
    "init_flags": protocol.INIT_FLAGS,
}
_SHOWN = 64
"""Bytes of a value that are shown."""


def watch(kind: str, fields: dict[str, object]) -> None:
    """Log one line for each request that was answered."""
    if kind == "request":
        events.info(line(fields))


def line(fields: dict[str, object]) -> str:
    """`12 OPEN node 3 flags=O_RDWR|O_TRUNC open_flags=0: EACCES, 41 µs, process 733`."""
    arguments = fields["arguments"]
    told = describe(str(fields["fields"]), arguments if isinstance(arguments, tuple) else ())
    number = fields["errno"]
    result = errno.errorcode.get(number, os.strerror(number)) if isinstance(number, int) and number else "ok"
    head = f"{fields['unique']} {fields['op']} node {fields['nodeid']}"
    return f"{' '.join([head, *told])}: {result}, {fields['us']} µs, process {fields['pid']}"


def describe(names: str, arguments: Sequence[object]) -> list[str]:
    """The arguments of a request as `name=value`, for the names of its row in the table."""
    return [f"{name}={_value(name, value)}" for name, value in zip(names.split(), arguments, strict=False)]


def _value(name: str, value: object) -> str:
    if isinstance(value, int):
        if name in _FLAGS:
            return protocol.names(value, _FLAGS[name])
        return oct(value) if name in ("mode", "umask") else str(value)
    if isinstance(value, memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, bytes):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}... ({len(value)} bytes)"
    return str(value)
