"""`unionfs apply` and `unionfs discard`, of a mount and of an upper."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.changes.layers import shown_by
from tests.changes.test_apply import Crash
from tests.cli.made import Caller, Made
from tests.cli.running import COMMAND, ROOT, Stage, needs_mount, stage, unionfs
from unionfs.changes.upper import HeldUpper

__all__ = ["stage"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Two changes: one name is new, one deleted."""
    made = Made(tmp_path)
    made.lower[0].file("top")
    made.lower[1].file("deep")
    made.upper.file("new", "content")
    made.upper.whiteout("deep")
    return made


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Caller:
    return Caller(capsys)


def is_untouched(made: Made) -> bool:
    return sorted(os.listdir(made.upper.path)) == [".wh.deep", "new"] and os.listdir(made.lower[0].path) == ["top"]


# --- apply


def test_apply(made: Made, call: Caller) -> None:
    assert call("apply", made.upper.path) == 0
    assert call.out == f"applied 2 changes (1 added, 1 deleted), to {made.lower[0].path}; {made.upper.path} is empty\n"
    assert os.listdir(made.upper.path) == []
    assert sorted(os.listdir(made.lower[0].path)) == [".wh.deep", "new", "top"]
    assert os.listdir(made.lower[1].path) == ["deep"]
    assert call("diff", made.upper.path) == 0
    assert call.out == ""


def test_apply_to_the_lower_by_its_name(made: Made, call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.path)
    assert call("apply", "upper", "--to", "lower1/.") == 0
    assert (made.lower[0].path / "new").read_text() == "content"


def test_a_dry_run_changes_nothing(made: Made, call: Caller) -> None:
    assert call("apply", "-n", made.upper.path) == 0
    assert call.out == "D /deep\nA /new\n"
    assert call("apply", "--dry-run", "--to", made.path / "copy", made.upper.path) == 0
    assert call.out == f"would copy the merged tree to {made.path}/copy\n"
    assert is_untouched(made)
    assert not (made.path / "copy").exists()


def test_nothing_to_apply(tmp_path: Path, call: Caller) -> None:
    made = Made(tmp_path)
    assert call("apply", made.upper.path) == 0
    assert call.out == f"nothing to apply: {made.upper.path} changes nothing\n"


def test_the_attributes_of_the_root_stay_and_that_is_said(made: Made, call: Caller) -> None:
    made.upper.path.chmod(0o700)
    assert call("apply", made.upper.path) == 0
    assert call.out.splitlines()[1] == f"The root's own mode and owner are those of {made.lower[0].path}, as before."
    assert made.lower[0].path.stat().st_mode & 0o777 == 0o755


def test_deeper_layers_and_the_upper_are_refused(made: Made, call: Caller) -> None:
    assert call("apply", made.upper.path, "--to", made.lower[1].path) == 1
    above = made.lower[0].path
    assert call.err.splitlines() == [
        f"unionfs: lowerdir {made.lower[1].path}: the layers above it, as {above}, would hide what is written there",
        f"  apply to the topmost lower layer, --to {above}, or to a new directory",
    ]
    assert call("apply", made.upper.path, "--to", made.upper.path) == 1
    assert "is the upper layer itself" in call.err
    assert is_untouched(made)


def test_a_read_only_lower_is_refused(made: Made, call: Caller) -> None:
    lower = made.lower[0].path
    subprocess.run(["mount", "--bind", lower, lower], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", lower], check=True)
        assert call("apply", made.upper.path) == 1
        assert call.err == (
            f"unionfs: lowerdir {lower}: its filesystem is read-only\n"
            "  keep the merged tree instead: apply --to NEW-DIRECTORY\n"
        )
    finally:
        subprocess.run(["umount", lower], check=True)
    assert is_untouched(made)


def test_a_mount_inside_the_upper_is_refused(made: Made, call: Caller) -> None:
    inside = made.path / "upper" / "inside"
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inside], check=True)
    (inside / "precious").touch()
    try:
        assert call("apply", made.upper.path) == 1
        assert f"{made.path}/upper: something is mounted inside, on {inside}\n  umount {inside}" in call.err
        assert call("discard", "-y", made.upper.path) == 1
        assert (inside / "precious").exists()
    finally:
        subprocess.run(["umount", inside], check=True)
    assert (made.upper.path / "new").exists()


