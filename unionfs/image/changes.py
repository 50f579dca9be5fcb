"""Changes of an image's config in the words of a Dockerfile: what `import -c`, `commit --change` and builds share.

Pure functions; each raises UnionfsError that names the instruction.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from unionfs.errors import UnionfsError, did_you_mean

Config = dict[str, Any]
SHELL = ["/bin/sh", "-c"]
INSTRUCTIONS = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")


def apply_changes(config: Config, changes: Iterable[str]) -> Config:
    """The `config` of an image's config with these instructions carried out, one after the other."""
    for line in changes:
        name, _, rest = line.strip().partition(" ")
        word = name.upper()
        if word not in INSTRUCTIONS:
            hint = did_you_mean(word, INSTRUCTIONS) or f"known are {', '.join(INSTRUCTIONS)}"
            raise UnionfsError(f"--change {line}", f"{name or 'nothing'} is no instruction that changes a config", hint)
        config = apply_change(config, word, rest.strip())
    return config


def apply_change(config: Config, name: str, rest: str) -> Config:
    """One instruction, its name in capitals."""
    if not rest and name not in ("CMD", "ENTRYPOINT", "USER"):
        raise UnionfsError(name, "needs an argument")
    return {**config, **_CHANGES[name](config, rest)}


def command(rest: str) -> list[str]:
    """The exec form, a JSON list, or the shell form."""
    if rest.startswith("["):
        try:
            words = json.loads(rest)
            if isinstance(words, list) and all(isinstance(word, str) for word in words):
                return words
        except ValueError:
            pass
    return [*SHELL, rest] if rest else []


def pairs(name: str, rest: str) -> dict[str, str]:
    """`A=1 B="two words"`, or the old form `A one value`."""
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise UnionfsError(f"{name} {rest}", str(error).lower()) from error
    if "=" not in words[0]:
        key, _, value = rest.partition(" ")
        if not value:
            raise UnionfsError(f"{name} {rest}", "has no value", f"{name} {key}=VALUE")
        return {key: value.strip()}
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UnionfsError(f"{name} {rest}", f"{word} has no value", f"{name} {key}=VALUE")
        found[key] = value
    return found


def environment(config: Config) -> dict[str, str]:
    return dict(word.split("=", 1) for word in config.get("Env") or () if "=" in word)


def _env(config: Config, rest: str) -> Config:
    variables = {**environment(config), **pairs("ENV", rest)}
    return {"Env": [f"{key}={value}" for key, value in variables.items()]}


def _list(rest: str) -> list[str]:
    return command(rest) if rest.startswith("[") else rest.split()


def _ports(config: Config, rest: str) -> Config:
    ports = [port if "/" in port else f"{port}/tcp" for port in rest.split()]
    for port in ports:
        number, _, protocol = port.partition("/")
        if not all(part.isdecimal() for part in number.split("-")) or protocol not in ("tcp", "udp", "sctp"):
            raise UnionfsError(f"EXPOSE {rest}", f"{port} is no port", "as in 80 or 53/udp")
    return {"ExposedPorts": {**(config.get("ExposedPorts") or {}), **{port: {} for port in ports}}}


def _volumes(config: Config, rest: str) -> Config:
    return {"Volumes": {**(config.get("Volumes") or {}), **{path: {} for path in _list(rest)}}}


def _entrypoint(config: Config, rest: str) -> Config:
    """An entrypoint drops the arguments that were there, which were another one's."""
    return {"Entrypoint": command(rest) or None, "Cmd": None}


def _workdir(config: Config, rest: str) -> Config:
    return {"WorkingDir": posixpath.normpath(posixpath.join(config.get("WorkingDir") or "/", rest))}


_CHANGES: dict[str, Callable[[Config, str], Config]] = {
    "CMD": lambda config, rest: {"Cmd": command(rest) or None},
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _ports,
    "LABEL": lambda config, rest: {"Labels": {**(config.get("Labels") or {}), **pairs("LABEL", rest)}},
    "STOPSIGNAL": lambda config, rest: {"StopSignal": rest},
    "USER": lambda config, rest: {"User": rest},
    "VOLUME": _volumes,
    "WORKDIR": _workdir,
}
