"""The command `unionfs`: which command is meant, and what becomes of its failure.

The entry point of the package (`unionfs`, `python -m unionfs`). It loads the module of the one command that is run,
because a mount should be there in the blink of an eye: this is the door through which that import goes.

Exit status: 0 done; 1 it failed, the reason is on standard error; 2 the command line is wrong; 130 interrupted. The
helper of mount(8) answers as mount(8) does: 1 wrong usage, 32 the mount failed.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from unionfs import __version__
from unionfs.cli.command import Command, Parser, UsageError, run, shown, told
from unionfs.errors import UnionfsError, did_you_mean

INTERRUPTED = 130
READER_GONE = 141


class Place(NamedTuple):
    """In which module of this package a command is, and its line in the overview; without one it is not shown."""

    module: str
    summary: str = ""


UNIONS = {
    "mount": Place("mount", "merge directories and mount the result"),
    "umount": Place("mount", "unmount a union and wait for its daemon's end"),
    "layers": Place("inspect", "the stack, and what each layer adds, changes, deletes"),
    "which": Place("inspect", "which layer gives a file, and what it hides"),
    "diff": Place("inspect", "what the upper layer changes: A, C, D"),
    "blocks": Place("blocks", "which blocks of a file are copied up"),
    "settle": Place("blocks", "complete the files that were copied up in part"),
    "apply": Place("keep", "keep the changes: write them into a lower layer or a new directory"),
    "discard": Place("keep", "drop the changes: empty the upper layer"),
    "trace": Place("trace", "what the kernel asks a union, live"),
    "explore": Place("explore", "layers, tree, lookups and live requests in a browser"),
    "stats": Place("stats", "what a mount's daemon was asked, did and holds"),
    "doctor": Place("doctor", "what this machine can do, and how to mend it"),
    "bench": Place("bench", "measure this and other union filesystems, side by side"),
    "completion": Place("completion", "completion for bash, zsh or fish"),
    "mount.fuse.unionfs": Place("mount"),
}
LEARNING = {
    "lab list": Place("lab", "the labs: a union filesystem, rebuilt piece by piece"),
    "lab start": Place("lab", "begin a lab"),
    "lab check": Place("lab", "check what was written"),
    "lab hint": Place("lab", "the next hint"),
    "lab solution": Place("lab", "print a solution"),
    "quiz": Place("quiz", "questions about layers, without an end"),
}
"""Labs and the quiz. A name of two words belongs to the group that the first one names, here and below."""
CONTAINERS = {
    "run": Place("run", "create a container and run a command in it"),
    "create": Place("run", "create a container"),
    "start": Place("container", "start containers"),
    "stop": Place("container", "stop containers"),
    "restart": Place("container", "stop containers and start them again"),
    "kill": Place("container", "send a signal to containers"),
    "pause": Place("container", "freeze containers"),
    "unpause": Place("container", "let paused containers go on"),
    "wait": Place("container", "wait for the end of containers"),
    "attach": Place("container", "attach to a running container"),
    "exec": Place("exec", "run one more command in a container"),
    "ps": Place("ps", "list containers"),
    "logs": Place("ps", "what a container put out"),
    "inspect": Place("ps", "all that is known of a container, image, volume, network"),
    "top": Place("container", "the processes of a container"),
    "cp": Place("copy", "copy files between a container and here"),
    "export": Place("copy", "a container's root as a tar"),
    "commit": Place("copy", "make an image of a container"),
    "rename": Place("container", "give a container another name"),
    "rm": Place("container", "remove containers"),
    "container ls": Place("ps", "list containers"),
    "container prune": Place("container", "remove all containers that do not run"),
    "build": Place("build", "make an image by a Dockerfile"),
    "pull": Place("image", "get an image from a registry"),
    "push": Place("image", "put an image into a registry"),
    "load": Place("image", "load images from an archive"),
    "save": Place("image", "save images to an archive"),
    "import": Place("image", "make an image of an archive, a directory, or this machine"),
    "images": Place("image", "list images"),
    "rmi": Place("image", "remove images"),
    "tag": Place("image", "give an image one more name"),
    "history": Place("image", "the steps by which an image was made"),
    "image ls": Place("image", "list images"),
    "image inspect": Place("image", "all that is known of images"),
    "image prune": Place("image", "remove images that nothing needs"),
    "volume create": Place("volume", "make a volume"),
    "volume ls": Place("volume", "list volumes"),
    "volume inspect": Place("volume", "all that is known of volumes"),
    "volume rm": Place("volume", "remove volumes"),
    "volume prune": Place("volume", "remove volumes that no container has"),
    "port": Place("network", "the ports of a container that are published"),
    "network create": Place("network", "make a network"),
    "network ls": Place("network", "list networks"),
    "network inspect": Place("network", "all that is known of networks"),
    "network connect": Place("network", "put a container on a network"),
    "network disconnect": Place("network", "take a container off a network"),
    "network rm": Place("network", "remove networks"),
    "network prune": Place("network", "remove networks that no container is on"),
    "network graph": Place("network", "draw networks, containers, addresses and ports"),
    "manual": Place("manual"),
}
"""The launcher's."""
PLACES = UNIONS | LEARNING | CONTAINERS

