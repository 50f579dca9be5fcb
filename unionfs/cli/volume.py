"""`unionfs volume`: directories that outlive containers.

Loaded by `main.py`. Columns, filters and words are docker's.
"""

from __future__ import annotations

import argparse
import os

from unionfs.cli import formats
from unionfs.cli.command import Command
from unionfs.cli.container import agrees, each
from unionfs.cli.documents import inspects, show_documents, volume_document
from unionfs.cli.launching import rooted
from unionfs.container import roots
from unionfs.container.volumes import Volume, Volumes
from unionfs.errors import UnionfsError
from unionfs.image.database import Database

_COLUMNS = (("driver", "Driver"), ("volume name", "Name"))
_FILTERS = ("dangling", "label", "name")


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="by default one is made up")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a note")


def _create(arguments: argparse.Namespace) -> None:
    with Database() as database:
        print(Volumes(database).create(arguments.name, formats.labels_of(arguments.label)))


def _ls_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="only names")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help=", ".join(_FILTERS))
    formats.add_format(parser)


def _ls(arguments: argparse.Namespace) -> None:
    with Database() as database:
        volumes = [volume for volume in Volumes(database).all() if all(_has(volume, word) for word in arguments.filter)]
    if arguments.quiet:
        for volume in volumes:
            print(volume.name)
        return
    formats.show([_row(volume) for volume in volumes], _COLUMNS, arguments.format)


def _has(volume: Volume, word: str) -> bool:
    key, _, value = word.partition("=")
    formats.check_filter(key, _FILTERS)
    if key == "dangling":
        return (not volume.users) == (value in ("true", "1"))
    if key == "name":
        return value in volume.name
    return formats.has_label(volume.labels, value)


def _row(volume: Volume) -> formats.Row:
    return {
        "Driver": "local",
        "Name": volume.name,
        "Mountpoint": volume.path,
        "Scope": "local",
        "Labels": ",".join(f"{name}={value}" for name, value in volume.labels.items()),
        "Containers": ",".join(volume.users),
    }


def _inspect(arguments: argparse.Namespace) -> int:
    with Database() as database:
        volumes = Volumes(database)
        return show_documents(arguments.names, arguments.format, lambda name: volume_document(volumes, name))


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="one that is not there is fine")
    parser.add_argument("names", nargs="+", metavar="VOLUME", help="its name")


def _rm(arguments: argparse.Namespace) -> int:
    with Database() as database:
        volumes = Volumes(database)

        def remove(name: str) -> None:
            if arguments.force and database.row("SELECT 1 FROM volumes WHERE name=?", name) is None:
                return
            volumes.remove(name)
            print(name)

        return each(arguments.names, remove)


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="those with a name too, not only anonymous ones")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")


def _prune(arguments: argparse.Namespace) -> None:
    which = "all" if arguments.all else "all anonymous"
    if not agrees(f"This removes {which} volumes that no container has. Go on?", arguments.force):
        return
    gone, size = [], 0
    with Database() as database:
        volumes = Volumes(database)
        for volume in volumes.unused(arguments.all):
            space = roots.space_of(os.path.dirname(volume.path))
            try:
                volumes.remove(volume.name)
            except UnionfsError:
                continue  # a container has it since
            gone.append(volume.name)
            size += space
    formats.show_removed("Volumes", gone, size)


COMMANDS = {
    "volume create": Command(
        "Make a volume, and print its name; one that is there already is fine.", _create_arguments, _create
    ),
    "volume ls": Command("The volumes.", _ls_arguments, _ls),
    "volume inspect": Command(
        "All that is known of volumes, as JSON.", inspects("VOLUME", ".Mountpoint", "its name"), _inspect
    ),
    "volume rm": Command("Remove volumes, with all that is in them.", _rm_arguments, rooted(_rm)),
    "volume prune": Command("Remove volumes that no container has, running or not.", _prune_arguments, rooted(_prune)),
}
