"""Filesystems of any kind in image files, for tests that need real ones. Root and loop devices are needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20
PACKAGES = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


class Disks:
    """What is mounted and attached here is let go again, the last first."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.undo: list[tuple[str, ...]] = []

    def image(self, name: str, kind: str, *options: str) -> Path:
        """A file with an empty filesystem in it. `options`: further ones of mkfs."""
        if kind not in PACKAGES:
            raise ValueError(kind)
        if shutil.which(MAKE[kind][0]) is None:
            pytest.skip(f"needs {MAKE[kind][0]} (package {PACKAGES[kind]})")
        path = self.place / name
        with open(path, "xb") as file:
            file.truncate(SIZES[kind])
        run(*MAKE[kind], *options, path)
        return path

    def mount(self, image: Path, kind: str, options: str = "", direct: bool = False) -> Path:
        """Attach an image, and mount it beside it. `direct`: what is written to it does not pass the page cache."""
        device = self._attach(image, direct)
        point = image.with_name(image.name + ".mounted")
        point.mkdir(exist_ok=True)
        known = Path("/proc/filesystems").read_text().split()
        if kind not in known:
            pytest.skip(f"this kernel has no {kind}")
        run("mount", "-t", kind, *(("-o", options) if options else ()), device, point)
        self.undo.append(("umount", str(point)))
        return point

    def _attach(self, image: Path, direct: bool) -> str:
        command = ["losetup", "--find", "--show", *(["--direct-io=on"] if direct else []), str(image)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no loop device: {done.stderr.strip()}")
        device = done.stdout.strip()
        self.undo.append(("losetup", "--detach", device))
        return device

    def special(self, kind: str, options: str = "") -> Path:
        """A filesystem without a device."""
        point = self.place / kind
        point.mkdir()
        run("mount", "-t", kind, *(("-o", options) if options else ()), kind, point)
        self.undo.append(("umount", str(point)))
        return point

    @contextmanager
    def mounted(self, image: Path, kind: str, options: str = "", direct: bool = False) -> Iterator[Path]:
        """For a while; nobody may have anything open on it at the end."""
        count = len(self.undo)
        try:
            yield self.mount(image, kind, options, direct)
        except BaseException:
            self.give_up(count)
            raise
        while len(self.undo) > count:
            run(*self.undo[-1])
            self.undo.pop()

    def give_up(self, count: int = 0) -> None:
        """What a failed test holds open, its traceback does, goes when that is let go."""
        while len(self.undo) > count:
            command = self.undo.pop()
            if subprocess.run(command, capture_output=True, check=False).returncode and command[0] == "umount":
                run("umount", "--lazy", command[1])


@contextmanager
def disks(place: Path) -> Iterator[Disks]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    made = Disks(place)
    try:
        yield made
    finally:
        made.give_up()
