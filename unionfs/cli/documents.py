"""What `inspect` shows: a container, an image, a volume, a network as a document in docker's form.

Used by `ps.py`, and by the modules of the commands `image`, `volume` and `network`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from unionfs.cli import formats
from unionfs.container import roots
from unionfs.container.cgroup import Cgroup
from unionfs.container.networks import Networks
from unionfs.container.spec import BRIDGE, VOLUME
from unionfs.container.state import CREATED, STARTING, Containers, Record
from unionfs.container.volumes import Volumes
from unionfs.container.wiring import published_ports
from unionfs.errors import UnionfsError
from unionfs.image.database import Database
from unionfs.image.images import Images
from unionfs.network.address import with_prefix


def state_of(record: Record) -> str:
    """Docker's word for its state."""
    if record.is_running and Cgroup.of(record.id).is_frozen():
        return "paused"
    return {STARTING: CREATED}.get(record.status, record.status)


def inspects(what: str, field: str, help: str = "its name or id") -> Callable[[argparse.ArgumentParser], None]:
    """The arguments of a command that shows documents: names of `what`, and a template, as in {{`field`}}."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("names", nargs="+", metavar=what, help=help)
        parser.add_argument("-f", "--format", metavar="TEMPLATE", help=f'a template, as in "{{{{{field}}}}}"')

    return add


def show_documents(names: Sequence[str], form: str | None, document: Any) -> int:
    """The documents of things as a JSON list, or each by a template; those that are not there are told at the end."""
    found, failures = [], []
    for name in names:
        try:
            found.append(document(name))
        except UnionfsError as failure:
            failures.append(failure)
    if form is None or form == "json":
        print(json.dumps(found, indent=4 if form is None else None))
    else:
        for one in found:
            print(formats.fill(form, one))
    for missing in failures:
        print(f"unionfs: {missing}", file=sys.stderr)
    return 1 if failures else 0


def document_of(name: str) -> dict[str, Any]:
    """Of a container, else of an image, a volume, a network of that name. Raises UnionfsError."""
    with Database() as database:
        try:
            return container_document(database, Containers(database).find(name))
        except UnionfsError as failure:
            missing = failure
        try:
            return image_document(database, name)
        except UnionfsError:
            pass
        try:
            return volume_document(Volumes(database), name)
        except UnionfsError:
            pass
        try:
            return network_document(Networks(database), name)
        except UnionfsError:
            raise UnionfsError(f"no such object: {name}", "", missing.hint) from None


def container_document(database: Database, record: Record) -> dict[str, Any]:
    """In docker's form, as far as we have what it tells."""
    spec, state = record.spec, state_of(record)
    folder = database.path("containers", record.id)
    volumes = Volumes(database)
    usage = record.spec.limits
    return {
        "Id": record.id,
        "Created": date(record.created),
        "Path": spec.argv[0],
        "Args": list(spec.argv[1:]),
        "State": {
            "Status": state,
            "Running": record.is_running,
            "Paused": state == "paused",
            "OOMKilled": record.error.startswith("out of memory"),
            "Pid": record.pid,
            "ExitCode": record.exit_code,
            "Error": record.error,
            "StartedAt": date(record.started),
            "FinishedAt": date(record.finished),
        },
        "Image": record.image or "",
        "LogPath": os.path.join(folder, "log.json"),
        "Name": f"/{record.name}",
        "Driver": spec.storage,
        "NetworkSettings": _network_settings(database, record),
        "HostConfig": {
            "NetworkMode": spec.network,
            "Dns": list(spec.dns),
            "DnsSearch": list(spec.dns_search),
            "DnsOptions": list(spec.dns_options),
            "ExtraHosts": list(spec.add_hosts),
            "PublishAllPorts": spec.publish_all,
            "AutoRemove": spec.remove,
            "ReadonlyRootfs": spec.read_only,
            "Init": spec.init,
            "Memory": usage.memory,
            "NanoCpus": int(usage.cpus * 1e9),
            "PidsLimit": usage.pids or None,
            "Ulimits": [{"Name": name, "Soft": soft, "Hard": hard} for name, soft, hard in spec.ulimits],
            "EffectiveCapabilities": [f"CAP_{name}" for name in spec.capabilities],
            "StorageOpt": list(spec.storage_options),
        },
        "GraphDriver": {
            "Name": spec.storage,
            "Data": {"UpperDir": os.path.join(folder, "upper"), "WorkDir": os.path.join(folder, "work"),
                     "LowerDir": list(roots.lower_layers(database, record)), "MergedDir": f"/proc/{record.pid}/root"},
        },
        "Mounts": [
            {
                "Type": mount.kind,
                **({"Name": mount.source} if mount.kind == VOLUME else {}),
                "Source": volumes.path(mount.source) if mount.kind == VOLUME else mount.source,
                "Destination": mount.target,
                "Mode": "ro" if mount.read_only else "",
                "RW": not mount.read_only,
                "Propagation": mount.propagation if mount.kind == "bind" else "",
            }
            for mount in spec.mounts
        ],
        "Config": {
            "Hostname": spec.hostname,
            "User": spec.user,
            "Tty": spec.tty,
            "OpenStdin": spec.interactive,
            "Env": list(spec.env),
            "Cmd": list(spec.argv[spec.entrypoint_length :]),
            "Entrypoint": list(spec.argv[: spec.entrypoint_length]) or None,
            "Image": spec.image_name,
            "WorkingDir": spec.workdir,
            "Labels": dict(spec.labels),
            "StopSignal": spec.stop_signal,
            "StopTimeout": spec.stop_timeout,
            "ExposedPorts": {port: {} for port in spec.ports},
        },
    }  # fmt: skip


