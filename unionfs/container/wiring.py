"""Wiring: a container's network namespace, and what leads to it; made at its start, undone at its end.

Called by the monitor, and by `network connect` and `disconnect` while a container runs. What is in the state decides,
and the kernel follows: `_follow` makes the bridges that somebody is on, takes away those that nobody is on any more,
and puts the rules in place, so that a bridge that a killed monitor left goes at the next start or end, or by
`doctor --clean`. All of it happens within the state's write transaction: one at a time.

A network namespace is made here, not in the container's first process, so that it is complete when that begins.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.container import etcfiles, lab
from unionfs.container.explain import Explainer
from unionfs.container.machine import Notes
from unionfs.container.networks import Endpoint, Network, Networks
from unionfs.container.spec import BRIDGE, CONTAINER, HOST, NAT, NONE, Spec
from unionfs.container.state import Containers, Record, open_process
from unionfs.errors import UnionfsError
from unionfs.image.database import ROOT, Database
from unionfs.linux import namespaces, terminal
from unionfs.linux.namespaces import CLONE_NEWNET
from unionfs.network import address, kernel, links, ports, rules
from unionfs.network.ports import Listening, Port
from unionfs.network.rules import Published


class Wired(NamedTuple):
    """What the wiring of a container made: a descriptor of its network namespace, the sockets of its ports, and whether
    one of its networks has names."""

    namespace: int
    listening: tuple[Listening, ...] = ()
    has_names: bool = False


def wire(database: Database, record: Record, explain: Explainer) -> Wired:
    """Make the network of a container that its monitor (this process) is about to start. Raises UnionfsError; what is
    made then is undone by `unwire`."""
    spec = record.spec
    if spec.network.startswith(CONTAINER):
        return Wired(_namespace_of(database, record))
    explain.step("unshare(CLONE_NEWNET)", "a network with nothing in it", "network_namespaces(7)")
    namespace = _new_namespace()
    listening = [one for port in _wanted_ports(spec) for one in ports.listen(port)]
    for one in listening:
        explain.step(f"bind {ports.bracketed(one.address)}:{one.port}/{one.protocol}", "the proxy listens", "bind(2)")
    with database.writing() as connection:
        for one in listening:
            row = (record.id, one.address, one.port, one.target, one.protocol, spec.publish_mode)
            connection.execute("INSERT INTO ports VALUES (?,?,?,?,?,?)", row)
        inside = f"/proc/{os.getpid()}/fd/{namespace}"
        networks = Networks(database)
        networks.take_back_from_the_dead(connection)
        joined = _join(database, connection, record, networks.endpoints(record.id), 0, inside, explain)
    _write_files(database, record, joined)
    return Wired(namespace, tuple(listening), _has_names(joined))


def unwire(database: Database, container: str) -> None:
    """Its addresses and ports are free: after its processes have ended, or when its start has failed. The machine
    follows when it is told to, by `tidy`; the container's interfaces have gone with its network namespace."""
    with database.writing() as connection:
        Networks(database).take_back(connection, container)


def tidy(database: Database) -> list[str]:
    """Take away what nobody needs any more: bridges that nobody is on, rules for them. The bridges that went."""
    with database.writing() as connection:
        before = _known_bridges(database)
        if before or not Notes(database, lab.home(database.root)).is_empty:
            Networks(database).take_back_from_the_dead(connection)
            _follow(database, Explainer())
        return sorted(before - _known_bridges(database))


def check_names() -> None:
    """Raises UnionfsError where nobody could answer for names."""
    if importlib.util.find_spec("dnslib") is None:
        why = "is not there, and networks of one's own need it to answer for names"
        raise UnionfsError("the package dnslib", why, "pip install dnslib, or apt install python3-dnslib")


class PublishedPort(NamedTuple):
    """A port of the machine that leads to a container."""

    address: str
    port: int
    target: int
    protocol: str

    @property
    def outer(self) -> str:
        """0.0.0.0:8080, [::]:8080"""
        return f"{ports.bracketed(self.address)}:{self.port}"

    @property
    def inner(self) -> str:
        """80/tcp"""
        return f"{self.target}/{self.protocol}"


def published_ports(database: Database, record: Record) -> list[PublishedPort]:
    """Those of a container that runs."""
    if not record.is_running:
        return []
    query = "SELECT * FROM ports WHERE container=? ORDER BY target, protocol, address"
    return [
        PublishedPort(row["address"], row["port"], row["target"], row["protocol"])
        for row in database.rows(query, record.id)
    ]


# --- while it runs


