"""Applying an upper: the lower layers alone show afterwards what the union showed before."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.changes.deeds import do_anything
from tests.changes.layers import DIALECTS, HandMade, Snapshot, open_stack, shown_by, snapshot
from unionfs.changes.apply import apply
from unionfs.changes.upper import HeldUpper
from unionfs.errors import UnionfsError
from unionfs.layer.layer import Directory
from unionfs.layer.stack import Stack
from unionfs.linux import files
from unionfs.union.union import Union

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for devices, owners and trusted attributes")



@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine crashes here, and other programs' data is not ours to wait for."""
    monkeypatch.setattr(files, "sync_filesystem", lambda fd: None)


class Bench:
    """An upper, a work directory, and lower layers: lower 0 is the target."""

    def __init__(self, path: Path, dialect: str, depth: int) -> None:
        self.dialect = dialect
        self.upper = HandMade(path / "upper", dialect)
        self.work = path / "work"
        self.work.mkdir(parents=True)
        self.lower = [HandMade(path / f"lower{number}", dialect) for number in range(depth)]

    def apply(self) -> None:
        with closing(self.hold()) as held, closing(self.below()) as below:
            apply(held, below)

    def hold(self) -> HeldUpper:
        return HeldUpper(os.fsencode(self.upper.path), os.fsencode(self.work))

    def below(self) -> Stack:
        return open_stack(*(layer.path for layer in self.lower), dialect=self.dialect)

    def union(self) -> Snapshot:
        """What the union shows, hard links by the index included."""
        with closing(self.hold()) as held, closing(self.below()) as below:
            return snapshot(held.stack(below, below.dialect))

    def lowers_alone(self) -> Snapshot:
        return shown_by(*(layer.path for layer in self.lower), dialect=self.dialect)

    def check(self) -> None:
        """Apply, and compare."""
        before = self.union()
        self.apply()
        assert self.lowers_alone() == before
        self.is_empty()

    def is_empty(self) -> None:
        assert os.listdir(self.upper.path) == []
        assert set(os.listdir(self.work)) <= {"work", "stack.json"}
        assert os.listdir(self.work / "work") == []
        assert not (self.lower[0].path / ".wh..wh.unionfs-apply").exists()


@pytest.fixture(
    params=[(dialect, depth) for dialect in DIALECTS for depth in (1, 2)], ids=lambda it: f"{it[0]}-{it[1]}"
)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path, *request.param)


# --- random trees

NAMES = "abcd"


def fill(
    layer: HandMade, chance: random.Random, names: Sequence[str], marks: bool, depth: int = 0, at: str = ""
) -> None:
    """Objects of every kind, and marks, at random."""
    for name in names:
        path = f"{at}{name}"
        kind = chance.choices(
            ["nothing", "file", "dir", "whiteout", "opaque", "symlink", "fifo"], [4, 5, 7 - 2 * depth, 3, 2, 1, 1]
        )[0]
        if kind == "whiteout" and marks:
            layer.whiteout(path)
        elif kind in ("dir", "opaque"):
            made = layer.opaque(path) if kind == "opaque" and marks else layer.dir(path)
            fill(layer, chance, names, marks, depth + 1, path + "/")
            made.chmod(chance.choice([0o755, 0o700, 0o1777, 0o2750]))
            if chance.random() < 0.3:
                os.setxattr(made, "user.kept", path.encode())
            os.utime(made, ns=(0, chance.randrange(10**18)))
        elif kind == "symlink":
            (layer.dir(at) / name).symlink_to(f"to-{layer.path.name}-{path}")
        elif kind == "fifo":
            os.mkfifo(layer.dir(at) / name)
        elif kind == "file":
            made = layer.file(path, f"{layer.path.name} {path} {chance.random()}")
            made.chmod(chance.choice([0o644, 0o600, 0o4755]))
            os.chown(made, chance.randrange(3), chance.randrange(3))
            os.setxattr(made, "user.layer", layer.path.name.encode())
            os.utime(made, ns=(0, chance.randrange(10**18)))


