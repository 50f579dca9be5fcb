"""`unionfs exec`: one more command in a running container.

Loaded by `main.py`, without what makes and ends containers: none of the commands is run as often.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

from unionfs.cli.command import Command, UsageError
from unionfs.cli.launching import attached, command_of, needs_terminal
from unionfs.container import enter
from unionfs.container.attach import held
from unionfs.container.process import Streams
from unionfs.container.state import Containers
from unionfs.image.database import Database


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "unionfs exec [OPTIONS] CONTAINER COMMAND [ARGUMENT...]"
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="keep standard input open")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-d", "--detach", action="store_true", help="do not wait for it")
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="an environment variable")
    add("-w", "--workdir", default="", metavar="DIR", help="its working directory")
    add("-u", "--user", default="", metavar="USER[:GROUP]", help="who runs it")
    add("--explain", action="store_true", help="print each step, as it is made")
    add("name", metavar="CONTAINER", help="a container that runs")
    add("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="what it runs")


def _run(arguments: argparse.Namespace) -> int:
    words = command_of(arguments)
    if not words:
        raise UsageError("exec", "no command is given", "unionfs exec [OPTIONS] CONTAINER COMMAND")
    tty, interactive = arguments.tty and not arguments.detach, arguments.interactive and not arguments.detach
    if tty and interactive:
        needs_terminal()
    streams = Streams() if arguments.detach else Streams(0 if interactive else -1, 1, 2)
    with Database() as database:
        record = Containers(database).find(arguments.name)
    with nullcontext() if arguments.detach else held():
        entered = enter.execute(
            record, words, environment=arguments.env, workdir=arguments.workdir, user=arguments.user, tty=tty,
            streams=streams, explain=2 if arguments.explain else -1,
        )  # fmt: skip
        return 0 if arguments.detach else attached(lambda: enter.attend(entered, tty, interactive))


COMMANDS = {
    "exec": Command(
        "Run one more command in a running container, with the container's environment, working directory and user.",
        _arguments, _run,
        "Exit status: that of the command; 126 it cannot be invoked, 127 there is none.",
    ),
}  # fmt: skip
