"""`unionfs layers`, `which` and `diff`, of a mount and of an upper."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.made import Caller, Made
from tests.cli.running import Stage, needs_mount, stage, unionfs

__all__ = ["stage"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Caller:
    return Caller(capsys)


def changed(made: Made) -> Made:
    """Something of every kind."""
    for layer in made.lower:
        layer.file("etc/hosts")
    made.lower[1].file("etc/motd")
    made.lower[1].file("srv/old/file")
    made.upper.file("etc/hosts", "new")
    made.upper.file("etc/new")
    made.upper.whiteout("etc/motd")
    made.upper.redirect("srv/now", "old")
    made.upper.whiteout("srv/old")
    return made


# --- diff


@pytest.mark.parametrize("dialect", ["aufs", "overlay"])
def test_diff(dialect: str, tmp_path: Path, call: Caller) -> None:
    made = changed(Made(tmp_path, dialect))
    assert call("diff", made.upper.path) == 0
    assert call.out.splitlines() == [
        "C /etc", "C /etc/hosts", "D /etc/motd", "A /etc/new", "C /srv", "A /srv/now", "D /srv/old",
    ]  # fmt: skip


def test_names_that_are_no_text(made: Made) -> None:
    made.upper.file(os.fsdecode(b"line\nand \xff"), "x")
    (change,) = json.loads(unionfs("diff", "--json", made.upper.path).out)
    assert change == {"kind": "A", "path": "/line\nand \udcff"}
    assert unionfs("diff", made.upper.path).out == "A /line\\nand \udcff\n"


def test_diff_of_nothing(made: Made, call: Caller) -> None:
    assert call("diff", made.upper.path) == 0
    assert call.out == ""
    assert call("diff", "--json", made.upper.path) == 0
    assert json.loads(call.out) == []


# --- layers


def test_layers(made: Made, call: Caller) -> None:
    changed(made)
    assert call("layers", made.upper.path) == 0
    heading, *rows = call.out.splitlines()
    assert heading.split() == ["LAYER", "ROLE", "A", "C", "D", "FILES", "OPAQUE", "SIZE", "WASTED", "PATH"]
    assert [row.split()[:5] for row in rows] == [
        ["0", "upper", "2", "3", "2"], ["1", "lower", "0", "2", "0"], ["2", "lower", "6", "0", "0"],
    ]  # fmt: skip
    assert [row.split()[-1] for row in rows] == [str(layer.path) for layer in (made.upper, *made.lower)]


def test_layers_as_json(made: Made, call: Caller) -> None:
    file = made.lower[1].file("file", "x" * 10_000)
    assert call("layers", "--json", made.upper.path) == 0
    *_, last = json.loads(call.out)
    assert last == {
        "layer": 2, "role": "lower", "added": 1, "changed": 0, "deleted": 0, "files": 1, "opaque": 0, "wasted": 0,
        "size": file.stat().st_blocks * 512, "path": str(made.lower[1].path),
    }  # fmt: skip


def test_layers_and_what_they_hold_for_nothing(made: Made, call: Caller) -> None:
    changed(made)
    size = (made.lower[1].path / "etc/motd").stat().st_blocks * 512
    assert call("layers", "--wasted", "-n", "2", made.upper.path) == 0
    table, _, rest = call.out.partition("\n\n")
    assert "of what the layers take is shown; the largest of the rest:" in rest
    assert table.splitlines()[-1].split()[-3:-1] == ["8.0", "KiB"]
    assert len(rest.splitlines()) == 4
    assert call("layers", "--wasted", "--json", made.upper.path) == 0
    told = json.loads(call.out)
    assert {"layer": 2, "path": "/etc/motd", "size": size} in told["wasted"] and 0 < told["efficiency"] < 1
    assert told["layers"][2]["wasted"] == sum(one["size"] for one in told["wasted"] if one["layer"] == 2)


def test_layers_that_hold_nothing_for_nothing(made: Made, call: Caller) -> None:
    made.lower[1].file("file")
    assert call("layers", "--wasted", made.upper.path) == 0
    assert call.out.endswith("\n\n100.0% of what the layers take is shown\n")


def test_layers_of_what_is_no_union(tmp_path: Path) -> None:
    done = unionfs("layers", "nothing", environment={"UNIONFS_ROOT": str(tmp_path)})
    assert done.status == 1 and "there is no such path, and no container of that name" in done.err


# --- which


def test_which_gives_and_hides(made: Made, call: Caller) -> None:
    changed(made)
    path = made.upper.path / "etc/hosts"
    assert call("which", path) == 0
    assert call.out.splitlines() == [
        f"{path}: regular file, of layer 0",
        f"  0  upper  gives it           {made.upper.path}/etc/hosts",
        f"  1  lower  hidden by layer 0  {made.lower[0].path}/etc/hosts",
        f"  2  lower  hidden by layer 0  {made.lower[1].path}/etc/hosts",
    ]


def test_which_of_what_is_deleted(made: Made, call: Caller) -> None:
    changed(made)
    path = made.upper.path / "etc/motd"
    assert call("which", path) == 1
    assert call.out.splitlines() == [
        f"{path}: not there: the whiteout in layer 0 hides the regular file of layer 2",
        f"  0  upper  whiteout: it is deleted here       {made.upper.path}/etc/.wh.motd",
        f"  2  lower  hidden by the whiteout in layer 0  {made.lower[1].path}/etc/motd",
    ]


def test_which_follows_a_renamed_directory(made: Made, call: Caller) -> None:
    changed(made)
    path = made.upper.path / "srv/now/file"
    assert call("which", path) == 0
    assert call.out.splitlines() == [
        f"{path}: regular file, of layer 2",
        f"  0  upper  goes on below as old  {made.upper.path}/srv/now",
        "  0  upper  has no such name",
        "  1  lower  has no such name",
        f"  2  lower  gives it              {made.lower[1].path}/srv/old/file",
    ]


def test_which_of_a_directory(made: Made, call: Caller) -> None:
    changed(made)
    made.upper.opaque("only")
    made.lower[0].dir("only")
    path = made.upper.path
    assert call("which", path / "etc", path / "only") == 0
    heading, *_, blank, second, one, two, three = call.out.splitlines()
    assert heading == f"{path}/etc: directory, merged from layers 0, 1, 2"
    assert blank == ""
    assert second == f"{path}/only: directory, of layer 0"
    assert one.split()[2:4] == ["gives", "it"]
    assert "opaque: hides what is below" in two
    assert "hidden by the opaque directory in layer 0" in three


def test_which_of_several_fails_when_one_is_not_there(made: Made, call: Caller) -> None:
    changed(made)
    assert call("which", made.upper.path / "nix", made.upper.path / "etc/new") == 1
    assert "nix: not there: no layer has it" in call.out
    assert "etc/new: regular file, of layer 0" in call.out


def test_which_as_json(made: Made, call: Caller) -> None:
    changed(made)
    path = made.upper.path / "etc/motd"
    assert call("which", "--json", path) == 1
    (answer,) = json.loads(call.out)
    assert (answer["path"], answer["inside"], answer["layer"]) == (str(path), "/etc/motd", None)
    assert answer["findings"] == [
        {"layer": 0, "role": "upper", "root": str(made.upper.path), "says": "whiteout",
         "path": f"{made.upper.path}/etc/.wh.motd"},
        {"layer": 2, "role": "lower", "root": str(made.lower[1].path), "says": "hidden",
         "path": f"{made.lower[1].path}/etc/motd", "by": {"layer": 0, "says": "whiteout"}},
    ]  # fmt: skip


def test_which_does_not_follow_a_symbolic_link(made: Made, call: Caller) -> None:
    (made.upper.path / "link").symlink_to("/etc/passwd")
    assert call("which", made.upper.path / "link") == 0
    assert "link: symbolic link, of layer 0" in call.out


# --- what is no union


@pytest.mark.parametrize("command", ["layers", "diff", "apply", "discard"])
def test_any_directory_is_refused(command: str, tmp_path: Path, call: Caller) -> None:
    assert call(command, tmp_path) == 1
    assert call.err.startswith(f"unionfs: {tmp_path}: is neither a mounted union nor an upper layer of one\n  ")


def test_what_is_not_there_is_refused(tmp_path: Path, call: Caller) -> None:
    assert call("diff", tmp_path / "nix") == 1
    assert call.err.splitlines()[0] == f"unionfs: {tmp_path}/nix: no such directory"
    (tmp_path / "file").touch()
    assert call("diff", tmp_path / "file") == 1
    assert call.err.splitlines()[0] == f"unionfs: {tmp_path}/file: not a directory"
    assert call("which", tmp_path / "file") == 1
    assert call.err.splitlines()[0] == f"unionfs: {tmp_path}/file: lies in no union"


def test_a_copied_upper_is_refused(made: Made, call: Caller) -> None:
    copy = made.path / "copy"
    copy.mkdir()
    os.setxattr(copy, "trusted.unionfs.work", os.fsencode(made.work))
    assert call("diff", copy) == 1
    assert call.err == (
        f"unionfs: upperdir {copy}: was copied or moved: its record says that it is {made.upper.path}\n"
        "  mount it where it is now: that renews the record\n"
    )


def test_a_lost_work_directory(made: Made, call: Caller) -> None:
    shutil.rmtree(made.work)
    assert call("diff", made.upper.path) == 1
    assert f"the record of its layers, {made.work}/stack.json: no such file or directory" in call.err


def test_a_lost_layer(made: Made, call: Caller) -> None:
    shutil.rmtree(made.lower[1].path)
    assert call("layers", made.upper.path) == 1
    assert call.err.startswith(f"unionfs: lowerdir {made.lower[1].path}: no such file or directory\n")


def test_a_record_of_the_future(made: Made, call: Caller) -> None:
    made.record(version=2)
    assert call("diff", made.upper.path) == 1
    assert "its layers are written in format 2\n  use a newer unionfs" in call.err


# --- mounted


@needs_mount
def test_a_mounted_union(stage: Stage, call: Caller) -> None:
    assert stage.mount() == (0, "", "")
    (stage.merged / "file").unlink()
    (stage.merged / "dir").mkdir()
    (stage.merged / "dir/new").write_text("new")
    for place in (stage.merged, stage.path / "upper"):
        assert call("diff", place) == 0
        assert call.out.splitlines() == ["A /dir", "A /dir/new", "D /file"]
    assert call("layers", stage.merged) == 0
    assert [row.split()[0:5] for row in call.out.splitlines()[1:]] == [
        ["0", "upper", "2", "0", "1"],
        ["1", "lower", "1", "0", "0"],
    ]
    assert call("which", stage.merged / "file") == 1
    assert "not there: the whiteout in layer 0 hides the regular file of layer 1" in call.out
    assert call("which", stage.merged / "dir/new", stage.merged) == 0
    assert call("diff", stage.merged / "dir") == 1
    assert call.err == f"unionfs: {stage.merged}/dir: lies inside a union\n  name the union itself: {stage.merged}\n"


@needs_mount
def test_a_relative_place(stage: Stage) -> None:
    assert stage.mount() == (0, "", "")
    (stage.merged / "new").touch()
    assert unionfs("diff", "merged", cwd=stage.path).out == "A /new\n"
    assert unionfs("diff", ".", cwd=stage.merged).out == "A /new\n"
    assert unionfs("which", "new", cwd=stage.merged).out.startswith("new: regular file, of layer 0\n")


@needs_mount
def test_a_lower_hard_link_that_was_changed_by_another_name(stage: Stage, call: Caller) -> None:
    os.link(stage.path / "lower/file", stage.path / "lower/second")
    assert stage.mount() == (0, "", "")
    (stage.merged / "file").write_text("new")
    assert call("which", "--json", stage.merged / "second") == 0
    (answer,) = json.loads(call.out)
    assert answer["layer"] == 0
    assert Path(answer["copied_link"]).read_text() == "new"
    assert call("which", stage.merged / "second") == 0
    assert "gives it, changed by another of its names" in call.out


@needs_mount
def test_a_bind_of_a_part(stage: Stage, call: Caller) -> None:
    (stage.path / "lower/dir").mkdir()
    (stage.path / "lower/dir/file").touch()
    (stage.path / "bound").mkdir()
    assert stage.mount() == (0, "", "")
    subprocess.run(["mount", "--bind", stage.merged / "dir", stage.path / "bound"], check=True)
    assert call("which", stage.path / "bound/file") == 0
    assert f"{stage.path}/lower/dir/file" in call.out
    assert call("diff", stage.path / "bound") == 1
    assert "lies inside a union" in call.err


@needs_mount
def test_a_read_only_union(stage: Stage, call: Caller) -> None:
    assert unionfs("mount", "merged", "-o", "lowerdir=lower", cwd=stage.path).status == 0
    assert call("diff", stage.merged) == 1
    assert call.err == f"unionfs: {stage.merged}: is a read-only union: it has no upper layer, so nothing was changed\n"
    assert call("layers", stage.merged) == 0
    assert call("which", stage.merged / "file") == 0
    assert call.out.splitlines()[1].split()[:2] == ["0", "lower"]


@needs_mount
def test_a_dead_mount(stage: Stage, call: Caller) -> None:
    assert stage.mount() == (0, "", "")
    daemon = os.pidfd_open(int(os.getxattr(stage.merged, "user.unionfs.pid")))
    signal.pidfd_send_signal(daemon, signal.SIGKILL)
    select.select([daemon], [], [], 10)
    os.close(daemon)
    assert call("diff", stage.merged) == 1
    assert call.err.startswith(f"unionfs: {stage.merged}: its daemon is gone\n  unionfs umount {stage.merged}")
    assert call("diff", stage.path / "upper") == 0
