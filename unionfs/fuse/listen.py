"""The reading end of `watch.py`: the requests of a mount as dicts, in another process than its daemon.

Used by `unionfs trace` and `unionfs explore`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from unionfs.errors import UnionfsError

_ASK = b"user.unionfs.trace.%d"
HOUSEKEEPING = frozenset(("FORGET", "BATCH_FORGET", "INTERRUPT", "DESTROY", "NOTIFY_REPLY"))
"""The kernel's own, of no process: hardly anybody wants to see them."""


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
        self._file = os.fdopen(read, "rb")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._file:
            yield json.loads(line)

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()