@pytest.mark.parametrize("seed", range(10))
def test_any_tree(seed: int, bench: Bench) -> None:
    chance = random.Random(seed)
    for number, layer in enumerate([bench.upper, *bench.lower]):
        fill(layer, chance, NAMES[: 2 + seed % 3], marks=number < len(bench.lower))
    bench.check()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_opaque_root(dialect: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, dialect, 2)
    for layer in (bench.upper, *bench.lower):
        layer.file("same")
        layer.file(f"only/{layer.path.name}")
    bench.upper.opaque("")
    bench.check()


def test_objects_beside_their_own_whiteout(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "aufs", 2)
    for layer in (bench.upper, *bench.lower):
        layer.file("file")
        layer.file(f"dir/{layer.path.name}")
    bench.upper.whiteout("file")
    bench.upper.whiteout("dir")
    bench.check()
    assert [path.name for path in (bench.lower[0].path / "dir").iterdir() if not path.name.startswith(".wh.")] == [
        "upper"
    ]


# --- what a file is made of


def test_nothing_of_a_file_is_lost(bench: Bench) -> None:
    bench.lower[0].file("file", "old")
    os.setxattr(bench.lower[0].path / "file", "user.gone", b"1")
    file = bench.upper.file("file", "new")
    with open(file, "r+b") as opened:
        opened.truncate(8 << 20)
        opened.seek(4 << 20)
        opened.write(b"data")
    os.chown(file, 12, 34)
    file.chmod(0o6755)
    os.setxattr(file, "user.kept", b"2")
    os.setxattr(file, "trusted.kept", b"3")
    os.setxattr(file, "trusted.unionfs.origin", b"1:0:1")
    os.setxattr(file, "security.capability", CAPABILITY)
    os.setxattr(file, "system.posix_acl_access", ACL)
    os.utime(file, ns=(123456789, 987654321))
    before = file.stat()
    bench.apply()
    copy = bench.lower[0].path / "file"
    after = copy.stat()
    for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_blocks"):
        assert getattr(after, field) == getattr(before, field), field
    assert copy.read_bytes()[4 << 20 :][:4] == b"data"
    assert {name: os.getxattr(copy, name) for name in os.listxattr(copy)} == {
        "user.kept": b"2", "trusted.kept": b"3", "security.capability": CAPABILITY, "system.posix_acl_access": ACL,
    }  # fmt: skip


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw+ep: see capabilities(7)."""
ACL = bytes.fromhex("0200000001000700ffffffff02000400e803000004000500ffffffff10000500ffffffff20000500ffffffff")
"""user::rwx,user:1000:r--,group::r-x,mask::r-x,other::r-x: see acl(5)."""


def test_access_times_survive(bench: Bench) -> None:
    file = bench.upper.file("file")
    os.utime(file, ns=(123456789, 987654321))
    bench.apply()
    assert (bench.lower[0].path / "file").stat().st_atime_ns == 123456789


def test_a_default_acl_of_the_target_is_not_inherited(bench: Bench) -> None:
    os.setxattr(bench.lower[0].path, "system.posix_acl_default", ACL)
    bench.upper.file("dir/file").chmod(0o600)
    bench.check()


def test_hard_links_stay_together(bench: Bench) -> None:
    os.link(bench.upper.file("one"), bench.upper.dir("dir") / "two")
    os.symlink("nowhere", bench.upper.path / "link")
    os.link(bench.upper.path / "link", bench.upper.path / "dir/link", follow_symlinks=False)
    bench.check()
    one, two = bench.lower[0].path / "one", bench.lower[0].path / "dir/two"
    assert one.stat().st_ino == two.stat().st_ino
    assert one.stat().st_nlink == 2
    assert os.lstat(bench.lower[0].path / "link").st_nlink == 2


def linked(bench: Bench) -> None:
    """One lower file with three names, changed under one of them."""
    bottom = bench.lower[-1]
    one, far = bottom.file("one", "old"), bottom.dir("far")
    os.link(one, bottom.path / "two")
    os.link(one, far / "three")
    lowers = [layer.path for layer in bench.lower]
    with Union(lower=lowers, upper=bench.upper.path, work=bench.work, dialect=bench.dialect) as union:
        union.write_bytes("one", b"new")


def test_lower_hard_links_follow_their_copy(bench: Bench) -> None:
    """Written under one name; the other ones were never touched, and show the same in the union."""
    linked(bench)
    assert sorted(os.listdir(bench.upper.path)) == ["one"]
    bench.check()
    names = [bench.lower[0].path / name for name in ("one", "two", "far/three")]
    assert [name.read_bytes() for name in names] == [b"new"] * 3
    assert {name.stat().st_nlink for name in names} == {3}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_lower_hard_links_interrupted_anywhere(dialect: str, tmp_path: Path) -> None:
    for after in range(1000):
        bench = Bench(tmp_path / str(after), dialect, 2)
        linked(bench)
        if not survives(bench, after):
            return
    pytest.fail("so many changes?")


def test_devices_and_sockets(bench: Bench) -> None:
    os.mknod(bench.upper.path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(bench.upper.path / "disk", stat.S_IFBLK | 0o660, os.makedev(7, 0))
    os.mknod(bench.upper.path / "socket", stat.S_IFSOCK | 0o777)
    bench.check()


def test_a_file_in_place_of_a_directory_and_the_reverse(bench: Bench) -> None:
    for layer in bench.lower:
        layer.file("dir/file")
        layer.file("file")
    bench.upper.file("dir", "a file now")
    bench.upper.file("file/inside")
    bench.check()


# --- what is deleted


def test_no_whiteout_is_left_where_nothing_is_below(bench: Bench) -> None:
    bench.lower[0].file("only-here")
    bench.lower[-1].file("deep")
    bench.upper.whiteout("only-here")
    bench.upper.whiteout("deep")
    bench.upper.whiteout("never-was")
    bench.check()
    marks = {path.name for path in bench.lower[0].path.iterdir()}
    assert marks == (set() if len(bench.lower) == 1 else {"deep" if bench.dialect == "overlay" else ".wh.deep"})


def test_deeper_layers_are_not_touched(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "aufs", 2)
    fill(bench.lower[1], random.Random(1), NAMES, marks=False)
    fill(bench.upper, random.Random(2), NAMES, marks=True)
    before = shown_by(bench.lower[1].path)
    bench.check()
    assert shown_by(bench.lower[1].path) == before


# --- what is refused


def test_an_upper_in_use_is_refused(bench: Bench) -> None:
    bench.upper.file("file")
    with Union(lower=[bench.lower[0].path], upper=bench.upper.path, work=bench.work, dialect=bench.dialect):
        with pytest.raises(UnionfsError, match="a mount uses it"):
            bench.apply()
    assert (bench.upper.path / "file").exists()


def test_a_damaged_upper_is_refused(bench: Bench) -> None:
    bench.upper.file("file")
    (bench.work / "volatile").write_text("another boot\n")
    with pytest.raises(UnionfsError, match="was mounted volatile: its files may be damaged"):
        bench.apply()
    assert not (bench.lower[0].path / "file").exists()


def test_half_an_apply_is_not_mounted(bench: Bench) -> None:
    renamed_once(bench)
    with pytest.MonkeyPatch.context() as monkeypatch:
        Crash(monkeypatch, 20)
        with pytest.raises(UnionfsError, match=r"stopped half way.*crashed\n.*run it again"):
            bench.apply()
    with pytest.raises(UnionfsError, match="an apply of it was interrupted"):
        Union(lower=[bench.lower[0].path], upper=bench.upper.path, work=bench.work, dialect=bench.dialect)
    bench.apply()
    Union(lower=[bench.lower[0].path], upper=bench.upper.path, work=bench.work, dialect=bench.dialect).close()


def test_files_whose_data_is_nowhere_are_refused(tmp_path: Path) -> None:
    """metacopy, as the kernel's overlayfs writes it when it is told to, and no lower file of that name."""
    bench = Bench(tmp_path, "overlay", 1)
    os.setxattr(bench.upper.file("dir/file"), "trusted.overlay.metacopy", b"")
    with pytest.raises(UnionfsError, match=r"dir/file: cannot be completed"):
        bench.apply()
    assert os.listdir(bench.lower[0].path) == []


