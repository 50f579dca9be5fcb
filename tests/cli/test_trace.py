"""`unionfs trace` and the counters of `unionfs stats`, on a real mount."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pexpect
import pytest

from tests.cli.running import COMMAND, ROOT, Stage, needs_mount, stage, unionfs
from unionfs.cli.trace import bars, percentile

__all__ = ["stage"]
pytestmark = needs_mount
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Tracer:
    """A running `unionfs trace --json`, and what it said."""

    def __init__(self, place: Path, *words: str) -> None:
        command = [*COMMAND, "trace", str(place), "--json", *words]
        self._said = TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self._said, env=ENVIRONMENT)

    def seen(self) -> list[dict[str, Any]]:
        """Read by a descriptor of our own: the other one's place is where the process writes."""
        with open(f"/proc/self/fd/{self._said.fileno()}", "rb") as file:
            return [json.loads(line) for line in file if line.endswith(b"\n")]

    def stop(self) -> list[dict[str, Any]]:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0
        return self.seen()


@contextmanager
def tracing(place: Path, *words: str) -> Iterator[Tracer]:
    before = listeners(place)
    tracer = Tracer(place, *words)
    try:
        while listeners(place) == before:
            assert tracer.process.poll() is None
            time.sleep(0.01)
        yield tracer
    finally:
        if tracer.process.poll() is None:
            tracer.stop()


def listeners(place: Path) -> int:
    """How many pipes the mount's daemon writes to."""
    daemon = os.getxattr(place, "user.unionfs.pid").decode()
    return sum(os.readlink(f"/proc/{daemon}/fd/{fd}").startswith("pipe:") for fd in os.listdir(f"/proc/{daemon}/fd"))


def of(seen: list[dict[str, Any]], op: str) -> list[dict[str, Any]]:
    return [one for one in seen if one["op"] == op]


def test_what_a_trace_says(stage: Stage) -> None:
    (stage.path / "lower" / "dir").mkdir()
    (stage.path / "lower" / "dir" / "big").write_bytes(os.urandom(1 << 20))
    assert stage.mount("open=cached").status == 0
    merged = stage.merged
    with tracing(merged) as tracer:
        with pytest.raises(FileNotFoundError):
            os.stat(merged / "nothing")
        assert (merged / "file").read_text() == "lower\n"
        (merged / "file").rename(merged / "other")
        with pytest.raises(FileNotFoundError):
            os.stat(merged / "file")
        fd = os.open(merged / "dir" / "big", os.O_WRONLY | os.O_SYNC)
        os.pwrite(fd, b"boot", 500_000)
        os.close(fd)
        seen = tracer.stop()
    me = Path("/proc/self/comm").read_text().rstrip("\n")
    missing, found, hidden = (next(one for one in of(seen, "LOOKUP") if one["path"] == path and is_right(one))
                              for path, is_right in [("nothing", lambda one: True),
                                                     ("dir", lambda one: True),
                                                     ("file", lambda one: one["errno"])])  # fmt: skip
    assert (missing["errno"], missing["pid"], missing["comm"]) == ("ENOENT", os.getpid(), me)
    assert missing.get("layer") is None and missing.get("whiteout") is None
    assert (found["errno"], found["layer"]) == (None, 1)
    assert (hidden["errno"], hidden["whiteout"]) == ("ENOENT", 0)
    assert any(one["path"] == "file" and one["layer"] == 1 and one["bytes"] == 6 for one in of(seen, "READ"))
    (renamed,) = of(seen, "RENAME") + of(seen, "RENAME2")
    assert (renamed["path"], renamed["to"]) == ("file", "other")
    assert [copy["how"] for copy in renamed["copied"]] == ["whole"]
    (write,) = of(seen, "WRITE")
    assert (write["path"], write["bytes"], write["layer"]) == ("dir/big", 4, 0)
    copies = [copy for one in seen for copy in one.get("copied", ()) if one["op"] in ("WRITE", "SETATTR", "OPEN")]
    assert [copy["how"] for copy in copies] == ["directory", "map", "blocks"]
    assert copies[0]["path"] == "dir"
    assert copies[2] == {"how": "blocks", "offset": 499_712, "bytes": 4096, "block_size": 4096}
    assert all(one["us"] >= 0 and abs(one["time"] - time.time()) < 60 for one in seen)
    assert not of(seen, "FORGET")


