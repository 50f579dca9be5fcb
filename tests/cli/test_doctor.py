"""`unionfs doctor`: on this machine, as other users of it, and with things taken away."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import COMMAND, needs_mount, needs_root, run, unionfs
from unionfs.cli import doctor
from unionfs.cli.doctor import Check, Report
from unionfs.linux import mounts


def in_namespaces(words: list[str], script: str) -> dict[str, Any]:
    """The report as JSON, in a shell started by unshare(1) with these options."""
    if run(["unshare", *words, "true"]).status:
        pytest.skip(f"needs namespaces: unshare {' '.join(words)}")
    result = run(["unshare", *words, "sh", "-c", f"{script}\nexec {' '.join(COMMAND)} doctor --json"])
    assert result.err == ""
    report = json.loads(result.out)
    assert result.status == (0 if report["mount"] else 1)
    return report  # type: ignore[no-any-return]


def check(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(check for check in report["checks"] if check["name"] == name)


def test_the_report() -> None:
    result = unionfs("doctor")
    assert result.err == ""
    assert result.status in (0, 1)
    verdict, empty, heading, *lines = result.out.splitlines()
    assert verdict.startswith("A mount is possible here: " if result.status == 0 else ("No mount", "This user cannot"))
    assert (empty, heading.split()) == ("", ["WHAT", "FOUND", "FOR"])
    rows = lines[: lines.index("")] if "" in lines else lines
    assert all(line.startswith(("yes  ", "no   ")) for line in rows)
    assert len(rows) == len(doctor.CHECKS)


def test_the_same_as_json() -> None:
    result = unionfs("doctor", "--json")
    report = json.loads(result.out)
    assert set(report) == {"mount", "way", "engines", "checks"}
    assert all(set(check) == {"name", "works", "found", "purpose", "mend"} for check in report["checks"])
    assert result.status == (0 if report["mount"] else 1)
    assert len(report["checks"]) == len(doctor.CHECKS)


@needs_mount
def test_root_can_mount_and_nothing_stays_mounted() -> None:
    before = [entry.id for entry in mounts.table() if entry.source == b"unionfs-doctor"]
    report = json.loads(unionfs("doctor", "--json").out)
    assert (report["mount"], report["way"]) == (True, "mount(2)")
    assert "native" in report["engines"]
    assert check(report, "/dev/fuse")["works"] and check(report, "mount(2)")["found"] == "works"
    assert [entry.id for entry in mounts.table() if entry.source == b"unionfs-doctor"] == before == []


@needs_mount
def test_what_it_says_is_so(tmp_path: Path) -> None:
    """Each engine that is said to work mounts."""
    (tmp_path / "lower").mkdir()
    (tmp_path / "merged").mkdir()
    engines = json.loads(unionfs("doctor", "--json").out)["engines"]
    for engine in engines:
        words = ["merged", "-o", "lowerdir=lower", "--engine", engine]
        assert unionfs("mount", *words, cwd=tmp_path) == (0, "", "")
        assert unionfs("umount", "merged", cwd=tmp_path) == (0, "", "")


def test_no_privileges_but_a_user_namespace() -> None:
    """A user who may open /dev/fuse, without privileges and out of reach of setuid programs."""
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("needs access to /dev/fuse")
    report = in_namespaces(["-U", "--map-user=1000"], "")
    assert (report["mount"], report["way"], report["engines"]) == (False, "", [])
    assert check(report, "mount(2)")["found"] == "operation not permitted"
    assert not check(report, "fusermount3")["works"]
    assert check(report, "passthrough")["found"].startswith("not possible")
    if check(report, "namespaces")["works"]:
        assert check(report, "mount(2)")["mend"] == "unshare -Urm"


def test_root_of_a_user_namespace() -> None:
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("needs access to /dev/fuse")
    report = in_namespaces(["-Urm"], "")
    assert (report["mount"], report["way"]) == (True, "mount(2)")
    assert check(report, "passthrough")["found"] == "not possible, CAP_SYS_ADMIN of the whole machine is needed"


@needs_root
def test_without_dev_fuse() -> None:
    report = in_namespaces(["-m"], "mount -t tmpfs none /dev; mknod /dev/null c 1 3")
    assert (report["mount"], report["way"]) == (False, "")
    assert check(report, "/dev/fuse") == {
        "name": "/dev/fuse", "works": False, "found": "is not there", "purpose": "every mount", "mend": "modprobe fuse",
    }  # fmt: skip


@needs_root
def test_a_dev_fuse_that_is_closed_to_users() -> None:
    script = "mount -t tmpfs none /dev; mknod -m 600 /dev/fuse c 10 229; chown 1:1 /dev/fuse; mknod /dev/null c 1 3"
    report = in_namespaces(
        ["-m"], f'{script}\nset -- unshare -U --map-user=1000\nexec "$@" {" ".join(COMMAND)} doctor --json'
    )
    assert check(report, "/dev/fuse")["found"] == "permission denied"
    assert check(report, "/dev/fuse")["mend"] == "sudo chmod 666 /dev/fuse"


@needs_mount
def test_without_fusermount3() -> None:
    script = "for name in /usr/bin/fusermount3 /usr/bin/fusermount; do "
    script += "[ ! -e $name ] || mount --bind /dev/null $name; done"
    report = in_namespaces(["-m"], script)
    assert report["way"] == "mount(2)"
    assert check(report, "fusermount3")["found"] == "not installed"
    assert "fuse3" in check(report, "fusermount3")["mend"]


def test_without_the_packages(tmp_path: Path) -> None:
    """-I and -S: an interpreter with its standard library alone."""
    root = Path(__file__).resolve().parents[2]
    script = f"import sys; sys.path.insert(0, {str(root)!r}); from unionfs.cli.main import main; sys.exit(main())"
    result = run([sys.executable, "-I", "-S", "-c", script, "doctor", "--json"])
    report = json.loads(result.out)
    assert check(report, "fusepy, libfuse 2")["found"] == "the Python package fusepy is not installed"
    for name in ("xattr", "rich"):
        assert check(report, name)["found"] == "not installed"
        assert name in check(report, name)["mend"]
    assert "fusepy" not in report["engines"]


@pytest.mark.parametrize(
    ("works", "verdict"),
    [
        ({"Linux", "/dev/fuse", "mount(2)"}, "A mount is possible here: engine native, by mount(2)."),
        ({"Linux", "/dev/fuse", "mount(2)", "fusermount3", "fusepy, libfuse 2"},
         "A mount is possible here: engine native or fusepy, by mount(2)."),
        ({"Linux", "fusermount3"}, "A mount is possible here: engine native, by fusermount3."),
        ({"/dev/fuse", "mount(2)", "fusepy, libfuse 2"}, "A mount is possible here: engine fusepy, by mount(2)."),
        ({"Linux"}, "No mount is possible here: /dev/fuse: bad."),
        ({"Linux", "/dev/fuse"}, "No mount is possible here: mount(2): bad; fusermount3: bad."),
        ({"/dev/fuse", "mount(2)"}, "No mount is possible here: Linux: bad."),
    ],
)  # fmt: skip
def test_the_verdict(works: set[str], verdict: str) -> None:
    names = ("Linux", "/dev/fuse", "mount(2)", "fusermount3", "fusepy, libfuse 2")
    assert Report([Check(name, name in works, "bad", "") for name in names]).verdict() == verdict


@pytest.mark.parametrize(
    ("release", "version", "native"),
    [
        ("6.18.44-fc-v769", (6, 18), True),
        ("5.4-rc1", (5, 4), True),
        ("4.19.0-21-amd64", (4, 19), False),
        ("6.9+", (6, 9), True),
    ],
)
def test_kernels(monkeypatch: pytest.MonkeyPatch, release: str, version: tuple[int, int], native: bool) -> None:
    names = os.uname()
    other = os.uname_result((names.sysname, names.nodename, release, names.version, names.machine))
    monkeypatch.setattr(os, "uname", lambda: other)
    assert doctor._kernel_version() == version
    assert doctor._kernel().works is native


@pytest.mark.parametrize(
    ("tool", "command"),
    [("apt-get", "apt-get install libfuse2"), ("dnf", "dnf install fuse-libs"), ("pacman", "pacman -S fuse2"),
     ("zypper", "zypper install libfuse2"), ("apk", "apk add fuse"), (None, "install the package libfuse2")],
)  # fmt: skip
def test_the_command_of_each_distribution(monkeypatch: pytest.MonkeyPatch, tool: str | None, command: str) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}" if name == tool else None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor._install("libfuse2") == command
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor._install("libfuse2") == (f"sudo {command}" if tool else command)


def test_both_at_once() -> None:
    result = unionfs("doctor", "--install-helper", "--uninstall-helper")
    assert (result.status, result.out) == (2, "")
    assert "not allowed with argument" in result.err
