"""mount(8), fstab(5) and systemd, through the helper that `unionfs doctor --install-helper` installs.

Each script runs in namespaces of its own, where an empty directory lies over /sbin: there the helper is installed, by
the command itself and in its real place. All that is mounted or left running is gone when the script ends.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.running import COMMAND, ROOT, Result, Stage, need, needs_mount, run, stage, unionfs
from unionfs.cli import helper

__all__ = ["stage"]

OURS = "mount.fuse.unionfs"
FUNCTIONS = f"""
set -eu
mount --bind {{sbin}} /sbin/
PYTHONPATH={ROOT}; export PYTHONPATH
unionfs() {{{{ {{python}} -P -m unionfs "$@"; }}}}
told() {{{{ status=0; "$@" 2>&1 || status=$?; echo "status $status"; }}}}
"""

Script = Callable[..., Result]


AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", 'exec "$0" "$@"')
"""By way of a shell: setpriv(1) itself still has root's rights when it looks for the program."""


def python_for_all() -> str | None:
    """An interpreter that other users may run as well: this one may lie in a home directory."""
    for python in (sys.executable, "/usr/bin/python3"):
        if run([*AS_NOBODY, python, "-P", "-m", "unionfs", "--version"]).status == 0:
            return python
    return None


@pytest.fixture
def script(stage: Stage) -> Script:
    """Run a shell script in the stage's directory; the helper is installed if it is not told otherwise."""
    if os.geteuid() != 0 or run(["unshare", "-mpf", "--mount-proc", "true"]).status:
        pytest.skip("needs root, and namespaces of mounts and processes")
    (stage.path / "sbin").mkdir()

    def run_script(text: str, install: bool = True, python: str = sys.executable, path: str | None = None) -> Result:
        text = (f"unionfs doctor --install-helper > /dev/null\n{text}") if install else text
        text = FUNCTIONS.format(sbin=stage.path / "sbin", python=python) + text
        environment = {"PATH": os.environ["PATH"] if path is None else path, "LC_ALL": "C"}
        words = ["unshare", "-mpf", "--mount-proc", "--kill-child", "sh", "-c", text]
        return run([shutil.which(words[0]) or words[0], *words[1:]], stage.path, environment)

    return run_script


# --- installing it


def test_install_and_remove(script: Script, stage: Stage) -> None:
    result = script(
        """
        unionfs doctor --install-helper
        ls -l /sbin/mount.fuse.unionfs | cut -c 1-10
        ls /sbin
        unionfs doctor --install-helper
        unionfs doctor | grep 'helper of mount'
        unionfs doctor --uninstall-helper
        unionfs doctor --uninstall-helper
        ls /sbin
        """,
        install=False,
    )
    assert (result.status, result.err) == (0, "")
    installed = "/sbin/mount.fuse.unionfs: installed; mount -t fuse.unionfs works now"
    lines = result.out.splitlines()
    assert lines[:4] == [installed, "-rwxr-xr-x", OURS, installed]
    assert re.sub(" +", " ", lines[4]) == f"yes helper of mount(8) {helper.PLACE} mount -t fuse.unionfs, fstab, systemd"
    assert lines[5:] == ["/sbin/mount.fuse.unionfs: removed", "/sbin/mount.fuse.unionfs: was not there"]


def test_what_it_says(script: Script) -> None:
    text = script("cat /sbin/mount.fuse.unionfs").out
    assert text.startswith("#!/bin/sh\n")
    assert len(text.splitlines()) == 4
    assert f'exec {sys.executable} -P -m unionfs mount.fuse.unionfs "$@"\n' in text
    assert subprocess.run(["sh", "-n"], input=text.encode()).returncode == 0


@pytest.mark.parametrize("make", ["echo foreign > {0}", "ln -s /bin/true {0}", "ln -s nowhere {0}"])
def test_what_is_not_ours_stays(script: Script, make: str) -> None:
    result = script(
        f"""
        {make.format("/sbin/mount.fuse.unionfs")}
        ls -l /sbin > before
        told unionfs doctor --install-helper
        told unionfs doctor --uninstall-helper
        ls -l /sbin | cmp - before
        """,
        install=False,
    )
    fault = (
        "unionfs: /sbin/mount.fuse.unionfs: is there, and was not made by us\n"
        "  see whose it is; it stays as it is\nstatus 1\n"
    )
    assert result == (0, fault * 2, "")


