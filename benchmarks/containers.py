"""Containers: how long a start and an exec take, what an idle one costs, and a real build in one; here and elsewhere.

    python benchmarks/containers.py [--rows start,exec,memory,build] [--peers WORD,...] [--rounds 9] [--json FILE]

    start     `true` in a fresh container, from nothing to nothing: wall time, and processor time of all that it took
    exec      `true` in one that runs
    memory    idle containers: what each adds, resident and proportional (pages that several share are divided)
    build     untar, git clone, pip install, sqlite: in a container over this machine's own root, copy-on-write

Peers are taken in turn, round by round. It needs root; who is not installed, or fails, is named and left out: unshare
and bwrap (a process with namespaces, no image), runc and crun (one container of a bundle), podman (images, no network),
and ours with both storage drivers, as commands and, "in-process", by the library in a Python that has loaded it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import NamedTuple

import measure
import trees
from measure import Fault, Item, Report

from unionfs.container import storage
from unionfs.container.lifecycle import Container
from unionfs.image.database import Database
from unionfs.image.imports import import_host
from unionfs.image.layout import save
from unionfs.image.store import Store

_PR_SET_CHILD_SUBREAPER = 36
ROWS = ("start", "exec", "memory", "build")
OURS = [sys.executable, "-P", "-m", "unionfs"]
PODMAN_LIMITS = ["--network", "none", "--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]
BUILD_FILES = 5000
_WORK = "/unionfs-build"
_SETTLING_SECONDS = 2.0
"""After so long without work a monitor has given back what its start took."""


class Times(NamedTuple):
    """Milliseconds, on the wall and of processors."""

    wall: float
    cpu: float


class Stage:
    """What all peers stand on: a state of ours with the image `host`, its root unpacked, a bundle, podman's storage."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.state = os.path.join(place, "state")
        self.environment = {**os.environ, "UNIONFS_ROOT": self.state, "PYTHONPATH": measure.ROOT}
        self.environment["UNIONFS_NETWORK"] = "none"  # as the peers have it
        os.environ.update(UNIONFS_ROOT=self.state, UNIONFS_NETWORK="none")
        with Database(self.state) as database:
            store = Store(database)
            image = import_host(store, "host")
            self.root = os.path.join(place, "root")
            shutil.copytree(store.layer_directories(image)[0], self.root, symlinks=True)
            self.archive = os.path.join(place, "host.tar")
            with open(self.archive, "wb") as out:
                save(store, [(image, ["host"])], out)
        for name in ("proc", "dev", "sys"):
            os.makedirs(os.path.join(self.root, name), exist_ok=True)
        self.podman = [
            "podman", "--root", f"{place}/podman", "--runroot", f"{place}/run", "--cgroup-manager", "cgroupfs",
            "--events-backend", "file", "--network-config-dir", f"{place}/networks",
            *(["--runtime", "runc"] if shutil.which("runc") else []),
        ]  # fmt: skip

    def load_podman(self) -> None:
        """Give it the image, where it is installed."""
        if shutil.which("podman"):
            self.run([*self.podman, "load", "-q", "-i", self.archive])

    def clear_podman(self) -> None:
        if shutil.which("podman"):
            subprocess.run([*self.podman, "system", "reset", "-f"], capture_output=True)

    def bundle(self, runtime: str, words: Sequence[str]) -> str:
        """The directory of a bundle whose process is `words`; without limits that this user cannot set."""
        place = os.path.join(self.place, f"bundle-{runtime}-{words[0]}")
        if not os.path.isdir(place):
            os.mkdir(place)
            subprocess.run([runtime, "spec"], cwd=place, check=True, capture_output=True)
            with open(f"{place}/config.json") as file:
                config = json.load(file)
            config["process"].update(args=list(words), terminal=False)
            config["process"].pop("rlimits", None)
            config["root"] = {"path": self.root, "readonly": False}
            with open(f"{place}/config.json", "w") as file:
                json.dump(config, file)
        return place

    def run(self, words: Sequence[str], cwd: str | None = None) -> None:
        """Raises Fault with what the program said, when it fails."""
        done = subprocess.run(words, env=self.environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            raise Fault(done.stderr.decode("utf-8", "replace").strip().splitlines()[-1][:200])


def timed(deed: Callable[[], object], leaves_nothing: bool) -> Times:
    """Of a deed; with `leaves_nothing` all processes that it left behind are waited for, and their processor time is
    its own: orphans become ours (prctl(2))."""
    before, start = _cpu(), time.perf_counter()
    deed()
    wall = (time.perf_counter() - start) * 1000
    with suppress(ChildProcessError):
        while leaves_nothing:
            os.waitpid(-1, 0)
    return Times(wall, (_cpu() - before) * 1000)


def _cpu() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


# --- start


def starts(stage: Stage) -> dict[str, Callable[[], object]]:
    run, root = stage.run, stage.root
    bwrap = ["bwrap", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all"]
    return {
        "python": lambda: run([sys.executable, "-I", "-S", "-c", ""]),
        "unshare": lambda: run(["unshare", "-fpmniu", "--mount-proc", "-R", root, "true"]),
        "bwrap": lambda: run([*bwrap, "true"]),
        "crun": lambda: run(["crun", "run", "bench"], stage.bundle("crun", ["true"])),
        "runc": lambda: run(["runc", "run", "bench"], stage.bundle("runc", ["true"])),
        "podman": lambda: run([*stage.podman, "run", "--rm", *PODMAN_LIMITS, "host", "true"]),
        "unionfs": lambda: run([*OURS, "run", "--rm", "host", "true"]),
        "unionfs overlay": lambda: run([*OURS, "run", "--rm", "--storage", "overlay", "host", "true"]),
        "unionfs in-process": lambda: in_process("unionfs"),
        "unionfs overlay in-process": lambda: in_process("overlay"),
    }


def in_process(driver: str) -> None:
    container = Container.create("host", ["true"], storage=driver, remove=True)
    status = container.attach(container.start(), interactive=False)
    if status:
        raise Fault(f"true ended with status {status}")


# --- exec


@contextmanager
def execs(stage: Stage) -> Iterator[dict[str, Callable[[], object]]]:
    """Each peer's container runs as long as the block."""
    run, root = stage.run, stage.root
    with ExitStack() as stack:
        deeds: dict[str, Callable[[], object]] = {}
        if shutil.which("unshare"):
            words = ["unshare", "-fpmniu", "--mount-proc", "-R", root, "sleep", "1000"]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
            stack.callback(_end, process)
            inner = _child_of(process.pid)
            deeds["nsenter"] = lambda: run(["nsenter", "-t", str(inner), "-a", "true"])
        if shutil.which("runc"):
            place = stage.bundle("runc", ["sleep", "1000"])
            process = subprocess.Popen(["runc", "run", "idle"], cwd=place, stdin=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(lambda: run(["runc", "kill", "idle", "KILL"]))
            _until(lambda: run(["runc", "exec", "idle", "true"]))
            deeds["runc"] = lambda: run(["runc", "exec", "idle", "true"])
        if shutil.which("podman"):
            run([*stage.podman, "run", "-d", "--name", "idle", *PODMAN_LIMITS, "host", "sleep", "1000"])
            stack.callback(lambda: run([*stage.podman, "rm", "-f", "-t", "0", "idle"]))
            deeds["podman"] = lambda: run([*stage.podman, "exec", "idle", "true"])
        idle = Container.create("host", ["sleep", "1000"], name="idle")
        idle.start().close()
        stack.callback(lambda: idle.remove(force=True))
        deeds["unionfs"] = lambda: run([*OURS, "exec", "idle", "true"])
        deeds["unionfs in-process"] = lambda: _wait(idle)
        yield deeds


def _wait(container: Container) -> None:
    entered = container.exec(["true"])
    os.waitpid(entered.helper, 0)


def _child_of(pid: int) -> int:
    def found() -> int:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return int(file.read().split()[0])

    return _until(found)


def _until(deed: Callable[[], Item]) -> Item:
    for _ in range(200):
        with suppress(Fault, IndexError, OSError):
            return deed()
        time.sleep(0.05)
    raise Fault("it did not come up")


def _end(process: subprocess.Popen[bytes]) -> None:
    for child in (_child_of(process.pid), process.pid):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait()


# --- memory


def memory(stage: Stage, count: int, report: Report) -> None:
    """What each of `count` idle containers adds, in MiB: of its monitor, its daemon, and what they fork."""
    rows = []
    for driver in ("unionfs", "overlay"):
        boxes = []
        try:
            for number in range(count):
                box = Container.create("host", ["sleep", "1000"], name=f"idle{number}", storage=driver)
                stage.run([*OURS, "start", box.id])
                boxes.append(box)
            time.sleep(_SETTLING_SECONDS)
            pids = [pid for box in boxes for pid in _family(box.record.owner)]
            resident, shared = (sum(_memory(pid, key) for pid in pids) / count / 1024 for key in ("Rss", "Pss"))
            rows.append([f"unionfs, --storage {driver}", len(pids) / count, f"{resident:.1f}", f"{shared:.1f}"])
            what = {"what": "memory", "peer": f"unionfs {driver}", "containers": count}
            report.rows.append({**what, "rss_mib": round(resident, 2), "pss_mib": round(shared, 2)})
        finally:
            for box in boxes:
                box.remove(force=True)
    headings = ["", "processes", "resident MiB", "proportional MiB"]
    measure.show(f"{count} idle containers: each one's share, without its own command", headings, rows)


def _family(monitor: int) -> list[int]:
    """The monitor and what it forked, but the container's own processes."""
    found = [monitor]
    with open(f"/proc/{monitor}/task/{monitor}/children") as file:
        for child in map(int, file.read().split()):
            with open(f"/proc/{child}/comm") as name:
                if name.read().strip() != "sleep":
                    found += _family(child)
    return found


def _memory(pid: int, key: str) -> int:
    """KiB, of /proc/PID/smaps_rollup."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{key}:"))


# --- build


def builds(stage: Stage) -> dict[str, dict[str, Callable[[], object]]]:
    """Job: peer: what does it. In a container over this machine's root, where nothing of the machine changes."""
    jobs = _jobs(stage)
    ours = [*OURS, "run", "--rm"]
    ways = {
        "native": [],
        "podman overlay": [*stage.podman, "run", "--rm", *PODMAN_LIMITS, "--rootfs", "/:O"],
        "unionfs": [*ours, "--rootfs", "/"],
        "unionfs overlay": [*ours, "--storage", "overlay", "--rootfs", "/"],
    }
    native = os.path.join(stage.place, "native")

    def deed(way: Sequence[str], script: str) -> Callable[[], object]:
        return partial(stage.run, [*way, "sh", "-c", script if way else script.replace(_WORK, native)])

    return {name: {peer: deed(way, script) for peer, way in ways.items()} for name, script in jobs.items()}


def _jobs(stage: Stage) -> dict[str, str]:
    """Name: a script that works in /work, which is not there before."""
    source = os.path.join(stage.place, "source")
    trees.source_tree(source, BUILD_FILES)
    subprocess.run(["tar", "cf", f"{stage.place}/source.tar", "-C", source, "."], check=True)
    git = ["git", "-C", source, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.auto=0"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    wheel = _wheel(stage.place)
    script = os.path.join(stage.place, "transactions.py")
    with open(script, "w") as file:
        file.write(_TRANSACTIONS)
    clean = f"rm -rf {_WORK}; mkdir {_WORK}; cd {_WORK}; export HOME={_WORK};"
    return {
        "untar": f"{clean} tar xf {stage.place}/source.tar",
        "git clone": f"{clean} git -c safe.directory='*' clone -q --no-local {source} clone",
        "pip install": f"{clean} {sys.executable} -m pip install -q --no-index --no-deps --target out {wheel}",
        "sqlite": f"{clean} {sys.executable} -I -S {script}",
    }


_TRANSACTIONS = """
import sqlite3
database = sqlite3.connect("db")
database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
for transaction in range(50):
    with database:
        database.executemany("INSERT INTO t (text) VALUES (?)", [("text " * 20,)] * 200)
print(database.execute("SELECT count(*) FROM t WHERE text LIKE '%x%'").fetchone())
"""


def _wheel(place: str) -> str:
    """A package of 2,000 modules."""
    path = os.path.join(place, "large-1.0-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(2000):
            archive.writestr(f"large/part{number // 50}/module{number}.py", trees.text(40, number).decode())
        archive.writestr("large-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: large\nVersion: 1.0\n")
        archive.writestr("large-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("large-1.0.dist-info/RECORD", "")
    return path


# --- the program


def compare(what: str, deeds: dict[str, Callable[[], object]], rounds: int, base: str, report: Report) -> None:
    """In turn; the first round is for nothing. Ratios are to `base`'s wall time."""
    samples: dict[str, list[Times]] = {name: [] for name in deeds}
    for turn in range(rounds + 1):
        for name in measure.rotated(list(deeds), turn):
            if name not in samples:
                continue
            try:
                found = timed(deeds[name], what != "exec")
            except (Fault, OSError, IndexError) as fault:
                report.leave_out(f"{what}, {name}", str(fault))
                del samples[name]
                continue
            if turn:
                samples[name].append(found)
    shown = {}
    for name, values in samples.items():
        walls = report.add({"what": what, "peer": name, "of": "wall"}, [value.wall for value in values])
        cpus = report.add({"what": what, "peer": name, "of": "cpu"}, [value.cpu for value in values])
        shown[name] = (walls, cpus)
    if not shown:
        return
    rows = [
        [name, walls, cpus, measure.number(walls.median / shown[base][0].median) if base in shown else ""]
        for name, (walls, cpus) in shown.items()
    ]
    headings = ["", "wall ms", "processor ms", f"of {base}"]
    measure.show(f"{what}: median (quarters)", headings, rows)


def chosen(deeds: dict[str, Callable[[], object]], words: str | None) -> dict[str, Callable[[], object]]:
    wanted = (words or "").split(",")
    return {name: deed for name, deed in deeds.items() if any(word in name for word in wanted)}


def main() -> None:
    parser = measure.options(__doc__ or "", 9, None)
    measure.add_rows(parser, ROWS)
    parser.add_argument("--containers", type=measure.positive, default=100, help="idle ones, for the memory")
    arguments = parser.parse_args()
    rows = measure.chosen_rows(arguments.rows, ROWS)
    if os.geteuid():
        raise Fault("it needs root: most of what is compared does")
    storage.load("unionfs")  # "in-process" is in a Python that has loaded it
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    report = Report(arguments, {"sqlite": sqlite3.sqlite_version})
    report.show_machine()
    with tempfile.TemporaryDirectory(prefix="ufb", dir=arguments.dir) as place:
        stage = Stage(os.path.abspath(place))
        stage.load_podman()
        try:
            if "start" in rows:
                compare("start", chosen(starts(stage), arguments.peers), arguments.rounds, "runc", report)
            if "exec" in rows:
                with execs(stage) as deeds:
                    compare("exec", chosen(deeds, arguments.peers), arguments.rounds, "podman", report)
            if "memory" in rows:
                memory(stage, arguments.containers, report)
            if "build" in rows:
                for name, found in builds(stage).items():
                    compare(name, chosen(found, arguments.peers), min(arguments.rounds, 5), "native", report)
        finally:
            stage.clear_podman()
            report.write(arguments.json)


if __name__ == "__main__":
    measure.run(main)