def _network_settings(database: Database, record: Record) -> dict[str, Any]:
    ports: dict[str, Any] = dict.fromkeys(record.spec.ports)
    for port in published_ports(database, record):
        published = {"HostIp": port.address, "HostPort": str(port.port)}
        ports[port.inner] = [*(ports.get(port.inner) or ()), published]
    networks = {}
    for network, endpoint in Networks(database).endpoints(record.id):
        found = endpoint.link if endpoint.outer else None
        shown = {address.version: str(address) for address in (found.addresses if found else ())}
        gateways = {address.version: str(address) for address in network.bridge.gateways} if found else {}
        networks[network.name] = {
            "Aliases": [*endpoint.aliases, *([] if network.name == BRIDGE else [record.short_id])],
            "NetworkID": network.id, "Gateway": gateways.get(4, ""), "IPAddress": shown.get(4, ""),
            "GlobalIPv6Address": shown.get(6, ""), "MacAddress": found.hardware if found else "",
        }  # fmt: skip
    first = next(iter(networks.values()), {}) if BRIDGE in networks else {}
    return {
        "SandboxKey": f"/proc/{record.pid}/ns/net" if record.pid else "", "Ports": ports, "Networks": networks,
        "IPAddress": first.get("IPAddress", ""), "Gateway": first.get("Gateway", ""),
        "MacAddress": first.get("MacAddress", ""),
    }  # fmt: skip


def image_document(database: Database, name: str) -> dict[str, Any]:
    images = Images(database)
    image = images.resolve(name)
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": [],
        "Created": config.get("created", ""),
        "Author": config.get("author", ""),
        "Architecture": config.get("architecture", ""),
        "Os": config.get("os", ""),
        "Size": image.size,
        "Manifest": image.manifest,
        "Config": image.rules,
        "GraphDriver": {"Name": "unionfs", "Data": {"Layers": list(images.layer_directories(image))}},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
    }


def volume_document(volumes: Volumes, name: str) -> dict[str, Any]:
    volume = volumes.find(name)
    return {
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": volume.path,
        "CreatedAt": date(volume.created),
        "Labels": volume.labels,
        "Scope": "local",
        "Anonymous": volume.anonymous,
        "UsedBy": list(volume.users),
    }


def network_document(networks: Networks, name: str) -> dict[str, Any]:
    network = networks.find(name)
    config = [
        {"Subnet": entry.subnet, "Gateway": entry.gateway, **({"IPRange": entry.within} if entry.within else {})}
        for entry in network.ranges
    ]
    bridge = network.bridge
    members = {}
    for record, endpoint in networks.members(network) if network.driver == "bridge" else ():
        pairs = zip(endpoint.link.addresses, bridge.subnets, strict=True)
        shown = {address.version: with_prefix(address, subnet) for address, subnet in pairs}
        members[record.id] = {
            "Name": record.name, "MacAddress": endpoint.link.hardware, "IPv4Address": shown.get(4, ""),
            "IPv6Address": shown.get(6, ""), "Interface": endpoint.outer,
        }  # fmt: skip
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": date(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv6": any(":" in entry.subnet for entry in network.ranges),
        "IPAM": {"Driver": "default", "Options": {}, "Config": config},
        "Internal": network.internal,
        "Containers": members,
        "Options": {"bridge.name": bridge.name} if network.driver == "bridge" else {},
        "Labels": network.labels,
    }


def date(seconds: float) -> str:
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e9):09d}Z"
