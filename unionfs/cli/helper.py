"""The program that mount(8) runs for the type fuse.unionfs: put in its place, and removed.

Called by `doctor.py`. It is a script of four lines that runs this interpreter with this package, wherever both are: a
virtual environment or a checkout will do. What it does then is `mount.py`'s. A file that is not ours is never touched.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from unionfs.cli.command import as_root, this_command
from unionfs.errors import UnionfsError

PLACE = Path("/sbin/mount.fuse.unionfs")
"""Where mount(8) looks for it, before it looks for mount.fuse."""

_MARK = 'made by "unionfs doctor --install-helper", removed by "unionfs doctor --uninstall-helper"'


def is_ours() -> bool | None:
    """Whether the helper that is there was made by us; None when there is none."""
    try:
        return not PLACE.is_symlink() and _MARK.encode() in PLACE.read_bytes()
    except FileNotFoundError:
        return None


def install() -> str:
    """Put it there, or its newer self; what was done, in words. Raises UnionfsError."""
    _check("--install-helper")
    temporary = PLACE.with_name(f"{PLACE.name}.{os.getpid()}")
    try:
        temporary.write_text(_text(), encoding="utf-8", errors="surrogateescape")
        temporary.chmod(0o755)
        temporary.rename(PLACE)
    finally:
        temporary.unlink(missing_ok=True)
    return f"{PLACE}: installed; mount -t fuse.unionfs works now"


def uninstall() -> str:
    """Remove it; what was done, in words. Raises UnionfsError."""
    _check("--uninstall-helper")
    if not PLACE.exists():
        return f"{PLACE}: was not there"
    PLACE.unlink()
    return f"{PLACE}: removed"


def _check(option: str) -> None:
    if os.geteuid() != 0:
        raise UnionfsError(str(PLACE), "only root can change it", as_root(f"{this_command()} doctor {option}"))
    if is_ours() is False:
        raise UnionfsError(str(PLACE), "is there, and was not made by us", "see whose it is; it stays as it is")


def _text() -> str:
    """-P: mount(8) is called in any directory, and nothing that lies there is to be imported."""
    package = Path(__file__).resolve().parents[2]
    return (
        f"#!/bin/sh\n# The helper of mount(8) for the type fuse.unionfs; {_MARK}.\n"
        f"PYTHONPATH={shlex.quote(str(package))} export PYTHONPATH\n"
        f'exec {shlex.quote(sys.executable)} -P -m unionfs mount.fuse.unionfs "$@"\n'
    )
