"""Published ports: from where they are reached, under load, and what is said when one is busy. In lab.py's machine."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.lab import HERE, PORT, WORLD, Lab, lab

pytestmark = pytest.mark.stress

LOAD = """
import socket, sys, threading
from concurrent.futures import ThreadPoolExecutor
where, connections, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
blob = bytes(range(256)) * (size // 256)
def talk(number):
    with socket.create_connection((where, 9000), 60) as one:
        reader = one.makefile("rb")
        reader.readline()
        sender = threading.Thread(target=lambda: (one.sendall(blob), one.shutdown(socket.SHUT_WR)))
        sender.start()
        came = reader.read()          # up to the end, which comes after ours
        sender.join()
        return came == blob
with ThreadPoolExecutor(connections) as pool:
    print(sum(pool.map(talk, range(connections))))
"""
"""So many connections at once, each of so many bytes there and back, with its sending side closed first."""


@pytest.fixture(scope="module")
def harbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """By proxy a container of the default bridge, by nat one of a network of its own."""
    with lab(tmp_path_factory.mktemp("harbour")) as made:
        made.ok("network", "create", "red")
        made.serve("proxied", "-p", f"9000:{PORT}", "-p", f"9000:{PORT}/udp")
        made.serve("natted", "--network", "red", "-p", f"9001:{PORT}", "-p", f"9001:{PORT}/udp",
                   "--publish-mode", "nat")  # fmt: skip
        made.serve("client")
        made.serve("neighbour", "--network", "red")
        yield made


def probe(harbour: Lab, who: str, port: int, where: str) -> list[str | None]:
    return harbour.probe(who, [("tcp", where), ("udp", where)], port)


def test_a_proxied_port_is_reached_from_everywhere(harbour: Lab) -> None:
    """By the machine, the world and containers of every network; the client's address is lost on the way."""
    own = harbour.address("proxied", "bridge")
    assert probe(harbour, "", 9000, "127.0.0.1") == [own, own]
    assert probe(harbour, "", 9000, "::1") == [own, own]
    for who in ("", "world", "client", "neighbour"):
        assert probe(harbour, who, 9000, HERE) == [own, own], who


def test_nat_keeps_the_address_of_the_client(harbour: Lab) -> None:
    red = harbour.address("natted", "red")
    assert probe(harbour, "world", 9001, HERE) == [WORLD, WORLD]
    assert probe(harbour, "", 9001, "127.0.0.1") == [red, red], "by the proxy: 127.0.0.1 is not routed"
    seen = probe(harbour, "", 9001, HERE)
    assert seen == [HERE, HERE]
    assert probe(harbour, "client", 9001, HERE) == [harbour.address("client", "bridge")] * 2
    assert all(probe(harbour, "neighbour", 9001, HERE)), "one of its own network"


def test_nothing_of_the_machine_is_opened_to_containers(harbour: Lab) -> None:
    """A service on the machine's loopback: not reached, whatever address is asked (route_localnet stays off)."""
    hidden = harbour.start_here("python3", "-c", "import socket; s=socket.create_server(('127.0.0.1', 7777)); "
                                "print(1, flush=True); s.accept()")  # fmt: skip
    try:
        assert hidden.stdout is not None and hidden.stdout.readline()
        gateway = harbour.inspect("client")["NetworkSettings"]["Gateway"]
        for where in ("127.0.0.1", gateway, HERE):
            assert probe(harbour, "client", 7777, where)[0] is None
        for name in harbour.here("ls", "/proc/sys/net/ipv4/conf").split():
            assert harbour.here("cat", f"/proc/sys/net/ipv4/conf/{name}/route_localnet").strip() == "0", name
    finally:
        hidden.kill()
        hidden.wait()


def test_two_hundred_connections_at_once(harbour: Lab) -> None:
    """Each with half-close; all bytes, in order."""
    assert harbour.here("python3", "-c", LOAD, "127.0.0.1", "200", str(1 << 17)) == "200\n"


def test_large_streams_both_ways_at_once(harbour: Lab) -> None:
    assert harbour.here("python3", "-c", LOAD, "127.0.0.1", "4", str(32 << 20)) == "4\n"


def test_a_slow_reader_stops_its_sender_and_nobody_else(harbour: Lab) -> None:
    """The pipe and the buffers of the sockets fill up, not the memory of the proxy, and others go on."""
    slow = """
import socket, time
c = socket.create_connection(("127.0.0.1", 9000)); c.settimeout(1)
sent = 0
try:
    while sent < 1 << 28: sent += c.send(bytes(1 << 16))
except TimeoutError: pass
print("held" if sent < 1 << 28 else "all of it", flush=True); time.sleep(1000)
"""
    reader = harbour.start_here("python3", "-c", slow)
    try:
        assert reader.stdout is not None and reader.stdout.readline() == "held\n"
        assert harbour.here("python3", "-c", LOAD, "127.0.0.1", "8", str(1 << 16)) == "8\n"
    finally:
        reader.kill()
        reader.wait()


def test_restarted_under_load(harbour: Lab) -> None:
    """Connections break, no request is answered by halves, and it serves again; no helper or socket is left over."""
    harbour.serve("restless", "-p", f"9005:{PORT}")
    knock = """
import socket, time
end, good = time.time() + 4, 0
while time.time() < end:
    try:
        with socket.create_connection(("127.0.0.1", 9005), 1) as c:
            r = c.makefile("rwb", buffering=0); r.readline(); r.write(b"ping\\n")
            got = r.readline(); assert got in (b"ping\\n", b""), got; good += got == b"ping\\n"
    except OSError: time.sleep(0.02)
print(good)
"""
    clients = [harbour.start_here("python3", "-c", knock) for _ in range(4)]
    for _ in range(2):
        harbour.ok("restart", "-t", "0", "restless")
    outs = [client.communicate(timeout=60)[0] for client in clients]
    assert all(int(out) > 10 for out in outs), outs
    assert probe(harbour, "", 9005, "127.0.0.1")[0] is not None
    harbour.ok("rm", "-f", "restless")
    assert "9005" not in harbour.here("ss", "-lntu")


def test_ranges_random_ports_and_all_that_are_exposed(harbour: Lab) -> None:
    ports = ("-p", "9100-9102:80-82", "-p", "127.0.0.1::90", "-P", "--expose", "53/udp")
    harbour.ok("run", "-d", "--name", "many", *ports, "--rootfs", "/", "sleep", "1000")
    try:
        lines = harbour.ok("port", "many").splitlines()
        assert [line for line in lines if "0.0.0.0:91" in line] == [
            f"8{number}/tcp -> 0.0.0.0:910{number}" for number in range(3)
        ]
        (local,) = [line for line in lines if line.startswith("90/tcp")]
        assert local.startswith("90/tcp -> 127.0.0.1:") and len([line for line in lines if "53/udp" in line]) == 2
        assert harbour.ok("port", "many", "81") == "0.0.0.0:9101\n[::]:9101"
        assert harbour("port", "many", "99").status == 1
        row = harbour.ok("ps", "--filter", "name=many", "--format", "{{.Ports}}")
        assert "0.0.0.0:9101->81/tcp" in row and "[::]:9101->81/tcp" in row
        shown = harbour.inspect("many")["NetworkSettings"]["Ports"]
        assert shown["81/tcp"] == [{"HostIp": "0.0.0.0", "HostPort": "9101"}, {"HostIp": "::", "HostPort": "9101"}]
        first = harbour.ok("run", "-d", "--name", "next", "-p", "9100-9110:80", "--rootfs", "/", "sleep", "1000")
        assert first and harbour.ok("port", "next", "80").splitlines()[0] == "0.0.0.0:9103"
    finally:
        harbour.ok("rm", "-f", "many", "next")


def test_a_busy_port(harbour: Lab) -> None:
    """The start fails and says which; the container stays "created", and starts when the port is free."""
    result = harbour("run", "-d", "--name", "late", "-p", f"9000:{PORT}", "--rootfs", "/", "sleep", "1000")
    assert result.status == 125 and "port 0.0.0.0:9000/tcp: is already allocated" in result.err
    assert harbour.inspect("late")["State"]["Status"] == "created"
    assert "uf-" in harbour.leftovers()["links"]
    harbour.ok("stop", "-t", "0", "proxied")
    harbour.ok("start", "late")
    harbour.ok("rm", "-f", "late")
    harbour.ok("start", "proxied")
    deadline = time.monotonic() + 30
    while probe(harbour, "", 9000, "127.0.0.1")[0] is None:
        assert time.monotonic() < deadline


def test_networks_without_ports_say_so(harbour: Lab) -> None:
    for network in ("none", "host"):
        words = ["run", "--rm", "--network", network, "-p", "9200:80", "--rootfs", "/", "true"]
        result = harbour(*words)
        assert result.status == 0 and f"published ports are discarded: the network is {network}" in result.err


def test_the_commands_of_the_notes(tmp_path: Path) -> None:
    """Word for word, but for the name of the program; a web server of the standard library for IMAGE."""
    with lab(tmp_path / "state") as place:
        place.ok("import", "host", "ubuntu:14.04")
        listed = place.ok("network", "ls")
        assert {"bridge", "host", "none"} <= set(listed.split())
        place.ok("network", "create", "custom")
        assert '"Name": "custom"' in place.ok("network", "inspect", "custom")
        command = "cat /etc/resolv.conf"
        assert "127.0.0.11" in place.ok("run", "--rm", "--network=custom", "ubuntu:14.04", "sh", "-c", command)
        place.ok("run", "-d", "--name", "port-export", "-p", "8080:80", "--rootfs", "/", "python3", "-m", "http.server",
                 "80", "-d", "/etc")  # fmt: skip
        deadline = time.monotonic() + 30
        fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/hostname').read().decode(), end='')"
        while True:
            done = subprocess.run([*place.inside(), "python3", "-c", fetch], capture_output=True, text=True)
            if done.returncode == 0:
                break
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.05)
        assert done.stdout.strip() == place.ok("exec", "port-export", "hostname")


