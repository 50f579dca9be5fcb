"""A counter: one line on a terminal that says how far something is whose end nobody knows; nothing elsewhere.

Used by `mount.py`, where rich (`progress.py`) would take longer to load than most mounts take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

_REFRESH_SECONDS = 0.1
_ERASE = "\r\x1b[K"


@contextmanager
def counter(what: str) -> Iterator[Callable[[int], None]]:
    """Call what it gives with how many more are done. The line is drawn on standard error, and erased at the end."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    done, last = 0, monotonic()

    def tell(count: int) -> None:
        nonlocal done, last
        done += count
        if monotonic() > last + _REFRESH_SECONDS:
            print(f"{_ERASE}{what}: {done:,}", end="", file=sys.stderr, flush=True)
            last = monotonic()

    try:
        yield tell
    finally:
        print(_ERASE, end="", file=sys.stderr, flush=True)
