"""A run as one HTML page that needs nothing else: the machine, the pictures, the tables. Used by `suite.py --report`.

The pictures stand in the page as data: URLs, the style and its dark side in its head; no address is fetched.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from tempfile import TemporaryDirectory

import plots
import results
from results import Figures

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --even: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
.wide { overflow-x: auto; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.word, td.word { text-align: left; white-space: normal; }
tr:nth-child(even) td { background: var(--even); }
td.met { color: #18794e; } td.missed { color: #cd2b31; }
@media (prefers-color-scheme: dark) { td.met { color: #4cc38a; } td.missed { color: #ff8589; } }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; } dd { margin: 0; }
img { max-width: 100%; background: white; padding: .5rem; }
"""


def write(path: str, rows: Sequence[Figures], machine: dict[str, str], left_out: Sequence[str]) -> None:
    """Make the page. Without matplotlib it has no pictures, and says so."""
    text = "\n".join(_page(rows, machine, left_out))
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _page(rows: Sequence[Figures], machine: dict[str, str], left_out: Sequence[str]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Union filesystems, side by side</title><style>{_STYLE}</style></head><body>"
    yield "<h1>Union filesystems, side by side</h1>"
    yield "<p>Peers were measured in turn. A figure is the median of its samples, with the quarter below it and the "
    yield "quarter above; a ratio is that of samples taken right after each other. Less is quicker.</p>"
    yield "<h2>Machine</h2><dl>"
    yield from (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in machine.items())
    yield "</dl>"
    yield from _pictures(rows)
    yield "<h2>Tables</h2>"
    for table in results.wide_tables(rows) if rows else ():
        yield from _table(table)
    if left_out:
        yield "<h2>Not measured</h2><ul>"
        yield from (f"<li>{escape(line.removeprefix('left out: '))}</li>" for line in left_out)
        yield "</ul>"
    yield "</body></html>\n"


def _pictures(rows: Sequence[Figures]) -> Iterator[str]:
    yield "<h2>Pictures</h2>"
    if fault := plots.fault():
        yield f"<p>Drawing {escape(fault)}.</p>"
        return
    with TemporaryDirectory() as directory:
        for path in plots.draw(rows, directory):
            name = os.path.basename(path).removesuffix(".png").replace("-", " ")
            with open(path, "rb") as file:
                data = b64encode(file.read()).decode()
            yield f'<p><img alt="{escape(name)}" src="data:image/png;base64,{data}"></p>'


def _table(table: results.Table) -> Iterator[str]:
    yield f'<h3>{escape(table.title)}</h3><div class="wide"><table><thead><tr>'
    for place, heading in enumerate(table.headings):
        yield f"<th{_word(place, table)}>{escape(heading)}</th>"
    yield "</tr></thead><tbody>"
    for line in table.cells:
        cells = (f"<td{_word(place, table, cell)}>{escape(cell)}</td>" for place, cell in enumerate(line))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _word(place: int, table: results.Table, cell: str = "") -> str:
    mark = next((mark for mark in results.MARKS.values() if cell.endswith(mark)), None)
    name = "word" if place < table.words else mark
    return f' class="{name}"' if name else ""
