"""Bridges and the pairs of virtual interfaces between them and containers, as lines of ip-link(8) and ip-address(8).

Called by the container floor, which hands the lines to `kernel.ip`. A bridge is named uf- and the beginning of its
network's id; the outer end of a pair ve- and a random number, the inner one eth0, eth1, and so on. Sources: ip-link(8),
veth(4), ip-route(8).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.network.address import Address, Network, with_prefix

_EVERYTHING = {4: "default", 6: "::/0"}


class Bridge(NamedTuple):
    """A network as the kernel sees it. `subnets` are IPv4 and, where there is one, IPv6, `gateways` the bridge's own
    addresses in them."""

    name: str
    subnets: tuple[Network, ...]
    gateways: tuple[Address, ...]
    is_internal: bool = False
    """Nothing is passed on between it and the rest of the world."""


class Link(NamedTuple):
    """A container's end on a bridge: the names of the pair's two ends, and the addresses, in the order of subnets."""

    outer: str
    inner: str
    hardware: str
    addresses: tuple[Address, ...]


def bridge_name(network: str) -> str:
    """The bridge of the network with this id: at most 15 bytes are an interface's name."""
    return f"uf-{network[:12]}"


def outer_name() -> str:
    return f"ve-{os.urandom(5).hex()}"


def bridge_up(bridge: Bridge) -> list[str]:
    """Lines that make a bridge."""
    return [
        f"link add name {bridge.name} type bridge",
        *(
            f"address add {with_prefix(gateway, subnet)} dev {bridge.name}{_no_detection(subnet)}"
            for gateway, subnet in zip(bridge.gateways, bridge.subnets, strict=True)
        ),
        f"link set dev {bridge.name} up",
    ]


def bridge_down(name: str) -> list[str]:
    return [f"link delete dev {name} type bridge"]


def plug(bridge: Bridge, link: Link, inside: str) -> list[str]:
    """Lines for the machine's side: the pair, its inner end in the network namespace of the path `inside`."""
    return [
        f"link add name {link.outer} type veth peer name {link.inner} address {link.hardware} netns {inside}",
        f"link set dev {link.outer} master {bridge.name} up",
    ]


def configure(bridge: Bridge, link: Link) -> list[str]:
    """Lines for the container's side."""
    return [
        *(
            f"address add {with_prefix(address, subnet)} dev {link.inner}{_no_detection(subnet)}"
            for address, subnet in zip(link.addresses, bridge.subnets, strict=True)
        ),
        f"link set dev {link.inner} up",
    ]


def unplug(link: Link) -> list[str]:
    return [f"link delete dev {link.outer}"]


def default_route(links: Sequence[tuple[Bridge, Link]]) -> list[str]:
    """Lines that lead what is not local over the first network that goes outside."""
    for bridge, link in links:
        if not bridge.is_internal:
            return [f"route replace {_EVERYTHING[gateway.version]} via {gateway} dev {link.inner}"
                    for gateway in bridge.gateways]  # fmt: skip
    return []


def _no_detection(subnet: Network) -> str:
    """No waiting for another machine that may have the address (duplicate address detection)."""
    return " nodad" if subnet.version == 6 else ""
