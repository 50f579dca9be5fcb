"""Manual pages that are made from the commands' parsers, so that they cannot lag behind them.

Loaded by `main.py` for `unionfs manual NAME`, which prints docs/man/unionfs-NAME.1; a test holds the files against it.
Source: mdoc(7).
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from unionfs.cli.command import Command, make_parser
from unionfs.cli.main import CONTAINERS, GROUPS, LEARNING, Place, load

_HEAD = """\
.\\" Made by: unionfs manual containers
.Dd November 25, 2026
.Dt UNIONFS-CONTAINERS 1
.Os
.Sh NAME
.Nm unionfs-containers
.Nd processes with a union as their root
.Sh SYNOPSIS
"""
_DESCRIPTION = """\
.Sh DESCRIPTION
A container is a process in namespaces of its own, whose root is a union: the layers of an image, which are read-only
and shared by all containers of that image, and a layer of its own on top that takes all changes.
There is no daemon: a container that runs has a monitor, a process that owns its mount, its log and its exit status.
.Pp
The commands, their options, columns and exit statuses are docker's.
A container is named by its name, its id, or the beginning of its id.
Commands that have a group can be written with the group's name before them, as in
.Li unionfs container rm .
.Pp
A user who is not root gets a user namespace, in which they are: with the ranges of
.Xr subuid 5
where there are any, else with one user.
.Sh COMMANDS
"""
_TAIL = """\
.Sh ENVIRONMENT
.Bl -tag -width Ds
.It Ev UNIONFS_ROOT
Where images, containers, volumes and networks are kept; by default
.Pa /var/lib/unionfs ,
and for users other than root
.Pa ~/.local/share/unionfs .
.It Ev UNIONFS_NETWORK
The network of containers that name none; by default bridge.
.El
.Sh EXIT STATUS
.Ex -std unionfs
.Bl -tag -width Ds
.It 125
run: the launcher failed.
.It 126
run, exec: the command cannot be invoked.
.It 127
run, exec: there is no such command.
.It 128+n
run, exec: the command was ended by signal n.
.El
.Sh EXAMPLES
A small image of this machine's own shell and tools, and a shell in it:
.Pp
.Dl unionfs import host tools
.Dl unionfs run -it --rm tools
.Pp
Copy-on-write over this whole machine: try something, look at what it changed, drop it.
.Pp
.Dl unionfs run -it --name try --rootfs / bash
.Dl unionfs diff try
.Dl unionfs discard try
.Pp
Data that outlives containers:
.Pp
.Dl unionfs create -v /srv --name store tools /bin/true
.Dl unionfs run -it --rm --volumes-from store tools
.Sh SEE ALSO
.Xr unionfs 1 ,
.Xr capabilities 7 ,
.Xr cgroups 7 ,
.Xr namespaces 7 ,
.Xr pivot_root 2
"""


_LEARNING_HEAD = """\
.\\" Made by: unionfs manual learning
.Dd November 29, 2026
.Dt UNIONFS-LEARNING 1
.Os
.Sh NAME
.Nm unionfs-learning
.Nd a union filesystem, rebuilt piece by piece
.Sh SYNOPSIS
"""
_LEARNING_DESCRIPTION = """\
.Sh DESCRIPTION
Twelve labs: each is a page with an idea and a task, a file to be written, and checks.
The file takes the place of one of the project's own, so a few lines carry a whole file system.
Labs 0 to 6 need no privileges, and mount nothing.
The quiz asks about layers, for paper or for oneself.
.Sh COMMANDS
"""
_LEARNING_TAIL = """\
.Sh EXIT STATUS
.Ex -std unionfs
.Sh EXAMPLES
.Dl unionfs lab start 1 lookup
.Dl unionfs lab check lookup
.Dl unionfs quiz -s 7 -n 10
.Dl unionfs quiz -s 7 -n 10 -c
.Sh SEE ALSO
.Xr unionfs 1 ,
.Xr unionfs-containers 1
"""


class Page(NamedTuple):
    places: dict[str, Place]
    head: str
    description: str
    tail: str
    has_groups: bool


PAGES = {
    "containers": Page(CONTAINERS, _HEAD, _DESCRIPTION, _TAIL, True),
    "learning": Page(LEARNING, _LEARNING_HEAD, _LEARNING_DESCRIPTION, _LEARNING_TAIL, False),
}


def text_of(page: Page) -> str:
    """The whole page."""
    commands = {name: load(name) for name, place in page.places.items() if place.summary}
    synopsis = "".join(f".Nm unionfs\n.Cm {name}\n.Ar {_arguments_of(name)}\n" for name in commands)
    described = "".join(_described(name, command) for name, command in commands.items())
    return page.head + synopsis + page.description + described + (_groups() if page.has_groups else "") + page.tail


def _arguments_of(name: str) -> str:
    """What is behind the command's name in its usage, in one line."""
    usage = " ".join(make_parser(name, load(name)).format_usage().split())
    rest = usage.partition(f"unionfs {name}")[2].strip()
    return "..." if len(rest) > 60 or not rest else _escaped(rest)


def _described(name: str, command: Command) -> str:
    parser = make_parser(name, command)
    text = f".Ss {name}\n{_sentences(command.description)}"
    options = [action for action in parser.visible_actions() if action.option_strings and action.dest != "help"]
    if options:
        items = "".join(f".It {_flags(action)}\n{_sentences(action.help or '')}" for action in options)
        text += f".Bl -tag -width Ds\n{items}.El\n"
    if command.epilog:
        text += f".Pp\n{_sentences(' '.join(command.epilog.split()))}"
    return text


def _flags(action: argparse.Action) -> str:
    value = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
    words = [f"Fl {word[1:]}" for word in action.option_strings]
    return " , ".join(words) + ("" if action.nargs == 0 else f" Ar {_escaped(str(value))}")


def _groups() -> str:
    lines = "".join(f".It Cm {group}\n{_escaped(', '.join(names))}\n" for group, names in GROUPS.items() if names)
    return f".Ss Groups\nWhat can be written with a group's name before it:\n.Bl -tag -width Ds\n{lines}.El\n"


def _sentences(text: str) -> str:
    """Each sentence on a line of its own, as mdoc wants it."""
    whole = text[:1].upper() + text[1:]
    ended = whole if whole.endswith((".", ":")) else whole + "."
    return "".join(f"{_escaped(part)}\n" for part in ended.replace(". ", ".\n").split("\n"))


def _escaped(text: str) -> str:
    safe = text.replace("\\", "\\e").replace("%%", "%").replace("-", "\\-")
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


def _choose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("page", choices=PAGES, help="of unionfs-containers or unionfs-learning")


def _print(arguments: argparse.Namespace) -> None:
    print(text_of(PAGES[arguments.page]), end="")


COMMANDS = {"manual": Command("A manual page, made from the commands themselves.", _choose, _print)}
