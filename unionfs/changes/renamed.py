"""Renamed: the directories that an upper took from elsewhere in the layers below (redirects), on their way to a lower.

Called by `apply.py`. A renamed directory is moved inside the target, never copied, in two steps: first every one of
them is set aside, while all the paths are still the old ones; later each is put where the upper has it. What is set
aside says in its own marks how it goes on in the deeper layers. What is no longer there has moved already: so an apply
that goes on after a crash knows where it stopped.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.changes.below import NOWHERE, Below, Place
from unionfs.changes.staging import Staging
from unionfs.errors import UnionfsError
from unionfs.layer.layer import Directory
from unionfs.layer.whiteout import Dialect

_DT_DIR = stat.S_IFDIR >> 12


class Renamed(NamedTuple):
    upper: Directory
    path: bytes
    """Where the upper has it."""
    source: bytes
    """The path in the layers below, b"" when the redirect leads nowhere."""


def key(upper: Directory) -> bytes:
    """The name of a renamed directory while it is set aside."""
    return b"%d" % upper.own_stat().st_ino


def is_renamed(dialect: Dialect, upper: Directory) -> bool:
    return not dialect.is_opaque(upper) and dialect.redirect(upper) is not None


def find_renamed(dialect: Dialect, root: Directory) -> list[Renamed]:
    """All renamed directories of an upper."""
    found: list[Renamed] = []
    _search(dialect, root, b"/", b"" if dialect.is_opaque(root) else b"/", found)
    return found


def _search(dialect: Dialect, upper: Directory, path: bytes, source: bytes, found: list[Renamed]) -> None:
    """`source` is the path of `upper` in the layers below, b"" when it hides them."""
    for name, kind in sorted(dialect.read(upper)[0].items()):
        if kind != _DT_DIR:
            continue
        child, child_path = upper.child(name), os.path.join(path, name)
        redirect = dialect.redirect(child)
        below = source
        if dialect.is_opaque(child):
            below = b""
        elif redirect is not None and redirect.startswith(b"/"):
            below = redirect
        elif source:
            below = os.path.join(source, redirect or name)
        if is_renamed(dialect, child):
            found.append(Renamed(child, child_path, below))
        _search(dialect, child, child_path, below, found)


def check(below: Below, upper: Directory, renamed: Sequence[Renamed]) -> None:
    """Raises UnionfsError when a directory of the target would have to be in two places: such an upper was not made by
    renaming alone."""
    dialect = below.stack.dialect
    shown = [(upper, b"/", b"/")] if not dialect.is_opaque(upper) else []
    shown += [(one.upper, one.path, one.source) for one in renamed]
    for one in renamed:
        if below.walk(one.source).own is None:
            continue
        for directory, path, source in shown:
            rest = _rest(one.source, source)
            if directory is not one.upper and rest is not None and _shows(dialect, directory, rest):
                also = os.fsdecode(os.path.join(path, *rest))
                raise UnionfsError(
                    f"renamed directory {os.fsdecode(one.path)}",
                    f"its content is shown as {also} too, and can only be moved to one of the two",
                    "delete one of the two in the union first, or keep the merged tree: apply --to NEW-DIRECTORY",
                )


def _rest(path: bytes, start: bytes) -> list[bytes] | None:
    """The names that lead from `start` to `path`; None when it does not lie there."""
    names, first = path.strip(b"/").split(b"/"), [name for name in start.split(b"/") if name]
    return names[len(first) :] if start and names[: len(first)] == first else None


def _shows(dialect: Dialect, directory: Directory, names: Sequence[bytes]) -> bool:
    """Whether what lies below `directory` under `names` shows through the upper."""
    for name in names:
        found = dialect.find(directory, name)
        if found is None:
            return True
        if not isinstance(found, os.stat_result) or not stat.S_ISDIR(found.st_mode):
            return False
        directory = directory.child(name)
        if dialect.is_opaque(directory) or dialect.redirect(directory) is not None:
            return False
    return True


def set_aside(below: Below, staging: Staging, renamed: Sequence[Renamed]) -> None:
    """Take every renamed directory out of its old place, those that lie in others first."""
    for one in sorted(renamed, key=lambda one: one.source.count(b"/"), reverse=True):
        name = key(one.upper)
        if staging.moved.has(name):
            continue
        place = below.walk(one.source) if one.source else NOWHERE
        directory = place.own
        if directory is None:
            aside = staging.work.temporary_name()
            directory = staging.work.area.mkdir(aside, 0o700)
        _keep_below(below, directory, place, staging)
        assert directory.parent is not None
        directory.parent.move(directory.name, staging.moved, name)
        directory.close()


def _keep_below(below: Below, directory: Directory, place: Place, staging: Staging) -> None:
    """Say in the directory itself how it goes on in the deeper layers, wherever it comes to."""
    if below.is_alone:
        return
    dialect = below.stack.dialect
    if not place.deeper:
        dialect.set_opaque(directory)
    elif dialect.redirect(directory) != place.path:
        dialect.set_redirect(directory, place.path, staging.work)
