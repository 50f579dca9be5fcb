"""`unionfs run` and `unionfs create`: a container by docker's options.

Loaded by `main.py`. What an option means is in the modules of the container floor that parse it; here is which there
are. `run` is a create, a start, and, unless -d is given, an attach.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unionfs import events
from unionfs.cli.command import Command, UsageError
from unionfs.cli.launching import attached, command_of, needs_terminal, rooted
from unionfs.container.attach import held
from unionfs.container.create import Request
from unionfs.container.lifecycle import Container
from unionfs.container.mountspecs import parse_mount, parse_tmpfs, parse_volume, parse_volumes_from
from unionfs.container.process import FAILED
from unionfs.container.quantities import parse_count, parse_cpus, parse_duration, parse_memory, parse_signal
from unionfs.container.spec import Limits
from unionfs.container.ulimits import parse as parse_ulimit
from unionfs.errors import UnionfsError

_SECURITY = ("seccomp=unconfined", "no-new-privileges", "no-new-privileges=true", "no-new-privileges=false")


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    command = parser.prog.removeprefix("unionfs ")
    parser.usage = f"unionfs {command} [OPTIONS] IMAGE [COMMAND] [ARGUMENT...]"
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="keep standard input open")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("--name", metavar="NAME", help="its name; by default one is made up")
    add("--rm", action="store_true", help="remove it when it ends, with its anonymous volumes")
    add("-v", "--volume", action="append", default=[], metavar="[SOURCE:]TARGET[:MODE]", help="a volume or a directory")
    add("--mount", action="append", default=[], metavar="KEY=VALUE,...", help="as in type=bind,source=/a,target=/b,ro")
    add("--volumes-from", action="append", default=[], metavar="CONTAINER[:ro]", help="those of another container")
    add("--tmpfs", action="append", default=[], metavar="TARGET[:OPTIONS]", help="a directory in memory")
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="an environment variable")
    add("--env-file", action="append", default=[], metavar="FILE", help="variables, one a line")
    add("-w", "--workdir", metavar="DIR", help="its working directory")
    add("-u", "--user", metavar="USER[:GROUP]", help="who runs its command")
    add("--entrypoint", metavar="COMMAND", help="in place of the image's entrypoint; drops the image's arguments")
    add("-h", "--hostname", metavar="NAME", help="its host name; by default its id")
    add("--read-only", action="store_true", help="its root cannot be written to")
    add("--network", "--net", default="", metavar="NETWORK", help="bridge, none, host, container:NAME, or yours")
    add("--network-alias", "--net-alias", action="append", default=[], metavar="NAME", help="a further name on it")
    add("--ip", metavar="ADDRESS", help="its address on it, for networks of your own")
    add("--ip6", metavar="ADDRESS", help="the same, IPv6")
    add("-p", "--publish", action="append", default=[], metavar="[[ADDRESS:]PORT:]PORT", help="a port of the machine")
    add("-P", "--publish-all", action="store_true", help="open a free port for each port that is exposed")
    add("--publish-mode", default="proxy", metavar="MODE", help="by default proxy; nat keeps the client's address")
    add("--dns", action="append", default=[], metavar="ADDRESS", help="who answers for names, not the machine's")
    add("--dns-search", action="append", default=[], metavar="DOMAIN", help="what is tried behind a short name")
    add("--dns-option", "--dns-opt", action="append", default=[], metavar="WORD", help="as in resolv.conf(5)")
    add("--add-host", action="append", default=[], metavar="NAME:ADDRESS", help="a line for its /etc/hosts")
    add("--init", action="store_true", help="an init that passes signals on and reaps is process 1")
    add("-m", "--memory", type=parse_memory, default=0, metavar="SIZE", help="the most memory, as in 64m")
    add("--cpus", type=parse_cpus, default=0.0, metavar="N", help="the most processors, as in 1.5")
    add("--pids-limit", type=_pids, default=0, metavar="N", help="the most processes")
    add("--ulimit", action="append", type=parse_ulimit, default=[], metavar="NAME=SOFT[:HARD]", help="as nofile=1024")
    add("--cap-add", action="append", default=[], metavar="NAME", help="a further capability, or ALL")
    add("--cap-drop", action="append", default=[], metavar="NAME", help="a capability less, or ALL")
    add("--security-opt", action="append", default=[], metavar="OPTION", help="as in " + " or ".join(_SECURITY[:2]))
    add("--stop-signal", type=parse_signal, metavar="SIGNAL", help="what unionfs stop sends; by default TERM")
    add("--stop-timeout", type=parse_duration, default=10, metavar="SECONDS", help="how long stop waits; by default 10")
    add("-l", "--label", action="append", default=[], metavar="NAME=VALUE", help="a note for people and programs")
    add("--label-file", action="append", default=[], metavar="FILE", help="labels, one a line")
    add("--expose", action="append", default=[], metavar="PORT[/udp]", help="a port to note, beside the image's")
    add("--cidfile", metavar="FILE", help="write its id there")
    add("--rootfs", action="store_true", help="IMAGE is a directory, or several with colons: copy-on-write over them")
    add("--storage", default="unionfs", metavar="DRIVER", help="by default unionfs; or overlay, the kernel's")
    add("--storage-opt", action="append", default=[], metavar="OPTION", help="a mount option, as in copyup=block")
    add("--help", action="help", help="show this help")
    add("image", metavar="IMAGE", help="what it starts from")
    add("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="what it runs; by default what the image says")


def _pids(word: str) -> int:
    return parse_count(word, "--pids-limit")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="leave it to itself, and print its id")
    parser.add_argument("--sig-proxy", choices=("true", "false"), default="true", help="pass signals on to it")
    parser.add_argument("--explain", action="store_true", help="print each step of its start, as it is made")
    _create_arguments(parser)


def request_of(arguments: argparse.Namespace) -> Request:
    """What the words of the command line ask for. Raises UnionfsError."""
    cwd = os.getcwd()
    mounts = [
        *(parse_volume(word, cwd) for word in arguments.volume),
        *(parse_mount(word, cwd) for word in arguments.mount),
        *map(parse_tmpfs, arguments.tmpfs),
    ]
    entrypoint = arguments.entrypoint
    return Request(
        image="" if arguments.rootfs else arguments.image,
        rootfs=tuple(arguments.image.split(":")) if arguments.rootfs else (),
        command=tuple(command_of(arguments)),
        name=arguments.name,
        entrypoint=None if entrypoint is None else (entrypoint,) if entrypoint else (),
        environment=(*_lines(arguments.env_file), *arguments.env),
        workdir=arguments.workdir,
        user=arguments.user,
        hostname=arguments.hostname,
        tty=arguments.tty,
        interactive=arguments.interactive,
        mounts=tuple(mounts),
        volumes_from=tuple(map(parse_volumes_from, arguments.volumes_from)),
        read_only=arguments.read_only,
        network=arguments.network,
        aliases=tuple(arguments.network_alias),
        addresses=tuple(word for word in (arguments.ip, arguments.ip6) if word),
        publish=tuple(arguments.publish),
        publish_all=arguments.publish_all,
        publish_mode=arguments.publish_mode,
        dns=tuple(arguments.dns),
        dns_search=tuple(arguments.dns_search),
        dns_options=tuple(arguments.dns_option),
        add_hosts=tuple(arguments.add_host),
        init=arguments.init,
        limits=Limits(arguments.memory, arguments.cpus, arguments.pids_limit),
        ulimits=tuple(arguments.ulimit),
        cap_add=tuple(arguments.cap_add),
        cap_drop=tuple(arguments.cap_drop),
        stop_signal=arguments.stop_signal,
        stop_timeout=int(arguments.stop_timeout),
        labels=tuple(_label(word) for word in (*_lines(arguments.label_file), *arguments.label)),
        expose=tuple(port if "/" in port else f"{port}/tcp" for port in arguments.expose),
        storage=arguments.storage,
        storage_options=tuple(arguments.storage_opt),
        remove=arguments.rm,
        **_security(arguments.security_opt),
    )


def _lines(files: list[str]) -> Iterator[str]:
    """The lines of files, without empty ones and remarks."""
    for path in files:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if line.strip() and not line.lstrip().startswith("#"):
                    yield line.rstrip("\n").lstrip()


def _label(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    if not name:
        raise UsageError("--label", f"{word} has no name", "NAME=VALUE")
    return name, value


def _security(words: list[str]) -> dict[str, Any]:
    """The settings of --security-opt. Raises UnionfsError for what is not there, so that nobody relies on it."""
    settings: dict[str, Any] = {}
    for word in words:
        name, _, value = word.replace(":", "=", 1).partition("=")
        if name == "no-new-privileges" and value in ("", "true", "false"):
            settings["no_new_privs"] = value != "false"
        elif (name, value) == ("seccomp", "unconfined"):
            settings["seccomp"] = False
        elif name == "label" or (name, value) == ("apparmor", "unconfined"):
            events.warning(f"--security-opt {word} does nothing here: this launcher uses no SELinux and no AppArmor")
        else:
            raise UnionfsError(f"--security-opt {word}", "is not known", f"known are {', '.join(_SECURITY)}")
    return settings


# --- create, run


def _create(arguments: argparse.Namespace) -> None:
    print(_make(arguments, starts=False).id)


def _make(arguments: argparse.Namespace, starts: bool) -> Container:
    if arguments.cidfile and os.path.exists(arguments.cidfile):
        raise UnionfsError(f"container ID file {arguments.cidfile}", "is there already", "remove it, or name another")
    container = Container.make(request_of(arguments), starts=starts)
    if arguments.cidfile:
        with open(arguments.cidfile, "x", encoding="utf-8") as file:
            file.write(container.id)
    return container


@contextmanager
def launcher_status() -> Iterator[None]:
    """What the launcher itself fails at is exit status 125, so that it can be told from what the command does."""
    try:
        yield
    except UnionfsError as failure:
        if failure.exit_status < FAILED:
            failure.exit_status = FAILED
        raise


def _run(arguments: argparse.Namespace) -> int:
    with launcher_status():
        if arguments.tty and arguments.interactive and not arguments.detach:
            needs_terminal()
        container = _make(arguments, starts=True)
        explain = 2 if arguments.explain else -1
        if arguments.detach:
            container.start(explain).close()
            print(container.id)
            return 0
        with held():
            connection = container.start(explain)
            return attached(lambda: container.attach(connection, proxies=arguments.sig_proxy == "true"))


COMMANDS = {
    "run": Command(
        "Create a container and run a command in it. Its root is the image's layers, read-only and shared, with a "
        "layer of its own on top that takes all changes.",
        _run_arguments,
        rooted(_run),
        "ctrl-p ctrl-q leaves a container with a terminal to itself. Exit status: that of the command, 128 + the\n"
        "signal's number where one ended it; 125 the launcher failed, 126 the command cannot be invoked, 127 there is\n"
        "none.",
        FAILED,
        own_help=True,
    ),
    "create": Command(
        "Create a container, with its volumes, and do not start it: unionfs start does. Prints its id.",
        _create_arguments,
        rooted(_create),
        own_help=True,
    ),
}