@pytest.mark.parametrize("change", ["inside", "inside/file", "nothing"])
def test_a_change_where_something_is_mounted_is_refused(change: str, made: Made, call: Caller) -> None:
    """Mounted in the lower layer: it is no part of the layer, and in the way only where the upper changes something."""
    inside = made.lower[0].path / "inside"
    inside.mkdir()
    if change == "inside":
        (made.upper.path / ".wh.inside").touch()
    elif change == "inside/file":
        (made.upper.path / "inside").mkdir()
        (made.upper.path / "inside" / "file").touch()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inside], check=True)
    (inside / "precious").touch()
    try:
        status = call("apply", made.upper.path)
        if change == "nothing":
            assert status == 0
        else:
            assert status == 1
            assert f"the change of /inside: something is mounted there, on {inside}\n  umount {inside}" in call.err
        assert list(inside.iterdir()) == [inside / "precious"]
    finally:
        subprocess.run(["umount", inside], check=True)


def test_an_interrupted_apply_goes_on(made: Made, call: Caller) -> None:
    before = shown_by(made.upper.path, *(layer.path for layer in made.lower))
    with pytest.MonkeyPatch.context() as monkeypatch:
        Crash(monkeypatch, 15)
        assert call("apply", made.upper.path) == 1
    assert call.err.splitlines()[1:] == [
        f"  mend that and run it again, it goes on from there: unionfs apply {made.upper.path}"
    ]
    assert call("discard", "-y", made.upper.path) == 1
    assert f"half of its changes are in {made.lower[0].path} already\n  finish it: unionfs apply" in call.err
    assert call("apply", "--to", made.path / "copy", made.upper.path) == 1
    assert call("apply", made.upper.path) == 0
    assert call.out == f"finished what was interrupted, to {made.lower[0].path}; {made.upper.path} is empty\n"
    assert shown_by(*(layer.path for layer in made.lower)) == before


# --- apply --to a new directory


def test_to_a_new_directory(made: Made, call: Caller) -> None:
    assert call("apply", "--to", made.path / "copy", made.upper.path) == 0
    assert call.out == (
        f"copied the merged tree to {made.path}/copy: 2 names, 17 B; {made.upper.path} is as it was\n"
    )  # fmt: skip
    assert sorted(os.listdir(made.path / "copy")) == ["new", "top"]
    assert is_untouched(made)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("full", "is not empty, and no layer of this union"),
        ("file", "not a directory"),
        ("no/such", "there is no directory {path}/no"),
        ("lower2/inside", "lies inside {path}/lower2, a part of this union"),
        ("work/inside", "lies inside {path}/work, a part of this union"),
    ],
)
def test_other_places_are_refused(place: str, why: str, made: Made, call: Caller) -> None:
    (made.path / "full/something").mkdir(parents=True)
    (made.path / "file").touch()
    assert call("apply", made.upper.path, "--to", made.path / place) == 1
    assert call.err.splitlines()[0] == f"unionfs: {made.path}/{place}: {why.format(path=made.path)}"
    assert is_untouched(made)


# --- discard


def test_discard(made: Made, call: Caller) -> None:
    (made.work / "links").mkdir()
    (made.work / "links/0-1").touch()
    assert call("discard", "-y", made.upper.path) == 0
    assert call.out == f"discarded 2 changes (1 added, 1 deleted); {made.upper.path} is empty\n"
    assert os.listdir(made.upper.path) == []
    assert sorted(os.listdir(made.work)) == ["stack.json", "work"]
    assert call("discard", made.upper.path) == 0
    assert call.out == f"nothing to discard: {made.upper.path} is empty\n"


