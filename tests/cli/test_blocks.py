"""`unionfs blocks` and `unionfs settle`, of a mount and of an upper; the options that say how files are copied up."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import COMMAND, ROOT, Stage, needs_mount, stage, unionfs
from unionfs import Union

__all__ = ["stage"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes")
PAGE = 4096
SIZE = 100 * PAGE


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An upper with one file of which two blocks were copied up; it is not mounted."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/large").write_bytes(os.urandom(SIZE))
    (tmp_path / "lower/small").write_bytes(b"small")
    (tmp_path / "lower/empty").touch()
    with union(tmp_path) as u, u.open("large", os.O_RDWR) as file:
        file.pwrite(b"x" * PAGE, 10 * PAGE)
        file.pwrite(b"y", 64 * PAGE)
    return tmp_path


def union(place: Path) -> Union:
    return Union([place / "lower"], place / "upper", place / "work", copyup="block", copyup_complete="never")


DRAWING = """\
{path}: 400 KiB, copied up in part: 8.0 KiB in the upper layer

      0 B  ..........#.....................................................
  256 KiB  #...................................

  # in layer 0, {place}/upper
  . in layer 1, {place}/lower (large)
  copied up 4.0 KiB for 4.0 KiB that were written, in blocks of 4.0 KiB
"""


def test_the_blocks_of_an_upper(place: Path) -> None:
    path = place / "upper/large"
    result = unionfs("blocks", path)
    assert (result.status, result.err) == (0, "")
    assert result.out == DRAWING.format(path=path, place=place)


@needs_mount
def test_the_blocks_of_a_mounted_file(stage: Stage) -> None:
    (stage.path / "lower/large").write_bytes(os.urandom(SIZE))
    assert stage.mount("copyup=block,copyup_complete=never").status == 0
    before = unionfs("blocks", "merged/large", cwd=stage.path)
    assert before.out == f"merged/large: 400 KiB, all of it in layer 1, {stage.path}/lower\n"
    with open(stage.merged / "large", "r+b", 0) as file:
        os.pwrite(file.fileno(), b"x" * PAGE, 10 * PAGE)
        os.pwrite(file.fileno(), b"y", 64 * PAGE)
    path = stage.merged / "large"
    assert unionfs("blocks", path).out == DRAWING.format(path=path, place=stage.path)


def test_the_blocks_of_ordinary_files(place: Path) -> None:
    result = unionfs("blocks", place / "upper/small", place / "upper/empty")
    assert result.out == (
        f"{place}/upper/small: 5 B, all of it in layer 1, {place}/lower\n\n{place}/upper/empty: 0 B, empty\n"
    )


def test_the_blocks_for_programs(place: Path) -> None:
    result = unionfs("blocks", "--json", place / "upper/large", place / "upper/small")
    large, small = json.loads(result.out)
    assert large == {
        "path": str(place / "upper/large"), "size": SIZE, "partial": True, "block_size": PAGE, "lower_size": SIZE,
        "lower_path": "large", "copied": PAGE, "asked": PAGE + 1,
        "runs": [
            [0, 10 * PAGE, 1], [10 * PAGE, 11 * PAGE, 0], [11 * PAGE, 64 * PAGE, 1], [64 * PAGE, 65 * PAGE, 0],
            [65 * PAGE, SIZE, 1],
        ],
    }  # fmt: skip
    assert (small["partial"], small["runs"]) == (False, [[0, 5, 1]])


def test_a_large_file_is_drawn_in_few_rows(place: Path) -> None:
    with open(place / "lower/huge", "wb") as file:
        file.truncate(1 << 30)
    with union(place) as u, u.open("huge", os.O_RDWR) as opened:
        opened.pwrite(b"x", (1 << 30) - 1)
    lines = unionfs("blocks", place / "upper/huge").out.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 80 for line in lines[1:-3])
    assert "  each sign is 1.0 MiB; + is in both" in lines


def test_what_has_no_blocks(place: Path) -> None:
    (place / "lower/dir").mkdir()
    result = unionfs("blocks", place / "upper/dir", place / "upper/none", place / "upper/small")
    assert result.status == 1 and "small: 5 B" in result.out
    assert result.err == (
        f"unionfs: {place}/upper/dir: is not a regular file\nunionfs: {place}/upper/none: no such file or directory\n"
    )
    os.utime(place / "lower/large", ns=(1, 1))
    result = unionfs("blocks", place / "upper/large")
    assert result.status == 1
    assert "the lower file large that it goes on in was changed since" in result.err


def test_settle(place: Path) -> None:
    expected = bytearray((place / "lower/large").read_bytes())
    expected[10 * PAGE : 11 * PAGE], expected[64 * PAGE] = b"x" * PAGE, ord("y")
    result = unionfs("settle", place / "upper")
    assert (result.status, result.err) == (0, "")
    assert result.out == f"settled 1 file of {place}/upper: 392 KiB copied\n"
    assert (place / "upper/large").read_bytes() == expected
    assert unionfs("blocks", place / "upper/large").out.endswith(f"all of it in layer 0, {place}/upper\n")
    again = unionfs("settle", place / "upper")
    assert again.out == f"nothing to settle: no file of {place}/upper was copied up in part\n"


def test_settle_shows_its_progress_on_a_terminal(place: Path) -> None:
    pytest.importorskip("rich")
    master, slave = pty.openpty()
    command = [*COMMAND, "settle", str(place / "upper")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    told = os.read(master, 100_000).decode()
    os.close(master)
    assert result.returncode == 0 and "settling" in told


@needs_mount
def test_settle_is_for_what_is_not_mounted(stage: Stage) -> None:
    stage.mount()
    for place in ("upper", "merged"):
        result = unionfs("settle", place, cwd=stage.path)
        assert result.status == 1
        assert result.err == (
            f"unionfs: upperdir {stage.path}/upper: is in use: mounted on {stage.merged}\n"
            f"  unionfs umount {stage.merged}\n"
        )


@needs_mount
def test_apply_completes_by_itself(stage: Stage) -> None:
    content = os.urandom(SIZE)
    (stage.path / "lower/large").write_bytes(content)
    assert stage.mount("copyup=block,copyup_complete=never").status == 0
    with open(stage.merged / "large", "r+b", 0) as file:
        file.write(b"x")
    assert unionfs("apply", stage.merged).status == 0
    assert (stage.path / "lower/large").read_bytes() == b"x" + content[1:]


@needs_mount
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("copyup=blok", 'copyup=blok: there is no such copyup\n  did you mean "block"?'),
        ("copyup_threshold=many", "copyup_threshold=many: is no size\n  write copyup_threshold=65536, or 64K, 1M, 1G"),
        ("copyup_threshold=-1", "copyup_threshold=-1: is no size"),
        ("copyup_complete=clsoe", 'copyup_complete=clsoe: there is no such copyup_complete\n  did you mean "close"?'),
        ("copyup_treshold=5", 'option "copyup_treshold": there is no such option\n  did you mean "copyup_threshold"?'),
        ("dialect=overlay,copyup=block", "copyup=block: the overlay dialect has no block maps"),
        ("metacopy=on", 'option "metacopy": is the kernel overlayfs\'s\n  write copyup=auto'),
    ],
)
def test_options_that_are_refused(stage: Stage, options: str, fault: str) -> None:
    result = stage.mount(options)
    assert result.status == 1 and fault in result.err, result.err
    assert not os.path.ismount(stage.merged)


@needs_mount
def test_a_threshold_in_words(stage: Stage) -> None:
    (stage.path / "lower/long").write_bytes(b"l" * (8 << 10))
    (stage.path / "lower/short").write_bytes(b"s" * ((8 << 10) - 1))
    assert stage.mount("copyup_threshold=8K,copyup_complete=never").status == 0
    for name in ("long", "short"):
        with open(stage.merged / name, "r+b", 0) as file:
            file.write(b"x")
    assert json.loads(os.getxattr(stage.merged / "long", "user.unionfs.blocks"))["partial"]
    assert not json.loads(os.getxattr(stage.merged / "short", "user.unionfs.blocks"))["partial"]
