"""The model and several real unions side by side: one operation goes to all, and all must agree. For test_random.py.

Every subject stands on the same layers (each with its own upper). What a call answers, or its errno, is compared at
once; the merged trees now and then; at the end the marks in the uppers, and what each sees of the other's upper.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.contract import layers, tree
from tests.contract.conftest import manifest
from tests.contract.mounter import Mounter
from tests.contract.subject import OPENINGS, Kernel, Ours, Subject, subject_of
from tests.model import ANY, File, Node

Kinds = Sequence[tuple[str, ...]]


class Opened:
    """One open file in the model and in each subject."""

    def __init__(self, model: File, real: list[Any]) -> None:
        self.model, self.real = model, real

    def all(self) -> list[Any]:
        return [self.model, *self.real]


class World:
    operations = 0
    """How many operations all worlds together have done."""

    def __init__(self, kinds: Kinds, lowers: list[layers.Layer], upper: layers.Layer, mounter: Mounter) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="unionfs-random-"))
        self.mounter = mounter
        self.dialect = kinds[0][1]
        self.model = layers.merged([upper, *lowers])
        self.has_links = any(isinstance(what, layers.Link) for layer in (upper, *lowers) for what in layer.values())
        self.had_upper = bool(upper)
        self.open: list[Opened] = []
        self.count = 0
        self.numbers: dict[tuple[str, int], int] = {}
        """The inode number of each object in each subject, by its number in the model."""
        self.refused: list[Node] = []
        """Directories of a rename that failed: overlayfs had marked them by then. The marks say what is so anyway."""
        self.broken = False
        """Something differed: what is to be told has been told."""
        self.log: list[str] = []
        self.subjects: list[Subject] = []
        below = [self._built("lower", layer) for layer in lowers]
        self.before = manifest(list(map(str, below)))
        try:
            for kind in kinds:
                self.subjects.append(self._subject(kind, below, self._built("upper", upper)))
                self.subjects[-1].open_union()
        except BaseException:
            self.broken = True
            self.close()
            raise

    def _directory(self, name: str) -> Path:
        self.count += 1
        path = self.place / f"{self.count}-{name}"
        path.mkdir(0o755)
        return path

    def _built(self, name: str, layer: layers.Layer) -> Path:
        path = self._directory(name)
        layers.build(path, layer, self.dialect)
        return path

    def _subject(self, kind: tuple[str, ...], below: list[Path], upper: Path, work: Path | None = None) -> Subject:
        """A native one is mounted with coherent: the model knows one file, whenever it was opened."""
        places = (below, upper, work or self._directory("work"))
        if kind[0] == "native" and not set(kind) & set(OPENINGS):
            kind = (*kind, "coherent")
        return subject_of(kind, places, self._directory, self.mounter)

    # One operation

    def apply(self, operation: str, *arguments: Any) -> Any:
        """Do it everywhere; an Opened among the arguments stands for each one's own file. The model's answer."""
        World.operations += 1
        expected = self._call(self.model, 0, operation, arguments)
        line = f"{operation}{tuple('file' if isinstance(a, Opened) else a for a in arguments)}: {expected}"
        self.log.append(line)
        if operation == "rename" and isinstance(expected, str):
            self.refused += filter(None, (self._node(path) for path in arguments[:2]))
        for index, subject in enumerate(self.subjects):
            got = self._call(subject, index + 1, operation, arguments)
            if got != expected:
                self.fail(f"{subject.name}: {line}, but {got}")
        return expected

    def _node(self, path: str) -> Node | None:
        try:
            return self.model.node(path)
        except OSError:
            return None

    @staticmethod
    def _call(target: Any, index: int, operation: str, arguments: tuple[Any, ...]) -> Any:
        mine = [argument.all()[index] if isinstance(argument, Opened) else argument for argument in arguments]
        if isinstance(arguments[0], Opened) and operation != "link_file":
            target, mine = mine[0], mine[1:]
        try:
            answer = getattr(target, operation)(*mine)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        if operation in ("listdir", "listxattr"):
            return sorted(answer)
        return answer if isinstance(answer, bytes | int) else None

    def open_file(self, operation: str, *arguments: Any) -> Opened | None:
        """`open` or `tmpfile`; None when all refuse it."""
        World.operations += 1
        answers: list[Any] = []
        for target in (self.model, *self.subjects):
            try:
                answers.append(getattr(target, operation)(*arguments))
            except OSError as error:
                answers.append(errno.errorcode[error.errno or 0])
        numbers = [answer if isinstance(answer, str) else None for answer in answers]
        self.log.append(f"{operation}{arguments}: {numbers[0]}")
        if len(set(numbers)) > 1:
            for answer in answers:
                if not isinstance(answer, str):
                    answer.close()
            names = ["model", *(subject.name for subject in self.subjects)]
            self.fail(f"{operation}{arguments}: {dict(zip(names, numbers, strict=True))}")
        if numbers[0] is not None:
            return None
        self.open.append(Opened(answers[0], answers[1:]))
        return self.open[-1]

    def close_file(self, opened: Opened) -> None:
        self.open.remove(opened)
        for file in opened.all():
            file.close()

    def fail(self, message: str) -> None:
        self.broken = True
        raise AssertionError("\n".join([message, "after:", *self.log[-30:]]))

    # Comparing

    def check_time(self, path: str) -> None:
        """Both times, right after they were set."""
        node = self.model.node(path)
        for subject in self.subjects:
            st = subject.stat(path)  # type: ignore[attr-defined]
            for field, expected in (("atime_ns", node.atime), ("mtime_ns", node.mtime)):
                got = tree.moment(getattr(st, field))
                if expected not in (ANY, got):
                    self.fail(f"{subject.name}: {field} of {path} is {got}, expected {expected}")

    def check(self) -> None:
        expected = tree.of_model(self.model)
        for subject in self.subjects:
            self._compare(subject, expected)
            if subject.kind != "kernel":
                self._check_numbers(subject)
        for _, node in self.model.paths():
            node.atime = ANY
        self.model.root.atime = ANY

    def _check_numbers(self, subject: Subject) -> None:
        """An object keeps its number for its life. (overlayfs changes some of an upper that a test wrote.)"""
        for path, node in self.model.paths():
            number = subject.stat(path).ino  # type: ignore[attr-defined]
            if self.numbers.setdefault((subject.name, node.ino), number) != number:
                self.fail(f"{subject.name}: the inode number of {path} has changed")

    def _compare(self, subject: Subject, expected: dict[str, tree.Record], what: str = "") -> None:
        # An upper that a test wrote has no origins: overlayfs then lists other numbers than stat gives.
        try:
            got = tree.of(subject, exact=not isinstance(subject, Kernel))
        except (OSError, AssertionError) as error:
            self.fail(f"{subject.name} {what}: the tree cannot be read: {error!r}")
        if what:
            # Our attributes are bookkeeping to us, and attributes like any other to overlayfs.
            got = {path: record.without_attributes(b"trusted.unionfs.") for path, record in got.items()}
        lines = tree.differences(expected, got)
        if isinstance(subject, Kernel):
            # A call that fails may have copied up, or tried a name, before: the directory's time is then the present.
            lines = [line for line in lines if not (" time: " in line and line.endswith("got -1"))]
        if what:
            # Deleting one name of a lower hard link, ours copies nothing up; the count of names is a note of its own.
            lines = [line for line in lines if " nlink: " not in line or subject.kind != "kernel"]
        if lines:
            self.fail(f"{subject.name} {what}:\n" + "\n".join(lines))

    def remount(self) -> None:
        self._pause("remount")
        for subject in self.subjects:
            subject.remount()
        self._go_on()

    def _pause(self, why: str) -> None:
        self.log.append(why)
        for opened in list(self.open):
            self.close_file(opened)
        self.broken = True

    def _go_on(self) -> None:
        self.broken = False
        self.check()

    def freeze(self) -> None:
        """Every upper becomes the topmost lower layer below a new upper: its marks are now those of a lower layer."""
        self._pause("freeze")
        self.numbers.clear()
        for subject in self.subjects:
            subject.close()
            assert subject.upper is not None
            self.before.update(manifest([str(subject.upper)]))
            subject.lowers = [subject.upper, *subject.lowers]
            st = subject.upper.stat()
            subject.upper, subject.work = self._directory("upper"), self._directory("work")
            os.chown(subject.upper, st.st_uid, st.st_gid)
            os.chmod(subject.upper, stat.S_IMODE(st.st_mode))
            for name in os.listxattr(subject.lowers[0]):
                if name.startswith("user."):
                    os.setxattr(subject.upper, name, os.getxattr(subject.lowers[0], name))
            os.utime(subject.upper, ns=(st.st_atime_ns, st.st_mtime_ns))
            subject.open_union()
        self._go_on()

    # The end

    def close(self) -> None:
        try:
            if not self.broken:
                self._last_checks()
        finally:
            for opened in list(self.open):
                self.close_file(opened)
            for subject in self.subjects:
                self._close_anyhow(subject)
            shutil.rmtree(self.place)

    def _last_checks(self) -> None:
        self.check()
        for opened in list(self.open):
            self.close_file(opened)
        for subject in self.subjects:
            subject.close()
            if isinstance(subject, Ours) and subject.complaints():
                self.fail(subject.complaints())
        if [subject.kind for subject in self.subjects] == ["core", "kernel"]:
            self._compare_marks(*self.subjects)
            self._swap(*self.subjects)
        lowers = sorted({str(path) for subject in self.subjects for path in subject.lowers})
        after = manifest(lowers)
        changed = [path for path in self.before.keys() | after.keys() if self.before.get(path) != after.get(path)]
        if changed:
            lines = [f"{path}: {self.before.get(path)} -> {after.get(path)}" for path in sorted(changed)]
            self.fail("a lower layer changed:\n" + "\n".join(lines))

    @staticmethod
    def _close_anyhow(subject: Subject) -> None:
        try:
            subject.close()
        except Exception:
            if hasattr(subject, "point"):
                subprocess.run(["umount", "-l", str(subject.point)], capture_output=True)

    def _compare_marks(self, core: Subject, kernel: Subject) -> None:
        """Whiteouts, opaque marks, redirects, what is marked impure, what has an origin: the same in both uppers."""
        ours, theirs = (overlay_marks(subject.upper) for subject in (core, kernel))
        if self.had_upper:
            # overlayfs gives an origin to a directory that it finds in an upper without one; ours lets it be.
            folders = {path for path, what in ours if what == "dir"}
            noted = {(path, what) for path in folders for what in ("origin", "impure")}
            ours, theirs = ours - noted, theirs - noted
        # A directory that was listed and has no number to translate loses its mark (readdir.c): ours is one too many.
        ours -= {mark for mark in ours - theirs if mark[1] == "impure"}
        if self.has_links:
            # To delete one name of a lower hard link overlayfs copies it up, into a directory that is impure then.
            theirs -= {mark for mark in theirs - ours if mark[1] == "impure"}
        theirs -= copied_in_vain(ours, theirs) - ours
        refused = {path for path, node in self.model.paths() if any(node is other for other in self.refused)}
        ours -= {(path, what) for path, what in ours if path in refused and what.startswith("redirect ")}
        marks = ("redirect ", "opaque")
        theirs -= {(path, what) for path, what in theirs - ours if path in refused and what.startswith(marks)}
        if ours != theirs:
            lines = [f"only ours: {mark}" for mark in sorted(ours - theirs)]
            lines += [f"only overlayfs's: {mark}" for mark in sorted(theirs - ours)]
            self.fail("the uppers differ\n" + "\n".join(lines))

    def _swap(self, core: Subject, kernel: Subject) -> None:
        """overlayfs mounts our upper, and we its."""
        expected = tree.of_model(self.model)
        for kind, other in (("kernel", core), ("core", kernel)):
            assert other.upper is not None
            subject = self._subject((kind, "overlay"), other.lowers, other.upper, other.work)
            self.subjects.append(subject)
            subject.open_union()
            self._compare(subject, expected, f"on the upper of {other.kind}")
            subject.close()


def copied_in_vain(ours: set[tuple[str, str]], theirs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """What overlayfs copied up for a call that then failed, as setxattr(2) with XATTR_CREATE; ours copies nothing."""
    there = {path for path, _ in ours}
    plain = {*layers.KINDS.values(), "origin", "impure"}
    copies = {(path, what) for path, what in theirs if path not in there and what in plain}
    return copies | {(os.path.dirname(path) or ".", "impure") for path, _ in copies}


def overlay_marks(upper: Path | None) -> set[tuple[str, str]]:
    assert upper is not None
    found = set(layers.marks(upper, "overlay"))
    for path, what in list(found):
        if what in layers.KINDS.values():
            for name in ("impure", "origin"):
                if layers.xattr(upper / path, f"trusted.overlay.{name}") is not None:
                    found.add((path, name))
    return found