def connect(
    database: Database, record: Record, name: str, aliases: Sequence[str] = (), static: Sequence[str] = ()
) -> bool:
    """Put a container on one more network; one that runs at once. Whether that network has names. Raises UnionfsError.
    """
    if record.spec.network.partition(":")[0] in (HOST, CONTAINER[:-1], NONE):
        why = f"its network is {record.spec.network}, which stands alone"
        raise UnionfsError(f"container {record.name}", why, "create it with --network NAME")
    networks = Networks(database)
    network = networks.find(name)
    with database.writing() as connection:
        networks.attach(connection, record.id, network, aliases, static)
        if networks.is_live(record) and record.pid:
            inside = f"/proc/{record.pid}/ns/net"
            endpoint = next(end for net, end in networks.endpoints(record.id) if net.id == network.id)
            number = _free_name(networks, record)
            _join(database, connection, record, [(network, endpoint)], number, inside, Explainer())
    if networks.is_live(record):
        _write_files(database, record, networks.endpoints(record.id))
    return network.name != BRIDGE


def disconnect(database: Database, record: Record, name: str) -> None:
    """Take a container off a network. Raises UnionfsError."""
    networks = Networks(database)
    network = networks.find(name)
    with database.writing() as connection:
        found = [endpoint for net, endpoint in networks.endpoints(record.id) if net.id == network.id]
        if not found:
            hint = f"its networks: unionfs inspect {record.name}"
            raise UnionfsError(f"container {record.name}", f"is not connected to network {network.name}", hint)
        networks.detach(connection, record.id, network)
        outer = found[0].outer
        lines = links.unplug(found[0].link) if outer in kernel.interfaces(lab.home(database.root)) else []
        _follow(database, Explainer(), before=lines)
        if networks.is_live(record) and record.pid:
            _route(networks, record, f"/proc/{record.pid}/ns/net", _teller(Explainer()))
    if networks.is_live(record):
        _write_files(database, record, networks.endpoints(record.id))


def _free_name(networks: Networks, record: Record) -> int:
    """The number of the next eth."""
    used = {endpoint.inner for _, endpoint in networks.endpoints(record.id)}
    return next(number for number in range(len(used) + 1) if f"eth{number}" not in used)


def _route(networks: Networks, record: Record, inside: str, tell: kernel.Tell) -> None:
    live = [(network.bridge, endpoint.link) for network, endpoint in networks.endpoints(record.id) if endpoint.outer]
    kernel.ip(links.default_route(live), tell, inside)


# --- the kernel follows the state


def _join(
    database: Database, connection: sqlite3.Connection, record: Record, wanted: Sequence[tuple[Network, Endpoint]],
    first: int, inside: str, explain: Explainer,
) -> list[tuple[Network, Endpoint]]:  # fmt: skip
    """Addresses for endpoints of a container, bridges and rules for them, and interfaces in its network namespace, from
    eth`first` on."""
    networks, home, tell = Networks(database), lab.home(database.root), _teller(explain)
    joined = []
    for number, (network, endpoint) in enumerate(wanted, first):
        if not network.ranges:
            name = links.bridge_name(network.id)
            if name in _known_bridges(database):  # of one who chose a subnet and was killed before it was entered
                kernel.ip(links.bridge_down(name), tell, home)
            network = networks.complete(connection, network, machine_routes())
        joined.append((network, networks.give(connection, network, endpoint, links.outer_name(), f"eth{number}")))
    _follow(database, explain)
    kernel.ip([line for net, end in joined for line in links.plug(net.bridge, end.link, inside)], tell, home)
    kernel.ip([line for net, end in joined for line in links.configure(net.bridge, end.link)], tell, inside)
    _route(networks, record, inside, tell)
    return joined


def _follow(database: Database, explain: Explainer, before: Sequence[str] = ()) -> None:
    """Bridges, forwarding and rules as the state says; `before` are lines of ip to carry out with them. Rules are there
    before anything that they hold, and go after it."""
    networks = Networks(database)
    tell, home = _teller(explain), lab.home(database.root)
    notes = Notes(database, home)
    wanted = [network for network in networks.all() if network.ranges and networks.members(network)]
    bridges = [network.bridge for network in wanted]
    there = kernel.interfaces(home)
    stale = [line for name in _bridge_names(networks) & there for line in links.bridge_down(name)
             if name not in {bridge.name for bridge in bridges}]  # fmt: skip
    missing = [line for bridge in bridges if bridge.name not in there for line in links.bridge_up(bridge)]
    is_router = not notes.forwards and kernel.forwards(home)
    text = rules.table(table_name(database), bridges, _published(database), is_router)
    if bridges:
        _rule(notes, text, False, home, tell)
    kernel.ip([*before, *stale, *missing], tell, home)
    _forward(notes, any(not bridge.is_internal for bridge in bridges), home, tell)
    if not bridges:
        _rule(notes, text, True, home, tell)


def _bridge_names(networks: Networks) -> set[str]:
    return {links.bridge_name(network.id) for network in networks.all() if network.driver == "bridge"}


