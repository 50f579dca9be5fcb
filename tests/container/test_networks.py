"""Networks: who reaches whom, by what name, through which port; and that nothing of it stays. On a machine of its own,
see lab.py; pyroute2 is the independent eye that looks at what was built."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import NetNS

from tests.container.lab import HERE, PORT, PROBE, SERVER, UNIONFS, WORLD, Lab, lab
from tests.image.podman import Podman

NETWORKS = {
    "ann": ["bridge"],
    "bob": ["bridge"],
    "cid": ["red"],
    "dee": ["red", "blue"],
    "eve": ["blue"],
    "fay": ["inner"],
    "gus": ["inner"],
    "hal": ["none"],
}
"""Containers, and the networks that each is on."""
CLEAN = {"links": "", "rules": "", "forwarding": ""}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The containers of NETWORKS, each with the server, and one in the world outside."""
    with lab(tmp_path_factory.mktemp("town")) as made:
        made.ok("network", "create", "red")
        made.ok("network", "create", "blue", "--ipv6", "--subnet", "10.77.0.0/24", "--ip-range", "10.77.0.128/25")
        made.ok("network", "create", "inner", "--internal")
        for name, networks in NETWORKS.items():
            made.serve(name, "--network", networks[0], *(["--network-alias", "DB"] if name == "eve" else []))
            for network in networks[1:]:
                made.ok("network", "connect", network, name, "--alias", "second")
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path / "state") as made:
        yield made
        made.clear()
        assert made.leftovers() == CLEAN


def addresses(town: Lab) -> dict[tuple[str, str], str]:
    return {(name, network): town.address(name, network)
            for name, networks in NETWORKS.items() for network in networks if network != "none"}  # fmt: skip


def test_who_reaches_whom(town: Lab) -> None:
    """By TCP and UDP: those that share a network, at their addresses on it, with their own addresses to be seen."""
    found = addresses(town)
    for name, networks in NETWORKS.items():
        others = [(other, network) for other, network in found if other != name]
        jobs = [(way, found[other]) for other in others for way in ("tcp", "udp")]
        expected = [
            found[name, network] if network in networks else None for _, network in others for _ in ("tcp", "udp")
        ]
        assert town.probe(name, jobs) == expected, name


