"""A machine for networks: a network namespace of its own, with a second one behind it that is the world outside.

    world 203.0.113.2 ---- 203.0.113.1 lab (where the launcher runs, with its bridges) ---- containers

Nothing of it touches the network of the machine that the tests run on. Containers have this machine's root as theirs
(--rootfs /), copy-on-write, so that they have Python, and run a server that echoes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cli.running import ROOT, Result, run
from tests.container.launcher import SECONDS, Launcher

HERE, WORLD = "203.0.113.1", "203.0.113.2"
PORT = 7000
UNIONFS = [sys.executable, "-P", "-m", "unionfs"]

SERVER = """
import socket, threading
stream = socket.create_server(("", 7000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1000)
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
datagrams.bind(("::", 7000))
def echo_datagrams():
    while True:
        data, client = datagrams.recvfrom(65536)
        datagrams.sendto(client[0].removeprefix("::ffff:").encode() + b" " + data, client)
def echo(connection, client):
    with connection:
        connection.sendall(client[0].removeprefix("::ffff:").encode() + b"\\n")
        while data := connection.recv(65536):
            connection.sendall(data)
threading.Thread(target=echo_datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    threading.Thread(target=echo, args=stream.accept(), daemon=True).start()
"""
"""Tells each client its address, as the server sees it, and then echoes."""

PROBE = """
import json, socket, sys
def tcp(where):
    with socket.create_connection((where, 7000), 0.7) as connection:
        return connection.makefile().readline().strip()
def udp(where):
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.settimeout(0.7)
        one.sendto(b"x", (where, 7000))
        return one.recv(100).split()[0].decode()
def named(where):
    return sorted({entry[4][0] for entry in socket.getaddrinfo(where, None)})
from concurrent.futures import ThreadPoolExecutor
def ask(job):
    try:
        return {"tcp": tcp, "udp": udp, "name": named}[job[0]](job[1])
    except OSError as error:
        return None
with ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(ask, json.load(sys.stdin)))))
"""


class Lab(Launcher):
    """The launcher in that namespace."""

    def __init__(self, root: Path, pid: int, world: int) -> None:
        super().__init__(root)
        self.pid, self.world = pid, world
        del self.environment["UNIONFS_NETWORK"]

    def inside(self, world: bool = False) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.world if world else self.pid}/ns/net", "--"]

    def __call__(self, *words: str | Path, cwd: Path | None = None) -> Result:
        return run([*self.inside(), *UNIONFS, *words], cwd, self.environment)

    def here(self, *words: str, world: bool = False, data: str = "") -> str:
        """What a program prints that runs there, or in the world."""
        done = subprocess.run(
            [*self.inside(world), *words], input=data, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def start_here(self, *words: str, world: bool = False) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*self.inside(world), *words], stdin=pipe, stdout=pipe, text=True)

    def serve(self, name: str, *options: str) -> None:
        """A container with the server, started. It asks the world for names that it does not know: where nobody
        listens, which is told at once."""
        self.ok("run", "-d", "--name", name, "--dns", WORLD, *options, "--rootfs", "/", "python3", "-c", SERVER)
        deadline = time.monotonic() + SECONDS
        while "ready" not in self.ok("logs", name):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def probe(self, name: str, jobs: list[tuple[str, str]], port: int = PORT) -> list[Any]:
        """What a container (or "", the machine, or "world") gets of each: ("tcp" or "udp", address): its own address
        as the other side sees it, None where nothing comes; ("name", word): the addresses."""
        text, script = json.dumps(jobs), PROBE.replace(str(PORT), str(port))
        if name in ("", "world"):
            answer = self.here("python3", "-c", script, world=name == "world", data=text)
        else:
            words = [*self.inside(), *UNIONFS, "exec", "-i", name, "python3", "-c", script]
            done = subprocess.run(
                words, input=text, env=self.environment, capture_output=True, text=True, timeout=SECONDS
            )
            assert done.returncode == 0, done.stderr
            answer = done.stdout
        found: list[Any] = json.loads(answer)
        return found

    def address(self, name: str, network: str) -> str:
        found: str = self.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"]
        return found

    def helper(self, name: str) -> int:
        """The process that serves a container's ports and names: of its monitor's children the one with an epoll(7)."""
        first = self.inspect(name)["State"]["Pid"]
        lines = Path(f"/proc/{first}/status").read_text().splitlines()
        monitor = next(line.split()[1] for line in lines if line.startswith("PPid"))
        children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
        (found,) = [int(pid) for pid in children if int(pid) != first and _has_epoll(pid)]
        return found

    def clear(self) -> None:
        ids = self.ok("ps", "-aq").split()
        if ids:
            self.ok("rm", "-f", *ids)
        self.ok("network", "prune", "-f")

    def leftovers(self) -> dict[str, str]:
        """What of ours the namespace has: nothing, in a moment, once no container runs."""
        deadline = time.monotonic() + 5
        while any((found := self._leftovers()).values()) and time.monotonic() < deadline and not self.ok("ps", "-q"):
            time.sleep(0.05)
        return found

    def _leftovers(self) -> dict[str, str]:
        links = self.here("ip", "-br", "link").split()
        return {
            "links": " ".join(word for word in links if word.startswith(("uf-", "ve-"))),
            "rules": self.here("nft", "list", "ruleset"),
            "forwarding": self.here("cat", "/proc/sys/net/ipv4/ip_forward").strip().replace("0", ""),
        }


def _has_epoll(pid: str) -> bool:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if "eventpoll" in os.readlink(f"/proc/{pid}/fd/{fd}"):
                return True
    return False


@contextlib.contextmanager
def lab(root: Path) -> Iterator[Lab]:
    """Both namespaces, as long as the block lasts."""
    hold = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep infinity"]
    holders = [subprocess.Popen(hold, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for holder in holders:
            assert holder.stdout is not None and holder.stdout.readline()
        made = Lab(root, holders[0].pid, holders[1].pid)
        made.here("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", str(made.world))
        for world, address in ((False, HERE), (True, WORLD)):
            made.here("ip", "address", "add", f"{address}/24", "dev", "up0", world=world)
            made.here("ip", "link", "set", "up0", "up", world=world)
        for world in (False, True):  # each refusal is told, not one a second (icmp(7))
            made.here("sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit", world=world)
        os.makedirs(root, exist_ok=True)
        try:
            yield made
        finally:
            made.clear()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


__all__ = ["HERE", "PORT", "PROBE", "ROOT", "SERVER", "WORLD", "Lab", "lab"]