def _known_bridges(database: Database) -> set[str]:
    """The bridges of our networks that the machine has."""
    return _bridge_names(Networks(database)) & kernel.interfaces(lab.home(database.root))


def _published(database: Database) -> list[Published]:
    """What --publish-mode nat leads to containers, IPv4."""
    networks = Networks(database)
    found = []
    for row in database.rows("SELECT * FROM ports WHERE mode=? ORDER BY port, protocol", NAT):
        first = [
            word for network, endpoint in networks.endpoints(row["container"])
            for word in endpoint.addresses[:1] if not network.internal
        ]  # fmt: skip
        if first and ":" not in row["address"]:
            where = "" if row["address"] == "0.0.0.0" else row["address"]
            found.append(Published(row["protocol"], where, row["port"], first[0], row["target"]))
    return found


def _forward(notes: Notes, needs: bool, home: str, tell: kernel.Tell) -> None:
    """Switch forwarding on for the first network that goes outside, and off again with the last, where it was off."""
    if needs and not kernel.forwards(home):
        notes.forwards = True
        notes.save()
        kernel.set_forwarding(True, tell, home)
    elif notes.forwards and not needs:
        kernel.set_forwarding(False, tell, home)
        notes.forwards = False
        notes.save()


def _rule(notes: Notes, text: str, is_last: bool, home: str, tell: kernel.Tell) -> None:
    """Put the table in place where it is another one; with `is_last` it goes."""
    if notes.rules == text or (is_last and notes.rules is None):
        return
    notes.rules = ""
    notes.save()
    kernel.nft(text, tell, home)
    notes.rules = None if is_last else text
    notes.save()


def table_name(database: Database) -> str:
    """The name of our table of nft: one for each state."""
    if database.root == ROOT:
        return "unionfs"
    digits = 0
    for byte in os.fsencode(database.root):
        digits = (digits * 16777619 ^ byte) & 0xFFFFFFFF  # FNV-1: the same in each process, as hash() is not
    return f"unionfs_{digits:08x}"


def machine_routes() -> list[address.Network]:
    """What the machine itself has routes to."""
    return [*address.routes(kernel.routes())]


def _teller(explain: Explainer) -> kernel.Tell:
    def tell(command: str) -> None:
        page = {"ip": "ip(8)", "nft": "nft(8)", "nsenter": "nsenter(1)"}.get(command.split(" ", 1)[0], "sysctl(8)")
        if "\n" in command:
            explain.head(command)  # as it is: the end of a here-document stands at the beginning of its line
        else:
            explain.step(command, "", page)

    return tell


# --- namespaces


def _new_namespace() -> int:
    """A descriptor of a new network namespace, with its loopback up. A child makes it: without root there would be no
    way back from it for this process."""
    made, making = os.pipe2(os.O_CLOEXEC)
    held, holding = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(holding)
            namespaces.unshare(CLONE_NEWNET)
            terminal.loopback_up()
            os.write(making, b".")
            os.read(held, 1)  # until the other one has opened it
        finally:
            os._exit(0)
    os.close(making)
    try:
        if not os.read(made, 1):
            raise UnionfsError("a network namespace", "the kernel gives none", "unionfs doctor")
        return os.open(f"/proc/{child}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (made, held, holding):
            os.close(fd)
        os.waitpid(child, 0)


def _namespace_of(database: Database, record: Record) -> int:
    """That of the container whose network this one shares, with its names."""
    containers = Containers(database)
    other = containers.find(record.spec.network.removeprefix(CONTAINER))
    if not other.is_running:
        hint = f"unionfs start {other.name}"
        raise UnionfsError(f"container {other.name}", f"is not running, and {record.name} shares its network", hint)
    etcfiles.share(containers.directory(other.id), containers.directory(record.id))
    return open_process(other, "ns/net")


def _write_files(database: Database, record: Record, joined: Sequence[tuple[Network, Endpoint]]) -> None:
    found = [word for _, endpoint in joined for word in endpoint.addresses]
    gateway = str(joined[0][0].bridge.gateways[0]) if joined else ""
    folder = Containers(database).directory(record.id)
    etcfiles.write(folder, record.spec, found, gateway, _has_names(joined))


def _has_names(joined: Sequence[tuple[Network, Endpoint]]) -> bool:
    """Whether one of the networks is one's own: those have names."""
    return any(network.name != BRIDGE for network, _ in joined)


def _wanted_ports(spec: Spec) -> list[Port]:
    wanted = [port for word in spec.publish for port in ports.parse(word)]
    if spec.publish_all:
        told = {(port.target, port.protocol) for port in wanted}
        exposed = [port for word in spec.ports for port in ports.parse(word)]
        wanted += [port for port in exposed if (port.target, port.protocol) not in told]
    return wanted
