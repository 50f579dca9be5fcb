"""`unionfs doctor`: what this machine can do, and how to mend what it cannot.

Loaded by `main.py`. What can be tried is tried: a mount that is gone again at once, a namespace that runs `true`. Each
check is one short function that returns a Check; `CHECKS` is their order. Nothing on the machine is changed, but by
`--install-helper` and `--uninstall-helper` (`helper.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from unionfs.cli import helper, table
from unionfs.cli.command import Command, as_root, this_command
from unionfs.container import rootless
from unionfs.container.clean import clean
from unionfs.errors import UnionfsError
from unionfs.fuse.mount import SUBTYPE, choose
from unionfs.image.database import Database
from unionfs.linux import files, fusedev, mounts
from unionfs.linux.capabilities import CAP_SYS_NICE, rules_the_machine
from unionfs.network import kernel

try:
    import fuse

    FUSEPY = "" if hasattr(fuse, "FUSE") else "another package named fuse is in its place"
except ImportError:
    FUSEPY = "the Python package fusepy is not installed"
except OSError:
    FUSEPY = "libfuse 2 is not installed"

_WAYS = ("mount(2)", "fusermount3")
_PASSTHROUGH_SINCE = (6, 9)

_NAMESPACES = {"user": ["-Ur"], "mount": ["-m"], "pid": ["-p", "-f"], "net": ["-n"]}
"""What unshare(1) is given for each."""

_INSTALLERS: dict[str, tuple[str, dict[str, str]]] = {
    "apt-get": ("apt-get install", {}),
    "dnf": ("dnf install", {"libfuse2": "fuse-libs", "iproute2": "iproute"}),
    "pacman": ("pacman -S", {"libfuse2": "fuse2"}),
    "zypper": ("zypper install", {}),
    "apk": ("apk add", {"libfuse2": "fuse"}),
}
"""How each distribution's tool is told to install, and its names of the packages we may need, where they differ from
Debian's."""


class Check(NamedTuple):
    """One thing that was looked at. `mend` is a command to type, or empty when none is needed or none helps."""

    name: str
    works: bool
    found: str
    purpose: str
    mend: str = ""


# --- the checks


def _kernel() -> Check:
    system = os.uname()
    works = choose("auto") == "native"
    mend = "" if works else "unionfs mount --engine fusepy ..."
    return Check("Linux", works, f"{system.release}, {system.machine}", "the native engine needs 5.4", mend)


def _python() -> Check:
    return Check("Python", True, f"{sys.version.split()[0]}, {sys.executable}", "3.11 or later")


def _device() -> Check:
    found, mend = "can be opened", ""
    try:
        os.close(fusedev.open_device())
    except FileNotFoundError:
        found, mend = "is not there", as_root("modprobe fuse")
    except OSError as error:
        found, mend = (error.strerror or str(error)).lower(), as_root(f"chmod 666 {fusedev.DEVICE}")
    return Check(fusedev.DEVICE, not mend, found, "every mount", mend)


def _direct() -> Check:
    fault = _fault_of(_mount_directly, lambda point: mounts.unmount(point, mounts.MNT_DETACH))
    mend = ""
    if fault and os.access(fusedev.DEVICE, os.W_OK) and "user" in _namespaces_here():
        mend = "unshare -Urm"
    return Check("mount(2)", not fault, fault or "works", "mounts by root, or in a user namespace", mend)


def _mount_directly(point: bytes) -> int:
    device = fusedev.open_device()
    try:
        fusedev.mount_direct(device, point, SUBTYPE, b"unionfs-doctor", 0, [])
    except OSError:
        os.close(device)
        raise
    return device


def _helper_program() -> Check:
    purpose = "mounts by an ordinary user"
    program = fusedev.find_helper()
    if program is None:
        return Check("fusermount3", False, "not installed", purpose, _install("fuse3"))
    fault = _fault_of(
        lambda point: fusedev.mount_by_helper(program, point, [b"subtype=" + SUBTYPE]),
        lambda point: fusedev.unmount_by_helper(program, point, lazy=True),
    )
    return Check("fusermount3", not fault, fault or f"{program} works", purpose)


def _fault_of(mount: Callable[[bytes], int], unmount: Callable[[bytes], object]) -> str:
    """Mount and unmount at once, in a directory of our own: what went wrong, or nothing."""
    with tempfile.TemporaryDirectory(prefix="unionfs-doctor-") as place:
        point = os.fsencode(place)
        try:
            device = mount(point)
        except OSError as error:
            return (error.strerror or str(error)).lower()
        try:
            unmount(point)
        except OSError as error:
            return f"mounts, and does not unmount: {error.strerror}"
        finally:
            os.close(device)
    return ""


