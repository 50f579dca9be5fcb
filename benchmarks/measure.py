"""What every benchmark does: its options, samples taken in turn, medians, tables, a description of the machine, JSON.

Used by the programs of this folder, with `peers.py`, which mounts what is compared. The rules that they share:

- Peers are measured in turn, round by round, each round starting with another one: what the machine does meanwhile hits
  all of them, and figures of one run can be compared with each other, never with those of another run.
- A figure is the median of its samples, with the quarter below it and the quarter above: 1.20 (1.10..1.45).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, strftime
from typing import NamedTuple, TypeVar

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from unionfs import __version__  # noqa: E402
from unionfs.cli import table  # noqa: E402
from unionfs.cli.command import positive  # noqa: E402

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096
Item = TypeVar("Item")


class Fault(Exception):
    """Ends a program, in its own words."""


# --- samples


class Summary(NamedTuple):
    """Of the samples of one figure. `low` and `high`: a quarter of them is below, a quarter above."""

    median: float
    low: float
    high: float
    longest: float
    samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        if len(values) == 1:
            return cls(values[0], values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, max(values), len(values))

    def __str__(self) -> str:
        if self.samples == 1:
            return number(self.median)
        return f"{number(self.median)} ({number(self.low)}..{number(self.high)})"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The items in the order of that round: the item that was first is last in the next one."""
    shift = turn % len(items) if items else 0
    return [*items[shift:], *items[:shift]]


def milliseconds(deed: Callable[[], object]) -> float:
    start = perf_counter()
    deed()
    return (perf_counter() - start) * 1000


# --- files


def make_file(path: str, size: int) -> None:
    """Not compressible, without holes, on disk, and in the page cache."""
    block = os.urandom(min(size, MIB))
    with open(path, "wb", buffering=0) as file:
        for start in range(0, size, MIB):
            file.write(block[: size - start])
        os.fsync(file.fileno())


def allocated(directory: str) -> int:
    """Bytes that a tree takes on its filesystem, as du(1) counts them; directories are left out."""
    total = 0
    for where, _, names in os.walk(directory):
        total += sum(os.lstat(os.path.join(where, name)).st_blocks * 512 for name in names)
    return total


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    """A descriptor; one that was left open would keep its mount in use."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def first_write(path: str, size: int) -> None:
    """4 KiB in the middle of a file, as a program does it that does not keep the file open."""
    with opened(path, os.O_WRONLY) as descriptor:
        os.pwrite(descriptor, b"w" * PAGE, middle(size))


def middle(size: int) -> int:
    return size // 2 // PAGE * PAGE if size > PAGE else 0


# --- options


def options(description: str, rounds: int | None, on: str | None = "disk,tmpfs") -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have. None: the program chooses, and says what."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--dir", default=".", help="measure on the filesystem of this directory, in a temporary one that is removed")
    add("--on", default=on, help="filesystems: disk (that of --dir), tmpfs, btrfs, xfs (one is mounted: needs root)")
    add("--rounds", type=positive, default=rounds, help=f"samples of each figure ({rounds or '3; --full: 5'})")
    add("--peers", metavar="WORD,...", help="only peers whose name has one of these words in it")
    add("--json", metavar="FILE", help="write the figures there, with a description of the machine")
    return parser


def add_rows(parser: argparse.ArgumentParser, rows: Sequence[str]) -> None:
    """The option that chooses among the parts of a program."""
    parser.add_argument("--rows", default=",".join(rows), metavar="WORD,...", help=f"of {', '.join(rows)}")


def chosen_rows(text: str, rows: Sequence[str]) -> list[str]:
    """What --rows says. Raises Fault for one that there is not."""
    chosen = text.split(",")
    if wrong := set(chosen) - set(rows):
        raise Fault(f"--rows {', '.join(sorted(wrong))}: there is none of that name; there are {', '.join(rows)}")
    return chosen


def size(text: str) -> int:
    """4K, 16M, 1G, or bytes."""
    shift = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper(), 0)
    try:
        value = int(text[:-1] if shift else text) << shift
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a size: write 4K, 16M or 1G") from None
    if value < PAGE:
        raise argparse.ArgumentTypeError(f"{text} is less than 4K")
    return value


def sizes(text: str) -> list[int]:
    return sorted({size(word) for word in text.split(",")})


def size_name(count: int) -> str:
    """Of a size that was asked for."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"


# --- what is reported


def room(count: int) -> str:
    """Bytes that were measured."""
    return table.size(count)


class Report:
    """Rows of figures: shown as tables, written as JSON."""

    def __init__(self, arguments: argparse.Namespace, versions: dict[str, str]) -> None:
        self.rows: list[dict[str, object]] = []
        self.left_out: list[str] = []
        self._name = os.path.basename(sys.argv[0]).removesuffix(".py")
        self._options = vars(arguments)
        self.machine = describe_machine(versions)

    def leave_out(self, what: str, why: str) -> None:
        line = f"left out: {what}: {why}"
        if line not in self.left_out:
            self.left_out.append(line)
            note(line)

    def add(self, row: dict[str, object], values: Sequence[float]) -> Summary:
        """Add a row whose samples, in milliseconds, are `values`."""
        summary = Summary.of(values)
        figures = {key: round(value, 4) for key, value in summary._asdict().items()}
        self.rows.append({**row, "ms": figures})
        return summary

    def show_machine(self) -> None:
        print("\n".join(f"{key + ':':<12} {value}" for key, value in self.machine.items()))

    def write(self, path: str | None) -> None:
        if path is None:
            return
        whole = {
            "benchmark": self._name, "machine": self.machine, "options": self._options, "left_out": self.left_out,
            "rows": self.rows,
        }  # fmt: skip
        with open(path, "w") as file:
            json.dump(whole, file, indent=1)
            file.write("\n")


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]], words: int = 1) -> None:
    """A table; all columns but the first, or the first few, hold numbers."""
    print(f"\n{title}\n")
    table.show([*headings[:words], *(table.RIGHT + heading for heading in headings[words:])], rows)


def note(line: str) -> None:
    """Of the progress, for people: where nobody reads it by program."""
    print(line, file=sys.stderr, flush=True)


def describe_machine(versions: dict[str, str]) -> dict[str, str]:
    return {
        "date": strftime("%Y-%m-%d %H:%M:%S"),
        "kernel": platform.release(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": table.size(memory("MemTotal")),
        "load": " ".join(number(value) for value in os.getloadavg()),
        "python": platform.python_version(),
        "unionfs": _commit(),
        **versions,
    }


def memory(key: str) -> int:
    """Bytes, from /proc/meminfo."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":")) * KIB


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"{__version__}, not from a git checkout"


def run(main: Callable[[], None]) -> None:
    """The end of each program: interrupted, it exits as a shell expects of SIGINT, or of SIGPIPE."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough, as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except Fault as fault:
        sys.exit(str(fault))
    except KeyboardInterrupt:
        sys.exit(130)