@pytest.mark.stress
def test_the_same_under_podman(town: Lab, short_path: Path) -> None:
    """On the same machine's namespace, one after the other. Two differences, each with its reason:

    - podman lets containers of different bridges reach each other (no rule between bridges); docker does not, nor we;
    - an internal network of podman's is reached from others by the same fault.
    """
    podman = Podman(short_path)
    podman.words = [*town.inside(), *podman.words, "--network-config-dir", str(short_path / "networks")]
    limits = ("--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000")
    try:
        for network, options in (("red", ()), ("blue", ()), ("inner", ("--internal",))):
            podman.ok("network", "create", *options, network)
        own = {name: ["podman" if net == "bridge" else net for net in nets] for name, nets in NETWORKS.items()}
        for name, networks in own.items():
            words = ("--network", networks[0], *limits, "--rootfs", "/:O", "/usr/bin/python3", "-c", SERVER)
            podman.ok("run", "-d", "--name", name, *words)
            for network in networks[1:]:
                podman.ok("network", "connect", network, name)
        where = {}
        for name, networks in own.items():
            shown = json.loads(podman.ok("inspect", name))[0]["NetworkSettings"].get("Networks", {})
            where.update({(name, net): shown[net]["IPAddress"] for net in networks if net != "none"})
        for name, networks in own.items():
            others = [(other, net) for other, net in where if other != name]
            jobs = json.dumps([("tcp", where[other]) for other in others])
            words = [*podman.words, "exec", "-i", name, "/usr/bin/python3", "-c", PROBE]
            done = subprocess.run(words, input=jobs, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            for (other, net), answer in zip(others, json.loads(done.stdout), strict=True):
                if net in networks:
                    assert answer == where[name, net], (name, other, net)
                elif networks == ["none"]:
                    assert answer is None, (name, other, net)
    finally:
        podman("rm", "-f", "-t", "0", *NETWORKS)
        podman("network", "rm", "red", "blue", "inner")


def test_who_knows_whose_name(town: Lab) -> None:
    """On networks of one's own: name, alias, the beginning of the id, and each with the network's name behind it."""
    found = addresses(town)
    for name, networks in NETWORKS.items():
        jobs = [("name", other) for other in NETWORKS if other != name]
        shared = [
            sorted(found[other, net] for net in networks if net in NETWORKS[other] and net not in ("bridge", "none"))
            for other in NETWORKS if other != name
        ]  # fmt: skip
        answers = [sorted(word for word in answer or () if ":" not in word) for answer in town.probe(name, jobs)]
        assert answers == shared, name
    short = town.inspect("eve")["Id"][:12]
    words = ["db", "DB", "eve.blue", short, "second", "nobody"]
    answers = [answer and answer[0] for answer in town.probe("dee", [("name", word) for word in words])]
    own = found["dee", "blue"]
    assert answers == [found["eve", "blue"]] * 4 + [own, None]


def test_addresses_of_both_versions(town: Lab) -> None:
    """As another program sees them: in the range that was asked for, the gateway on the bridge."""
    first = town.inspect("eve")["NetworkSettings"]["Networks"]["blue"]
    assert first["IPAddress"] == "10.77.0.129" and first["Gateway"] == "10.77.0.1"
    pid = town.inspect("eve")["State"]["Pid"]
    with NetNS(f"/proc/{pid}/ns/net") as eye:
        seen = {dict(entry["attrs"])["IFA_ADDRESS"] for entry in eye.get_addr(label="eth0")}
        seen |= {dict(entry["attrs"])["IFA_ADDRESS"] for entry in eye.get_addr(family=10)}
        assert {first["IPAddress"], first["GlobalIPv6Address"]} <= seen
        routes = [dict(route["attrs"]) for route in eye.get_default_routes(family=2)]
        assert [route["RTA_GATEWAY"] for route in routes] == ["10.77.0.1"]
    assert town.probe("dee", [("tcp", first["GlobalIPv6Address"])])[0].startswith("fd")
    bridge: str = json.loads(town.ok("network", "inspect", "blue"))[0]["Options"]["bridge.name"]
    with NetNS(f"/proc/{town.pid}/ns/net") as eye:
        links = {dict(link["attrs"])["IFLA_IFNAME"]: link for link in eye.get_links()}
        master = links[bridge]["index"]
        ports = [link for link in links.values() if dict(link["attrs"]).get("IFLA_MASTER") == master]
        assert len(ports) == 2


def test_the_world_outside(town: Lab) -> None:
    """Reached with the machine's address, but from an internal network; and it reaches no container by itself."""
    server = town.start_here("python3", "-c", SERVER, world=True)
    try:
        assert server.stdout is not None and server.stdout.readline()
        for name, networks in NETWORKS.items():
            goes_out = networks[0] in ("bridge", "red", "blue")
            wanted = [HERE if goes_out else None] * 2
            assert town.probe(name, [("tcp", WORLD), ("udp", WORLD)]) == wanted, name
        found = list(addresses(town).values())
        town.here("ip", "route", "replace", "default", "via", HERE, world=True)
        assert town.probe("world", [("tcp", address) for address in found]) == [None] * len(found)
        reached = town.probe("", [("tcp", address) for address in found])
        assert all(reached), "the machine itself reaches its containers"
    finally:
        server.kill()
        server.wait()


def test_a_machine_that_forwarded_nothing_forwards_for_nobody_else(town: Lab) -> None:
    """Forwarding is on now, for the bridges: a packet from the world to a third network goes nowhere."""
    rules = town.here("nft", "list", "ruleset")
    assert "oifname" in rules and town.here("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
    third = subprocess.Popen(
        [*town.inside(), "unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 1000"],
        stdout=subprocess.PIPE,
    )
    try:
        assert third.stdout is not None and third.stdout.readline()
        town.here("ip", "link", "add", "th0", "type", "veth", "peer", "name", "th0", "netns", str(third.pid))
        town.here("ip", "address", "add", "198.51.100.1/24", "dev", "th0")
        town.here("ip", "link", "set", "th0", "up")
        inside = ["nsenter", f"--net=/proc/{third.pid}/ns/net", "--"]
        for words in ("address add 198.51.100.2/24 dev th0", "link set th0 up", "route add default via 198.51.100.1"):
            subprocess.run([*inside, "ip", *words.split()], check=True)
        ping = ["ping", "-c1", "-W1"]
        assert subprocess.run([*inside, *ping, "198.51.100.1"], capture_output=True).returncode == 0
        assert subprocess.run([*inside, *ping, WORLD], capture_output=True).returncode == 1
    finally:
        third.kill()
        third.wait()


def test_a_network_that_is_shared(town: Lab) -> None:
    town.ok("run", "-d", "--name", "guest", "--network", "container:eve", "--rootfs", "/", "sleep", "1000")
    try:
        assert town.probe("guest", [("tcp", "127.0.0.1"), ("name", "dee")])[0] == "127.0.0.1"
        assert town.probe("guest", [("name", "dee")]) == town.probe("eve", [("name", "dee")])
        assert town.ok("exec", "guest", "hostname") == town.ok("exec", "eve", "hostname")
    finally:
        town.ok("rm", "-f", "guest")


def test_ping_as_in_the_notes(town: Lab) -> None:
    assert "1 received" in town.ok("exec", "cid", "ping", "-c1", "dee")
    refused = town("exec", "cid", "ping", "-c1", "-W1", addresses(town)["eve", "blue"])
    assert refused.status == 1 and "0 received" in refused.out


# --- coming and going


def test_connected_and_disconnected_while_it_runs(place: Lab) -> None:
    place.ok("network", "create", "red")
    place.serve("one", "--network", "red")
    place.serve("two")
    assert place.probe("two", [("name", "one")]) == [None]
    place.ok("network", "connect", "red", "two")
    address = place.address("one", "red")
    assert place.probe("two", [("name", "one"), ("tcp", "one")]) == [[address], place.address("two", "red")]
    assert place("network", "connect", "red", "two").status == 1
    busy = place("network", "rm", "red")
    assert busy.status == 1 and "has endpoints: one, two" in busy.err
    place.ok("network", "disconnect", "red", "two")
    assert place.probe("two", [("name", "one"), ("tcp", address)]) == [None, None]
    place.ok("network", "disconnect", "red", "one")
    assert place.ok("exec", "one", "ls", "/sys/class/net") == "lo"
    place.ok("network", "rm", "red")


@pytest.mark.stress
def test_a_connection_goes_on_while_networks_come_and_go(place: Lab) -> None:
    place.ok("network", "create", "red")
    place.ok("network", "create", "blue")
    place.serve("one", "--network", "red", "-p", f"9000:{PORT}")
    talk = (
        "import socket, sys, time\n"
        "c = socket.create_connection(('127.0.0.1', 9000)).makefile('rwb', buffering=0); c.readline()\n"
        "for n in range(60): c.write(b'x%d\\n' % n); assert c.readline() == b'x%d\\n' % n; time.sleep(0.03)\n"
        "print('all')"
    )
    client = place.start_here("python3", "-c", talk)
    for _ in range(4):
        place.ok("network", "connect", "blue", "one")
        place.ok("network", "disconnect", "blue", "one")
    assert client.communicate(timeout=60)[0] == "all\n"


def test_stopped_and_started_again(place: Lab) -> None:
    """It keeps its networks, its own address and its ports; others' addresses are free meanwhile."""
    place.ok("network", "create", "red", "--subnet", "10.5.0.0/24")
    place.serve("one", "--network", "red", "--ip", "10.5.0.9", "-p", f"9000:{PORT}")
    assert place.ok("port", "one") == f"{PORT}/tcp -> 0.0.0.0:9000\n{PORT}/tcp -> [::]:9000"
    place.ok("kill", "one")
    assert place.leftovers() == CLEAN
    assert place.ok("port", "one") == ""
    place.ok("start", "one")
    assert place.address("one", "red") == "10.5.0.9"
    deadline = time.monotonic() + 30
    while place.probe("", [("tcp", "10.5.0.9")]) == [None]:
        assert time.monotonic() < deadline
    used = place("run", "--rm", "--network", "red", "--ip", "10.5.0.9", "--rootfs", "/", "true")
    assert used.status == 125 and "address 10.5.0.9: is in use" in used.err


def test_killed_with_its_monitor(place: Lab) -> None:
    """What stays is a bridge of nobody: gone with the next start, or by doctor --clean."""
    for number, way in enumerate(("doctor", "start")):
        place.ok("run", "-d", "--name", f"box{number}", "-p", "9000:80", "--rootfs", "/", "sleep", "1000")
        with sqlite3.connect(place.root / "state.db") as database:
            query = "SELECT owner FROM containers WHERE name=?"
            (owner,) = database.execute(query, (f"box{number}",)).fetchone()
        os.kill(owner, signal.SIGKILL)
        while place.ok("ps", "-q"):
            time.sleep(0.02)
        if way == "doctor":
            assert "removed bridge uf-" in place.ok("doctor", "--clean")
            assert place.leftovers() == CLEAN
        else:
            place.ok("run", "--rm", "-p", "9000:80", "--rootfs", "/", "true")
            assert place.leftovers() == CLEAN


@pytest.mark.stress
def test_a_helper_that_is_killed_is_replaced(place: Lab) -> None:
    """Ports and names are served again, by the same sockets; the container never stopped."""
    place.ok("network", "create", "red")
    place.serve("one", "--network", "red", "-p", f"127.0.0.1:9000:{PORT}")
    first = place.inspect("one")["State"]
    for _ in range(2):
        helper = place.helper("one")
        os.kill(helper, signal.SIGKILL)
        answered = "import socket; c = socket.create_connection(('127.0.0.1', 9000), 10); print(c.recv(100).decode())"
        assert place.address("one", "red") in place.here("python3", "-c", answered)
        assert place.probe("one", [("name", "one")]) == [[place.address("one", "red")]]
    assert place.inspect("one")["State"] == first


@pytest.mark.stress
@pytest.mark.parametrize("chances", range(1))
def test_killed_at_any_moment(place: Lab, chances: int) -> None:
    """run, killed at a random moment with all that it had begun: names, ports and addresses are free again, and
    doctor --clean leaves nothing of it, whatever part was there."""
    chance = random.Random(chances)
    place.ok("network", "create", "red")
    words = ["run", "--rm", "--name", "box", "--network", "red", "--ip", "172.17.0.9", "-p", "9000:80", "--rootfs", "/"]
    words += ["sleep", "0.05"]
    for _ in range(10):
        process = subprocess.Popen([*place.inside(), *UNIONFS, *words], env=place.environment, start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        time.sleep(chance.uniform(0.05, 0.4))
        for pid in _descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while (result := place(*words)).status != 0:
            place.ok("doctor", "--clean")
            assert time.monotonic() < deadline, result
    place.ok("doctor", "--clean")
    assert place.names() == []
    assert place.leftovers() == CLEAN


def _descendants(pid: int) -> list[int]:
    """Of a process, itself the last."""
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += _descendants(int(child))
    return [*found, pid]


def test_files_of_the_resolver_and_of_hosts(place: Lab) -> None:
    words = ["--dns", "192.0.2.53", "--dns-search", "example", "--dns-option", "ndots:3"]
    text = place.ok("run", "--rm", *words, "--rootfs", "/", "cat", "/etc/resolv.conf")
    assert text == "nameserver 192.0.2.53\nsearch example\noptions ndots:3"
    hosts = ["--add-host", "db:10.0.0.7", "--add-host", "here:host-gateway", "-h", "box"]
    lines = place.ok("run", "--rm", *hosts, "--rootfs", "/", "cat", "/etc/hosts").splitlines()
    assert lines[2:] == ["172.17.0.2\tbox", "10.0.0.7\tdb", "172.17.0.1\there"]
    place.ok("network", "create", "red")
    text = place.ok("run", "--rm", "--network", "red", "--dns-search", "example", "--rootfs", "/", "cat",
                    "/etc/resolv.conf")  # fmt: skip
    assert text == "nameserver 127.0.0.11\nsearch example\noptions ndots:0"


def test_what_is_explained_can_be_typed(place: Lab) -> None:
    """The commands of ip and nft for the machine's side, typed once more on a machine that is as it was before."""
    place.ok("network", "create", "red")
    said = place("run", "--rm", "--explain", "--network", "red", "--rootfs", "/", "true").err
    assert place.leftovers() == CLEAN
    start = said.index("nft -f - <<.")
    typed = re.sub(r" +\[\w+\(8\)\]$", "", said[start : said.index("  ip link add name ve-")], flags=re.MULTILINE)
    place.here("sh", "-ec", typed)
    assert "uf-" in place._leftovers()["links"] and "masquerade" in place._leftovers()["rules"]
    place.ok("run", "--rm", "--network", "red", "--rootfs", "/", "true")
    place.here("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")


@pytest.mark.stress
def test_many_at_once(place: Lab) -> None:
    """Each its own address; none left, and nothing else, at the end."""
    words = ["run", "-i", "--rm", "--rootfs", "/", "sh", "-c", "hostname -I; read _"]
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([*place.inside(), *UNIONFS, *words], env=place.environment, stdin=pipe, stdout=pipe,
                         stderr=pipe) for _ in range(16)
    ]  # fmt: skip
    found = [process.stdout.readline().split() for process in running if process.stdout]
    said = [process.communicate(timeout=120) for process in running]
    assert len({words[0] for words in found if words}) == 16, [error for _, error in said if error]
    assert place.leftovers() == CLEAN


# --- what is said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--network", "bridg", "--rootfs", "/", "true"), 'network bridg: not found\n  did you mean "bridge"?'),
        (("network", "create", "bridge"), "there is one of that name already"),
        (("network", "create", "x"), "is not allowed"),
        (("network", "create", "--subnet", "203.0.113.0/25", "new"), "overlaps with 203.0.113.0/24 (a route of"),
        (("network", "create", "--subnet", "10.0.0.1/24", "new"), "did you mean 10.0.0.0/24?"),
        (("network", "create", "--gateway", "10.0.0.1", "new"), "belongs to a subnet"),
        (("network", "create", "-d", "overlay", "new"), "the one driver is bridge"),
        (("network", "rm", "host"), "is predefined"),
        (("network", "rm", "hots"), "did you mean \"host\"?"),
        (("network", "crate", "x"), "did you mean"),
        (("run", "--ip", "172.17.0.9", "--rootfs", "/", "true"), "has no addresses of one's choice"),
        (("run", "--network-alias", "db", "--rootfs", "/", "true"), "network bridge: has no names"),
        (("run", "-p", "80:x", "--rootfs", "/", "true"), "x is no port from 1 to 65535"),
        (("run", "-p", "1-3:1-2", "--rootfs", "/", "true"), "different lengths"),
        (("run", "-p", "1.2.3:1:2", "--rootfs", "/", "true"), "1.2.3 is no address"),
        (("run", "-p", "80/sctp", "--rootfs", "/", "true"), "those known are tcp and udp"),
        (("run", "--publish-mode", "nta", "--rootfs", "/", "true"), "did you mean \"nat\"?"),
        (("run", "--add-host", "db", "--rootfs", "/", "true"), "is not NAME:ADDRESS"),
        (("run", "--dns", "x", "--rootfs", "/", "true"), "--dns x: is no address"),
        (("run", "--network", "container:nobody", "--rootfs", "/", "true"), "no such container: nobody"),
        (("network", "connect", "bridge", "nobody"), "no such container: nobody"),
        (("network", "inspect", "nothing"), "network nothing: not found"),
    ],
)
def test_what_is_refused(town: Lab, words: tuple[str, ...], said: str) -> None:
    result = town(*words)
    assert result.status != 0 and said in result.err, result
    assert "new" not in town.ok("network", "ls", "--format", "{{.Name}}").split()