def _fusepy() -> Check:
    mend = ""
    if FUSEPY:
        mend = _install("libfuse2") if "libfuse" in FUSEPY else _pip("fusepy")
    return Check("fusepy, libfuse 2", not FUSEPY, FUSEPY or "installed", "the engine fusepy", mend)


def _others_may_use() -> Check:
    purpose = "the option allow_other"
    if os.geteuid() == 0:
        return Check("allow_other", True, "always so for root", purpose)
    with suppress(OSError):
        lines = Path("/etc/fuse.conf").read_text(encoding="utf-8", errors="replace").splitlines()
        if any(line.strip() == "user_allow_other" for line in lines):
            return Check("allow_other", True, "allowed by /etc/fuse.conf", purpose)
    mend = as_root("sh -c 'echo user_allow_other >> /etc/fuse.conf'")
    return Check("allow_other", False, "not allowed by /etc/fuse.conf", purpose, mend)


def _guarded_layers() -> Check:
    try:
        os.close(files.private_read_only_clone(os.fsencode(Path(__file__).parent)))
        found = "works"
    except OSError as error:
        found = (error.strerror or str(error)).lower()
    return Check("read-only clones", found == "works", found, "the kernel, too, keeps writes off lower layers")


def _passthrough() -> Check:
    purpose = "the kernel reads and writes files by itself"
    if _kernel_version() < _PASSTHROUGH_SINCE:
        return Check("passthrough", False, "not possible, Linux 6.9 is needed", purpose)
    if not rules_the_machine():
        return Check("passthrough", False, "not possible, CAP_SYS_ADMIN of the whole machine is needed", purpose)
    return Check("passthrough", True, "possible, but for layers on a stacked filesystem", purpose)


def _scheduling() -> Check:
    purpose = "a client goes on at once when it is answered"
    if not rules_the_machine(CAP_SYS_NICE):
        return Check("giving way", False, "not possible, CAP_SYS_NICE of the whole machine is needed", purpose)
    return Check("giving way", True, "possible", purpose)


def _kernel_version() -> tuple[int, ...]:
    return tuple(int("".join(takewhile(str.isdigit, part)) or 0) for part in os.uname().release.split(".")[:2])


def _namespaces() -> Check:
    here = _namespaces_here()
    absent = [name for name in _NAMESPACES if name not in here]
    found = ", ".join(here) + (f"; not {', '.join(absent)}" if here and absent else "") or "none"
    return Check("namespaces", not absent, found, "mounts without privileges", _namespaces_mend() if absent else "")


def _namespaces_here() -> list[str]:
    """The kinds of namespaces that this user can make; one who is not root needs a user namespace for the others."""
    program = shutil.which("unshare")
    if program is None:
        return []
    first = [] if os.geteuid() == 0 else _NAMESPACES["user"]
    return [name for name, words in _NAMESPACES.items() if _succeeds([program, *first, *words, "true"])]