def test_not_root() -> None:
    if run(["unshare", "-U", "--map-user=1000", "true"]).status:
        pytest.skip("needs user namespaces")
    for option in ("--install-helper", "--uninstall-helper"):
        result = run(["unshare", "-U", "--map-user=1000", *COMMAND, "doctor", option])
        assert (result.status, result.out) == (1, "")
        assert result.err == (
            f"unionfs: {helper.PLACE}: only root can change it\n  sudo {sys.executable} -m unionfs doctor {option}\n"
        )


# --- mount(8)


@needs_mount
def test_mount_by_type(script: Script, stage: Stage) -> None:
    result = script(
        f"""
        mount -t fuse.unionfs 'a source' merged -o {stage.layers},nosuid,nodev
        findmnt -no SOURCE,FSTYPE merged
        findmnt -no OPTIONS merged | grep -c nosuid
        echo changed > merged/file
        umount merged
        cat lower/file upper/file
        """
    )
    assert result == (0, "a source fuse.unionfs\n1\nlower\nchanged\n", "")


@needs_mount
def test_without_path_and_in_a_directory_full_of_traps(script: Script, stage: Stage) -> None:
    for name in ("argparse.py", "unionfs.py", "os.py"):
        (stage.path / name).write_text("raise SystemExit('imported from the current directory')\n")
    mount = need("mount", "mount")
    result = script(
        f"env -i {mount} -t fuse.unionfs unionfs {stage.merged} -o {stage.layers}\nls merged\numount merged\n"
    )
    assert result == (0, "file\n", "")


@needs_mount
@pytest.mark.parametrize("unmount", ["umount merged", "fusermount3 -u merged", "unionfs umount merged"])
def test_every_way_to_unmount(script: Script, stage: Stage, unmount: str) -> None:
    need("fusermount3", "fuse3")
    result = script(
        f"mount -t fuse.unionfs u merged -o {stage.layers}\n{unmount}\nls merged\nmountpoint merged || true"
    )
    assert result == (0, "merged is not a mountpoint\n", "")


@needs_mount
def test_a_line_of_fstab(script: Script, stage: Stage) -> None:
    place = stage.path
    words = "rw,user,exec,noauto,nofail,_netdev,comment=mine,x-systemd.requires=a.service,x-gvfs-show"
    layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    spaced = place / "with a space"
    spaced.mkdir()
    (place / "fstab").write_text(
        f"a\\040source {place}/merged fuse.unionfs {words},{layers} 0 0\n"
        f"other {place}/with\\040a\\040space fuse.unionfs lowerdir={place}/lower 0 0\n"
    )
    result = script(
        """
        mount -T fstab merged
        findmnt -no SOURCE merged
        findmnt -no OPTIONS merged | tr , '\\n' | grep -E '^(rw|nosuid|nodev|exec|noexec)$' | sort
        mount -a -T fstab
        cat 'with a space/file'
        umount merged 'with a space'
        """
    )
    assert result == (0, "a source\nnodev\nnosuid\nrw\nlower\n", "")


@needs_mount
@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b", "a b", "ä"])
def test_names_through_mount(script: Script, stage: Stage, name: str) -> None:
    (stage.path / name).mkdir()
    (stage.path / name / "found").touch()
    escaped = name.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")
    result = script(f"mount -t fuse.unionfs u merged -o 'lowerdir={stage.path}/{escaped}'\nls merged\numount merged")
    assert result == (0, "found\n", "")


@needs_mount
def test_five_hundred_layers_through_mount(script: Script, stage: Stage) -> None:
    for number in range(500):
        (stage.path / "layers" / f"{number:03}").mkdir(parents=True)
        (stage.path / "layers" / f"{number:03}" / f"{number:03}").touch()
    result = script(
        """
        layers=$(ls -d "$PWD"/layers/* | tr '\\n' ':')
        mount -t fuse.unionfs u merged -o "ro,lowerdir=${layers%:}"
        ls merged | wc -l
        umount merged
        """
    )
    assert result == (0, "500\n", "")


