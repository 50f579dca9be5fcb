"""Explain: why the merged tree shows a path, or does not.

Called by the command `which`. It takes the steps of `lookup.py`, layer by layer, and notes what each layer says; it
looks also where a lookup has no need to, at what is hidden. It promises to read only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from unionfs.layer import whiteout
from unionfs.layer.layer import Directory, Layer
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.identity import Origins

GIVES, MERGES, HIDDEN, NOTHING = "gives", "merges", "hidden", "nothing"
WHITEOUT, OPAQUE, REDIRECT, FILE = "whiteout", "opaque", "redirect", "file"


class Finding(NamedTuple):
    """What one layer says of a path, or of a directory on the way to it.

    gives: the object is this one; merges: a directory below the one that gives it, whose names are added; hidden: there
    is an object, and the finding `by` hides it; nothing: no such name. Or a mark: whiteout; opaque; redirect, `to` a
    path of the layers below; file: a name on the way is no directory in this layer.
    """

    layer: Layer
    says: str
    where: bytes = b""
    """The real path of the object or mark, for people."""
    mode: int = 0
    by: Finding | None = None
    to: bytes = b""
    location: Location | None = None
    """The object itself, where it is no directory."""
    directory: Directory | None = None
    """The object itself, where it is one at the end of the path."""


def explain(stack: Stack, path: bytes) -> list[Finding]:
    """What the layers say of `path`, topmost first; in each, the marks on the way before what is at its end."""
    search = _Search(stack)
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    search.walk([_Place(layer) for layer in stack.layers], names, at_end=True)
    return sorted(search.findings, key=lambda finding: finding.layer.index)


def given(findings: Iterable[Finding]) -> Finding | None:
    """The finding that gives the object; None: the merged tree has no such path."""
    return next((finding for finding in findings if finding.says == GIVES), None)


def copied_link(stack: Stack, lower: Finding, work: bytes) -> bytes | None:
    """The index entry of a lower file that was copied up under another of its names, if it was (see `hardlinks.py`).

    `work` is the work directory of the stack's upper, which is its layer 0.
    """
    location = lower.location
    if location is None or lower.layer.index == 0:
        return None
    st = location.stat()
    if st.st_nlink < 2:
        return None
    if isinstance(stack.dialect, whiteout.Overlay):
        entry = os.path.join(work, b"index", Origins(stack).kernel_form(location).hex().encode())
    else:
        entry = os.path.join(work, b"links", b"%d-%d" % (lower.layer.number, st.st_ino))
    return entry if os.path.lexists(entry) else None


class _Place:
    """How far the search has come in one layer. `directory`: None where it has ended; `cut`: what hides this layer."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.directory: Directory | None = layer.root
        self.cut: Finding | None = None


class _Search:
    def __init__(self, stack: Stack) -> None:
        self.dialect = stack.dialect
        self.bottom = stack.layers[-1]
        self.findings: list[Finding] = []

    def walk(self, places: list[_Place], names: Sequence[bytes], at_end: bool) -> None:
        """Follow `names` from the roots of the layers; `at_end`: they lead to the end of the whole path."""
        self._roots(places, at_end and not names)
        for position, name in enumerate(names):
            self._step(places, name, at_end and position == len(names) - 1)

    def _roots(self, places: list[_Place], at_end: bool) -> None:
        cut: Finding | None = None
        for place in places:
            root, place.cut = place.layer.root, cut
            if at_end:
                self._directory(place, root.own_stat().st_mode, root.path)
            if cut is None and place.layer is not self.bottom and self.dialect.is_opaque(root):
                cut = self._note(place, OPAQUE, root.path)

    def _step(self, places: list[_Place], name: bytes, at_end: bool) -> None:
        """Search one name, top-down. `cut` is what hides the layers below; a redirect says where they are searched."""
        cut: Finding | None = None
        for position, place in enumerate(places):
            place.cut = place.cut or cut
            parent, place.directory = place.directory, None
            answer = self.dialect.find(parent, name) if parent is not None else None
            if parent is None or answer is None:
                if at_end:
                    self._nothing(place)
                continue
            if not isinstance(answer, os.stat_result):
                mark = self._whiteout(place, parent, name)
                cut = cut or mark
                continue
            where = os.path.join(parent.path, name)
            if not stat.S_ISDIR(answer.st_mode):
                file = self._file(place, answer.st_mode, Location(parent, name), at_end)
                cut = cut or file
                continue
            place.directory = parent.child(name)
            if at_end:
                self._directory(place, answer.st_mode, where)
            if place.cut is not None or place.layer is self.bottom:
                continue
            if self.dialect.is_opaque(place.directory):
                cut = self._note(place, OPAQUE, where)
                continue
            redirect = self.dialect.redirect(place.directory)
            if redirect is None:
                continue
            self._note(place, REDIRECT, where, to=redirect)
            if not redirect.startswith(b"/"):
                name = redirect
                continue
            below = [_Place(lower.layer) for lower in places[position + 1 :]]
            self.walk(below, redirect.strip(b"/").split(b"/"), at_end)
            places[position + 1 :] = below
            return

    # What is noted

    def _note(
        self, place: _Place, says: str, where: bytes, mode: int = 0, to: bytes = b"", location: Location | None = None,
        directory: Directory | None = None,
    ) -> Finding:  # fmt: skip
        self.findings.append(Finding(place.layer, says, where, mode, place.cut, to, location, directory))
        return self.findings[-1]

    def _nothing(self, place: _Place) -> None:
        """Said of a layer that was looked at and has not said anything that ended its search."""
        ended = any(one.layer is place.layer and one.says in (WHITEOUT, FILE) for one in self.findings)
        if place.cut is None and not ended:
            self._note(place, NOTHING, b"")

    def _whiteout(self, place: _Place, parent: Directory, name: bytes) -> Finding | None:
        if place.cut is not None:
            return None
        mark = name if self.dialect.in_place else whiteout.Aufs.MARK + name
        return self._note(place, WHITEOUT, os.path.join(parent.path, mark))

    def _directory(self, place: _Place, mode: int, where: bytes) -> None:
        says = HIDDEN if place.cut is not None else MERGES if given(self.findings) else GIVES
        self._note(place, says, where, mode, directory=place.directory)

    def _file(self, place: _Place, mode: int, location: Location, at_end: bool) -> Finding | None:
        """A non-directory ends the search: it is what was looked for, or hidden by a directory above, or in the way."""
        top, where = given(self.findings), location.path
        if at_end:
            place.cut = place.cut or top
            found = self._note(place, HIDDEN if place.cut is not None else GIVES, where, mode, location=location)
            return found if top is None else top
        return self._note(place, FILE, where, mode) if place.cut is None else None
