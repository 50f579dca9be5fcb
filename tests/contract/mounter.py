"""Mounts our engines quickly: one process that has everything loaded and forks a daemon for each mount.

The same daemon as that of `unionfs mount`, without starting an interpreter for each of hundreds of mounts. It is a
process of its own because a daemon must be forked where no thread runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionfs import events
from unionfs.fuse.daemon import daemonize

if TYPE_CHECKING:
    from tests.contract.subject import Ours

ROOT = Path(__file__).resolve().parents[2]


class MountFailed(Exception):
    """In the words of the daemon that could not mount."""


class Mounter:
    """The side of the tests. The process starts at the first mount."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.cache = tempfile.TemporaryDirectory(prefix="unionfs-cache-")

    def mount(self, subject: Ours, log: Path) -> int:
        """Mount it; the daemon's process id."""
        if self.process is None:
            command = [sys.executable, "-m", "tests.contract.mounter"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            cache = {"UNIONFS_CACHE": self.cache.name}
            self.process = subprocess.Popen(command, cwd=ROOT, text=True, env={**os.environ, **cache}, **pipes)
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {
            "engine": subject.kind, "point": str(subject.point), "log": str(log), "dialect": subject.dialect,
            "lower": list(map(str, subject.lowers)),
            "upper": subject.upper and str(subject.upper), "work": subject.work and str(subject.work),
            "copying": subject.copying, "opening": subject.opening, "index": "on" if subject.index else "off",
        }  # fmt: skip
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"failure": "the mounter ended"}')
        if "failure" in answer:
            raise MountFailed(answer["failure"])
        return int(answer["daemon"])

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()
        self.cache.cleanup()


def main() -> None:
    from unionfs.fuse import mount
    from unionfs.union.operations import Operations

    def serve(request: dict[str, Any], ready: Callable[[], None]) -> None:
        os.close(answers.fileno())
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        events.log_to(events.to_descriptor(log))
        names = ("lower", "upper", "work", "dialect")
        union = Operations(**{name: request[name] for name in names}, **request["copying"])
        read_only = () if request["upper"] else ("ro",)
        opening = "cached" if request["opening"] == "cached" else "passthrough"
        mount.serve(
            union, os.fsencode(request["point"]), engine=request["engine"], flags=read_only, ready=ready,
            opening=opening, coherent=request["opening"] == "coherent", index=request["index"],
        )  # fmt: skip

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        try:
            answer = {"daemon": daemonize(lambda ready, line=line: serve(json.loads(line), ready))}
        except Exception as failure:
            answer = {"failure": str(failure)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