def test_programs_that_are_missing(town: Lab, tmp_path: Path) -> None:
    """A machine without nft: the package is named, and the container stays as it was created."""
    hide = "for d in /usr/sbin /sbin; do [ ! -e $d/nft ] || mount --bind /dev/null $d/nft; done; "
    hide += 'exec nsenter --net=/proc/"$0"/ns/net "$@"'
    words = ["unshare", "--mount", "sh", "-c", hide, str(town.pid), *UNIONFS]
    environment = {**town.environment, "UNIONFS_ROOT": str(tmp_path)}
    done = subprocess.run(
        [*words, "run", "--name", "box", "--rootfs", "/", "true"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 125
    assert "the program nft" in done.stderr and "apt install nftables" in done.stderr
    done = subprocess.run([*words, "rm", "box"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "box\n")


def test_ls_and_inspect(town: Lab) -> None:
    lines = town.ok("network", "ls").splitlines()
    assert lines[0].split() == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    assert [line.split()[1:] for line in lines[1:]] == [
        ["blue", "bridge", "local"], ["bridge", "bridge", "local"], ["host", "host", "local"],
        ["inner", "bridge", "local"], ["none", "null", "local"], ["red", "bridge", "local"],
    ]  # fmt: skip
    assert town.ok("network", "ls", "-q", "--filter", "name=red") == lines[-1].split()[0]
    shown: Any = town.ok("network", "inspect", "--format", "{{.Name}} {{.Internal}}", "inner", "red")
    assert shown == "inner true\nred false"
    assert town.ok("inspect", "--format", "{{.Driver}}", "red") == "bridge"
    assert town.ok("ps", "--filter", "network=blue", "--format", "{{.Names}} {{.Networks}}") == "eve blue\ndee red,blue"


def test_the_picture(town: Lab) -> None:
    lines = town.ok("network", "graph").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("red "))
    assert lines[at + 1].startswith("├─ cid  172.") and lines[at + 2].startswith("└─ dee  172.")
    assert "hal  (network none)" in lines
    picture = xml.fromstring(town.ok("network", "graph", "--svg"))
    words = {element.text for element in picture.iter() if element.tag.endswith("text")}
    assert {"ann", "eve", "blue", "inner"} <= words
