"""What a container is created by: everything `run` can be told, as it is kept in the state.

Made by the command line and by the library from words, images and defaults; read by all that start, show or change a
container. Kept as JSON in the column `spec`; a field that is not there has its default, so that an older state is read
by a newer program.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

BIND, VOLUME, TMPFS = "bind", "volume", "tmpfs"
BRIDGE, HOST, NONE = "bridge", "host", "none"
"""The networks that are there from the beginning."""
PROXY, NAT = "proxy", "nat"
"""How a published port leads to its container."""
CONTAINER = "container:"
"""Before the id of another container, whose network is shared."""


class Mount(NamedTuple):
    """One mount of a container's, in docker's words. `source` is an absolute path of the host (bind), a volume's name
    (volume), or empty (tmpfs); `target` an absolute path in the container, normal, without a slash at its end."""

    kind: str
    source: str
    target: str
    read_only: bool = False
    propagation: str = "rprivate"
    copies: bool = True
    """A volume that is empty gets what the image has at `target`, when the container is created."""
    options: tuple[str, ...] = ()
    """tmpfs: words of mount(8), as "size=64m" and "mode=1777"."""
    creates: bool = False
    """A source that is missing is made, a directory: docker's -v, not its --mount."""


def merge_variables(*parts: Sequence[str]) -> tuple[str, ...]:
    """Later words win; a name alone copies the variable of this process, where there is one."""
    variables: dict[str, str] = {}
    for word in (word for part in parts for word in part):
        name, equals, value = word.partition("=")
        if equals:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
        else:
            variables.pop(name, None)
    return tuple(f"{name}={value}" for name, value in variables.items())


def normal(path: str) -> str:
    """A path in the container, absolute, with one slash at its beginning: POSIX lets normpath(3) keep two."""
    return "/" + os.path.normpath(path).lstrip("/")


class Limits(NamedTuple):
    """Limits of resources; 0 means none. `memory` in bytes, `cpus` in processors, `pids` in processes."""

    memory: int = 0
    cpus: float = 0.0
    pids: int = 0


class Spec(NamedTuple):
    """The rules of one container. `argv` is the command in full, entrypoint and arguments; `env` are NAME=VALUE."""

    argv: tuple[str, ...]
    image_name: str = ""
    rootfs: tuple[str, ...] = ()
    """The lower layers where there is no image (--rootfs), absolute paths, the topmost first."""
    entrypoint_length: int = 0
    env: tuple[str, ...] = ()
    workdir: str = "/"
    user: str = ""
    hostname: str = ""
    tty: bool = False
    interactive: bool = False
    """Standard input is kept open."""
    mounts: tuple[Mount, ...] = ()
    """By the depth of their targets, as they are made."""
    read_only: bool = False
    network: str = "none"
    """The network that it was created with: none, host, a network's name, or container:ID."""
    publish: tuple[str, ...] = ()
    """What -p said, a word each: see network/ports.py."""
    publish_all: bool = False
    publish_mode: str = PROXY
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    add_hosts: tuple[str, ...] = ()
    """NAME:ADDRESS, for /etc/hosts."""
    init: bool = False
    limits: Limits = Limits()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    """Name (nofile), soft and hard limit; -1 is none."""
    capabilities: tuple[str, ...] = ()
    """The capabilities it has, as "CHOWN", sorted."""
    seccomp: bool = True
    no_new_privs: bool = True
    stop_signal: int = 15
    stop_timeout: int = 10
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[str, ...] = ()
    """What the image exposes and --expose, as "80/tcp"."""
    storage: str = "unionfs"
    storage_options: tuple[str, ...] = ()
    remove: bool = False
    """--rm: removed when it ends."""

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> Spec:
        fields: dict[str, Any] = json.loads(text)
        tuples = {name: _tuple(value) for name, value in fields.items() if isinstance(value, list)}
        fields.update(tuples)
        fields["mounts"] = tuple(Mount(*mount) for mount in fields.get("mounts", ()))
        fields["limits"] = Limits(*fields.get("limits", ()))
        return cls(**{name: value for name, value in fields.items() if name in cls._fields})


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
