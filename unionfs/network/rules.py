"""What may pass between bridges and the world, as one table of nft(8), made anew as a whole in one transaction.

Called by the container floor, which hands the text to `kernel.nft`. The table is ours alone; others' rules hold besides
it: a packet that another table drops stays dropped. Sources: nft(8), the netfilter hooks and their priorities.

    forward      on one bridge all passes; from one of ours to another nothing; from an internal one to anywhere, and
                 from outside to a container that is not published, nothing. Where forwarding was off before we came,
                 nothing else passes either, so that the machine does not become a router; but what stays on another's
                 bridge, which comes by here too where br_netfilter is loaded
    postrouting  what leaves a bridge gets the machine's address (masquerade)
    prerouting   published ports with --publish-mode nat: the destination becomes the container's; the same for what
                 the machine itself sends, but to 127.0.0.0/8, which the proxy serves
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unionfs.network.links import Bridge


class Published(NamedTuple):
    """A port of the machine that leads to a container. `address` is "" for all of the machine's."""

    protocol: str
    address: str
    port: int
    target: str
    target_port: int


def table(name: str, bridges: Sequence[Bridge], published: Sequence[Published], is_router: bool) -> str:
    """The text that replaces the table; with no bridges it only goes. `is_router`: the machine forwarded before."""
    clearing = f"table inet {name}\ndelete table inet {name}\n"
    if not bridges:
        return clearing
    names = ", ".join(f'"{bridge.name}"' for bridge in bridges)
    lines = [
        f"table inet {name} {{",
        "\tchain forward {",
        "\t\ttype filter hook forward priority filter; policy accept;",
        *(f'\t\tiifname "{bridge.name}" oifname "{bridge.name}" accept' for bridge in bridges),
        "\t\tct status dnat accept",
        *(
            f'\t\t{way} "{bridge.name}" drop'
            for bridge in bridges if bridge.is_internal for way in ("iifname", "oifname")
        ),
        f"\t\tiifname {{ {names} }} oifname {{ {names} }} drop",
        f"\t\toifname {{ {names} }} ct state established,related accept",
        f"\t\toifname {{ {names} }} drop",
        *(
            f'\t\tiifname != {{ {names} }} meta {end} != "bridge" drop'
            for end in ("iifkind", "oifkind") if not is_router
        ),
        "\t}",
        "\tchain postrouting {",
        "\t\ttype nat hook postrouting priority srcnat; policy accept;",
        *(line for bridge in bridges for line in _masquerade(bridge, names)),
        "\t}",
    ]  # fmt: skip
    if published:
        lines += [
            "\tchain prerouting {",
            "\t\ttype nat hook prerouting priority dstnat; policy accept;",
            *(f"\t\t{_redirect(port)}" for port in published),
            "\t}",
            "\tchain output {",
            "\t\ttype nat hook output priority -100; policy accept;",
            *(f"\t\tip daddr != 127.0.0.0/8 {_redirect(port)}" for port in published),
            "\t}",
        ]
    return clearing + "\n".join([*lines, "}"]) + "\n"


def _masquerade(bridge: Bridge, names: str) -> list[str]:
    lines = []
    for subnet in bridge.subnets:
        family = "ip6" if subnet.version == 6 else "ip"
        inside = f"{family} saddr {subnet} {family} daddr {subnet} ct status dnat"
        lines.append(f"\t\t{inside} masquerade")  # a container that asks for a port of its own network's
        if not bridge.is_internal:
            lines.append(f"\t\t{family} saddr {subnet} oifname != {{ {names} }} masquerade")
    return lines


def _redirect(port: Published) -> str:
    where = f"ip daddr {port.address}" if port.address else "fib daddr type local"
    match = f"meta nfproto ipv4 {where} {port.protocol} dport {port.port}"
    return f"{match} dnat ip to {port.target}:{port.target_port}"
