"""`--ulimit`: limits of a process's resources, by docker's names.

Called by the command line (`parse`) and `process.py` (`apply`). Source: setrlimit(2).
"""

from __future__ import annotations

import resource
from collections.abc import Iterable

from unionfs.errors import UnionfsError, did_you_mean

NAMES = {
    "core": resource.RLIMIT_CORE, "cpu": resource.RLIMIT_CPU, "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE, "memlock": resource.RLIMIT_MEMLOCK, "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE, "nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS, "rtprio": resource.RLIMIT_RTPRIO, "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING, "stack": resource.RLIMIT_STACK,
}  # fmt: skip
NO_LIMIT = -1


def parse(word: str) -> tuple[str, int, int]:
    """`nofile=1024:2048`, or one number for both: name, soft and hard limit. Raises UnionfsError."""
    name, equals, value = word.partition("=")
    if not equals:
        raise UnionfsError(f"invalid ulimit argument: {word}", "", "write NAME=SOFT[:HARD], as in nofile=1024:2048")
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or f"known are {', '.join(NAMES)}"
        raise UnionfsError(f"invalid ulimit type: {name}", "", hint)
    soft, _, hard = value.partition(":")
    try:
        numbers = [NO_LIMIT if part in ("-1", "unlimited") else int(part) for part in (soft, hard or soft)]
    except ValueError:
        raise UnionfsError(f"invalid ulimit {word}", "a limit is a number, or -1 for none") from None
    if min(numbers) < NO_LIMIT:
        raise UnionfsError(f"invalid ulimit {word}", "a limit is a number, or -1 for none")
    if numbers[1] != NO_LIMIT and (numbers[0] == NO_LIMIT or numbers[0] > numbers[1]):
        raise UnionfsError(f"invalid ulimit {word}", f"the soft limit must not be above the hard one ({hard or soft})")
    return name, numbers[0], numbers[1]


def apply(ulimits: Iterable[tuple[str, int, int]]) -> None:
    """Set them for this process and those that come of it. Raises UnionfsError, naming the one that is refused."""
    for name, soft, hard in ulimits:
        try:
            resource.setrlimit(NAMES[name], (soft, hard))
        except (ValueError, OSError) as error:
            now = resource.getrlimit(NAMES[name])[1]
            why = f"cannot be raised to {hard}: the launcher's own hard limit is {now}"
            raise UnionfsError(f"--ulimit {name}", why, "ask for less") from error
