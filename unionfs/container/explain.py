"""`run --explain`: each step of a start, as it is made, in words that lead to a man page.

Used by all that start a process in a container. A step is one line, written to a descriptor before it is made, so that
the last line is the one that failed; without a descriptor it costs one test.
"""

from __future__ import annotations

import os


class Explainer:
    """Writes steps to a descriptor; -1 is nobody."""

    def __init__(self, descriptor: int = -1) -> None:
        self.descriptor = descriptor

    def step(self, call: str, what: str, page: str = "") -> None:
        """`call` is what is called, `what` says what for, `page` where to read more."""
        if self.descriptor >= 0:
            source = f"  [{page}]" if page else ""
            os.write(self.descriptor, f"  {call:<44} {what}{source}\n".encode(errors="surrogateescape"))

    def head(self, text: str) -> None:
        """The beginning of a part: who does what follows."""
        if self.descriptor >= 0:
            os.write(self.descriptor, f"{text}\n".encode(errors="surrogateescape"))
