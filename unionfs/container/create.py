"""Create: what the user asked for and what the image says become one Spec, and that becomes a container.

Called by `lifecycle.py`. The rules are docker's: the command is the entrypoint and its arguments, where --entrypoint
drops the image's arguments; the user's environment comes after the image's; volumes of other containers first, then
the user's own, then the image's. Nothing is half made: until the row says "created" the container does not exist for
anybody, and what a killed process leaves is found by its row.

This file is one of the doors through which a module is imported when it is wanted: volumes are filled by the union
library, and networks have addresses, which a container without any starts without.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from unionfs.container import names, roots
from unionfs.container.mountspecs import combine
from unionfs.container.privileges import chosen
from unionfs.container.quantities import parse_signal
from unionfs.container.spec import BRIDGE, HOST, NONE, PROXY, VOLUME, Limits, Mount, Spec, merge_variables
from unionfs.container.state import CREATED, Containers, Record
from unionfs.container.storage import DIALECTS, check_driver
from unionfs.container.volumes import Volumes, prepare_bind
from unionfs.errors import UnionfsError
from unionfs.image.database import Database
from unionfs.image.images import Image, Images
from unionfs.linux.mounts import absolute

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NETWORK_VARIABLE = "UNIONFS_NETWORK"
_NAME_TRIES = 20


class Request(NamedTuple):
    """What `run` and `create` are asked for. None: not said, so that the image's word counts."""

    image: str = ""
    rootfs: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    name: str | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[str, ...] = ()
    """NAME=VALUE; NAME alone copies this process's variable, where it has one."""
    workdir: str | None = None
    user: str | None = None
    hostname: str | None = None
    tty: bool = False
    interactive: bool = False
    mounts: tuple[Mount, ...] = ()
    volumes_from: tuple[tuple[str, bool], ...] = ()
    """Containers whose mounts it gets too, and whether read-only."""
    read_only: bool = False
    network: str = ""
    """none, host, bridge, a network's name or id, container:NAME; "" is `default_network`."""
    aliases: tuple[str, ...] = ()
    """Further names on that network."""
    addresses: tuple[str, ...] = ()
    """The addresses it is to have there, one of IPv4 and one of IPv6 at most."""
    publish: tuple[str, ...] = ()
    publish_all: bool = False
    publish_mode: str = PROXY
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    add_hosts: tuple[str, ...] = ()
    init: bool = False
    limits: Limits = Limits()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    seccomp: bool = True
    no_new_privs: bool = True
    stop_signal: int | None = None
    stop_timeout: int = 10
    labels: tuple[tuple[str, str], ...] = ()
    expose: tuple[str, ...] = ()
    storage: str = "unionfs"
    storage_options: tuple[str, ...] = ()
    remove: bool = False


def create(database: Database, request: Request, starts: bool = False) -> Record:
    """Make the container. Raises UnionfsError; nothing is left then.

    `starts`: it is to be started at once, so it is this process's own until its monitor takes it over, and rubbish when
    this process is killed before.
    """
    _check(request)
    _clear_away(database, request.name)
    image = Images(database).resolve(request.image) if request.image else None
    config = image.rules if image else {}
    containers = Containers(database)
    container = names.new_id()
    network, request = _networked(database, request)
    spec = spec_of(request, config, container)
    shared = [(containers.find(name).spec.mounts, read_only) for name, read_only in request.volumes_from]
    own = [prepare_bind(mount) for mount in request.mounts]
    spec = spec._replace(mounts=combine(shared, own, config.get("Volumes") or ()))
    inherited = {mount.target for mounts, _ in shared for mount in mounts}
    record = _enter(database, container, request, image, spec, network)
    try:
        roots.make(database, container, record.spec)
        _populate(database, record, inherited)
        if not starts:
            containers.release(container, CREATED)
    except BaseException:
        roots.remove(database, record, volumes=True)
        raise
    return containers.get(container)


def _clear_away(database: Database, name: str | None) -> None:
    """A container of that name that a killed process left: nobody's, so its name is free."""
    word = (name or "").removeprefix("/")
    for record in Containers(database).abandoned() if word else ():
        if record.name == word:
            with suppress(UnionfsError):  # another process clears it away too
                roots.remove(database, record, volumes=True)


def _check(request: Request) -> None:
    check_driver(request.storage, request.storage_options)
    if request.name is not None:
        names.check_name(request.name)
    for folder in request.rootfs:
        if not os.path.isdir(folder):
            hint = "name a directory with a system in it"
            raise UnionfsError(f"--rootfs {folder}", "there is no such directory", hint)


def default_network() -> str:
    """$UNIONFS_NETWORK, else bridge."""
    return os.environ.get(NETWORK_VARIABLE) or BRIDGE


