"""The reading end of `watch.py`: the requests of a mount as dicts, in another process than its daemon.

Used by `unionfs trace` and `unionfs explore`.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from typing import Any

from unionfs.errors import UnionfsError

_ASK = b"user.unionfs.trace.%d"
HOUSEKEEPING = frozenset(("FORGET", "BATCH_FORGET", "INTERRUPT", "DESTROY", "NOTIFY_REPLY"))
"""The kernel's own, of no process: hardly anybody wants to see them."""

_PIECE = 1 << 16


def asked_by(one: dict[str, Any], process: int) -> bool:
    """Whether a request is that process's. The kernel tells the thread that asked."""
    thread = one.get("pid")
    return thread == process or (bool(thread) and os.path.exists(f"/proc/{process}/task/{thread}"))


class Watch:
    """Iterate over it; it ends when the union is unmounted. Nothing more is written when it is closed, or lost.

    Raises UnionfsError when the mount's daemon does not tell, as that of the fusepy engine.
    """

    def __init__(self, mountpoint: bytes) -> None:
        read, write = os.pipe()
        try:
            os.getxattr(mountpoint, _ASK % write)
        except OSError as error:
            os.close(read)
            why = f"its daemon does not tell what it answers: {(error.strerror or '').lower()}"
            hint = "the native engine's does, to its own user and to root"
            raise UnionfsError(os.fsdecode(mountpoint), why, hint) from error
        finally:
            os.close(write)
        self._fd, self._rest = read, b""
        self._poll = select.poll()
        self._poll.register(read, select.POLLIN)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (found := self.read()) is not None:
            yield from found

    def read(self, seconds: float | None = None) -> list[dict[str, Any]] | None:
        """What was asked since the last time; waits for that, `seconds` at most. None: it is unmounted."""
        if not self._poll.poll(None if seconds is None else seconds * 1000):
            return []
        piece = os.read(self._fd, _PIECE)
        if not piece:
            return None
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        os.close(self._fd)