def _succeeds(words: list[str]) -> bool:
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def _namespaces_mend() -> str:
    """The settings that forbid namespaces on some distributions, as a command that allows them."""
    wanted = {
        "user.max_user_namespaces": ("0", "10000"),
        "kernel.unprivileged_userns_clone": ("0", "1"),
        "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    }
    words = []
    for name, (forbidding, allowing) in wanted.items():
        with suppress(OSError):
            if Path("/proc/sys", name.replace(".", "/")).read_text(encoding="utf-8").strip() == forbidding:
                words.append(f"{name}={allowing}")
    return as_root(f"sysctl -w {' '.join(words)}") if words else ""


def _overlay() -> Check:
    lines = Path("/proc/filesystems").read_text(encoding="utf-8").splitlines()
    works = any(line.split()[-1] == "overlay" for line in lines)
    found, mend = ("known to the kernel", "") if works else ("not loaded", as_root("modprobe overlay"))
    return Check("overlay", works, found, "comparing with the kernel's overlayfs", mend)


def _package(name: str, purpose: str) -> Check:
    works = find_spec(name) is not None
    return Check(name, works, "installed" if works else "not installed", purpose, "" if works else _pip(name))


def _program(name: str, package: str) -> Check:
    purpose = "networks of containers"
    try:
        return Check(name, True, kernel.find(name), purpose)
    except UnionfsError:
        return Check(name, False, "not installed", purpose, _install(package))


def _mount_helper() -> Check:
    ours = helper.is_ours()
    states = {None: "not installed", True: str(helper.PLACE), False: f"{helper.PLACE} is not ours"}
    mend = as_root(f"{this_command()} doctor --install-helper") if ours is None else ""
    return Check("helper of mount(8)", bool(ours), states[ours], "mount -t fuse.unionfs, fstab, systemd", mend)


CHECKS: tuple[Callable[[], Check], ...] = (
    _kernel,
    _python,
    _device,
    _direct,
    _helper_program,
    _fusepy,
    _others_may_use,
    _guarded_layers,
    _passthrough,
    _scheduling,
    _namespaces,
    _overlay,
    lambda: _program("ip", "iproute2"),
    lambda: _program("nft", "nftables"),
    lambda: _package("dnslib", "names on networks of containers"),
    lambda: _package("xattr", "extended attributes by hand and in tests"),
    lambda: _package("rich", "tables on a terminal"),
    _mount_helper,
)


# --- how to mend


def _install(package: str) -> str:
    for tool, (command, names) in _INSTALLERS.items():
        if shutil.which(tool):
            return as_root(f"{command} {names.get(package, package)}")
    return f"install the package {package}"


def _pip(package: str) -> str:
    """The distribution's package where pip may not install into the distribution's Python (PEP 668)."""
    kept = os.path.exists(os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED"))
    if kept and sys.prefix == sys.base_prefix and shutil.which("apt-get"):
        return as_root(f"apt-get install python3-{package}")
    return f"{sys.executable} -m pip install {package}"


# --- the report


class Report(NamedTuple):
    """All checks, and what follows from them."""

    checks: list[Check]

    def works(self, name: str) -> bool:
        return any(check.works for check in self.checks if check.name == name)

    @property
    def way(self) -> str:
        """How a mount is made here; empty when none can be."""
        return next((way for way in _WAYS if self.works(way)), "")

    @property
    def engines(self) -> list[str]:
        needs = {"native": "Linux", "fusepy": "fusepy, libfuse 2"}
        return [engine for engine, need in needs.items() if self.way and self.works(need)]

    def verdict(self) -> str:
        if self.engines:
            engines = " or ".join(self.engines)
            return f"A mount is possible here: engine {engines}, by {self.way}."
        if any(check.name == "mount(2)" and check.mend for check in self.checks):
            return "This user cannot mount here, but can in a user namespace: unshare -Urm"
        needed = (fusedev.DEVICE,) if not self.works(fusedev.DEVICE) else _WAYS if not self.way else ("Linux",)
        why = "; ".join(f"{check.name}: {check.found}" for check in self.checks if check.name in needed)
        return f"No mount is possible here: {why}."


def _doctor(arguments: argparse.Namespace) -> int:
    if arguments.install_helper or arguments.uninstall_helper:
        print(helper.install() if arguments.install_helper else helper.uninstall())
        return 0
    if arguments.clean:
        rootless.enter()
        with Database() as database:
            gone = clean(database)
        print("\n".join(f"removed {what}" for what in gone) or f"there is nothing to clean in {database.root}")
        return 0
    report = Report([check() for check in CHECKS])
    if arguments.json:
        checks = [check._asdict() for check in report.checks]
        words = {"mount": bool(report.engines), "way": report.way, "engines": report.engines, "checks": checks}
        print(json.dumps(words, indent=1))
    else:
        _show(report)
    return 0 if report.engines else 1


def _show(report: Report) -> None:
    print(report.verdict() + "\n")
    rows = [("yes" if check.works else "no", check.name, check.found, check.purpose) for check in report.checks]
    table.show(("", "what", "found", "for"), rows)
    mends = [check for check in report.checks if check.mend]
    if mends:
        print("\nTo mend:")
    for check in mends:
        print(f"  {check.name}: {check.mend}")


# --- the command


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same for programs")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--install-helper", action="store_true", help=f"let mount(8) mount unions: install {helper.PLACE}")
    one.add_argument("--uninstall-helper", action="store_true", help="remove it again")
    one.add_argument("--clean", action="store_true", help="remove what killed commands and containers left, no more")


COMMANDS = {
    "doctor": Command(
        "Say what this machine can do: kernel, /dev/fuse, helpers, libraries, namespaces; and how to mend the rest.",
        _arguments,
        _doctor,
        "Exit status: 0 when a mount is possible, 1 when not.",
    )
}
