"""What a new container's network options mean together, before anything is made of them.

Called by `create.py`. The rules are docker's: names and addresses of one's choice are for networks of one's own; ports
for networks that have a bridge; a container that shares another's network has that one's host name and names too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionfs import events
from unionfs.container.etcfiles import HOST_GATEWAY
from unionfs.container.networks import Network, Networks, check_attachable
from unionfs.container.spec import BRIDGE, CONTAINER, HOST, NAT, PROXY
from unionfs.container.state import Containers
from unionfs.errors import UnionfsError, did_you_mean
from unionfs.image.database import Database
from unionfs.linux.capabilities import rules_the_machine
from unionfs.network.address import parse_address
from unionfs.network.ports import parse

if TYPE_CHECKING:
    from unionfs.container.create import Request

_MODES = (PROXY, NAT)


def networked(database: Database, request: Request) -> tuple[Network | None, Request]:
    """The network with a bridge that the container is to be on, or None; and the request, with the network's name in
    full and what does not count dropped. Raises UnionfsError."""
    word = request.network
    for published in request.publish:
        parse(published)
    _check_hosts(request)
    if request.publish_mode not in _MODES:
        hint = did_you_mean(request.publish_mode, _MODES) or f"known are {' and '.join(_MODES)}"
        raise UnionfsError(f"--publish-mode {request.publish_mode}", "is not known", hint)
    if word.startswith(CONTAINER):
        return None, _of_container(database, request, word.removeprefix(CONTAINER))
    network = Networks(database).find(BRIDGE if word == "default" else word)
    if network.driver == "bridge":
        if request.publish_mode == NAT and not rules_the_machine():
            raise UnionfsError("--publish-mode nat", "needs root of this machine", "leave it out for the proxy")
        check_attachable(network, request.aliases, request.addresses)
        return network, request._replace(network=network.name)
    if request.aliases or request.addresses:
        hint = "make a network: unionfs network create NAME"
        raise UnionfsError(f"network {network.name}", "has no names and no addresses of one's choice", hint)
    if request.publish or request.publish_all:
        events.warning(f"published ports are discarded: the network is {network.name}")
    return None, request._replace(network=network.name, publish=(), publish_all=False)


def _of_container(database: Database, request: Request, name: str) -> Request:
    given = {
        "-p": request.publish or request.publish_all, "--hostname": request.hostname, "--dns": request.dns,
        "--add-host": request.add_hosts, "--network-alias": request.aliases, "--ip": request.addresses,
    }  # fmt: skip
    for option, value in given.items():
        if value:
            hint = f"give {option} to the container {name} when it is created"
            raise UnionfsError(f"{option} and --network container:{name}", "conflict: the network is shared", hint)
    other = Containers(database).find(name)
    if other.spec.network == HOST:
        return request._replace(network=HOST)
    return request._replace(network=CONTAINER + other.id, hostname=other.spec.hostname)


def _check_hosts(request: Request) -> None:
    for word in request.dns:
        parse_address(word, "--dns")
    for word in request.add_hosts:
        name, colon, where = word.partition(":")
        if not (name and colon and where):
            raise UnionfsError(f"--add-host {word}", "is not NAME:ADDRESS", "as in --add-host db:10.0.0.7")
        if where != HOST_GATEWAY:
            parse_address(where.strip("[]"), f"--add-host {name}: address")