@needs_mount
def test_a_mount_that_fails(script: Script, stage: Stage) -> None:
    result = script(
        """
        told mount -t fuse.unionfs u merged -o lowerdir=/nowhere,uperdir=/u
        told mount -t fuse.unionfs u merged
        told mount.fuse.unionfs
        told mount.fuse.unionfs u merged -o lowerdir=lower -N /proc/self/ns/mnt
        told mount.fuse.unionfs u merged -f -o lowerdir=lower
        findmnt -no FSTYPE merged || true
        """
    )
    assert result.err == ""
    assert result.out == (
        'unionfs: option "uperdir": there is no such option\n  did you mean "upperdir"?\n'
        "unionfs: lowerdir /nowhere: no such file or directory\n  name a directory that you may read\n"
        "status 32\n"
        "unionfs: lowerdir: a union needs at least one lower layer\n  lowerdir=DIR[:DIR...]\n"
        "status 32\n"
        "unionfs: mount.fuse.unionfs: the following arguments are required: source, place\n"
        "  unionfs mount.fuse.unionfs --help\n"
        "status 1\n"
        "unionfs: mount: -N is not supported\n"
        "  enter the namespace first: nsenter --mount=FILE mount ...\n"
        "status 1\n"
        "status 0\n"
    )


@needs_mount
def test_it_cannot_be_remounted(script: Script, stage: Stage) -> None:
    result = script(
        f"""
        mount -t fuse.unionfs u merged -o {stage.layers}
        told mount -o remount,ro merged
        umount merged
        """
    )
    assert 'option "remount": a mounted union cannot be changed\n  unmount it and mount it anew\n' in result.out
    assert result.out.endswith("status 32\n")


@needs_mount
def test_an_ordinary_user_by_fstab(script: Script, stage: Stage) -> None:
    """`user` in fstab: mount(8) drops its privileges for the helper, which mounts by fusermount3."""
    need("fusermount3", "fuse3")
    python = python_for_all()
    if python is None or not os.path.exists("/etc/fstab"):
        pytest.skip("needs a Python 3.11 that other users may run, and an /etc/fstab to lie over")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{place}/{name}")
            os.chown(f"{place}/{name}", 65534, 65534)
        Path(place, "lower", "file").write_text("lower\n")
        layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        (stage.path / "fstab").write_text(f"source {place}/merged fuse.unionfs user,noauto,{layers} 0 0\n")
        result = script(
            f"""
            mknod fuse c 10 229
            chmod 666 fuse
            mount --bind fuse /dev/fuse
            mount --bind fstab /etc/fstab
            cd {place}
            user="setpriv --reuid=65534 --regid=65534 --clear-groups"
            $user mount {place}/merged
            findmnt -no SOURCE,FSTYPE merged
            findmnt -no OPTIONS merged | tr , '\\n' | grep -E '^(user_id|nosuid|nodev)'
            $user sh -c 'echo mine > merged/mine; cat merged/file'
            told ls merged
            $user umount {place}/merged
            stat -c %u upper/mine
            """,
            python=python,
        )
    assert result.err == ""
    assert result.out.splitlines() == [
        "source fuse.unionfs", "nosuid", "nodev", "user_id=65534", "lower",
        "ls: cannot access 'merged': Permission denied", "status 2", "65534",
    ]  # fmt: skip


# --- systemd


def test_the_units_of_the_documentation(tmp_path: Path) -> None:
    program = need("systemd-analyze", "systemd")
    text = (ROOT / "docs" / "mounting.md").read_text()
    units = re.findall(r"```ini\n# (/etc/systemd/system/(\S+))\n(.*?)```", text, re.DOTALL)
    assert units
    for _, name, unit in units:
        (tmp_path / name).write_text(unit)
    result = run([program, "verify", "--man=no", *(tmp_path / name for _, name, _ in units)])
    ours = [line for line in result.err.splitlines() if any(name in line for _, name, _ in units)]
    assert ours == []


@needs_mount
def test_the_command_is_what_systemd_runs(script: Script, stage: Stage) -> None:
    """systemd.mount(5): `mount What Where -t Type -o Options`, in / and with next to no environment."""
    place = stage.path
    layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    mount, umount = need("mount", "mount"), need("umount", "mount")
    result = script(
        f"""
        cd /
        env -i PATH=/usr/sbin:/usr/bin {mount} unionfs {place}/merged -t fuse.unionfs -o {layers},log=/dev/null
        ls {place}/merged
        {umount} {place}/merged -c
        """
    )
    assert result == (0, "file\n", "")


def test_nothing_was_installed_on_this_machine() -> None:
    """The tests' own promise; a helper that is there is the user's."""
    assert unionfs("doctor", "--json").status in (0, 1)
    assert not helper.PLACE.exists() or helper.is_ours() is not None
