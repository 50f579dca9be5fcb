"""The kernel's networking by the programs that students type: `ip -batch -` (iproute2) and `nft -f -` (nftables).

Called by the container floor. Every command is told before it is carried out. Raises UnionfsError with the program's
own words, and where a program is missing with the package that gives it.
"""

from __future__ import annotations

import os
from _socket import if_nametoindex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from unionfs.errors import UnionfsError
from unionfs.linux import namespaces
from unionfs.linux.namespaces import CLONE_NEWNET

_PACKAGES = {"ip": "iproute2", "nft": "nftables"}
_PATHS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin")
_FORWARD = {4: "/proc/sys/net/ipv4/ip_forward", 6: "/proc/sys/net/ipv6/conf/all/forwarding"}

Tell = Callable[[str], None]
"""Is told each command, as it could be typed."""


def find(program: str) -> str:
    """Where ip or nft is. Raises UnionfsError, naming the package."""
    for folder in _PATHS:
        path = f"{folder}/{program}"
        if os.access(path, os.X_OK):
            return path
    package = _PACKAGES[program]
    hint = f"apt install {package}, or do without a network: --network none"
    raise UnionfsError(f"the program {program}", f"is not there, and networks need it (package {package})", hint)


def ip(lines: Sequence[str], tell: Tell, inside: str = "") -> None:
    """Carry out lines of `ip -batch`, in the network namespace of the path `inside` where one is given: then what is
    told has nsenter(1) before it. Raises UnionfsError for the first that fails."""
    if not lines:
        return
    for line in lines:
        tell(f"nsenter --net={inside} ip {line}" if inside else f"ip {line}")
    if not inside:
        _run("ip", ["-batch", "-"], "\n".join(lines))
        return
    with entered(inside):
        _run("ip", ["-batch", "-"], "\n".join(lines))


def nft(rules: str, tell: Tell) -> None:
    """One transaction of nft(8)."""
    tell(f"nft -f - <<.\n{rules}.")
    _run("nft", ["-f", "-"], rules)


def ask(*words: str) -> str:
    """What a command of ip(8) prints."""
    return _run("ip", list(words), "")


def has_interface(name: str) -> bool:
    """Whether this network namespace has an interface of that name."""
    try:
        if_nametoindex(name)
    except OSError:
        return False
    return True


@contextmanager
def entered(path: str) -> Iterator[None]:
    """This thread is in the network namespace that a path names, and in its own again at the end (setns(2))."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespaces.setns(other, CLONE_NEWNET)
        finally:
            os.close(other)
        yield
    finally:
        namespaces.setns(own, CLONE_NEWNET)
        os.close(own)


def forwards(version: int) -> bool:
    """Whether this machine passes packets on between its interfaces (ip-sysctl)."""
    with open(_FORWARD[version], "rb") as file:
        return file.read().strip() == b"1"


def set_forwarding(version: int, on: bool, tell: Tell) -> None:
    tell(f"sysctl -w {_FORWARD[version].removeprefix('/proc/sys/').replace('/', '.')}={int(on)}")
    try:
        with open(_FORWARD[version], "w", encoding="ascii") as file:
            file.write(str(int(on)))
    except OSError as error:
        raise UnionfsError(_FORWARD[version], error.strerror or "", "networks forward packets: run as root") from error


def _run(program: str, words: list[str], text: str) -> str:
    """What a program prints that gets `text`. By fork and exec of our own: the module subprocess takes longer to load
    than these programs to run."""
    path = find(program)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    out, said = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)]
    pid = os.posix_spawn(path, [program, *words], {"PATH": ":".join(_PATHS), "LC_ALL": "C"}, file_actions=actions)
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
        words = [line for line in answer.splitlines() if line.strip() and not line.startswith("Command failed")]
        why = "; ".join(words[:3]) or "it failed without a word"
        raise UnionfsError(f"{program} {'-batch' if program == 'ip' else '-f'}", why, "unionfs run --explain shows it")
    return answer
