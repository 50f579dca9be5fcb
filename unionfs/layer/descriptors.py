"""How many descriptors of directories stay open.

Used by `layer.py`. One registry serves all layers of a stack; whoever holds its tree lock may use it.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionfs.layer.layer import Directory

_KEPT_OPEN = 2048
"""At most; the rest are opened again when they are needed."""


class OpenDirectories:
    """The directories whose descriptors are open, in the order of their opening.

    When it is many the oldest is closed, unless it was used since it came to be the oldest: then it goes to the end,
    its mark `recent` taken away ("second chance"). So a use costs the setting of a mark (40 ns); keeping the order of
    use itself costs 300, several times in each operation.
    """

    def __init__(self) -> None:
        self.limit = min(_KEPT_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self.held: OrderedDict[Directory, None] = OrderedDict()

    def add(self, directory: Directory) -> None:
        """It was opened. The one that was opened or used just before stays open, too."""
        while len(self.held) >= self.limit:
            oldest = next(iter(self.held))
            if oldest.recent:
                oldest.recent = False
                self.held.move_to_end(oldest)
            else:
                oldest.close()
        self.held[directory] = None

    def join(self, other: OpenDirectories) -> OpenDirectories:
        """Take over what another registry holds."""
        if other is not self:
            self.held.update(other.held)
            other.held = OrderedDict()
        return self

    def discard(self, directory: Directory) -> None:
        self.held.pop(directory, None)

    def close(self) -> None:
        for directory in list(self.held):
            directory.close()