def _networked(database: Database, request: Request) -> tuple[Any, Request]:
    """The network with a bridge that it is to be on, or None; see attachment.py. Raises UnionfsError."""
    request = request._replace(network=request.network or default_network())
    options = (*request.aliases, *request.addresses, *request.publish, *request.dns, *request.add_hosts)
    if request.network in (NONE, HOST) and not (options or request.publish_all):
        return None, request
    attachment: Any = importlib.import_module("unionfs.container.attachment")
    network, request = attachment.networked(database, request)
    return network, request


def _enter(
    database: Database, container: str, request: Request, image: Image | None, spec: Spec, network: Any
) -> Record:
    """The row, with its volumes, in one transaction. A name of our own choice may be taken: then another."""
    for attempt in range(_NAME_TRIES):
        name = names.check_name(request.name) if request.name else names.new_name(attempt)
        with database.writing() as connection:
            if request.name is None and connection.execute("SELECT 1 FROM containers WHERE name=?", (name,)).fetchone():
                continue
            if image is not None and not connection.execute("SELECT 1 FROM images WHERE id=?", (image.id,)).fetchone():
                raise UnionfsError(f"image {request.image}", "was removed meanwhile")
            containers = Containers(database)
            containers.insert(connection, container, name, image.id if image else None, spec)
            mounts = Volumes(database).attach(connection, container, spec.mounts)
            spec = spec._replace(mounts=tuple(mounts))
            connection.execute("UPDATE containers SET spec=? WHERE id=?", (spec.to_json(), container))
            if network is not None:
                networks: Any = importlib.import_module("unionfs.container.networks")
                networks.Networks(database).attach(connection, container, network, request.aliases, request.addresses)
        return containers.get(container)
    raise UnionfsError("no free name was found", "", "give one: --name NAME")


def _populate(database: Database, record: Record, inherited: set[str]) -> None:
    """What the image has at a volume's target, into volumes that are empty."""
    wanted = [
        mount
        for mount in record.spec.mounts
        if mount.kind == VOLUME and mount.copies and mount.target not in inherited
    ]
    if not wanted:
        return
    populate = importlib.import_module("unionfs.container.populate").populate
    lowers = roots.lower_layers(database, record)
    for mount in wanted:
        populate(lowers, DIALECTS[record.spec.storage], mount.target, Volumes(database).path(mount.source))


def spec_of(request: Request, config: dict[str, Any], container: str) -> Spec:
    """The rules of a container, from what was asked for and the `config` of an image's config (OCI image-spec)."""
    argv, entrypoint_length = _command(request, config)
    hostname = request.hostname or container[:12]
    tty = ("TERM=xterm",) if request.tty else ()
    return Spec(
        argv=argv,
        entrypoint_length=entrypoint_length,
        image_name=request.image,
        rootfs=tuple(os.fsdecode(absolute(os.fsencode(folder))) for folder in request.rootfs),
        env=merge_variables((DEFAULT_PATH, f"HOSTNAME={hostname}", *tty), config.get("Env") or (), request.environment),
        workdir=_workdir(request.workdir, config),
        user=request.user if request.user is not None else config.get("User") or "",
        hostname=hostname,
        tty=request.tty,
        interactive=request.interactive,
        read_only=request.read_only,
        network=request.network,
        publish=request.publish,
        publish_all=request.publish_all,
        publish_mode=request.publish_mode,
        dns=request.dns,
        dns_search=request.dns_search,
        dns_options=request.dns_options,
        add_hosts=request.add_hosts,
        init=request.init,
        limits=request.limits,
        ulimits=request.ulimits,
        capabilities=chosen(request.cap_add, request.cap_drop),
        seccomp=request.seccomp,
        no_new_privs=request.no_new_privs,
        stop_signal=request.stop_signal or _signal(config.get("StopSignal")),
        stop_timeout=request.stop_timeout,
        labels=tuple(sorted({**(config.get("Labels") or {}), **dict(request.labels)}.items())),
        ports=tuple(sorted({*(config.get("ExposedPorts") or ()), *request.expose})),
        storage=request.storage,
        storage_options=request.storage_options,
        remove=request.remove,
    )


def _command(request: Request, config: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    entrypoint: Sequence[str] = config.get("Entrypoint") or ()
    arguments: Sequence[str] = config.get("Cmd") or ()
    if request.entrypoint is not None:
        entrypoint, arguments = request.entrypoint, ()
    argv = (*entrypoint, *(request.command or arguments))
    if not argv:
        raise UnionfsError("no command specified", "", "say what to run behind the image: unionfs run IMAGE COMMAND")
    return argv, len(entrypoint)


def _workdir(asked: str | None, config: dict[str, Any]) -> str:
    path = asked or config.get("WorkingDir") or "/"
    if not path.startswith("/"):
        raise UnionfsError(f"working directory {path}", "is not an absolute path", f"-w /{path}")
    return os.path.normpath(path)


def _signal(word: str | None) -> int:
    return parse_signal(word) if word else 15
