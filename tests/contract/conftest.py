"""Every test of the contract runs on each subject; `union` makes one from layers in words.

Two marks. `subjects("mounted", dialect="aufs")` names the kinds of subject that a test is about: "model", "core",
"native", "fusepy", "kernel", or "mounted", "ours", "engines", "real" for several. `differs(kernel="why")` says on which
kind (or "ours") the behaviour is known to be another, and why: the test must fail there, or the mark is out of date.
Two more words say how the native engine opens files: "passthrough", where the kernel reads lower files by itself, and
"cached".

UNIONFS_SUBJECTS=model,core-aufs restricts a run to these.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.contract import layers
from tests.contract.mounter import ROOT, Mounter
from tests.contract.subject import OPENINGS, Core, ModelSubject, Ours, Subject, subject_of
from unionfs.linux.capabilities import rules_the_machine

GROUPS = {
    "mounted": {"native", "fusepy", "kernel"},
    "ours": {"core", "native", "fusepy"},
    "engines": {"native", "fusepy"},
    "real": {"core", "native", "fusepy", "kernel"},
    "all": {"model", "core", "native", "fusepy", "kernel"},
}
SUBJECTS: list[tuple[str, ...]] = [
    ("model", ""), ("kernel", "overlay"), ("core", "aufs"), ("core", "overlay"),
    ("native", "aufs"), ("native", "overlay"), ("fusepy", "aufs"), ("fusepy", "overlay"),
    ("core", "aufs", "block"), ("core", "overlay", "auto"), ("native", "aufs", "block"),
    ("native", "aufs", "index"), ("native", "aufs", "cached"),
]  # fmt: skip
"""Kind and dialect; then what is not the default: how files are copied up (of any size), how they are opened, or the
layer index."""

PASSES = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 9) and rules_the_machine()


def kinds_of(words: Sequence[str]) -> set[str]:
    return set().union(*(GROUPS.get(word, {word}) for word in words or ("all",)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject_kind" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("subjects")
    kinds = kinds_of(mark.args if mark else ())
    dialect = mark.kwargs.get("dialect") if mark else None
    wanted = os.environ.get("UNIONFS_SUBJECTS")
    chosen = [
        pair
        for pair in SUBJECTS
        if pair[0] in kinds and dialect in (None, pair[1]) and (not wanted or name_of(pair) in wanted.split(","))
    ]
    reasons = {
        kind: reason
        for different in metafunc.definition.iter_markers("differs")
        for word, reason in different.kwargs.items()
        for kind in kinds_of([word])
    }
    params = [pytest.param(pair, id=name_of(pair), marks=marks_of(pair, reasons)) for pair in chosen]
    metafunc.parametrize("subject_kind", params, indirect=True)


def name_of(pair: tuple[str, ...]) -> str:
    return "kernel" if pair[0] == "kernel" else "-".join(filter(None, pair))


def marks_of(pair: tuple[str, ...], reasons: dict[str, str]) -> list[Any]:
    """Those that mount nothing can run apart."""
    apart = [pytest.mark.apart] if pair[0] in ("core", "model") else []
    return apart + [pytest.mark.xfail(strict=True, reason=reasons[word]) for word in words_of(pair) if word in reasons]


def words_of(pair: tuple[str, ...]) -> list[str]:
    opening = next((word for word in pair[2:] if word in OPENINGS), "passthrough" if PASSES else "coherent")
    return [pair[0], opening] if pair[0] == "native" else [pair[0]]


@pytest.fixture
def subject_kind(request: pytest.FixtureRequest) -> tuple[str, ...]:
    require(request.param[0])
    return request.param  # type: ignore[no-any-return]


def require(kind: str) -> None:
    """Skip, naming what is missing for this kind of subject."""
    if kind != "model" and os.geteuid() != 0:
        pytest.skip("needs root, for owners, device nodes and mounts")
    if kind in GROUPS["engines"] and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs access to /dev/fuse")
    if kind == "fusepy":
        if importlib.util.find_spec("fuse") is None:
            pytest.skip("needs the Python package fusepy")
        try:
            importlib.import_module("fuse")
        except OSError:
            pytest.skip("needs libfuse 2")
    if kind == "kernel" and "\toverlay\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no overlayfs")


@pytest.fixture(scope="session")
def mounter() -> Iterator[Mounter]:
    mounter = Mounter()
    yield mounter
    mounter.close()


@pytest.fixture(autouse=True)
def exact_modes() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def load_manifest() -> Any:
    loader = importlib.machinery.SourceFileLoader("manifest", str(ROOT / "demos" / "manifest"))
    spec = importlib.util.spec_from_loader("manifest", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


manifest = load_manifest().manifest


class Workshop:
    """Makes subjects from layers in a directory of its own, and knows what the lower layers were before."""

    def __init__(self, place: Path, mounter: Mounter) -> None:
        self.place, self.mounter = place, mounter
        self.count = 0
        self.subjects: list[Subject] = []
        self.before: dict[str, str] = {}

    def directory(self, name: str) -> Path:
        self.count += 1
        path = self.place / f"{self.count}-{name}"
        path.mkdir(0o755)
        return path

    def make(
        self, kind: tuple[str, ...], lowers: Sequence[layers.Layer], upper: layers.Layer | None = None,
        read_only: bool = False, prepare: Callable[[list[Path], Path], None] | None = None,
    ) -> Any:  # fmt: skip
        """A union of `lowers`, topmost first, below `upper`; `prepare(lowers, upper)` may change what was built."""
        if kind[0] == "model":
            return ModelSubject(layers.merged([*([] if upper is None else [upper]), *lowers]))
        below = [self.directory("lower") for _ in lowers]
        for path, layer in zip(below, lowers, strict=True):
            layers.build(path, layer, kind[1])
        top = self.directory("upper")
        layers.build(top, upper or {}, kind[1])
        if prepare is not None:
            prepare(below, top)
        return self.of(kind, below, None if read_only else top)

    def of(self, kind: tuple[str, ...], below: list[Path], top: Path | None) -> Any:
        """A union of directories that are there."""
        self.before.update(manifest([str(path) for path in below if str(path) not in self.before]))
        subject = self.subject(kind, below, top, self.directory("work") if top else None)
        subject.open_union()
        return subject

    def forget(self, lower: Path) -> None:
        """A lower layer whose filesystem goes before the test ends: look at it once more, now."""
        was = {path: line for path, line in self.before.items() if path.startswith(f"'{lower}")}
        assert manifest([str(lower)]) == was
        for path in was:
            del self.before[path]
        for subject in self.subjects:
            subject.lowers = [path for path in subject.lowers if path != lower]

    def subject(self, kind: tuple[str, ...], below: list[Path], top: Path | None, work: Path | None) -> Subject:
        """Not mounted yet."""
        subject = subject_of(kind, (below, top, work), self.directory, self.mounter)
        self.subjects.append(subject)
        return subject

    def close(self) -> None:
        """Unmount everything; no fault of a daemon's and no change of a lower layer goes unseen."""
        complaints = []
        for subject in self.subjects:
            close_anyhow(subject)
            if isinstance(subject, Ours):
                complaints.append(subject.complaints())
        lowers = sorted({str(path) for subject in self.subjects for path in subject.lowers})
        after = manifest(lowers)
        changed = [path for path in self.before.keys() | after.keys() if self.before.get(path) != after.get(path)]
        shutil.rmtree(self.place)
        assert not any(complaints), "\n".join(complaints)
        lines = [f"{path}: {self.before.get(path)} -> {after.get(path)}" for path in sorted(changed)]
        assert not lines, "\n".join(lines)


def close_anyhow(subject: Subject) -> None:
    try:
        subject.close()
    except Exception:
        if not isinstance(subject, Core):
            subprocess.run(["umount", "-l", str(subject.point)], capture_output=True)  # type: ignore[attr-defined]
        raise


@pytest.fixture
def workshop(tmp_path: Path, mounter: Mounter) -> Iterator[Workshop]:
    place = tmp_path / "w"
    place.mkdir()
    workshop = Workshop(place, mounter)
    try:
        yield workshop
    finally:
        workshop.close()


@pytest.fixture
def union(subject_kind: tuple[str, ...], workshop: Workshop) -> Callable[..., Any]:
    """union(lowers, upper=None, read_only=False, prepare=None): a subject of the kind that this test runs on."""

    def make(*arguments: Any, **options: Any) -> Any:
        return workshop.make(subject_kind, *arguments, **options)

    return make
