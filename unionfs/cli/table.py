"""Tables: aligned text, and rich's on a terminal that has it.

Used by the commands that show one. Whoever reads the output by program is given --json instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

RIGHT = ">"
"""As the first character of a heading: numbers, aligned to the right."""

_on_terminal = sys.stdout.isatty()
if _on_terminal:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        _on_terminal = False


def show(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print the rows under their headings; None is an empty cell."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if _on_terminal:
        _show_rich(headings, cells)
    else:
        _show_plain(headings, cells)


def _show_plain(headings: Sequence[str], rows: list[list[str]]) -> None:
    names = [heading.removeprefix(RIGHT).upper() for heading in headings]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for row in [names, *rows]:
        padded = [
            cell.rjust(width) if heading.startswith(RIGHT) else cell.ljust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _show_rich(headings: Sequence[str], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading.startswith(RIGHT)
        table.add_column(heading.removeprefix(RIGHT).upper(), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def size(count: int) -> str:
    """Bytes as people read them: 812 B, 3.4 KiB, 120 MiB."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1000 or unit == "TiB":
            break
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
