"""What the page of `unionfs explore` shows: the stack, a directory's names, a path's lookup, a file's blocks.

Called by `server.py`, from several threads. It promises to read only. The layers are opened anew for each answer, since
a mounted union changes under the reader. Names are text in what is shown and percent-encoded bytes in what is sent back
(`ref`), because a name need not be text.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from unionfs.changes import explain
from unionfs.changes.difference import visible_roots
from unionfs.changes.explain import Finding
from unionfs.changes.survey import survey
from unionfs.errors import failed
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.listing import merge
from unionfs.union.lookup import find, find_path
from unionfs.union.source import Sources
from unionfs.union.virtual import describe

PAGE = 500
"""Names in one answer."""
FOUND = 200
"""Paths that a search gives at most."""
_KINDS = {stat.S_IFDIR >> 12: "directory", stat.S_IFREG >> 12: "file", stat.S_IFLNK >> 12: "link"}
_DIRECTORY = stat.S_IFDIR >> 12


class Subject(NamedTuple):
    """What is explored. `open` opens all layers, topmost first, to be read; `roles` are "upper" or "lower";
    `mountpoint` is None for layers that are not mounted; `made_by` is what made an image's layer."""

    name: str
    open: Callable[[], Stack]
    roles: Sequence[str]
    mountpoint: bytes | None = None
    made_by: Sequence[str] = ()


def union(subject: Subject) -> dict[str, Any]:
    with closing(subject.open()) as stack:
        layers = [
            {"index": layer.index, "role": role, "path": os.fsdecode(layer.path), "made_by": made}
            for layer, role, made in zip(
                stack.layers, subject.roles, subject.made_by or [""] * len(stack.layers), strict=True
            )
        ]
        return {
            "name": subject.name, "dialect": stack.dialect.name, "layers": layers,
            "mounted": subject.mountpoint is not None,
        }  # fmt: skip


def facts(subject: Subject) -> dict[str, Any]:
    """Sizes, counts and what is wasted of each layer: walks all of it."""
    with closing(subject.open()) as stack:
        found = survey(stack)
        return {
            "efficiency": found.efficiency,
            "layers": [{**one._asdict(), "path": os.fsdecode(one.path)} for one in found.layers],
            "wasted": [
                {"layer": one.layer, "path": os.fsdecode(one.path), "ref": _ref(one.path.strip(b"/")), "size": one.size}
                for one in found.wasted
            ],
        }


# --- a directory


class _Entry:
    """A name: the layer that gives it, those that have it besides, and what hides them."""

    __slots__ = ("by", "giver", "holders", "kind", "where", "why")

    def __init__(self) -> None:
        self.kind = 0
        self.giver: int | None = None
        self.where: Directory | None = None
        self.holders: list[int] = []
        self.by: int | None = None
        self.why = ""


def listing(subject: Subject, ref: str, start: int = 0) -> dict[str, Any]:
    """`PAGE` names of a directory from number `start`, directories first, by name; also those that are deleted or
    hidden. Raises ENOENT, ENOTDIR."""
    path = _path(ref)
    with closing(subject.open()) as stack:
        shown, hidden = _directories(stack, path)
        entries = _entries(stack, shown, hidden)
        names = sorted(entries, key=lambda name: (entries[name].kind != _DIRECTORY, name))
        sources = Sources(stack)
        page = [_told(sources, shown, name, entries[name]) for name in names[start : start + PAGE]]
        return {"path": "/" + os.fsdecode(path), "total": len(names), "start": start, "entries": page}


def _entries(
    stack: Stack, shown: Sequence[Directory], hidden: Sequence[tuple[Directory, Finding]]
) -> dict[bytes, _Entry]:
    entries: dict[bytes, _Entry] = {}
    for directory in shown:
        visible, deleted = stack.dialect.read(directory)
        index = directory.layer.index
        for name, kind in visible.items():
            entry = entries.setdefault(name, _Entry())
            if entry.giver is None and entry.by is None:
                entry.giver, entry.where, entry.kind = index, directory, kind
            entry.holders.append(index)
            entry.kind = entry.kind or kind
        for name in deleted:
            entry = entries.setdefault(name, _Entry())
            if entry.giver is None and entry.by is None:
                entry.by, entry.why = index, "whiteout"
    for directory, finding in hidden:
        for name, kind in stack.dialect.read(directory)[0].items():
            entry = entries.setdefault(name, _Entry())
            entry.holders.append(directory.layer.index)
            entry.kind = entry.kind or kind
            if entry.giver is None and entry.by is None and finding.by is not None:
                entry.by, entry.why = finding.by.layer.index, finding.by.says
    return entries


def _directories(stack: Stack, path: bytes) -> tuple[list[Directory], list[tuple[Directory, Finding]]]:
    """The real directories of a merged one, topmost first, and those that the layers above them hide."""
    shown, hidden = [], []
    for finding in explain.explain(stack, path):
        if finding.directory is not None and finding.says == explain.HIDDEN:
            hidden.append((finding.directory, finding))
        elif finding.directory is not None:
            shown.append(finding.directory)
        elif finding.says == explain.GIVES:
            raise failed(errno.ENOTDIR, path)
    if not shown and not hidden:
        raise failed(errno.ENOENT, path)
    return shown, hidden


