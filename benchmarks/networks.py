"""Networks of containers: what each kind adds to a start, what a published port and the resolver carry, beside podman.

    python benchmarks/networks.py [--rows start,port,names] [--rounds 9] [--json FILE]

    start     `true` in a fresh container, by network: alone on its bridge, and beside another one
    port      one request (connect, 1 byte, close), and 64 MiB, to a server in a container: direct, by proxy, by nat
    names     one query to the resolver of a network of one's own, beside a resolver of the same library asked directly

It needs root, and works in a network namespace of its own: nothing of the machine's network changes. Peers are taken in
turn, round by round. podman, where it is installed, runs the same images.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import measure
from containers import OURS, PODMAN_LIMITS, Stage
from measure import Fault, Report

ROWS = ("start", "port", "names")
HERE = "203.0.113.1"
PORT, PROXIED, NATTED, PODMANS = 7000, 9000, 9001, 9002
BULK = 64 << 20
REQUESTS, QUERIES = 50, 200
PODMAN_NETWORK = [word for word in PODMAN_LIMITS if word not in ("--network", "none")]
_INSIDE = "UNIONFS_BENCHMARK_INSIDE"

SERVER = f"""
import socket, threading
listening = socket.create_server(("", {PORT}), backlog=1000)
blob = memoryview(bytes(1 << 20))
def serve(connection):
    with connection:
        if connection.recv(1) == b"b":
            for _ in range({BULK >> 20}): connection.sendall(blob)
        else:
            connection.sendall(b"x")
while True:
    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()
"""

DIRECT_RESOLVER = """
import socket
from dnslib import A, QTYPE, RR, DNSRecord
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind(("127.0.0.1", 5300))
while True:
    query, client = bound.recvfrom(4096)
    asked = DNSRecord.parse(query)
    reply = asked.reply()
    reply.add_answer(RR(asked.q.qname, QTYPE.A, rdata=A("10.0.0.1")))
    bound.sendto(reply.pack(), client)
"""

ASK = """
import socket, sys, time
from dnslib import DNSRecord
where, port, name, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
query = DNSRecord.question(name).pack()
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(5)
one.connect((where, port))
for turn in range(count + 10):
    if turn == 10: start = time.perf_counter()
    one.send(query)
    assert DNSRecord.parse(one.recv(4096)).rr