# --- renamed directories


def renamed_once(bench: Bench) -> None:
    for layer in bench.lower:
        layer.file("old/in/file")
        layer.file(f"old/only-{layer.path.name}")
    bench.lower[0].file("old/gone")
    bench.upper.redirect("new", "/old")
    bench.upper.whiteout("old")
    bench.upper.file("new/in/file", "changed")
    bench.upper.whiteout("new/gone")


def renamed_in_the_same_parent(bench: Bench) -> None:
    bench.lower[-1].file("dir/old/file")
    bench.lower[0].file("dir/new")
    bench.upper.redirect("dir/new", "old")
    bench.upper.whiteout("dir/old")
    bench.upper.file("dir/new/own")


def exchanged(bench: Bench) -> None:
    for layer in bench.lower:
        layer.file(f"one/{layer.path.name}")
        layer.file(f"other/{layer.path.name}-too")
    bench.upper.redirect("one", "/other")
    bench.upper.redirect("other", "/one")


def into_its_old_place(bench: Bench) -> None:
    """one -> new/one, and a new directory `one` that holds what was `one`."""
    for layer in bench.lower:
        layer.file(f"one/{layer.path.name}")
    bench.upper.opaque("one")
    bench.upper.redirect("one/one", "/one")


def out_of_a_renamed_one(bench: Bench) -> None:
    for layer in bench.lower:
        layer.file(f"outer/inner/{layer.path.name}")
        layer.file(f"outer/{layer.path.name}")
    bench.upper.redirect("inner", "/outer/inner")
    bench.upper.redirect("moved", "/outer")
    bench.upper.whiteout("moved/inner")
    bench.upper.whiteout("outer")


