"""The kernel's networking by the programs that students type: `ip -batch -` (iproute2) and `nft -f -` (nftables).

Called by the container floor. Every command is told before it is carried out. Raises UnionfsError with the program's
own words, and where a program is missing with the package that gives it.
"""

from __future__ import annotations

import os
from _socket import if_nameindex
from collections.abc import Callable, Sequence
from contextlib import suppress

from unionfs.errors import UnionfsError

_PACKAGES = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "sh": "dash"}
_PATHS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin")
_FORWARD = "/proc/sys/net/ipv4/ip_forward"

Tell = Callable[[str], None]
"""Is told each command, as it could be typed."""


def find(program: str) -> str:
    """Where a program is. Raises UnionfsError, naming the package."""
    for folder in _PATHS:
        path = f"{folder}/{program}"
        if os.access(path, os.X_OK):
            return path
    package = _PACKAGES[program]
    hint = f"apt install {package}, or do without a network: --network none"
    raise UnionfsError(f"the program {program}", f"is not there, and networks need it (package {package})", hint)


def ip(lines: Sequence[str], tell: Tell, inside: str = "") -> None:
    """Carry out lines of `ip -batch`, in the network namespace of the path `inside` where one is given, by nsenter(1).
    Raises UnionfsError for the first that fails."""
    for line in lines:
        tell(f"nsenter --net={inside} ip {line}" if inside else f"ip {line}")
    if lines:
        _run("ip", ["-batch", "-"], "\n".join(lines), inside)


def nft(rules: str, tell: Tell, inside: str = "") -> None:
    """One transaction of nft(8)."""
    tell(f"{f'nsenter --net={inside} ' if inside else ''}nft -f - <<.\n{rules}.")
    _run("nft", ["-f", "-"], rules, inside)


def routes(inside: str = "") -> str:
    """What `ip route` shows, of all tables."""
    return _run("ip", ["route", "show", "table", "all"], "", inside)


def interfaces(inside: str = "") -> set[str]:
    """The names of the interfaces."""
    if not inside:
        return {name for _, name in if_nameindex()}
    lines = _run("ip", ["-oneline", "link", "show"], "", inside).splitlines()
    return {line.split(": ")[1].partition("@")[0] for line in lines}


def forwards(inside: str = "") -> bool:
    """Whether IPv4 packets are passed on between interfaces (ip-sysctl)."""
    if inside:
        return _run("sh", ["-c", f"cat {_FORWARD}"], "", inside).strip() == "1"
    with open(_FORWARD, "rb") as file:
        return file.read().strip() == b"1"


def set_forwarding(on: bool, tell: Tell, inside: str = "") -> None:
    """Of IPv4 alone: a machine that forwards IPv6 takes no routes from its routers any more (accept_ra, ip-sysctl)."""
    tell(f"sysctl -w net.ipv4.ip_forward={int(on)}")
    _run("sh", ["-c", f"echo {int(on)} >{_FORWARD}"], "", inside)


def _run(program: str, words: list[str], text: str, inside: str) -> str:
    """What a program prints that gets `text`. By a spawn of our own: the module subprocess takes longer to load than
    these programs to run."""
    command = [find(program), *words]
    if inside:
        command = [find("nsenter"), f"--net={inside}", "--", *command]
    reading, writing = os.pipe2(os.O_CLOEXEC)
    out, said = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)]
    pid = os.posix_spawn(command[0], command, {"PATH": ":".join(_PATHS), "LC_ALL": "C"}, file_actions=actions)
    os.close(reading)
    os.close(said)
    data = f"{text}\n".encode()
    with suppress(BrokenPipeError):  # it may end before it has read all
        while data:
            data = data[os.write(writing, data) :]
    os.close(writing)
    with open(out, encoding="utf-8", errors="replace") as pipe:
        answer = pipe.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        said_lines = [line for line in answer.splitlines() if line.strip() and not line.startswith("Command failed")]
        why = "; ".join(said_lines[:3]) or "it failed without a word"
        raise UnionfsError(f"{program} {' '.join(words)}", why, "unionfs run --explain shows each command")
    return answer
