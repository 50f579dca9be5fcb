"""What the kernel's overlayfs shows of a small stack: the oracle of the labs and of the quiz's test.

Run as a program, in a mount namespace of its own (`python -m unionfs.lab.kernel`, a stack as JSON on standard input);
`show` starts it so, without root in a user namespace as well. Source: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from unionfs.lab.stacks import Shown, Stack, make, shown_at
from unionfs.linux import mounts

_PATIENCE = 20


def show(stack: Stack) -> Shown | None:
    """None where the kernel cannot be asked: no root and no user namespaces, or no overlayfs."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    words = ["-m"] if os.geteuid() == 0 else ["-Urm"]
    command = [unshare, *words, "--", sys.executable, "-P", "-m", "unionfs.lab.kernel"]
    package = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": package}
    try:
        done = subprocess.run(
            command, input=json.dumps(list(stack)), env=environment, capture_output=True, text=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    shown: Shown = json.loads(done.stdout)
    return shown


def _show_here(stack: Stack) -> Shown:
    """The layers lie on a tmpfs of this namespace's own: nothing is left of them, nor of the mount."""
    with TemporaryDirectory() as name:
        place = Path(name)
        mounts.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"")
        layers = make(stack, place / "layers", "overlay")
        while len(layers) < 2:  # overlayfs takes two lower layers at least
            layers.append(place / f"empty{len(layers)}")
            layers[-1].mkdir()
        merged = place / "merged"
        merged.mkdir()
        words = f"lowerdir={':'.join(map(str, layers))}"
        attempts = (f"{words},redirect_dir=follow", f"{words},userxattr", words)
        for number, options in enumerate(attempts):
            try:
                mounts.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode())
                break
            except OSError:
                if number == len(attempts) - 1:
                    raise
        try:
            return shown_at(merged)
        finally:
            mounts.unmount(os.fsencode(merged))
            mounts.unmount(os.fsencode(place))


if __name__ == "__main__":
    print(json.dumps(_show_here(json.load(sys.stdin))))
