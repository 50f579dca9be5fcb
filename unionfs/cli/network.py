"""`unionfs network`: networks of one's own, who is on them, and a picture of them.

Loaded by `main.py`. Columns, filters and words are docker's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from unionfs import events
from unionfs.cli import formats, picture
from unionfs.cli.command import Command, UsageError
from unionfs.cli.container import agrees, each
from unionfs.cli.documents import date, inspects, network_document, show_documents
from unionfs.cli.launching import rooted
from unionfs.container import lab, wiring
from unionfs.container.lifecycle import Container
from unionfs.container.networks import PREDEFINED, Network, Networks, Range
from unionfs.container.state import Containers
from unionfs.errors import UnionfsError
from unionfs.image.database import Database

_COLUMNS = (("network id", "ID"), ("name", "Name"), ("driver", "Driver"), ("scope", "Scope"))
_FILTERS = ("dangling", "driver", "id", "label", "name", "type")


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-d", "--driver", default="bridge", metavar="NAME", help="bridge, the only one")
    add("--subnet", action="append", default=[], metavar="SUBNET", help="as in 10.9.0.0/24; by default a free one")
    add("--gateway", action="append", default=[], metavar="ADDRESS", help="the bridge's; by default the first")
    add("--ip-range", action="append", default=[], metavar="SUBNET", help="containers get addresses of this part")
    add("--ipv6", action="store_true", help="addresses of IPv6 too")
    add("--internal", action="store_true", help="nothing passes between it and the rest of the world")
    add("--label", action="append", default=[], metavar="NAME=VALUE", help="a note")
    add("name", metavar="NAME", help="its name")


def _create(arguments: argparse.Namespace) -> None:
    if arguments.driver != "bridge":
        raise UnionfsError(f"driver {arguments.driver}", "is not there", "the one driver is bridge")
    if not arguments.subnet and (arguments.gateway or arguments.ip_range):
        option = "--gateway" if arguments.gateway else "--ip-range"
        raise UsageError(option, "belongs to a subnet", "add --subnet 10.9.0.0/24")
    wiring.check_names()
    with Database() as database:
        made = Networks(database).create(
            arguments.name, _ranges(arguments), ipv6=arguments.ipv6, internal=arguments.internal,
            labels=formats.labels_of(arguments.label),
            routes=wiring.machine_routes(),
        )  # fmt: skip
    if lab.home(database.root) and not made.internal:
        events.warning("without root a network is this user's own: no way from it into the world is promised")
    print(made.id)


def _ranges(arguments: argparse.Namespace) -> list[Range]:
    """A gateway and a range belong to the subnet of their place, or of their version of IP."""
    ranges = []
    for subnet in arguments.subnet:
        version = ":" in subnet
        gateways = [word for word in arguments.gateway if (":" in word) == version]
        parts = [word for word in arguments.ip_range if (":" in word) == version]
        ranges.append(Range(subnet, (gateways or [""])[0], (parts or [""])[0]))
    versions = [":" in entry.subnet for entry in ranges]
    if len(set(versions)) != len(versions):
        raise UsageError("--subnet", "a network has one of IPv4 and one of IPv6", "make two networks")
    return ranges


def _ls_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="only ids")
    parser.add_argument("--no-trunc", action="store_true", help="ids in full")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help=", ".join(_FILTERS))
    formats.add_format(parser)


def _ls(arguments: argparse.Namespace) -> None:
    with Database() as database:
        networks = Networks(database)
        rows = [
            _row(network, arguments.no_trunc) for network in networks.all()
            if all(_has(networks, network, word) for word in arguments.filter)
        ]  # fmt: skip
    if arguments.quiet:
        for row in rows:
            print(row["ID"])
        return
    formats.show(rows, _COLUMNS, arguments.format)


def _has(networks: Networks, network: Network, word: str) -> bool:
    key, _, value = word.partition("=")
    formats.check_filter(key, _FILTERS)
    kind = "builtin" if network.name in PREDEFINED else "custom"
    tests: dict[str, Callable[[], bool]] = {
        "dangling": lambda: (not networks.users(network) and kind == "custom") == (value in ("true", "1")),
        "driver": lambda: network.driver == value,
        "id": lambda: network.id.startswith(value),
        "label": lambda: formats.has_label(network.labels, value),
        "name": lambda: value in network.name,
        "type": lambda: kind == value,
    }
    return tests[key]()


def _row(network: Network, whole: bool) -> formats.Row:
    return {
        "ID": network.id if whole else network.id[:12],
        "Name": network.name,
        "Driver": network.driver,
        "Scope": "local",
        "Internal": str(network.internal).lower(),
        "IPv6": str(any(":" in entry.subnet for entry in network.ranges)).lower(),
        "Subnet": ",".join(entry.subnet for entry in network.ranges),
        "Labels": ",".join(f"{name}={value}" for name, value in network.labels.items()),
        "CreatedAt": date(network.created),
    }


def _inspect(arguments: argparse.Namespace) -> int:
    with Database() as database:
        networks = Networks(database)
        return show_documents(arguments.names, arguments.format, lambda name: network_document(networks, name))


def _connect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--alias", action="append", default=[], metavar="NAME", help="a further name on it")
    parser.add_argument("--ip", metavar="ADDRESS", help="its address there")
    parser.add_argument("--ip6", metavar="ADDRESS", help="the same, IPv6")
    _pair(parser)


def _pair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK", help="its name or id")
    parser.add_argument("container", metavar="CONTAINER", help="its name or id")


def _connect(arguments: argparse.Namespace) -> None:
    static = [word for word in (arguments.ip, arguments.ip6) if word]
    Container(arguments.container).connect(arguments.network, arguments.alias, static)


def _disconnect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="one that is not on it is fine")
    _pair(parser)


def _disconnect(arguments: argparse.Namespace) -> None:
    try:
        Container(arguments.container).disconnect(arguments.network)
    except UnionfsError as failure:
        if not (arguments.force and "is not connected" in str(failure)):
            raise


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="one that is not there is fine")
    parser.add_argument("names", nargs="+", metavar="NETWORK", help="its name or id")


def _rm(arguments: argparse.Namespace) -> int:
    with Database() as database:
        networks = Networks(database)

        def remove(name: str) -> None:
            try:
                networks.remove(name)
            except UnionfsError as failure:
                if arguments.force and failure.why == "not found":
                    return
                raise
            print(name)

        status = each(arguments.names, remove)
        wiring.tidy(database)
        return status


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")


def _prune(arguments: argparse.Namespace) -> None:
    if not agrees("This removes all networks of your own that no container is on. Go on?", arguments.force):
        return
    with Database() as database:
        networks = Networks(database)
        unused = [one for one in networks.all() if one.name not in PREDEFINED and not networks.users(one)]
        for network in unused:
            networks.remove(network.name)
        wiring.tidy(database)
    if unused:
        print("Deleted Networks:", *(network.name for network in unused), sep="\n")


def _graph_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--svg", action="store_true", help="as a picture (SVG), on standard output")


def _graph(arguments: argparse.Namespace) -> None:
    with Database() as database:
        drawn = picture.gather(database)
    print(picture.svg(drawn) if arguments.svg else picture.text(drawn))


def _port_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER", help="its name or id")
    parser.add_argument("port", nargs="?", metavar="PORT[/udp]", help="this one of the container's ports only")


def _port(arguments: argparse.Namespace) -> None:
    with Database() as database:
        record = Containers(database).find(arguments.container)
        found = [(port.inner, port.outer) for port in wiring.published_ports(database, record)]
    wanted = arguments.port if not arguments.port or "/" in arguments.port else f"{arguments.port}/tcp"
    for target, where in found:
        if wanted is None:
            print(f"{target} -> {where}")
        elif target == wanted:
            print(where)
    if wanted is not None and wanted not in [target for target, _ in found]:
        hint = f"those that are: unionfs port {record.name}"
        raise UnionfsError(f"port {wanted} of {record.name}", "is not published", hint)


COMMANDS = {
    "network create": Command(
        "Make a network: a bridge with a subnet, on which containers know each other by name. Prints its id.",
        _create_arguments, rooted(_create),
    ),
    "network ls": Command("The networks.", _ls_arguments, _ls),
    "network inspect": Command("All that is known of networks, as JSON.", inspects("NETWORK", ".Name"), _inspect),
    "network connect": Command(
        "Put a container on a network; one that runs at once.", _connect_arguments, rooted(_connect)
    ),
    "network disconnect": Command(
        "Take a container off a network; one that runs at once.", _disconnect_arguments, rooted(_disconnect)
    ),
    "network rm": Command("Remove networks that no container is on.", _rm_arguments, rooted(_rm)),
    "network prune": Command(
        "Remove all networks of your own that no container is on.", _prune_arguments, rooted(_prune)
    ),
    "network graph": Command("Draw networks, containers, addresses and ports.", _graph_arguments, _graph),
    "port": Command("The ports of a container that are published.", _port_arguments, _port),
}  # fmt: skip
