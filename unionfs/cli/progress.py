"""A progress bar: rich's, on a terminal that has it; nothing elsewhere.

Used by the commands that copy much. It is drawn on standard error, which nobody reads by program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_has_rich = sys.stderr.isatty()
if _has_rich:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        _has_rich = False


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Call what it gives with each number of bytes, out of `total`, that is done."""
    if not _has_rich:
        yield lambda count: None
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
