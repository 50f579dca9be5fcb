"""The commands that bring files and changes out of containers: `cp`, `export`, `commit`; and files in.

Loaded by `main.py`.
"""

from __future__ import annotations

import argparse
import sys

from unionfs.cli.command import Command, UsageError
from unionfs.cli.image import output
from unionfs.cli.launching import rooted
from unionfs.container import commit, roots, transfer
from unionfs.container.lifecycle import Container
from unionfs.container.merged import Packer, opened
from unionfs.image import reference
from unionfs.image.database import Database
from unionfs.image.packing import open_for_writing

# --- cp


def _cp_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "unionfs cp [-a] [-L] CONTAINER:PATH PATH|-\n       unionfs cp [-a] [-L] PATH|- CONTAINER:PATH"
    add = parser.add_argument
    add("-a", "--archive", action="store_true", help="keep owner and group")
    add("-L", "--follow-link", action="store_true", help="copy what a symbolic link leads to")
    add("-q", "--quiet", action="store_true", help="accepted; nothing is told anyway")
    add("source", metavar="SOURCE", help="CONTAINER:PATH, a path, or - for a tar on standard input")
    add("target", metavar="TARGET", help="a path, - for a tar on standard output, or CONTAINER:PATH")


def _cp(arguments: argparse.Namespace) -> None:
    source, target = _split(arguments.source), _split(arguments.target)
    if (source is None) == (target is None):
        why = "copying between containers is not supported" if source else "must specify at least one container source"
        raise UsageError("cp", why, "unionfs cp CONTAINER:PATH PATH")
    follow, keeps_owner = arguments.follow_link, arguments.archive
    if source is not None:
        container, path = Container(source[0]), source[1]
        if arguments.target == "-":
            with output("-") as out:
                transfer.archive_out(container, path, out, follow=follow)
        else:
            transfer.copy_out(container, path, arguments.target, follow=follow, keeps_owner=keeps_owner)
    elif target is not None:
        container, path = Container(target[0]), target[1]
        rights = transfer.KEPT if keeps_owner else transfer.ROOT
        if arguments.source == "-":
            transfer.archive_in(container, sys.stdin.buffer, path, rights)
        else:
            transfer.copy_in(container, arguments.source, path, rights, follow=follow)


def _split(word: str) -> tuple[str, str] | None:
    """Container and path; None for a path of this machine, as one that begins with / or . is."""
    name, colon, path = word.partition(":")
    if not colon or word.startswith(("/", ".")) or not name:
        return None
    if not path:
        raise UsageError("cp", f"{word} names no path", f"{name}:/path")
    return name, path if path.startswith("/") else f"/{path}"


# --- export


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="by default standard output")
    parser.add_argument("name", metavar="CONTAINER", help="its name or id")


def _export(arguments: argparse.Namespace) -> None:
    container = Container(arguments.name)
    record = container.record
    with Database() as database:
        place = roots.place_of(database, record)
    with output(arguments.output) as out, opened(place, record.spec.storage) as union, open_for_writing(out) as tar:
        Packer(union, tar).tree(union.root, ".")


# --- commit


def _commit_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="a Dockerfile's, as in USER www")
    add("-m", "--message", default="", metavar="TEXT", help="a comment for its history")
    add("-a", "--author", default="", metavar="TEXT", help="who made it")
    add("-p", "--pause", choices=("true", "false"), default="true", help="whether it stands still meanwhile")
    add("name", metavar="CONTAINER", help="its name or id")
    add("new", nargs="?", default="", metavar="NAME[:TAG]", help="the image's name")


def _commit(arguments: argparse.Namespace) -> None:
    if arguments.new:
        reference.parse(arguments.new)
    image = commit.commit(
        Container(arguments.name), arguments.new, changes=arguments.change, message=arguments.message,
        author=arguments.author, pauses=arguments.pause == "true",
    )  # fmt: skip
    print(image.id)


COMMANDS = {
    "cp": Command(
        "Copy files between a container, running or not, and this machine. A directory goes into a directory that is "
        "there; with /. at its end, what is in it does.",
        _cp_arguments, rooted(_cp),
    ),
    "export": Command(
        "A container's root, without its volumes, as a tar: unionfs import makes an image of it.",
        _export_arguments, rooted(_export),
    ),
    "commit": Command(
        "Make an image of a container: its image's layers, and what it changed as one more.",
        _commit_arguments, rooted(_commit),
    ),
}  # fmt: skip
