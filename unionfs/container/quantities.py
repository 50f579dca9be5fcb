"""Sizes, processors, signals and times, as docker's options write them.

Called by the command line and `create.py`. Pure functions; each raises UnionfsError that names the word.
"""

from __future__ import annotations

import signal
import time
from datetime import datetime

from unionfs.errors import UnionfsError, did_you_mean

_UNITS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LEAST_MEMORY = 6 << 20


def parse_size(word: str) -> int:
    """Bytes: `64m`, `1.5g`, `512k`, `1000`."""
    text = word.strip().lower().removesuffix("ib").removesuffix("b") or word
    unit = text[-1:] if text[-1:] in _UNITS else "b"
    try:
        value = float(text.removesuffix(unit) if unit != "b" else text)
        if value < 0 or value != value:
            raise ValueError
        return int(value * (1 << _UNITS[unit]))
    except (ValueError, OverflowError):
        raise UnionfsError(f"invalid size: '{word}'", "", "write a number and b, k, m or g, as in 64m") from None


def parse_memory(word: str) -> int:
    """--memory; docker's least is 6 MiB, 0 is no limit."""
    size = parse_size(word)
    if 0 < size < LEAST_MEMORY:
        raise UnionfsError(f"--memory {word}", "minimum memory limit allowed is 6MB")
    return size


def parse_cpus(word: str) -> float:
    """--cpus: processors, with hundredths; 0 is no limit."""
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < 10_000:
        raise UnionfsError(f"--cpus {word}", "is not a number of processors", "as in --cpus 1.5")
    return value


def parse_count(word: str, option: str) -> int:
    """A whole number; -1 and 0 are no limit."""
    try:
        return max(int(word), 0)
    except ValueError:
        raise UnionfsError(f"{option} {word}", "is not a whole number") from None


def parse_signal(word: str) -> int:
    """`SIGTERM`, `TERM`, `15`."""
    names = {name.removeprefix("SIG"): number.value for name, number in signal.Signals.__members__.items()}
    name = word.upper().removeprefix("SIG")
    if name in names:
        return names[name]
    if word.isdecimal() and 0 < int(word) <= max(signal.valid_signals()):
        return int(word)
    near = did_you_mean(name, names)
    raise UnionfsError(f"Invalid signal: {word}", "", near or "kill -l lists them")


def parse_duration(word: str) -> float:
    """Seconds: `10`, `1m30s`, `1.5h`, `250ms`."""
    total, number, rest = 0.0, "", word
    try:
        if word.replace(".", "", 1).isdecimal():
            return float(word)
        while rest:
            digits = len(rest) - len(rest.lstrip("0123456789."))
            number, rest = rest[:digits], rest[digits:]
            letters = len(rest) - len(rest.lstrip("abcdefghijklmnopqrstuvwxyzµ"))
            total += float(number) * _SECONDS[rest[:letters]]
            rest = rest[letters:]
        if not number:
            raise ValueError
    except (ValueError, KeyError):
        raise UnionfsError(f"invalid duration: {word}", "", "as in 10s, 1m30s or 2h") from None
    return total


def parse_moment(word: str) -> float:
    """--since and --until in seconds since the epoch: a time of RFC 3339, such seconds, or a duration before now."""
    try:
        return time.time() - parse_duration(word) if word[-1:].isalpha() and word[-1] != "Z" else float(word)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError):
        hint = "as in 2026-01-31T12:00:00Z, 1767225600 or 10m"
        raise UnionfsError(f"invalid time: {word}", "", hint) from None
