"""A whole merged tree as a value: what two subjects must have in common.

Times that a test set are compared; those that the clock gave must be recent; a directory's size and link count are the
filesystem's own affair. That an entry of a listing says what stat says (d_ino, d_type) is checked on the way.
"""

from __future__ import annotations

import os
import stat
from typing import Any, NamedTuple

from tests.model import ANY, NOW, Model, Node

EARLIEST = 1_600_000_000_000_000_000
"""Every time that a test or a layer sets lies before it, every time of today's clock after it."""


class Record(NamedTuple):
    """One object. `names`: the paths that are this object; `time`: of the last change, NOW when it is of today."""

    kind: int
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    nlink: int
    names: tuple[str, ...]
    content: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    time: int

    def without_attributes(self, prefix: bytes) -> Record:
        return self._replace(xattrs=tuple(pair for pair in self.xattrs if not pair[0].startswith(prefix)))


def moment(nanoseconds: int) -> int:
    return NOW if nanoseconds > EARLIEST else nanoseconds


def of(subject: Any, exact: bool = True) -> dict[str, Record]:
    """The tree of a subject that is not the model. The root is at "". Not `exact`: d_ino is not looked at."""
    found: dict[str, Any] = {"": subject.stat("")}
    devices = {getattr(found[""], "dev", 0)}

    def walk(path: str) -> None:
        for entry in subject.entries(path):
            below = f"{path}/{os.fsdecode(entry.name)}".lstrip("/")
            st = found[below] = subject.stat(below)
            assert entry.type == stat.S_IFMT(st.mode) >> 12, f"d_type of {below}"
            if exact:
                assert entry.ino == st.ino, f"d_ino of {below}"
            devices.add(getattr(st, "dev", 0))
            if stat.S_ISDIR(st.mode):
                walk(below)

    walk("")
    assert len(devices) == 1, "st_dev is not uniform"
    names: dict[int, list[str]] = {}
    for path, st in found.items():
        names.setdefault(st.ino, []).append(path)
    return {path: _record(subject, path, st, tuple(sorted(names[st.ino]))) for path, st in found.items()}


def _record(subject: Any, path: str, st: Any, names: tuple[str, ...]) -> Record:
    kind, is_dir = stat.S_IFMT(st.mode), stat.S_ISDIR(st.mode)
    content = b""
    if kind == stat.S_IFREG:
        content = subject.read_bytes(path)
    elif kind == stat.S_IFLNK:
        content = subject.readlink(path)
    xattrs = tuple(sorted((name, subject.getxattr(path, name)) for name in subject.listxattr(path)))
    size = st.size if kind in (stat.S_IFREG, stat.S_IFLNK) else 0
    nlink = 0 if is_dir else st.nlink
    mode, time = stat.S_IMODE(st.mode), moment(st.mtime_ns)
    return Record(kind, mode, st.uid, st.gid, st.rdev, size, nlink, names, content, xattrs, time)


def of_model(model: Model) -> dict[str, Record]:
    nodes = {"": model.root, **dict(model.paths())}
    names: dict[int, list[str]] = {}
    for path, node in nodes.items():
        names.setdefault(node.ino, []).append(path)

    def record(node: Node) -> Record:
        return Record(
            node.kind, stat.S_IMODE(node.mode), node.uid, node.gid, node.rdev, node.size,
            0 if node.is_dir else node.nlink, tuple(sorted(names[node.ino])), bytes(node.data) or node.target,
            tuple(sorted(node.xattrs.items())), node.mtime,
        )  # fmt: skip

    return {path: record(node) for path, node in nodes.items()}


def differences(expected: dict[str, Record], got: dict[str, Record], but: tuple[str, ...] = ()) -> list[str]:
    """In words; `but` are the fields that are left out."""
    lines = []
    for path in sorted(expected.keys() | got.keys()):
        one, other = expected.get(path), got.get(path)
        if one is None or other is None:
            lines.append(f"{path!r}: {'is not expected' if one is None else 'is missing'}")
            continue
        for field, left, right in zip(Record._fields, one, other, strict=True):
            if left == right or field in but or (field == "time" and ANY in (left, right)):
                continue
            if field == "names" and stat.S_ISDIR(one.kind):
                lines.append(f"{path!r} shares its inode number with {right}")
            else:
                lines.append(f"{path!r} {field}: expected {left!r:.200}, got {right!r:.200}")
    return lines
