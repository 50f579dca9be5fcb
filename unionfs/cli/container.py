"""The commands that start, stop, and remove containers, and those that look into a running one.

Loaded by `main.py`. Each takes names, ids, or beginnings of ids; those that take several go on after one that fails,
and end with status 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from unionfs.cli import formats, table
from unionfs.cli.command import Command, UsageError, shown
from unionfs.cli.launching import attached, needs_terminal, rooted
from unionfs.cli.run import launcher_status
from unionfs.container import roots
from unionfs.container.attach import held
from unionfs.container.lifecycle import Container
from unionfs.container.quantities import parse_duration, parse_signal
from unionfs.errors import UnionfsError


def _names(parser: argparse.ArgumentParser, many: bool = True) -> None:
    nargs = "+" if many else None
    parser.add_argument("names" if many else "name", nargs=nargs, metavar="CONTAINER", help="its name or id")


def each(names: Sequence[str], act: Callable[[str], object]) -> int:
    """Do it for each of them; what fails is told, and the others are done all the same."""
    status = 0
    for name in names:
        try:
            act(name)
        except UnionfsError as failure:
            status = 1
            for line in str(failure).split("\n"):
                print(shown(line if line.startswith(" ") else f"unionfs: {line}"), file=sys.stderr)
    return status


def _each_named(names: Sequence[str], act: Callable[[Container], object]) -> int:
    def one(name: str) -> None:
        act(Container(name))
        print(name)

    return each(names, one)


# --- start, stop


def _start_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-a", "--attach", action="store_true", help="attach to what it puts out, and end as it ends")
    add("-i", "--interactive", action="store_true", help="attach its standard input too")
    add("--explain", action="store_true", help="print each step of its start, as it is made")
    _names(parser)


def _start(arguments: argparse.Namespace) -> int:
    attaches = arguments.attach or arguments.interactive
    if attaches and len(arguments.names) > 1:
        raise UsageError("start", "only one container can be attached to", "name one, or leave -a and -i out")
    explain = 2 if arguments.explain else -1
    if not attaches:
        return _each_named(arguments.names, lambda container: _started(container, explain))
    container = Container(arguments.names[0])
    with held():
        with launcher_status():
            if container.record.spec.tty and arguments.interactive:
                needs_terminal()
            connection = container.start(explain)
        return attached(lambda: container.attach(connection, interactive=arguments.interactive))


def _started(container: Container, explain: int) -> None:
    if not container.record.is_running:
        container.start(explain).close()


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-t", "--time", "--timeout", type=parse_duration, metavar="SECONDS", help="how long until it is killed")
    add("-s", "--signal", type=parse_signal, metavar="SIGNAL", help="in place of its own stop signal")
    _names(parser)


def _stop(arguments: argparse.Namespace) -> int:
    return _each_named(arguments.names, lambda container: container.stop(arguments.time, arguments.signal))


def _restart(arguments: argparse.Namespace) -> int:
    def restart(container: Container) -> None:
        container.stop(arguments.time, arguments.signal)
        container.start().close()

    return _each_named(arguments.names, restart)


def _kill_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--signal", type=parse_signal, default=9, metavar="SIGNAL", help="by default KILL")
    _names(parser)


def _kill(arguments: argparse.Namespace) -> int:
    return _each_named(arguments.names, lambda container: container.kill(arguments.signal))


def _pause(arguments: argparse.Namespace) -> int:
    return _each_named(arguments.names, Container.pause)


def _unpause(arguments: argparse.Namespace) -> int:
    def unpause(container: Container) -> None:
        if not container.is_paused:
            raise UnionfsError(f"container {container.record.name}", "is not paused")
        container.unpause()

    return _each_named(arguments.names, unpause)


def _wait(arguments: argparse.Namespace) -> int:
    return each(arguments.names, lambda name: print(Container(name).wait()))


# --- attach, exec


def _attach_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-stdin", action="store_true", help="leave its standard input alone")
    parser.add_argument("--sig-proxy", choices=("true", "false"), default="true", help="pass signals on to it")
    _names(parser, many=False)


def _attach(arguments: argparse.Namespace) -> int:
    container = Container(arguments.name)
    if container.record.spec.tty and not arguments.no_stdin:
        needs_terminal()
    interactive, proxies = not arguments.no_stdin, arguments.sig_proxy == "true"
    return attached(lambda: container.attach(interactive=interactive, proxies=proxies))


# --- rm, rename, prune


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-f", "--force", action="store_true", help="kill it first, if it runs")
    add("-v", "--volumes", action="store_true", help="its anonymous volumes too, unless another container uses them")
    _names(parser)


def _rm(arguments: argparse.Namespace) -> int:
    def remove(name: str) -> None:
        Container(name).remove(arguments.force, arguments.volumes)
        print(name)

    return each(arguments.names, remove)


def _rename_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser, many=False)
    parser.add_argument("new", metavar="NEW", help="its new name")


def _rename(arguments: argparse.Namespace) -> None:
    Container(arguments.name).rename(arguments.new)


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")


def agrees(question: str, force: bool) -> bool:
    """Whether the user says yes; asked on a terminal only. Raises UsageError where nobody can be asked."""
    if force:
        return True
    if not sys.stdin.isatty():
        raise UsageError("prune", "standard input is no terminal, so nobody can be asked", "add -f to do it unasked")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _prune(arguments: argparse.Namespace) -> None:
    if not agrees("This removes all containers that do not run. Go on?", arguments.force):
        return
    gone, size = [], 0
    for record in Container.all():
        if not record.is_running:
            container = Container(record.id)
            space = roots.space_of(os.path.join(container.directory, "upper"))
            container.remove()
            gone.append(record.id)
            size += space
    formats.show_removed("Containers", gone, size)


# --- top


def _top(arguments: argparse.Namespace) -> None:
    container = Container(arguments.name)
    record = container.record
    if not record.is_running:
        raise UnionfsError(f"container {record.name}", "is not running", f"unionfs start {record.name}")
    rows = []
    for pid in container.processes() or [record.pid]:
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().rstrip(b"\0").replace(b"\0", b" ")
        except OSError:
            continue  # it has just ended
        inside = fields.get("NSpid", "").split("\t")[-1]
        memory = fields.get("VmRSS", "0 kB").strip()
        rows.append((fields["Uid"].split("\t")[0], pid, inside, fields["PPid"], memory, shown(words) or fields["Name"]))
    right = table.RIGHT
    table.show(("uid", f"{right}pid", f"{right}inside", f"{right}ppid", f"{right}memory", "command"), rows)


COMMANDS = {
    "start": Command("Start containers that were created, or that have ended.", _start_arguments, rooted(_start)),
    "stop": Command(
        "Stop containers: their stop signal, TERM unless they say otherwise; after ten seconds KILL.",
        _stop_arguments, _stop,
    ),
    "restart": Command("Stop containers and start them again.", _stop_arguments, rooted(_restart)),
    "kill": Command("Send a signal to the first process of containers.", _kill_arguments, _kill),
    "pause": Command("Freeze all processes of containers (cgroups(7)).", _names, _pause),
    "unpause": Command("Let the processes of paused containers go on.", _names, _unpause),
    "wait": Command("Wait until containers end, and print their exit statuses.", _names, _wait),
    "attach": Command(
        "Attach the terminal, or standard streams, to a running container. ctrl-p ctrl-q leaves one with a terminal.",
        _attach_arguments, _attach,
    ),
    "rm": Command("Remove containers, with what they changed.", _rm_arguments, rooted(_rm)),
    "rename": Command("Give a container another name.", _rename_arguments, _rename),
    "top": Command(
        "The processes of a container: their numbers here and inside.", lambda parser: _names(parser, many=False), _top
    ),
    "container prune": Command("Remove all containers that do not run.", _prune_arguments, rooted(_prune)),
}  # fmt: skip
