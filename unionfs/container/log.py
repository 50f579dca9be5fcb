"""A container's log: what it put out, in the lines of docker's json-file driver.

Written by the monitor, read by `logs`. On disk a line is

    {"log":"text\\n","stream":"stdout","time":"2026-11-25T10:00:00.123456789Z"}

A line of the container's that is longer than 16 KiB is kept in pieces, of which the last alone ends with a newline;
what is not UTF-8 becomes U+FFFD. A line is written with one write(2): a killed monitor leaves whole lines.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

LONGEST = 16384
_POLL_SECONDS = 0.1
_BLOCK = 65536


class Line(NamedTuple):
    """A line of the log: `stream` is "stdout" or "stderr", `time` in RFC 3339 with nanoseconds, UTC."""

    text: str
    stream: str
    time: str


def now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


class Writer:
    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._begun: dict[str, bytes] = {}

    def write(self, stream: str, data: bytes) -> None:
        """What came on a stream; the beginning of a line waits for its end."""
        data = self._begun.pop(stream, b"") + data
        lines = []
        start = 0
        while start < len(data):
            newline = data.find(b"\n", start, start + LONGEST)
            end = newline + 1 if newline >= 0 else start + LONGEST
            if newline < 0 and end > len(data):
                self._begun[stream] = data[start:]
                break
            lines.append(data[start:end])
            start = end
        self._put(stream, lines)

    def close(self) -> None:
        for stream, rest in self._begun.items():
            self._put(stream, [rest])
        os.close(self._fd)

    def _put(self, stream: str, lines: list[bytes]) -> None:
        if not lines:
            return
        rest = f',"stream":"{stream}","time":"{now()}"}}\n'
        words = [f'{{"log":{encode_basestring_ascii(line.decode("utf-8", "replace"))}{rest}' for line in lines]
        try:
            os.write(self._fd, "".join(words).encode())
        except OSError:
            pass  # the disk is full: the container goes on


def read(path: str, tail: int | None = None) -> tuple[list[Line], int]:
    """The lines that are there, all or the last `tail`, and the offset behind them."""
    try:
        with open(path, "rb") as file:
            start = 0 if tail is None else _start_of_tail(file.fileno(), tail)
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return [], 0
    end = content.rfind(b"\n") + 1
    return [_parse(line) for line in content[:end].splitlines()], start + end


def follow(path: str, offset: int, is_over: Callable[[], bool]) -> Iterator[Line]:
    """The lines behind `offset`, as they come, until `is_over()` and nothing more comes."""
    while True:
        last = is_over()
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            content = b""
        end = content.rfind(b"\n") + 1
        offset += end
        yield from map(_parse, content[:end].splitlines())
        if last:
            return
        if not end:
            time.sleep(_POLL_SECONDS)


def _start_of_tail(fd: int, count: int) -> int:
    """The offset at which the last `count` lines begin; each has one newline, at its end."""
    offset = os.lseek(fd, 0, os.SEEK_END)
    newlines = 0
    while offset > 0:
        begin = max(0, offset - _BLOCK)
        block = os.pread(fd, offset - begin, begin)
        position = len(block)
        while (position := block.rfind(b"\n", 0, position)) >= 0:
            newlines += 1
            if newlines == count + 1:
                return begin + position + 1
        offset = begin
    return 0


def _parse(line: bytes) -> Line:
    fields = json.loads(line)
    return Line(fields["log"], fields["stream"], fields["time"])