def test_a_rule_of_the_machine_stays(tmp_path: Path) -> None:
    """Its own tables, routes and resolv.conf are as they were, while containers run and after them."""
    with lab(tmp_path / "state") as place:
        place.here("nft", "add table inet mine; add chain inet mine c { type filter hook input priority 0; }")
        place.here("nft", "add rule inet mine c tcp dport 1 drop")
        before = {words: place.here(*words) for words in (
            ("nft", "list", "table", "inet", "mine"), ("ip", "route"), ("cat", "/etc/resolv.conf"),
        )}  # fmt: skip
        routes = before["ip", "route"]
        place.serve("one", "-p", "9000:7000", "--publish-mode", "nat")
        assert place.here("nft", "list", "table", "inet", "mine") == before["nft", "list", "table", "inet", "mine"]
        assert set(routes.splitlines()) < set(place.here("ip", "route").splitlines())
        place.ok("rm", "-f", "one")
        assert {words: place.here(*words) for words in before} == before
        assert place.here("nft", "list", "tables") == "table inet mine\n"


def test_sockets_are_not_the_containers_own(harbour: Lab) -> None:
    """The helper lives on the machine: a container sees neither it nor the machine's sockets."""
    seen = harbour.ok("exec", "proxied", "ps", "-e", "-o", "comm=").split()
    assert "unionfs" not in seen and len(seen) <= 3
    listening = harbour.ok("exec", "proxied", "ss", "-Hlnt").split()
    assert "0.0.0.0:9000" not in listening