def test_only_what_is_asked_for(stage: Stage) -> None:
    assert stage.mount().status == 0
    read = [sys.executable, "-c", "import os, sys; sys.stdin.read(); os.stat(sys.argv[1]); os.listdir(sys.argv[2])"]
    command = [*read, str(stage.merged / "none"), str(stage.merged)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        with tracing(stage.merged, "-p", str(other.pid), "--op", "lookup,getattr") as tracer:
            os.listdir(stage.merged)
            with pytest.raises(FileNotFoundError):
                os.stat(stage.merged / "mine")
            other.communicate(b"")
            seen = tracer.stop()
    assert [(one["op"], one["path"]) for one in seen if one["op"] == "LOOKUP"] == [("LOOKUP", "none")]
    assert {one["pid"] for one in seen} == {other.pid}


def test_nobody_listens_when_it_is_over(stage: Stage) -> None:
    """However a trace ends, the next request finds its pipe without a reader."""
    assert stage.mount().status == 0
    before = listeners(stage.merged)
    with tracing(stage.merged) as tracer:
        assert listeners(stage.merged) == before + 1
        tracer.stop()
    os.listdir(stage.merged)
    assert listeners(stage.merged) == before
    killed = Tracer(stage.merged)
    while listeners(stage.merged) == before:
        time.sleep(0.01)
    killed.process.kill()
    killed.process.wait()
    os.statvfs(stage.merged)
    assert listeners(stage.merged) == before
    assert stage.umount().status == 0


def test_it_ends_with_the_mount(stage: Stage) -> None:
    assert stage.mount().status == 0
    with tracing(stage.merged) as tracer:
        assert stage.umount().status == 0
        assert tracer.process.wait(60) == 0
        seen = tracer.seen()
    assert all(one["op"] for one in seen)


def test_requests_that_nobody_takes_are_counted(stage: Stage) -> None:
    """A reader that stops reading stops nobody else."""
    assert stage.mount().status == 0
    with tracing(stage.merged) as tracer:
        reader = tracer.process.pid
        os.kill(reader, signal.SIGSTOP)
        for number in range(12_000):
            os.path.exists(stage.merged / f"none{number}")
        os.kill(reader, signal.SIGCONT)
        deadline = time.monotonic() + 60
        seen: list[dict[str, Any]] = []
        while time.monotonic() < deadline and not any("lost" in one for one in seen):
            os.path.exists(stage.merged / f"later{len(seen)}-{time.monotonic_ns()}")
            time.sleep(0.1)
            seen = tracer.seen()
    lost = sum(one.get("lost", 0) for one in seen)
    assert lost and len(of(seen, "LOOKUP")) + lost >= 12_000


def test_a_crowd_is_watched_and_not_disturbed(stage: Stage) -> None:
    """Names come and go from several threads, big writes go to helper threads: what is there at the end is right."""
    (stage.path / "lower" / "d").mkdir()
    for number in range(100):
        (stage.path / "lower" / "d" / f"low{number}").write_bytes(b"x" * 300_000 if number % 10 == 0 else b"x")
    assert stage.mount("open=cached").status == 0
    place = stage.merged / "d"

    def work(mine: int) -> None:
        for number in range(mine, 100, 4):
            with pytest.raises(FileNotFoundError):
                os.stat(place / f"new{number}")
            (place / f"new{number}").write_bytes(b"y")
            with open(place / f"low{number}", "r+b") as file:
                file.write(b"z")
            (place / f"low{number}").rename(place / f"old{number}")
            if number % 3 == 0:
                (place / f"new{number}").unlink()

    with tracing(stage.merged) as tracer:
        threads = [threading.Thread(target=work, args=(mine,)) for mine in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = tracer.stop()
    right = {f"old{number}" for number in range(100)} | {f"new{number}" for number in range(100) if number % 3}
    assert set(os.listdir(place)) == right
    assert len(of(seen, "CREATE")) == 100 and not any("lost" in one for one in seen)
    assert stage.umount().status == 0 and stage.mount().status == 0
    assert set(os.listdir(place)) == right


@pytest.mark.parametrize(
    "asker, word, name", [(65534, "7", "EPERM"), (0, "x", "EINVAL"), (0, "999", "EBADF"), (0, "0", "EINVAL")]
)
def test_who_may_ask_for_what(stage: Stage, asker: int, word: str, name: str) -> None:
    """Only a pipe of one's own, and only root and the user whose mount it is."""
    assert stage.mount("allow_other").status == 0
    stage.path.chmod(0o755)
    for directory in stage.path.parents:
        directory.chmod(directory.stat().st_mode | 0o111)
    script = (
        "import os, sys, errno\nos.setuid(int(sys.argv[1]))\n"
        "try: os.getxattr(sys.argv[2], 'user.unionfs.trace.' + sys.argv[3])\n"
        "except OSError as error: print(errno.errorcode[error.errno])"
    )
    command = [sys.executable, "-c", script, str(asker), str(stage.merged), word]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.stdout == f"{name}\n", done.stderr


def test_on_a_terminal(stage: Stage) -> None:
    """Under 80 columns, the copy-up in its own line, percentiles at the end."""
    name = "a name that is very long, so long that it does not fit, and ends in this way"
    (stage.path / "lower" / name).write_bytes(b"x" * 300_000)
    assert stage.mount().status == 0
    terminal = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], "trace", str(stage.merged)], env=ENVIRONMENT, encoding="utf-8", dimensions=(40, 80)
    )
    terminal.expect("PATH\r\n")
    with open(stage.merged / name, "r+b") as file:
        file.write(b"y")
    terminal.expect("by WRITE: 4.0 KiB copied for 1 B asked, block 0, each of 4.0 KiB")
    terminal.sendintr()
    terminal.expect("OPERATION.*COUNT.*P50.*P99")
    terminal.expect("WRITE +1 ")
    terminal.expect("copy-ups: 4.0 KiB copied, 1 B asked")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_no_line_is_wider_than_the_terminal(stage: Stage) -> None:
    deep = "/".join(["a directory with a rather long name"] * 6)
    (stage.path / "lower" / deep).mkdir(parents=True)
    assert stage.mount().status == 0
    terminal = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], "trace", str(stage.merged)], env=ENVIRONMENT, encoding="utf-8", dimensions=(40, 80)
    )
    terminal.expect("PATH\r\n")
    (stage.merged / deep / "file").write_text("x")
    terminal.expect("CREATE .*file\r\n")
    said = terminal.before + terminal.after
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    assert max(map(len, lines)) < 80 and any("…" in line for line in lines)


