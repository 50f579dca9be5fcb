"""`--format`: rows as a table, as JSON, or by a template in docker's words.

Used by the commands of the launcher. A template is text with `{{.Field}}` and `{{json .Field}}` in it; one that begins
with `table ` has headings. `json` is an object a line, as docker writes it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from unionfs.cli import table
from unionfs.cli.command import UsageError
from unionfs.errors import UnionfsError, did_you_mean

Row = dict[str, Any]
Columns = Sequence[tuple[str, str]]
"""Heading and field of each column of the usual table."""


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", metavar="FORM", help='json, "table TEMPLATE" or a template, as in "{{.ID}}"')


def show(rows: Sequence[Row], columns: Columns, form: str | None) -> None:
    """Print the rows. Raises UnionfsError for a field that they do not have."""
    if form is None:
        cells = [[row.get(field.removeprefix(table.RIGHT)) for _, field in columns] for row in rows]
        table.show([heading for heading, _ in columns], cells)
    elif form == "json":
        for row in rows:
            print(json.dumps(row))
    elif form.startswith("table"):
        template = form.removeprefix("table").strip().replace("\\t", "\t")
        fields = _fields(template)
        names = {field: heading for heading, field in columns}
        headings = [names.get(field, field) for field in fields]
        table.show(headings, [[_value(row, field, False) for field in fields] for row in rows])
    else:
        for row in rows:
            print(fill(form.replace("\\t", "\t").replace("\\n", "\n"), row))


def fill(template: str, row: Row) -> str:
    """The template with a row's values in it."""
    text, rest = "", template
    while "{{" in rest:
        before, _, rest = rest.partition("{{")
        word, end, rest = rest.partition("}}")
        if not end:
            raise UnionfsError(f"--format {template}", "a {{ has no }}", "as in {{.Name}}")
        as_json = word.strip().startswith("json ")
        text += before + _value(row, word.strip().removeprefix("json ").strip().lstrip("."), as_json)
    return text + rest


def _fields(template: str) -> list[str]:
    return [part.partition("}}")[0].strip().lstrip(".") for part in template.split("{{")[1:]]


def _value(row: Row, path: str, as_json: bool) -> str:
    value: Any = row
    for name in filter(None, path.split(".")):
        if not isinstance(value, dict) or name not in value:
            known = list(value) if isinstance(value, dict) else []
            hint = did_you_mean(name, known) or (f"known are {', '.join(known)}" if known else "")
            raise UnionfsError(f"--format {{{{.{path}}}}}", f"there is no field {name}", hint)
        value = value[name]
    if as_json or isinstance(value, dict | list):
        return json.dumps(value)
    return {True: "true", False: "false", None: ""}.get(value, str(value)) if not isinstance(value, str) else value


def check_filter(key: str, known: Sequence[str]) -> None:
    """Raises UsageError for a key of --filter that there is not."""
    if key not in known:
        raise UsageError("--filter", f"invalid filter '{key}'", did_you_mean(key, known) or ", ".join(known))


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """`NAME`, or `NAME=VALUE`."""
    name, equals, text = wanted.partition("=")
    return name in labels and (not equals or labels[name] == text)


def show_removed(what: str, gone: Sequence[str], space: int) -> None:
    """What a prune removed, "Containers" and the like, and the bytes that it took."""
    if gone:
        print(f"Deleted {what}:", *gone, sep="\n")
        print()
    print(f"Total reclaimed space: {size(space)}")


def ago(seconds: float) -> str:
    """How long, in docker's words: 5 seconds, 2 minutes, 3 weeks."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return table.plural(int(seconds), "second")
    for unit, length, most in (("minute", 60, 60), ("hour", 3600, 48), ("day", 86400, 14), ("week", 604800, 9)):
        count = int(seconds / length)
        if count == 1 and unit in ("minute", "hour"):
            return f"About {'a minute' if unit == 'minute' else 'an hour'}"
        if count < most:
            return table.plural(count, unit)
    years = int(seconds / 31_536_000)
    return table.plural(int(seconds / 2_592_000), "month") if years < 2 else table.plural(years, "year")


def size(count: int) -> str:
    """Bytes in docker's words: 12.3MB, powers of 1000."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g}{units[0]}"


def labels_of(words: Sequence[str]) -> dict[str, str]:
    """What --label NAME=VALUE says."""
    return {name: value for name, _, value in (word.partition("=") for word in words)}