GROUPS = {
    "image": ("build", "pull", "push", "load", "save", "import", "tag", "history"),
    "container": (
        "run", "create", "start", "stop", "restart", "kill", "pause", "unpause", "wait", "attach", "exec", "logs",
        "inspect", "top", "cp", "export", "commit", "rename", "rm", "diff", "stats", "port",
    ),
    "volume": (),
    "network": (),
    "lab": (),
}  # fmt: skip
"""The groups, and which of the commands of one word can also be written with the group's name before it, as docker
has them: `image rm` is `rmi`."""
_SHOWN = 6
_ALIASES = {"image rm": "rmi"}

EXAMPLES = """\
examples:
  mkdir upper work merged
  unionfs mount merged -o lowerdir=/etc:/usr/share,upperdir=upper,workdir=work
  unionfs diff merged
  unionfs umount merged

  unionfs import host tools
  unionfs run -it --rm tools

"unionfs COMMAND --help" says more of each. The manual: man unionfs,
man unionfs-containers, man unionfs-learning
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = _run(list(sys.argv[1:] if words is None else words))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes standard output once more
        return READER_GONE
    except (KeyboardInterrupt, EOFError):  # the second: the end of input, where a question was asked
        return INTERRUPTED
    except (UnionfsError, OSError) as error:
        failure = told(error)
        tell(failure)
        return failure.exit_status


def tell(failure: UnionfsError) -> None:
    """`unionfs: what: why`, and the next step on a line of its own; for several faults, each."""
    for line in str(failure).split("\n"):
        print(shown(line if line.startswith(" ") else f"unionfs: {line}"), file=sys.stderr)


def _run(words: list[str]) -> int:
    if not words:
        overview().print_help(sys.stderr)
        return UsageError.exit_status
    if words[0].startswith("-"):
        overview().parse(words[:1])
    if words[0] in GROUPS:
        return _run_of_group(words[0], words[1:])
    name = words[0]
    if name not in PLACES:
        known = [known for known, place in PLACES.items() if place.summary] + list(GROUPS)
        raise UsageError(name, "there is no such command", did_you_mean(name, known) or "unionfs --help lists them")
    return run(name, load(name), words[1:])


def _run_of_group(group: str, words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: unionfs {group} COMMAND [ARGUMENT...]\n\ncommands: {', '.join(commands_of(group))}")
        return 0 if words else UsageError.exit_status
    name = f"{group} {words[0]}"
    if words[0] not in commands_of(group):
        hint = did_you_mean(words[0], commands_of(group)) or f"unionfs {group} --help lists them"
        raise UsageError(name, "there is no such command", hint)
    if name not in PLACES:
        name = _ALIASES.get(name, words[0])
    return run(name, load(name), words[1:])


def commands_of(group: str) -> list[str]:
    """The second words that a group knows."""
    own = [name.partition(" ")[2] for name in (*PLACES, *_ALIASES) if name.startswith(f"{group} ")]
    return sorted({*own, *GROUPS[group]})


def load(name: str) -> Command:
    """The command of that name; its module is imported now."""
    gc.disable()  # what a module makes when it is loaded stays
    try:
        commands: dict[str, Command] = importlib.import_module(f"unionfs.cli.{PLACES[name].module}").COMMANDS
    finally:
        gc.enable()
    gc.freeze()  # and nobody looks at it again: not at the end, and not in forks, whose memory that would part
    return commands[name]


def _listed(places: dict[str, Place]) -> dict[str, str]:
    return {name: place.summary for name, place in places.items() if place.summary and " " not in name}


def _some_of(names: list[str]) -> str:
    return ", ".join(names if len(names) <= _SHOWN else [*names[:_SHOWN], "..."])


def overview() -> Parser:
    """The parser of `unionfs` itself: its help lists the commands."""
    groups = {group: _some_of(commands_of(group)) for group in GROUPS}
    learning = {"lab": groups.pop("lab")} | _listed(LEARNING)
    tables = [
        "\n".join(f"  {name:<12}{summary}" for name, summary in listed.items())
        for listed in (_listed(UNIONS), learning, _listed(CONTAINERS) | groups)
    ]
    parser = Parser(
        prog="unionfs",
        usage="unionfs COMMAND [ARGUMENT...]",
        description="A union filesystem: several directories seen as one, writable through the topmost.\n\n"
        f"unions:\n{tables[0]}\n\nlearning:\n{tables[1]}\n\n"
        f"containers, each with a union as its root:\n{tables[2]}",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"unionfs {__version__}", help="show the version")
    return parser