def test_a_running_container(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "UNIONFS_ROOT": str(tmp_path / "state"), "UNIONFS_NETWORK": "none"}
    program = "while sleep 0.1; do test -e /etc/none$((number += 1)); done"
    words = ("run", "-d", "--name", "box", "--rootfs", "/", "sh", "-c", program)
    done = unionfs(*words, environment=environment)
    assert done.status == 0, done.err
    try:
        command = [*COMMAND, "trace", "box", "--json", "--op", "lookup"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**ENVIRONMENT, **environment}) as trace:
            assert trace.stdout is not None
            while "etc/none" not in (seen := json.loads(trace.stdout.readline()))["path"]:
                pass
            trace.send_signal(signal.SIGINT)
        assert (seen["comm"], seen["errno"], seen.get("layer")) == ("sh", "ENOENT", None)
    finally:
        assert unionfs("rm", "-f", "box", environment=environment).status == 0


@pytest.mark.parametrize(
    "words, why",
    [
        (("merged", "--op", "lokup"), '--op LOKUP: there is no such request\n  did you mean "LOOKUP"?'),
        (("lower",), "is neither a mounted union nor an upper layer of one"),
        (("merged", "-p", "4194999"), "process 4194999: there is none of that number"),
    ],
)
def test_what_cannot_be_traced(stage: Stage, words: tuple[str, ...], why: str) -> None:
    assert stage.mount().status == 0
    done = unionfs("trace", *words, cwd=stage.path)
    assert done.status in (1, 2) and why in done.err


def test_the_portable_engine_says_that_it_does_not_tell(stage: Stage) -> None:
    pytest.importorskip("fuse", reason="needs fusepy")
    assert stage.mount("", "--engine", "fusepy").status == 0
    done = unionfs("trace", "merged", cwd=stage.path)
    assert done.status == 1 and "its daemon does not tell what it answers" in done.err


def test_percentiles_and_bars() -> None:
    times = Counter({10: 90, 100: 9, 70_000: 1})
    assert [percentile(times, part) for part in (0.5, 0.9, 0.99, 1.0)] == [10, 10, 100, 70_000]
    assert bars(times) == "   █  ▁         ▁"
    assert bars(Counter({0: 1})) == "█"


# --- counters


def test_counters_for_prometheus(stage: Stage) -> None:
    assert stage.mount().status == 0
    (stage.merged / "file").write_text("x" * 10)
    done = unionfs("stats", "--prometheus", "merged", cwd=stage.path)
    assert done.status == 0, done.err
    sample = re.compile(r'^unionfs_(\w+)\{mountpoint="([^"]*)"(?:,op="(\w+)")?\} (\d+)$', re.MULTILINE)
    samples = {(name, op): int(value) for name, place, op, value in sample.findall(done.out)}
    assert {place for _, place, _, _ in sample.findall(done.out)} == {str(stage.merged)}
    assert samples[("copy_ups_total", "")] == 1 and samples[("requests_total", "OPEN")] >= 1
    families = re.findall(r"^# TYPE unionfs_(\w+) (counter|gauge)$", done.out, re.MULTILINE)
    assert {name for name, _ in samples} == {name for name, _ in families}
    lines = [line for line in done.out.splitlines() if not line.startswith("# ")]
    assert len(lines) == len(samples) and done.out.endswith("\n")


def test_prometheus_is_about_unions() -> None:
    done = unionfs("stats", "--prometheus")
    assert done.status == 2 and "--prometheus is about a mounted union" in done.err
