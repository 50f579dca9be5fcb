"""/etc/hosts and /etc/resolv.conf of a container: files beside its log, mounted into its root, written anew at each
start and whenever it comes to a network or leaves one; in place, since they are mounted.

Called by `uplink.py` and `wiring.py`. Sources: hosts(5), resolv.conf(5), docker's documentation of both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from unionfs.container.spec import HOST, Spec
from unionfs.linux.capabilities import rules_the_machine

_RESOLV = "/etc/resolv.conf"
_RESOLV_OF_SYSTEMD = "/run/systemd/resolve/resolv.conf"
RESOLVER = "127.0.0.11"
"""Where a container asks for names, on networks of one's own."""
_LOOPBACK = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
HOST_GATEWAY = "host-gateway"
"""In --add-host: this machine, as the container's first network reaches it."""


def write(folder: str, spec: Spec, addresses: Sequence[str] = (), gateway: str = "", has_names: bool = False) -> None:
    """For a container with these addresses; `gateway` is that of its first network, `has_names` says whether somebody
    answers for names at 127.0.0.11."""
    lines = [f"{word}\t{spec.hostname}\n" for word in addresses] or [f"127.0.1.1\t{spec.hostname}\n"]
    for word in spec.add_hosts:
        name, _, where = word.partition(":")
        lines.append(f"{gateway or '127.0.0.1' if where == HOST_GATEWAY else where.strip('[]')}\t{name}\n")
    _put(folder, "hosts", _LOOPBACK + "".join(lines))
    _put(folder, "resolv.conf", _resolv(spec, bool(addresses), has_names))


def share(source: str, folder: str) -> None:
    """The same files as those of the container whose network is shared."""
    for name in ("hosts", "resolv.conf"):
        _put(folder, name, _read(os.path.join(source, name)))


def resolvers() -> list[str]:
    """The addresses of the machine's resolvers, as programs of the machine reach them."""
    return _nameservers(_read(_RESOLV))


def _resolv(spec: Spec, is_on_network: bool, has_names: bool) -> str:
    own = [*(f"search {' '.join(spec.dns_search)}" for _ in spec.dns_search[:1])]
    options = list(spec.dns_options)
    if has_names:
        if not any(word.startswith("ndots:") for word in options):
            options.append("ndots:0")
        servers, kept = [RESOLVER], []
    elif is_on_network or spec.dns or spec.network == HOST:
        text = _read(_RESOLV)
        if spec.network != HOST and not spec.dns and not _reachable(_nameservers(text)):
            text = _read(_RESOLV_OF_SYSTEMD)  # a resolver on the machine's own loopback is out of reach
        found = _nameservers(text)
        goes_out = spec.network == HOST or rules_the_machine()  # without root no way leads to the machine's resolvers
        servers = list(spec.dns) or ((found if spec.network == HOST else _reachable(found)) if goes_out else [])
        wanted = {*(() if own else ("search", "domain")), *(() if options else ("options",))}
        kept = [line for line in text.splitlines() if wanted.intersection(line.split()[:1])]
    else:
        servers, kept = [], ["# no network"]
    own += [f"options {' '.join(options)}" for _ in options[:1]]
    return "".join(f"{line}\n" for line in (*(f"nameserver {word}" for word in servers), *kept, *own))


def _reachable(servers: Sequence[str]) -> list[str]:
    return [word for word in servers if not word.startswith("127.") and word != "::1"]


def _nameservers(text: str) -> list[str]:
    words = (line.split() for line in text.splitlines())
    return [line[1].partition("%")[0] for line in words if line[:1] == ["nameserver"] and len(line) > 1]


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
    return ""


def _put(folder: str, name: str, text: str) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