def test_nobody_to_ask(made: Made) -> None:
    result = unionfs("discard", made.upper.path)
    assert result == (
        2, "", "unionfs: discard: standard input is no terminal, so nobody can be asked\n  add -y to do it unasked\n",
    )  # fmt: skip
    assert is_untouched(made)


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("yes", 0), ("", 1), ("n", 1), ("what?", 1)])
def test_it_asks_on_a_terminal(answer: str, status: int, made: Made) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode() + b"\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*COMMAND, "discard", made.upper.path], stdin=theirs, capture_output=True, text=True, env=environment
    )
    os.close(ours)
    os.close(theirs)
    assert f"Discard 2 changes (1 added, 1 deleted) in {made.upper.path}? [y/N] " in done.stdout + done.stderr
    assert done.returncode == status
    assert is_untouched(made) == bool(status)


def test_discard_when_a_layer_is_gone(made: Made, call: Caller) -> None:
    made.record(lowerdir=[str(made.path / "gone")])
    assert call("discard", "-y", made.upper.path) == 0
    assert call.out == f"discarded all changes; {made.upper.path} is empty\n"


@pytest.mark.parametrize("mark", ["volatile", "work/incompat/volatile"], ids=["ours", "the kernel's"])
def test_discard_of_a_damaged_upper(mark: str, made: Made, call: Caller) -> None:
    (made.work / mark).parent.mkdir(exist_ok=True)
    (made.work / mark).write_text("another boot\n")
    assert call("apply", made.upper.path) == 1
    assert f"  discard it: unionfs discard {made.upper.path}" in call.err
    assert call("discard", "-y", made.upper.path) == 0
    assert not (made.work / mark).exists()
    assert os.listdir(made.work / "work") == []


def test_discard_follows_no_symbolic_link(made: Made, call: Caller) -> None:
    precious = made.path / "precious"
    (precious / "dir").mkdir(parents=True)
    (made.upper.path / "link").symlink_to(precious)
    (made.upper.dir("dir") / "link").symlink_to(precious)
    assert call("discard", "-y", made.upper.path) == 0
    assert os.listdir(precious) == ["dir"]


def test_an_upper_in_use_is_refused(made: Made, call: Caller) -> None:
    held = HeldUpper(os.fsencode(made.upper.path), os.fsencode(made.work))
    for words in (["discard", "-y"], ["apply"], ["apply", "--to", made.path / "copy"]):
        assert call(*words, made.upper.path) == 1
        assert call.err.splitlines()[0] == f"unionfs: upperdir {made.upper.path}: a mount uses it"
    held.close()
    assert is_untouched(made)


# --- mounted


@needs_mount
@pytest.mark.parametrize("dialect", ["aufs", "overlay"])
def test_apply_of_a_mount(dialect: str, stage: Stage, call: Caller) -> None:
    (stage.path / "lower/dir/sub").mkdir(parents=True)
    (stage.path / "lower/dir/sub/file").write_text("along")
    assert stage.mount(f"dialect={dialect}") == (0, "", "")
    (stage.merged / "file").unlink()
    (stage.merged / "dir").rename(stage.merged / "renamed")
    (stage.merged / "renamed/new").write_text("new")
    os.link(stage.merged / "renamed/new", stage.merged / "link")
    assert call("apply", stage.merged) == 0
    assert call.out.splitlines() == [
        f"unmounted {stage.merged}",
        f"applied 5 changes (3 added, 2 deleted), to {stage.path}/lower; {stage.path}/upper is empty",
    ]
    assert stage.entry() is None
    lower = stage.path / "lower"
    assert sorted(os.listdir(lower)) == ["link", "renamed"]
    assert (lower / "renamed/sub/file").read_text() == "along"
    assert (lower / "link").samefile(lower / "renamed/new")
    assert stage.mount(f"dialect={dialect}") == (0, "", "")
    assert sorted(os.listdir(stage.merged / "renamed")) == ["new", "sub"]


