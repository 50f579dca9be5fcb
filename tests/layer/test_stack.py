"""Opening the layers of a mount: every fault is named, the layers are held, an upper belongs to one mount."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.errors import Faults
from unionfs.layer.stack import Stack


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("lower", "other", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_text("lower")
    return tmp_path


def paths(place: Path, *names: str) -> list[bytes]:
    return [os.fsencode(place / name) for name in names]


def opened(place: Path, **options: object) -> Stack:
    upper, work = paths(place, "upper", "work")
    return Stack.open(paths(place, "lower", "other"), upper, work, **options)  # type: ignore[arg-type]


def faults(*arguments: object, **options: object) -> str:
    with pytest.raises(Faults) as raised:
        Stack.open(*arguments, **options)  # type: ignore[arg-type]
    return str(raised.value)


def test_the_layers_are_numbered_from_both_ends(place: Path) -> None:
    stack = opened(place)
    assert [(layer.path, layer.index, layer.number, layer.writable) for layer in stack.layers] == [
        (os.fsencode(place / "upper"), 0, 2, True),
        (os.fsencode(place / "lower"), 1, 1, False),
        (os.fsencode(place / "other"), 2, 0, False),
    ]
    assert stack.from_bottom(0) is stack.layers[2] and stack.from_bottom(1) is stack.layers[1]
    assert stack.from_bottom(2) is None
    stack.close()


def test_a_lower_layer_refuses_every_change(place: Path) -> None:
    """Once by our own code, and once more by the kernel, where root may hold it on a read-only clone of its mount."""
    stack = opened(place)
    lower = stack.layers[1].root
    with pytest.raises(OSError) as raised:
        lower.create(b"new", os.O_WRONLY, 0o644)
    assert raised.value.errno == errno.EROFS
    if os.geteuid() == 0:
        with pytest.raises(OSError) as raised:
            os.open("file", os.O_WRONLY, dir_fd=lower.fd)
        assert raised.value.errno == errno.EROFS
    stack.close()
    assert os.listdir(place / "lower") == ["file"]


def test_all_faults_at_once(place: Path) -> None:
    (place / "work" / "precious").write_text("x")
    told = faults(paths(place, "lower", "missing", "lower/file", "lower"), *paths(place, "upper", "work"), "olay")
    assert 'dialect "olay": there is no such dialect\n' in told
    assert f"lowerdir {place}/missing: no such file or directory" in told
    assert f"lowerdir {place}/lower/file: not a directory" in told
    assert f"lowerdir {place}/lower: is the same directory as lowerdir {place}/lower" in told
    assert f'workdir {place}/work: is not an empty directory nor a work directory: it holds "precious"' in told
    assert (place / "work" / "precious").exists() and os.listdir(place / "upper") == []


@pytest.mark.parametrize("inner", ["lower", "upper", "work"])
def test_layers_that_overlap_are_refused(place: Path, inner: str) -> None:
    (place / "other" / inner).mkdir()
    given = {name: place / name for name in ("lower", "upper", "work")} | {inner: place / "other" / inner}
    upper, work = os.fsencode(given["upper"]), os.fsencode(given["work"])
    told = faults([os.fsencode(given["lower"]), *paths(place, "other")], upper, work)
    assert f"{place}/other/{inner}: lies inside lowerdir {place}/other" in told
    assert "layers must not overlap" in told


def test_an_overlap_hidden_by_a_symbolic_link(place: Path) -> None:
    (place / "link").symlink_to("upper")
    assert "is the same directory as upperdir" in faults(paths(place, "link"), *paths(place, "upper", "work"))


def test_a_name_that_begins_like_another_is_no_overlap(place: Path) -> None:
    (place / "lower-too").mkdir()
    Stack.open(paths(place, "lower", "lower-too")).close()


def test_half_a_pair(place: Path) -> None:
    assert "workdir: upperdir is given without it" in faults(paths(place, "lower"), *paths(place, "upper"))
    assert "upperdir: workdir is given without it" in faults(paths(place, "lower"), None, *paths(place, "work"))
    assert "lowerdir: a union needs at least one lower layer" in faults([])


def test_two_mounts_of_one_upper(place: Path) -> None:
    first = opened(place)
    (place / "work2").mkdir()
    told = faults(paths(place, "lower"), *paths(place, "upper", "work2"))
    assert f"upperdir {place}/upper: another mount uses it" in told
    (place / "upper2").mkdir()
    told = faults(paths(place, "lower"), *paths(place, "upper2", "work"))
    assert f"workdir {place}/work: another mount uses it" in told
    first.close()
    opened(place).close()


@pytest.fixture
def tmpfs(place: Path) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("needs root, to mount a tmpfs")
    (place / "tmpfs").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place / "tmpfs"], check=True)
    yield place / "tmpfs"
    subprocess.run(["umount", "-l", place / "tmpfs"], check=True)


def test_upper_and_work_lie_on_one_filesystem(place: Path, tmpfs: Path) -> None:
    (tmpfs / "work").mkdir()
    told = faults(paths(place, "lower"), os.fsencode(place / "upper"), os.fsencode(tmpfs / "work"))
    assert f"workdir {tmpfs}/work: is not on the same mount as upperdir" in told
    assert f"make it beside {place}/upper" in told


def test_a_read_only_upper(place: Path, tmpfs: Path) -> None:
    for name in ("upper", "work"):
        (tmpfs / name).mkdir()
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    told = faults(paths(place, "lower"), os.fsencode(tmpfs / "upper"), os.fsencode(tmpfs / "work"))
    assert f"upperdir {tmpfs}/upper: its filesystem is read-only" in told


def test_what_is_mounted_inside_a_layer_is_not_part_of_it(place: Path, tmpfs: Path) -> None:
    (tmpfs / "mounted").write_text("x")
    stack = Stack.open([os.fsencode(place)])
    root = stack.layers[0].root
    assert b"tmpfs" in root.read_names()
    inside = root.child(b"tmpfs")
    try:
        assert inside.read_names() == {}
        assert inside.stat(b"mounted") is None
    except OSError as error:  # without the clone of the mount: found, and refused
        assert error.errno == errno.EXDEV
    stack.close()


def test_what_a_crash_left_is_swept(place: Path) -> None:
    stack = opened(place)
    assert stack.work is not None
    tree = place / "work" / "work" / "half" / "made"
    tree.mkdir(parents=True)
    (tree / "file").write_text("x")
    (place / "work" / "work" / "incompat").mkdir()
    assert stack.work.sweep() == 1
    assert os.listdir(place / "work" / "work") == ["incompat"]
    stack.close()


def test_the_stack_is_written_down_for_later(place: Path) -> None:
    stack = opened(place, dialect="overlay")
    stack.record()
    stack.close()
    written = json.loads((place / "work" / "stack.json").read_text())
    assert written["lowerdir"] == [f"{place}/lower", f"{place}/other"]
    assert (written["upperdir"], written["workdir"]) == (f"{place}/upper", f"{place}/work")
    assert (written["dialect"], written["userxattr"]) == ("overlay", False)


def test_volatile_is_remembered_until_the_machine_goes_down(place: Path) -> None:
    opened(place, volatile=True).close()
    flag = place / "work" / "volatile"
    assert flag.exists()
    opened(place).close()  # nothing was lost meanwhile: synced, and forgotten
    assert not flag.exists()
    flag.write_text("another boot\n")
    told = faults(paths(place, "lower"), *paths(place, "upper", "work"))
    assert "was mounted volatile and the machine went down" in told
    assert f"remove {place}/work/volatile" in told


def test_an_upper_that_the_kernel_left_volatile(place: Path) -> None:
    """overlayfs.rst, "Volatile mount": its own mark, which it wants removed by hand."""
    (place / "work" / "work" / "incompat" / "volatile").mkdir(parents=True)
    told = faults(paths(place, "lower"), *paths(place, "upper", "work"), dialect="overlay")
    assert f"remove {place}/work/work/incompat/volatile" in told