def _told(sources: Sources, shown: Sequence[Directory], name: bytes, entry: _Entry) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": os.fsdecode(name), "ref": _ref(name), "kind": _KINDS.get(entry.kind, "other"), "layer": entry.giver,
        "layers": entry.holders, "by": entry.by, "why": entry.why,
    }  # fmt: skip
    if entry.where is None:
        return told
    if entry.kind == _DIRECTORY:
        found = find(sources.stack, shown, name)
        if found is not None and found.directories:
            told["layers"] = [directory.layer.index for directory in found.directories]
            told["opaque"] = sources.stack.dialect.is_opaque(found.directories[0])
        return told
    st = entry.where.stat(name)
    told["size"] = st.st_size if st is not None else 0
    if entry.kind == stat.S_IFREG >> 12 and entry.giver != len(sources.stack.layers) - 1:
        told["partial"] = sources.is_partial(Location(entry.where, name))
    return told


def search(subject: Subject, query: str) -> dict[str, Any]:
    """Paths of the merged tree that have `query` in their last name, `FOUND` at most, the shallow ones first."""
    words, found = os.fsencode(query).lower(), list[tuple[bytes, int]]()
    with closing(subject.open()) as stack:
        level = [(b"", visible_roots(stack, 0))]
        while level and words and len(found) < FOUND:
            below = []
            for path, directories in level:
                for name, (_, kind) in sorted(merge(stack.dialect, directories).items()):
                    if words in name.lower():
                        found.append((os.path.join(path, name), kind))
                    if kind == _DIRECTORY and (inside := find(stack, directories, name)) is not None:
                        below.append((os.path.join(path, name), inside.directories))
                for directory in directories:
                    directory.forget_names()
            level = below
    return {
        "more": len(found) > FOUND,
        "found": [
            {"path": "/" + os.fsdecode(path), "ref": _ref(path), "kind": _KINDS.get(kind, "other")}
            for path, kind in found[:FOUND]
        ],
    }


# --- a path


def lookup(subject: Subject, ref: str) -> dict[str, Any]:
    """What each layer says of a path, topmost first, and of a regular file who has which of its bytes."""
    path = _path(ref)
    with closing(subject.open()) as stack:
        findings = explain.explain(stack, path)
        given = explain.given(findings)
        told: dict[str, Any] = {
            "path": "/" + os.fsdecode(path),
            "layer": given.layer.index if given is not None else None,
            "steps": [_step(finding) for finding in findings],
        }
        if given is not None and given.location is not None:
            st = given.location.stat()
            told["attributes"] = {
                "mode": stat.filemode(st.st_mode), "size": st.st_size, "uid": st.st_uid, "gid": st.st_gid,
                "mtime": st.st_mtime,
            }  # fmt: skip
            if stat.S_ISREG(st.st_mode):
                told["blocks"] = _blocks(subject, stack, path)
            if stat.S_ISLNK(st.st_mode):
                told["target"] = os.fsdecode(given.location.readlink())
        return told


def _step(finding: Finding) -> dict[str, Any]:
    told: dict[str, Any] = {
        "layer": finding.layer.index, "says": finding.says, "where": os.fsdecode(finding.where),
        "kind": _KINDS.get(finding.mode >> 12, "other") if finding.mode else None,
    }  # fmt: skip
    if finding.by is not None:
        told["by"] = {"layer": finding.by.layer.index, "says": finding.by.says}
    if finding.to:
        told["to"] = os.fsdecode(finding.to)
    return told


def _blocks(subject: Subject, stack: Stack, path: bytes) -> Any:
    """A mount knows more than its layers say: what it has not written down yet."""
    try:
        if subject.mountpoint is not None:
            return json.loads(_ask(subject.mountpoint, path, b"user.unionfs.blocks"))
        found = find_path(stack, visible_roots(stack, 0), path)
        if found is None:
            return None
        sources, location = Sources(stack), Location(found.where, found.name)
        return describe(sources, location, sources.open_partial(location))
    except OSError:  # changed meanwhile, or its map is broken, which the tree shows
        return None


def _ask(mountpoint: bytes, path: bytes, name: bytes) -> bytes:
    """An attribute of an object in the mount; no symbolic link on the way is followed."""
    opened = [os.open(mountpoint, os.O_PATH | os.O_CLOEXEC)]
    try:
        for part in path.split(b"/"):
            opened.append(os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened[-1]))
        return os.getxattr(f"/proc/self/fd/{opened[-1]}", name)
    finally:
        for fd in opened:
            os.close(fd)


def _path(ref: str) -> bytes:
    """Without a slash at either end. Raises ENOENT for one that leads out."""
    parts = list(_parts(ref))
    if b".." in parts or any(b"\0" in part for part in parts):
        raise failed(errno.ENOENT, b"/".join(parts))
    return b"/".join(parts)


def _parts(ref: str) -> Iterator[bytes]:
    return (part for part in unquote_to_bytes(ref).split(b"/") if part not in (b"", b"."))


def _ref(path: bytes) -> str:
    return quote_from_bytes(path)