print((time.perf_counter() - start) * 1000 / count)
"""


def request(address: str, port: int) -> float:
    """Milliseconds of one request: the mean of some."""
    start = time.perf_counter()
    for _ in range(REQUESTS):
        with socket.create_connection((address, port), 10) as one:
            one.sendall(b"r")
            if one.recv(1) != b"x":
                raise Fault(f"no answer from {address}:{port}")
    return (time.perf_counter() - start) * 1000 / REQUESTS


def bulk(address: str, port: int) -> float:
    """Milliseconds of 64 MiB."""
    room = bytearray(1 << 20)
    start, came = time.perf_counter(), 0
    with socket.create_connection((address, port), 10) as one:
        one.sendall(b"b")
        while count := one.recv_into(room):
            came += count
    if came != BULK:
        raise Fault(f"{came} of {BULK} bytes came from {address}:{port}")
    return (time.perf_counter() - start) * 1000


def compare(what: str, deeds: dict[str, Callable[[], float]], rounds: int, base: str, report: Report) -> None:
    """In turn; the first round is for nothing. A deed returns its milliseconds."""
    samples: dict[str, list[float]] = {name: [] for name in deeds}
    for turn in range(rounds + 1):
        for name in measure.rotated(list(deeds), turn):
            if name in samples:
                try:
                    found = deeds[name]()
                except (Fault, OSError) as fault:
                    report.leave_out(f"{what}, {name}", str(fault))
                    del samples[name]
                    continue
                if turn:
                    samples[name].append(found)
    shown = {name: report.add({"what": what, "peer": name}, values) for name, values in samples.items()}
    rows = [[name, found, measure.number(found.median / shown[base].median) if base in shown else ""]
            for name, found in shown.items()]  # fmt: skip
    measure.show(f"{what}: median (quarters)", ["", "ms", f"of {base}"], rows)


# --- start


def starts(stage: Stage) -> dict[str, Callable[[], float]]:
    ours, theirs = [*OURS, "run", "--rm"], [*stage.podman, "run", "--rm", *PODMAN_NETWORK]

    def of(words: list[str]) -> Callable[[], float]:
        return lambda: measure.milliseconds(lambda: stage.run(words))

    kinds: dict[str, Callable[[], float]] = {}
    for name in ("none", "host", "bridge", "custom"):
        kinds[f"unionfs {name}"] = of([*ours, "--network", name, "host", "true"])
    for name in ("bridge", "custom"):
        kinds[f"unionfs {name}, beside another"] = _beside(stage, name, kinds[f"unionfs {name}"])
    kinds["unionfs bridge, -p"] = of([*ours, "--network", "bridge", "-p", "9009:80", "host", "true"])
    if shutil.which("podman"):
        for name in ("none", "podman"):
            kinds[f"podman {name.replace('podman', 'bridge')}"] = of([*theirs, "--network", name, "host", "true"])
    return kinds


def _beside(stage: Stage, network: str, deed: Callable[[], float]) -> Callable[[], float]:
    def act() -> float:
        stage.run([*OURS, "run", "-d", "--name", "other", "--network", network, "host", "sleep", "1000"])
        try:
            return deed()
        finally:
            stage.run([*OURS, "rm", "-f", "other"])

    return act


# --- port, names


@contextmanager
def servers(stage: Stage) -> Iterator[str]:
    """The server, published in each way; the address of one of them."""
    ours = [*OURS, "run", "-d", "--rootfs", "--network", "custom"]
    python = ["/", shutil.which("python3", path="/usr/bin:/bin") or "python3", "-c", SERVER]
    stage.run([*ours, "--name", "proxied", "-p", f"{PROXIED}:{PORT}", *python])
    stage.run([*ours, "--name", "natted", "-p", f"{NATTED}:{PORT}", "--publish-mode", "nat", *python])
    try:
        field = "{{.NetworkSettings.Networks.custom.IPAddress}}"
        words = [*OURS, "inspect", "--format", field, "proxied"]
        address = subprocess.run(words, env=stage.environment, capture_output=True, text=True).stdout.strip()
        for port in (PROXIED, NATTED):
            _until(partial(request, "127.0.0.1", port))
        yield address
    finally:
        stage.run([*OURS, "rm", "-f", "proxied", "natted"])


@contextmanager
def podmans_server(stage: Stage, report: Report) -> Iterator[bool]:
    """The same in podman; whether it came up."""
    words = [*stage.podman, "run", "-d", "--name", "published", *PODMAN_NETWORK, "-p", f"{PODMANS}:{PORT}"]
    try:
        if not shutil.which("podman"):
            raise Fault("it is not installed")
        stage.run([*words, "--rootfs", "/:O", "/usr/bin/python3", "-c", SERVER])
        _until(lambda: request(HERE, PODMANS))
        yield True
    except Fault as fault:
        report.leave_out("port, podman", str(fault))
        yield False
    finally:
        subprocess.run([*stage.podman, "rm", "-f", "-t", "0", "published"], capture_output=True)


def _until(deed: Callable[[], object]) -> None:
    for _ in range(100):
        with suppress(OSError, Fault):
            deed()
            return
        time.sleep(0.05)
    raise Fault("the server did not come up")


def ports(stage: Stage, rounds: int, report: Report) -> None:
    with servers(stage) as address, podmans_server(stage, report) as has_podman:
        ways = {
            "direct": (address, PORT), "proxy": ("127.0.0.1", PROXIED), "nat": (HERE, NATTED),
            **({"podman -p": (HERE, PODMANS)} if has_podman else {}),
        }  # fmt: skip
        for what, measured in (("request", request), ("64 MiB", bulk)):
            deeds: dict[str, Callable[[], float]] = {name: partial(measured, *way) for name, way in ways.items()}
            compare(what, deeds, rounds, "direct", report)


def names(stage: Stage, rounds: int, report: Report) -> None:
    direct = subprocess.Popen([sys.executable, "-c", DIRECT_RESOLVER])
    stage.run([*OURS, "run", "-d", "--name", "asks", "--network", "custom", "host", "sleep", "1000"])
    try:
        words = [*OURS, "inspect", "--format", "{{.State.Pid}}", "asks"]
        pid = subprocess.run(words, env=stage.environment, capture_output=True, text=True).stdout.strip()
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]

        def asked(prefix: list[str], *where: str) -> float:
            done = subprocess.run([*prefix, sys.executable, "-c", ASK, *where, str(QUERIES)], capture_output=True)
            if done.returncode:
                raise Fault(done.stderr.decode().strip().splitlines()[-1])
            return float(done.stdout)

        _until(lambda: asked([], "127.0.0.1", "5300", "x"))
        deeds = {
            "the library alone": lambda: asked([], "127.0.0.1", "5300", "asks"),
            "unionfs, a container's name": lambda: asked(inside, "127.0.0.11", "53", "asks"),
        }
        compare("query", deeds, rounds, "the library alone", report)
    finally:
        stage.run([*OURS, "rm", "-f", "asks"])
        direct.kill()
        direct.wait()


def main() -> None:
    parser = measure.options(__doc__ or "", 9, None)
    measure.add_rows(parser, ROWS)
    arguments = parser.parse_args()
    rows = measure.chosen_rows(arguments.rows, ROWS)
    if os.geteuid():
        raise Fault("it needs root: networks do")
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])
    for words in ("link set lo up", f"address add {HERE}/32 dev lo"):
        subprocess.run(["ip", *words.split()], check=True)
    report = Report(arguments, {})
    report.show_machine()
    with tempfile.TemporaryDirectory(prefix="ufb", dir=arguments.dir) as place:
        stage = Stage(os.path.abspath(place))
        stage.run([*OURS, "network", "create", "custom"])
        stage.load_podman()
        try:
            if "start" in rows:
                compare("start", starts(stage), arguments.rounds, "unionfs none", report)
            if "port" in rows:
                ports(stage, arguments.rounds, report)
            if "names" in rows:
                names(stage, arguments.rounds, report)
        finally:
            stage.clear_podman()
            report.write(arguments.json)


if __name__ == "__main__":
    measure.run(main)
