"""How many descriptors of directories stay open.

Used by `layer.py`. One registry serves all layers of a stack; whoever holds its tree lock may use it.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionfs.layer.layer import Directory

_KEPT_OPEN = 2048
"""At most; the rest are opened again when they are needed."""


class OpenDirectories:
    """The directories whose descriptors are open, the least recently used first: they are closed when it is many."""

    def __init__(self) -> None:
        self.limit = min(_KEPT_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self.held: dict[Directory, None] = {}

    def use(self, directory: Directory) -> None:
        self.held.pop(directory, None)
        self.held[directory] = None
        while len(self.held) > self.limit:
            next(iter(self.held)).close()

    def join(self, other: OpenDirectories) -> OpenDirectories:
        """Take over what another registry holds."""
        if other is not self:
            self.held.update(other.held)
            other.held = {}
        return self

    def discard(self, directory: Directory) -> None:
        self.held.pop(directory, None)

    def close(self) -> None:
        for directory in list(self.held):
            directory.close()