def over_another(bench: Bench) -> None:
    for layer in bench.lower:
        layer.file(f"from/{layer.path.name}")
        layer.file("to/hidden")
    bench.upper.redirect("to", "/from")
    bench.upper.whiteout("from")


def renamed_twice_over_layers(bench: Bench) -> None:
    """The target itself is an upper of earlier days: what it renamed is renamed again."""
    bench.lower[-1].file("first/file")
    bench.lower[-1].file("first/sub/file")
    if len(bench.lower) > 1:
        bench.lower[0].redirect("second", "/first")
        bench.lower[0].whiteout("first")
    else:
        bench.lower[0].file("second/sub/file")
    bench.lower[0].file("second/own")
    bench.upper.redirect("third", "/second")
    bench.upper.whiteout("second")
    bench.upper.redirect("sub", "/second/sub")
    bench.upper.whiteout("third/sub")


def deeper_only(bench: Bench) -> None:
    bench.lower[-1].file("a/b/c/file")
    bench.upper.redirect("c", "/a/b/c")
    bench.upper.whiteout("a/b/c")


def into_an_opaque_one(bench: Bench) -> None:
    for layer in bench.lower:
        layer.file(f"dir/sub/{layer.path.name}")
        layer.file("moved/file")
    bench.upper.opaque("dir")
    bench.upper.redirect("dir/sub", "/moved")
    bench.upper.whiteout("moved")


def to_nowhere(bench: Bench) -> None:
    for layer in bench.lower:
        layer.file("there/file")
    bench.upper.redirect("there", "/not/there")
    bench.upper.file("there/own")


def opaque_over_a_redirect(bench: Bench) -> None:
    bench.lower[-1].file("old/file")
    bench.lower[0].redirect("dir", "/old")
    bench.upper.opaque("dir")