@needs_mount
def test_to_a_new_directory_while_mounted(stage: Stage, call: Caller) -> None:
    assert stage.mount() == (0, "", "")
    (stage.merged / "new").write_text("new")
    os.setxattr(stage.merged / "new", "user.mark", b"kept")
    with open(stage.merged / "open", "w") as file:
        file.write("not closed yet")
        file.flush()
        assert call("apply", "--to", stage.path / "copy", stage.merged) == 0
    assert call.out.startswith(f"copied the merged tree to {stage.path}/copy: 3 names, 23 B; ")
    assert stage.entry() is not None
    copy = stage.path / "copy"
    assert sorted(os.listdir(copy)) == ["file", "new", "open"]
    assert (copy / "open").read_text() == "not closed yet"
    assert {name: os.getxattr(copy / "new", name) for name in os.listxattr(copy / "new")} == {"user.mark": b"kept"}


@needs_mount
def test_discard_of_a_mount(stage: Stage, call: Caller) -> None:
    assert stage.mount() == (0, "", "")
    (stage.merged / "file").write_text("changed")
    assert call("discard", "-y", stage.merged) == 0
    assert call.out.splitlines() == [
        f"unmounted {stage.merged}", f"discarded 1 change (1 changed); {stage.path}/upper is empty",
    ]  # fmt: skip
    assert stage.mount() == (0, "", "")
    assert (stage.merged / "file").read_text() == "lower\n"


@needs_mount
@pytest.mark.parametrize("command", ["apply", "discard"])
def test_a_mount_in_use_stays(command: str, stage: Stage, call: Caller) -> None:
    assert stage.mount() == (0, "", "")
    (stage.merged / "file").write_text("changed")
    with open(stage.merged / "file"):
        assert call(command, stage.merged, *(["-y"] if command == "discard" else [])) == 1
    assert call.err.startswith(f"unionfs: {stage.merged} cannot be unmounted: it is in use\n")
    assert (stage.merged / "file").read_text() == "changed"
    assert (stage.path / "lower/file").read_text() == "lower\n"


@needs_mount
def test_the_upper_of_a_mount_is_refused(stage: Stage, call: Caller) -> None:
    assert stage.mount() == (0, "", "")
    (stage.merged / "new").touch()
    for words in (["apply"], ["discard", "-y"]):
        assert call(*words, stage.path / "upper") == 1
        assert call.err == (
            f"unionfs: upperdir {stage.path}/upper: is in use: mounted on {stage.merged}\n  name that place instead\n"
        )
    assert (stage.merged / "new").exists()


@needs_mount
def test_a_lower_that_another_union_shows_is_refused(stage: Stage, call: Caller) -> None:
    (stage.path / "other").mkdir()
    assert unionfs("mount", "other", "-o", "lowerdir=lower", cwd=stage.path).status == 0
    assert stage.mount() == (0, "", "")
    (stage.merged / "new").touch()
    assert call("apply", stage.merged) == 1
    assert f"lowerdir {stage.path}/lower: is a layer of another union too, mounted on {stage.path}/other" in call.err
    assert stage.entry() is not None
    assert call("apply", "--to", stage.path / "copy", stage.merged) == 0


@needs_mount
def test_a_read_only_union_can_be_copied_only(stage: Stage, call: Caller) -> None:
    assert unionfs("mount", "merged", "-o", "lowerdir=lower", cwd=stage.path).status == 0
    for words in (["apply"], ["discard", "-y"]):
        assert call(*words, stage.merged) == 1
        assert "is a read-only union: it has no upper layer" in call.err
    assert call("apply", "--to", stage.path / "copy", stage.merged) == 0
    assert call.out == f"copied the merged tree to {stage.path}/copy: 1 name, 6 B\n"
