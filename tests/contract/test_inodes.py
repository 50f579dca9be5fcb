"""Identity: an object keeps its number across copy-up, rename and remount; listings say the same; one device."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from tests.contract import tree
from tests.contract.layers import Dir, File, Special, Symlink
from tests.contract.subject import differs, subjects

LOWER = {
    "f": b"x", "d/e/g": b"y", "l": Symlink("f"), "p": Special(stat.S_IFIFO | 0o600), "d/h": File(b"z"),
}  # fmt: skip


def numbers(u):
    found = {"": u.stat("").ino}

    def walk(path):
        for name in u.listdir(path):
            below = f"{path}/{name}".lstrip("/")
            st = u.stat(below)
            found[below] = st.ino
            if stat.S_ISDIR(st.mode):
                walk(below)

    walk("")
    return found


def test_numbers_stay_across_copy_up_and_remount(union):
    u = union([LOWER, {"d/below": b"", "d/e/more": b""}], {"d/up": b""})
    before = numbers(u)
    assert len(set(before.values())) == len(before)
    for name in ("f", "d/e/g", "p", "d/e", "d/below", "d/up"):
        u.chmod(name, 0o700)
    u.chown("l", 1, 1)
    assert numbers(u) == before
    for _ in range(3):
        u.remount()
        assert numbers(u) == before


def test_numbers_stay_when_names_change(union):
    u = union([LOWER])
    before = numbers(u)
    u.rename("f", "d/f")
    u.rename("d", "dd")
    u.rename("l", "dd/e/l")
    moved = {
        "": "", "dd": "d", "dd/f": "f", "dd/e": "d/e", "dd/e/g": "d/e/g", "dd/e/l": "l", "p": "p", "dd/h": "d/h",
    }  # fmt: skip
    for _ in range(2):
        after = numbers(u)
        assert {name: before[moved[name]] for name in after} == after
        u.remount()


def test_no_number_is_given_twice(union):
    """What is made after something was deleted, or in its place, is another object."""
    u = union([LOWER])
    before = numbers(u)
    with u.open("d/h", os.O_RDONLY) as held:
        assert held.stat().ino == before["d/h"]
        u.unlink("d/h")
        u.write_bytes("d/h", b"new")
        assert u.stat("d/h").ino != before["d/h"]
    for name in "abc":
        u.mkdir(name)
        u.write_bytes(f"{name}/x", b"")
    after = numbers(u)
    assert len(set(after.values())) == len(after)


@subjects("real")
@differs(kernel="a merged directory whose upper part it did not copy up itself: the upper's d_ino, the lower's st_ino")
def test_listings_say_what_stat_says(union):
    """d_ino and d_type of every entry, before and after copy-up and rename; st_dev is the same everywhere."""
    u = union([LOWER, {"d/below": b"", "d/e/more": b""}], {"d/up": b"", "x": Dir()})
    tree.of(u)
    u.chmod("f", 0o600)
    u.chmod("d/e/g", 0o600)
    u.rename("d/below", "d/other")
    u.rename("d/e", "e")
    u.symlink("f", "d/new")
    for _ in range(2):
        tree.of(u)
        u.remount()


@subjects("mounted")
def test_dot_and_dot_dot(union):
    u = union([{"d/e/f": b""}, {"d/e/g": b""}])
    u.chmod("d/e/f", 0o600)
    for path, above in (("d/e", "d"), ("d", "")):
        with u.open_directory(path) as fd:
            here = os.stat(".", dir_fd=fd).st_ino, os.stat("..", dir_fd=fd).st_ino
        assert here == (u.stat(path).ino, u.stat(above).ino)


@subjects("real")
def test_layers_of_two_filesystems(union, workshop, subject_kind):
    """One device is shown, and no two objects share a number, although both filesystems count from the same."""
    below = [workshop.directory("tmpfs"), workshop.directory("lower")]
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(below[0])], check=True)
    try:
        (below[0] / "d").mkdir()
        (below[1] / "d").mkdir()
        for index, path in enumerate(below):
            for number in range(20):
                (path / "d" / f"{index}-{number}").write_text(f"{index}-{number}")
        u = workshop.of(subject_kind, below, workshop.directory("upper"))
        if u.kind == "kernel":
            u.options += ",xino=on"
            u.remount()
        before = numbers(u)
        assert len(set(before.values())) == len(before)
        for path in list(before)[1:]:
            u.chmod(path, 0o700)
        for _ in range(2):
            assert numbers(u) == before
            tree.of(u)
            u.remount()
        u.close()
        workshop.forget(below[0])
    finally:
        subprocess.run(["umount", "-l", str(below[0])], check=True)


@subjects("engines")
@pytest.mark.parametrize("change", ["chmod", "rename"])
def test_a_held_object_is_found_by_every_way(union, change):
    """fstat, /proc/self/fd and the name agree on a file that is copied up while it is open."""
    u = union([LOWER])
    with u.open("d/h", os.O_RDONLY) as file:
        before = file.stat()
        if change == "chmod":
            u.chmod("d/h", 0o640)
            name = "d/h"
        else:
            u.rename("d/h", "h")
            name = "h"
        assert file.stat().ino == before.ino == u.stat(name).ino == os.stat(f"/proc/self/fd/{file.fd}").st_ino
        assert file.stat().mode == u.stat(name).mode
