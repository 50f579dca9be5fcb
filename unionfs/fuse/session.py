"""`unionfs.mount(...)`: a mount from a program, as a context manager.

The public face of the mount for Python programs. The mount is served by a daemon of its own, started through the
command line: a process must never wait for a page of a mount that it serves itself, since the thread that waits holds
the interpreter that would have to answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from unionfs.errors import UnionfsError
from unionfs.fuse import mount as mounting
from unionfs.fuse.options import escape

Name = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Mount:
    """A mounted union. Leaving the `with` block unmounts it."""

    def __init__(self, mountpoint: bytes) -> None:
        self._mountpoint = mountpoint

    @property
    def path(self) -> Path:
        """Where it is mounted."""
        return Path(os.fsdecode(self._mountpoint))

    def unmount(self, lazy: bool = False) -> None:
        """Unmount, and wait until the daemon is gone. Raises UnionfsError, when it is in use for instance."""
        mounting.unmount(self._mountpoint, lazy)

    def __enter__(self) -> Mount:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()


def mount(
    target: Name, *, lower: Sequence[Name] = (), upper: Name | None = None, work: Name | None = None,
    source: str = "unionfs", **options: str | bool,
) -> Mount:  # fmt: skip
    """Mount a union on the directory `target`, and return when it answers.

    `options` are the words of `unionfs mount -o`: a switch is True or False, anything else its text. Relative paths
    start at the current directory. Raises UnionfsError with every fault that the mount has, TypeError when `lower` is
    one name and no sequence of names.
    """
    if isinstance(lower, str | bytes | os.PathLike):
        raise TypeError("lower is a sequence of names, the topmost first: lower=[...]")
    words = [_word(name, _text(path)) for name, path in (("upperdir", upper), ("workdir", work)) if path is not None]
    if lower:
        words.insert(0, b"lowerdir=" + b":".join(escape(_text(path)) for path in lower))
    for name, value in options.items():
        if value is True:
            words.append(name.encode())
        elif value is not False:
            words.append(_word(name, os.fsencode(value)))
    program = [sys.executable, "-P", "-m", "unionfs", "mount", "-o"]  # -P: nothing of the current directory is imported
    arguments = [*map(os.fsencode, program), b",".join(words), b"--", os.fsencode(source), _text(target)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*_python_path(), str(Path(__file__).parents[2])])}
    result = subprocess.run(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    if result.returncode:
        told = [line.removeprefix("unionfs: ") for line in os.fsdecode(result.stderr).strip().splitlines()]
        raise UnionfsError("\n".join(told) or f"the mount failed with status {result.returncode}")
    return Mount(os.path.abspath(_text(target)))


def _text(name: Name) -> bytes:
    return os.fsencode(name)


def _word(name: str, value: bytes) -> bytes:
    return name.encode() + b"=" + escape(value)


def _python_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
