"""Networks in the state: which there are, who is on them, with which addresses and names.

Called by `wiring.py`, which tells the kernel, by the helper, which answers for names, and by the command `network`.
Three are there from the beginning, as in docker: bridge, host and none. An endpoint is a container on a network; it
has addresses while its container runs. Of a container that was killed with its monitor they count as free.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from unionfs.container.names import new_id
from unionfs.container.spec import BRIDGE, HOST, NONE
from unionfs.container.state import RUNNING, STARTING, Containers, Record, record_of
from unionfs.errors import UnionfsError, did_you_mean
from unionfs.image.database import Database
from unionfs.network import address as addresses
from unionfs.network.address import Address
from unionfs.network.links import Bridge, Link, bridge_name

PREDEFINED = (BRIDGE, HOST, NONE)
_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


class Range(NamedTuple):
    """A subnet, the bridge's address in it, and where in it containers' addresses are from ("": all of it)."""

    subnet: str
    gateway: str
    within: str = ""


class Network(NamedTuple):
    """A row of `networks`, see image/database.py."""

    id: str
    name: str
    driver: str
    ranges: tuple[Range, ...]
    internal: bool
    labels: dict[str, str]
    created: float

    @property
    def bridge(self) -> Bridge:
        subnets = tuple(addresses.parse_subnet(entry.subnet) for entry in self.ranges)
        gateways = tuple(addresses.parse_address(entry.gateway) for entry in self.ranges)
        return Bridge(bridge_name(self.id), subnets, gateways, self.internal)


class Endpoint(NamedTuple):
    """A row of `endpoints`."""

    container: str
    network: str
    position: int
    aliases: tuple[str, ...]
    static: tuple[str, ...]
    outer: str
    inner: str
    addresses: tuple[str, ...]

    @property
    def link(self) -> Link:
        found = tuple(map(addresses.parse_address, self.addresses))
        return Link(self.outer, self.inner, addresses.hardware_address(found[0]), found)


def network_of(row: sqlite3.Row) -> Network:
    ranges = tuple(Range(*entry) for entry in json.loads(row["subnets"]))
    internal, labels = bool(row["internal"]), json.loads(row["labels"])
    return Network(row["id"], row["name"], row["driver"], ranges, internal, labels, row["created"])


def endpoint_of(row: sqlite3.Row) -> Endpoint:
    lists = (tuple(json.loads(row[name])) for name in ("aliases", "static", "addresses"))
    aliases, static, found = lists
    where = (row["container"], row["network"], row["position"])
    return Endpoint(*where, aliases, static, row["outer"], row["inner"], found)


class Networks:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.containers = Containers(database)

    # Finding

    def all(self) -> list[Network]:
        """By name."""
        return [network_of(row) for row in self.database.rows("SELECT * FROM networks ORDER BY name")]

    def find(self, name: str) -> Network:
        """By name, id, or the beginning of an id. Raises UnionfsError."""
        row = self.database.row("SELECT * FROM networks WHERE name=? OR id=?", name, name)
        if row is not None:
            return network_of(row)
        is_prefix = bool(name) and not name.strip("0123456789abcdef")
        rows = self.database.rows("SELECT * FROM networks WHERE id GLOB ?", name + "*") if is_prefix else []
        if len(rows) == 1:
            return network_of(rows[0])
        known = [network.name for network in self.all()]
        raise UnionfsError(f"network {name}", "not found", did_you_mean(name, known) or "unionfs network ls lists them")

    def endpoints(self, container: str) -> list[tuple[Network, Endpoint]]:
        """The networks of a container, in the order in which it came to them."""
        query = "SELECT * FROM endpoints WHERE container=? ORDER BY position"
        rows = map(endpoint_of, self.database.rows(query, container))
        return [(self._by_id(endpoint.network), endpoint) for endpoint in rows]

    def members(self, network: Network) -> list[tuple[Record, Endpoint]]:
        """Who is on a network and runs."""
        query = "SELECT * FROM endpoints WHERE network=? AND outer<>'' ORDER BY container"
        rows = map(endpoint_of, self.database.rows(query, network.id))
        found = []
        for endpoint in rows:
            with suppress(LookupError):
                record = self.containers.get(endpoint.container)
                if self.is_live(record):
                    found.append((record, endpoint))
        return found

    def is_live(self, record: Record) -> bool:
        return record.status in (STARTING, RUNNING) and self.containers.is_owned(record)

    def users(self, network: Network) -> list[str]:
        """The names of the containers that are on it, running or not."""
        query = "SELECT name FROM endpoints JOIN containers ON container=containers.id WHERE network=? ORDER BY name"
        return [row[0] for row in self.database.rows(query, network.id)]

    def _by_id(self, network: str) -> Network:
        row = self.database.row("SELECT * FROM networks WHERE id=?", network)
        if row is None:
            raise LookupError(network)
        return network_of(row)

    # Making and removing

    def create(
        self, name: str, ranges: Sequence[Range] = (), *, ipv6: bool = False, internal: bool = False,
        labels: Mapping[str, str] | None = None, routes: Iterable[addresses.Network] = (),
    ) -> Network:  # fmt: skip
        """A network with a bridge of its own. Where no subnet is given it gets a free one; `routes` are the machine's,
        which it must not cover. Raises UnionfsError: name taken or malformed, subnet in use."""
        check_name(name)
        given = [_checked(entry) for entry in ranges]
        with self.database.writing() as connection:
            if connection.execute("SELECT 1 FROM networks WHERE name=?", (name,)).fetchone():
                hint = f"unionfs network inspect {name} shows it"
                raise UnionfsError(f"network {name}", "there is one of that name already", hint)
            given = self._completed(given, ipv6, list(routes))
            row = (new_id(), name, "bridge", json.dumps(given), int(internal), json.dumps(dict(labels or {})))
            connection.execute("INSERT INTO networks VALUES (?,?,?,?,?,?,?)", (*row, time.time()))
        return self.find(name)

    def complete(self, connection: sqlite3.Connection, network: Network, routes: list[addresses.Network]) -> Network:
        """In the transaction of its first use: the default bridge gets its subnet."""
        if network.ranges:
            return network
        ranges = self._completed([], False, routes)
        connection.execute("UPDATE networks SET subnets=? WHERE id=?", (json.dumps(ranges), network.id))
        return network._replace(ranges=tuple(ranges))

    def _completed(self, given: list[Range], ipv6: bool, routes: list[addresses.Network]) -> list[Range]:
        """With a subnet of IPv4 at the beginning, and one of IPv6 where that is wanted."""
        others = [(network.name, subnet) for network in self.all() for subnet in network.bridge.subnets]
        taken = [*others, *(("a route of this machine", route) for route in routes)]
        for entry in given:
            subnet = addresses.parse_subnet(entry.subnet)
            for who, other in taken:
                if subnet.version == other.version and subnet.overlaps(other):
                    hint = f"as in --subnet {addresses.free_subnet([found for _, found in taken])}"
                    raise UnionfsError(f"subnet {subnet}", f"is in use: it overlaps with {other} ({who})", hint)
        versions = {addresses.parse_subnet(entry.subnet).version for entry in given}
        if 4 not in versions:
            subnet4 = addresses.free_subnet([other for _, other in taken])
            given = [Range(str(subnet4), str(subnet4[1])), *given]
        if ipv6 and 6 not in versions:
            subnet6 = addresses.local_subnet()
            given = [*given, Range(str(subnet6), str(subnet6[1]))]
        return sorted(given, key=lambda entry: ":" in entry.subnet)

    def remove(self, name: str) -> Network:
        """Raises UnionfsError for one that is predefined or has containers, stopped ones too."""
        network = self.find(name)
        if network.name in PREDEFINED:
            raise UnionfsError(f"network {network.name}", "is predefined and cannot be removed")
        users = self.users(network)
        with self.database.writing() as connection:
            try:
                connection.execute("DELETE FROM networks WHERE id=?", (network.id,))
            except sqlite3.IntegrityError as error:
                hint = f"take them off: unionfs network disconnect {network.name} {(users or ['CONTAINER'])[0]}"
                why = f"has endpoints: {', '.join(users)}"
                raise UnionfsError(f"network {network.name}", why, hint) from error
        return network

    # Containers on them

    def attach(
        self, connection: sqlite3.Connection, container: str, network: Network,
        aliases: Sequence[str] = (), static: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """In a transaction: the container is on the network, without addresses yet. Raises UnionfsError."""
        check_attachable(network, aliases, static)
        query = "SELECT 1 FROM endpoints WHERE container=? AND network=?"
        if connection.execute(query, (container, network.id)).fetchone():
            raise UnionfsError(f"network {network.name}", "the container is on it already")
        query = "SELECT coalesce(max(position), -1) + 1 FROM endpoints WHERE container=?"
        position = connection.execute(query, (container,)).fetchone()[0]
        connection.execute(
            "INSERT INTO endpoints (container, network, position, aliases, static) VALUES (?,?,?,?,?)",
            (container, network.id, position, json.dumps(list(aliases)), json.dumps(list(static))),
        )

    def detach(self, connection: sqlite3.Connection, container: str, network: Network) -> None:
        connection.execute("DELETE FROM endpoints WHERE container=? AND network=?", (container, network.id))

    def give(
        self, connection: sqlite3.Connection, network: Network, endpoint: Endpoint, outer: str, inner: str
    ) -> Endpoint:
        """In a transaction: addresses for an endpoint whose container is about to run. Raises UnionfsError."""
        taken = {addresses.parse_address(word) for _, other in self.members(network) for word in other.addresses}
        taken.update(network.bridge.gateways)
        given = [self._address(entry, endpoint, taken) for entry in network.ranges]
        connection.execute(
            "UPDATE endpoints SET outer=?, inner=?, addresses=? WHERE container=? AND network=?",
            (outer, inner, json.dumps(list(map(str, given))), endpoint.container, network.id),
        )
        return endpoint._replace(outer=outer, inner=inner, addresses=tuple(map(str, given)))

    def _address(self, entry: Range, endpoint: Endpoint, taken: set[Address]) -> Address:
        subnet = addresses.parse_subnet(entry.subnet)
        for word in endpoint.static:
            asked = addresses.parse_address(word)
            if asked.version == subnet.version:
                addresses.check_static(asked, subnet, taken)
                return asked
        within = addresses.parse_subnet(entry.within) if entry.within else None
        return addresses.next_address(subnet, within, taken)

    def take_back(self, connection: sqlite3.Connection, container: str) -> None:
        """In a transaction: the addresses and ports of a container that runs no more."""
        clearing = "UPDATE endpoints SET outer='', inner='', addresses='[]' WHERE container=?"
        connection.execute(clearing, (container,))
        connection.execute("DELETE FROM ports WHERE container=?", (container,))

    def take_back_from_the_dead(self, connection: sqlite3.Connection) -> None:
        """The same for each container whose monitor was killed."""
        query = "SELECT * FROM containers WHERE id IN (SELECT container FROM endpoints WHERE outer<>'' UNION " \
                "SELECT container FROM ports)"  # fmt: skip
        for row in connection.execute(query).fetchall():
            record = record_of(row)
            if not self.is_live(record):
                self.take_back(connection, record.id)

    # Names

    def lookup(self, container: str, name: str) -> list[str] | None:
        """What a name means for a container: the addresses of who has it on a network that both are on; None where
        nobody has it. The default bridge has no names."""
        query = (
            "SELECT theirs.container, theirs.addresses, theirs.aliases, containers.name, networks.name AS network "
            "FROM endpoints AS ours JOIN endpoints AS theirs ON ours.network=theirs.network "
            "JOIN containers ON theirs.container=containers.id JOIN networks ON theirs.network=networks.id "
            "WHERE ours.container=? AND ours.outer<>'' AND theirs.outer<>'' AND networks.name<>?"
        )
        found: list[str] | None = None
        for row in self.database.rows(query, container, BRIDGE):
            names = {row["name"].lower(), row["container"][:12], *(word.lower() for word in json.loads(row["aliases"]))}
            if names & {name, name.removesuffix(f".{row['network']}")} and self._lives(row["container"]):
                found = [*(found or []), *json.loads(row["addresses"])]
        return found

    def reverse(self, container: str, address: str) -> str | None:
        """The name, with its network's, of who has an address on a network of the container's."""
        with suppress(UnionfsError):
            wanted = addresses.parse_address(address)
            for network, endpoint in self.endpoints(container):
                if endpoint.outer and network.name != BRIDGE:
                    for record, other in self.members(network):
                        if any(addresses.parse_address(word) == wanted for word in other.addresses):
                            return f"{record.name}.{network.name}"
        return None

    def _lives(self, container: str) -> bool:
        with suppress(LookupError):
            return self.is_live(self.containers.get(container))
        return False


def check_name(name: str) -> None:
    """Raises UnionfsError."""
    if len(name) < 2 or name.strip(_NAME_CHARACTERS) or not name[0].isalnum():
        why = "a network's name is of letters, digits, _, . and -, two at least"
        raise UnionfsError(f"network name {name!r}", "is not allowed", why)


def check_attachable(network: Network, aliases: Sequence[str], static: Sequence[str]) -> None:
    """Raises UnionfsError for what a network does not offer."""
    if network.driver != "bridge":
        hint = "a container has it from its creation: run --network " + network.name
        raise UnionfsError(f"network {network.name}", "containers cannot be connected to it later", hint)
    if network.name == BRIDGE and (aliases or static):
        what = "names" if aliases else "addresses of one's choice"
        hint = "make a network: unionfs network create NAME"
        raise UnionfsError("network bridge", f"has no {what}: only networks of one's own have", hint)
    for word in static:
        address = addresses.parse_address(word)
        subnets = network.bridge.subnets
        if not any(address in subnet for subnet in subnets):
            shown = " and ".join(map(str, subnets))
            raise UnionfsError(f"address {word}", f"is not in a subnet of network {network.name}: {shown}")


def _checked(entry: Range) -> Range:
    subnet = addresses.parse_subnet(entry.subnet)
    gateway = addresses.gateway_of(subnet, entry.gateway)
    if entry.within:
        within = addresses.parse_subnet(entry.within)
        if within.version != subnet.version or not within.subnet_of(subnet):  # type: ignore[arg-type]
            raise UnionfsError(f"--ip-range {within}", f"is not within the subnet {subnet}")
    return Range(str(subnet), str(gateway), entry.within)
