"""Addresses: which subnet a new network gets, and which address the next container on it.

Called by the container floor. The pools are docker's: 172.17.0.0/16 and up, then pieces of 192.168.0.0/16; what the
machine has a route to, and what another network has, is passed over. The first address of a subnet is its gateway's,
the bridge itself. Sources: RFC 1918, RFC 4193 (unique local addresses), ip-route(8).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from unionfs.errors import UnionfsError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network



def pools() -> Iterator[IPv4Network]:
    """The subnets that a network may get by itself, in order."""
    for second in range(17, 32):
        yield IPv4Network(f"172.{second}.0.0/16")
    yield from IPv4Network("192.168.0.0/16").subnets(new_prefix=20)


def free_subnet(taken: Iterable[Network]) -> IPv4Network:
    """The first of `pools` that overlaps with nothing taken. Raises UnionfsError when there is none left."""
    used = [network for network in taken if network.version == 4]
    for candidate in pools():
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    raise UnionfsError("a subnet", "all of 172.17-31 and 192.168 are in use", "give one: --subnet 10.9.0.0/24")


def local_subnet() -> IPv6Network:
    """A random /64 of the unique local addresses (RFC 4193)."""
    return IPv6Network((b"\xfd" + os.urandom(5) + bytes(10), 64))


def parse_subnet(word: str) -> Network:
    """A subnet as --subnet has it. Raises UnionfsError."""
    try:
        subnet = ip_network(word)
    except ValueError as error:
        try:
            hint = f"did you mean {ip_network(word, strict=False)}?"
        except ValueError:
            hint = "as in --subnet 10.9.0.0/24"
        raise UnionfsError(f"subnet {word}", f"is none: {str(error).removeprefix(word).strip()}", hint) from error
    if subnet.num_addresses < 4:
        raise UnionfsError(f"subnet {word}", "is too small for a gateway and a container", "at most a /30")
    return subnet


def parse_address(word: str, what: str = "address") -> Address:
    """Raises UnionfsError."""
    try:
        return ip_address(word)
    except ValueError as error:
        raise UnionfsError(f"{what} {word}", "is no address", "as in 10.9.0.7") from error


def gateway_of(subnet: Network, word: str = "") -> Address:
    """The first address, or the one asked for, which must lie in the subnet. Raises UnionfsError."""
    if not word:
        return subnet[1]
    gateway = parse_address(word, "gateway")
    if gateway not in subnet:
        raise UnionfsError(f"gateway {word}", f"is not in the subnet {subnet}", f"as in {subnet[1]}")
    return gateway


def next_address(subnet: Network, within: Network | None, taken: Collection[Address]) -> Address:
    """The first free address, of `within` where that is given. Raises UnionfsError when none is left.

    Of an IPv4 subnet the first and the last address are nobody's: the network's own, and for all of it.
    """
    area = within or subnet
    first, last = int(area.network_address), int(area.broadcast_address)
    ends = {int(subnet.network_address)} | ({int(subnet.broadcast_address)} if subnet.version == 4 else set())
    used = {int(address) for address in taken}
    for number in range(first, last + 1):
        if number not in used and number not in ends:
            return IPv4Address(number) if subnet.version == 4 else IPv6Address(number)
    raise UnionfsError(f"network {subnet}", "has no address left", "remove containers from it, or make a larger one")


def check_static(address: Address, subnet: Network, taken: Collection[Address]) -> None:
    """Raises UnionfsError where a container cannot have this address."""
    if address not in subnet:
        raise UnionfsError(f"address {address}", f"is not in the subnet {subnet}", f"as in {subnet[2]}")
    if address in taken or address == subnet.network_address:
        raise UnionfsError(f"address {address}", "is in use", "choose another one, or leave --ip out")


def hardware_address(address: Address) -> str:
    """A locally administered address made of the last four bytes, so that an address keeps its neighbour entry."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed[-4:])


def routes(text: str) -> Iterator[Network]:
    """The destinations in the output of `ip route`, without the default."""
    for line in text.splitlines():
        word = line.split(" ", 1)[0]
        if word[:1].isdigit():
            yield ip_network(word, strict=False)


def with_prefix(address: Address, subnet: Network) -> str:
    """172.17.0.2/16"""
    return f"{address}/{subnet.prefixlen}"