SCENES: list[Callable[[Bench], None]] = [
    renamed_once, renamed_in_the_same_parent, exchanged, into_its_old_place, out_of_a_renamed_one, over_another,
    renamed_twice_over_layers, deeper_only, into_an_opaque_one, to_nowhere, opaque_over_a_redirect,
]  # fmt: skip


@pytest.mark.parametrize("scene", SCENES)
def test_renamed_directories(scene: Callable[[Bench], None], bench: Bench) -> None:
    scene(bench)
    bench.check()


def test_a_renamed_directory_is_moved_not_copied(bench: Bench) -> None:
    renamed_once(bench)
    file = bench.lower[0].path / "old/only-lower0"
    before = file.stat().st_ino
    bench.check()
    assert (bench.lower[0].path / "new/only-lower0").stat().st_ino == before
    assert not (bench.lower[0].path / "old").is_dir()


def test_what_is_shown_twice_is_refused(bench: Bench) -> None:
    bench.lower[0].file("old/file")
    bench.upper.redirect("new", "/old")
    before = bench.union()
    with pytest.raises(UnionfsError, match=r"renamed directory /new: its content is shown as /old too"):
        bench.apply()
    assert bench.union() == before
    assert (bench.lower[0].path / "old/file").exists()


# --- interruptions


class Crash:
    """After so many changes of layers, none works any more: what a crash leaves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        real = Directory.changing

        def changing(directory: Directory, what: str, name: bytes) -> int:
            if self.left <= 0:
                raise OSError(5, "crashed")
            self.left -= 1
            return real(directory, what, name)

        monkeypatch.setattr(Directory, "changing", changing)

    @property
    def came(self) -> bool:
        return self.left <= 0


def survives(bench: Bench, after: int) -> bool:
    """Apply, stopped after so many changes, and again; whether it was stopped at all."""
    before = bench.union()
    with pytest.MonkeyPatch.context() as monkeypatch:
        crash = Crash(monkeypatch, after)
        try:
            bench.apply()
        except (UnionfsError, OSError):
            assert crash.came
    if crash.came:
        bench.apply()
    assert bench.lowers_alone() == before
    bench.is_empty()
    return crash.came


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_interrupted_anywhere(scene: Callable[[Bench], None], dialect: str, tmp_path: Path) -> None:
    for after in range(1000):
        bench = Bench(tmp_path / str(after), dialect, 2)
        scene(bench)
        if not survives(bench, after):
            assert after > 10
            return
    pytest.fail("so many changes?")


@pytest.mark.parametrize("seed", range(12))
def test_any_tree_interrupted(seed: int, bench: Bench) -> None:
    chance = random.Random(seed)
    for number, layer in enumerate([bench.upper, *bench.lower]):
        fill(layer, chance, NAMES, marks=number < len(bench.lower))
    survives(bench, chance.randrange(200))


# --- uppers made by the union itself


def do_in(bench: Bench, upper: HandMade, lower: Sequence[HandMade], work: Path, seed: int) -> None:
    work.mkdir(exist_ok=True)
    lowers = [layer.path for layer in lower]
    with Union(lower=lowers, upper=upper.path, work=work, dialect=bench.dialect) as union:
        do_anything(union, random.Random(seed), 25)


@pytest.mark.parametrize("seed", range(25))
def test_any_deeds(seed: int, bench: Bench) -> None:
    chance = random.Random(seed)
    *above, bottom = bench.lower
    fill(bottom, chance, NAMES[:3], marks=False)
    linked = [path for path in bottom.path.rglob("*") if path.is_file() and not path.is_symlink()]
    for number, path in enumerate(linked[:2]):
        os.link(path, bottom.path / f"link{number}")
    for layer in above:
        do_in(bench, layer, [bottom], bench.work.parent / "work0", seed + 1000)
    do_in(bench, bench.upper, bench.lower, bench.work, seed)
    survives(bench, chance.randrange(300))
