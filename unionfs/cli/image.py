"""The commands about images.

Loaded by `main.py`. Columns, filters and words are docker's.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from unionfs.cli import formats
from unionfs.cli.command import Command, UsageError
from unionfs.cli.container import agrees, each
from unionfs.cli.documents import image_document, inspects, show_documents
from unionfs.cli.launching import rooted
from unionfs.cli.progress import bar
from unionfs.errors import UnionfsError
from unionfs.image import imports, layout, reference, transfer
from unionfs.image.changes import apply_changes
from unionfs.image.database import Database
from unionfs.image.images import Image
from unionfs.image.store import Store

_COLUMNS = (
    ("repository", "Repository"), ("tag", "Tag"), ("image id", "ID"), ("created", "CreatedSince"), (">size", "Size"),
)  # fmt: skip
_HISTORY = (
    ("image", "ID"), ("created", "CreatedSince"), ("created by", "CreatedBy"), (">size", "Size"),
    ("comment", "Comment"),
)  # fmt: skip
_FILTERS = ("dangling", "label", "reference")
_NONE = "<none>"
_LONGEST_STEP = 45


@contextmanager
def _store() -> Iterator[Store]:
    with Database() as database:
        yield Store(database)


# --- ls


def _ls_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("repository", nargs="?", metavar="NAME[:TAG]", help="only those of this name")
    add("-a", "--all", action="store_true", help="the steps of builds too")
    add("-q", "--quiet", action="store_true", help="only ids")
    add("--no-trunc", action="store_true", help="whole ids")
    add("--digests", action="store_true", help="the manifests' digests too")
    add("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help=", ".join(_FILTERS))
    formats.add_format(parser)


def _ls(arguments: argparse.Namespace) -> None:
    with _store() as store:
        steps = set() if arguments.all else _steps(store)
        images = [
            image
            for image in store.images()
            if (image.tags or image.id not in steps) and all(_has(image, word) for word in arguments.filter)
        ]
    rows = [row for image in images for row in _rows(image, arguments.no_trunc)]
    if arguments.repository:
        wanted = reference.parse(arguments.repository, default_tag="")
        rows = [row for row in rows if row["Repository"] == wanted.name and wanted.tag in ("", row["Tag"])]
    if arguments.quiet:
        for identity in dict.fromkeys(row["ID"] for row in rows):
            print(identity)
        return
    columns = (*_COLUMNS[:2], ("digest", "Digest"), *_COLUMNS[2:]) if arguments.digests else _COLUMNS
    formats.show(rows, columns, arguments.format)


def _steps(store: Store) -> set[str]:
    """Images that a build keeps for its next run."""
    return {row[0] for row in store.database.rows("SELECT DISTINCT image FROM build_cache")}


def _has(image: Image, word: str) -> bool:
    key, _, value = word.partition("=")
    formats.check_filter(key, _FILTERS)
    if key == "dangling":
        return (not image.tags) == (value in ("true", "1"))
    if key == "reference":
        return any(value in (tag, tag.rpartition(":")[0]) for tag in image.tags)
    return formats.has_label(image.rules.get("Labels") or {}, value)


def _rows(image: Image, whole: bool) -> list[formats.Row]:
    """A row for each name."""
    names = [reference.parse(tag) for tag in image.tags]
    about = {
        "ID": image.id if whole else image.short_id,
        "Digest": image.manifest,
        "CreatedSince": f"{formats.ago(time.time() - _created(image.config))} ago",
        "CreatedAt": image.config.get("created", ""),
        "Size": formats.size(image.size),
    }
    if not names:
        return [{"Repository": _NONE, "Tag": _NONE, **about}]
    return [{"Repository": name.name, "Tag": name.tag or _NONE, **about} for name in names]


def _created(config: dict[str, Any]) -> float:
    """When a config or a step of its history was made; some builders say nothing, or the year 1."""
    text = str(config.get("created") or "").partition(".")[0].removesuffix("Z")
    try:
        return float(time.mktime(time.strptime(text + " UTC", "%Y-%m-%dT%H:%M:%S %Z")) - time.timezone)
    except (ValueError, OverflowError):
        return time.time()


# --- inspect, history


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="IMAGE", help="its name or id")


def _inspect(arguments: argparse.Namespace) -> int:
    with Database() as database:
        return show_documents(arguments.names, arguments.format, lambda name: image_document(database, name))


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="IMAGE", help="its name or id")
    parser.add_argument("-q", "--quiet", action="store_true", help="only ids")
    parser.add_argument("--no-trunc", action="store_true", help="whole steps and ids")
    formats.add_format(parser)


def _history(arguments: argparse.Namespace) -> None:
    with _store() as store:
        image = store.resolve(arguments.name)
        sizes = [layer.size if (layer := store.layer(diff_id)) else 0 for diff_id in image.layers]
    rows = []
    for step in image.config.get("history") or []:
        size = 0 if step.get("empty_layer") or not sizes else sizes.pop(0)
        words = str(step.get("created_by", ""))
        rows.append(
            {
                "ID": "<missing>",
                "CreatedSince": f"{formats.ago(time.time() - _created(step))} ago",
                "CreatedAt": step.get("created", ""),
                "CreatedBy": words if arguments.no_trunc else words[:_LONGEST_STEP],
                "Size": formats.size(size),
                "Comment": step.get("comment", ""),
            }
        )
    rows.reverse()
    if rows:
        rows[0]["ID"] = image.id if arguments.no_trunc else image.short_id
    if arguments.quiet:
        for row in rows:
            print(row["ID"])
        return
    formats.show(rows, _HISTORY, arguments.format)


# --- tag, rm, prune


def _tag_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="IMAGE", help="its name or id")
    parser.add_argument("new", metavar="NAME[:TAG]", help="one more name")


def _tag(arguments: argparse.Namespace) -> None:
    with _store() as store:
        store.tag(store.resolve(arguments.name), arguments.new)


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="by id, with all of its names")
    _names(parser)


def _rm(arguments: argparse.Namespace) -> int:
    with _store() as store:
        return each(arguments.names, lambda name: print(*store.remove(name, arguments.force), sep="\n"))


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="those with a name too, if no container has them")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")


def _prune(arguments: argparse.Namespace) -> None:
    which = "images that no container has" if arguments.all else "images without a name"
    if not agrees(f"This removes all {which}. Go on?", arguments.force):
        return
    with _store() as store:
        gone, size = store.prune(arguments.all)
    formats.show_removed("Images", [f"deleted: {image}" for image in gone], size)


# --- load, save


def _load_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--input", metavar="FILE", help="by default standard input")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _load(arguments: argparse.Namespace) -> None:
    with _store() as store, _input(arguments.input) as source, bar("load", _size(source)) as tell:
        loaded = layout.load(store, source, (lambda count: None) if arguments.quiet else tell)
    for image, names in loaded:
        for name in names:
            print(f"Loaded image: {reference.parse(name).familiar}")
        if not names:
            print(f"Loaded image ID: {image.id}")


@contextmanager
def _input(path: str | None) -> Iterator[IO[bytes]]:
    if path not in (None, "-"):
        with open(path, "rb") as file:
            yield file
    elif sys.stdin.isatty():
        raise UsageError("standard input", "is a terminal, and an archive is wanted", "-i FILE, or a pipe")
    else:
        yield sys.stdin.buffer


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _save_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="by default standard output")
    _names(parser)


def _save(arguments: argparse.Namespace) -> None:
    with _store() as store:
        images: dict[str, tuple[Image, list[str]]] = {}
        for name in arguments.names:
            image = store.resolve(name)
            named = [tag for tag in image.tags if tag == _familiar(name)]
            images.setdefault(image.id, (image, []))[1].extend(named)
        with output(arguments.output) as out, bar("save", sum(image.size for image, _ in images.values())) as tell:
            layout.save(store, list(images.values()), out, tell)


def _familiar(name: str) -> str:
    try:
        return reference.parse(name).familiar
    except UnionfsError:
        return ""


@contextmanager
def output(path: str | None) -> Iterator[IO[bytes]]:
    """A file that is there whole or not at all, or standard output. A device or a pipe of that name is written to, not
    replaced. Raises UsageError for a terminal."""
    if path in (None, "-"):
        if sys.stdout.isatty():
            why = "is a terminal, and an archive would be written to it"
            raise UsageError("standard output", why, "-o FILE, or > FILE")
        yield sys.stdout.buffer
        return
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            yield file
        return
    path = os.path.realpath(path)
    aside = f"{path}.{os.getpid()}.part"
    try:
        with open(aside, "xb") as file:
            yield file
        os.rename(aside, path)
    except BaseException:
        if os.path.lexists(aside):
            os.unlink(aside)
        raise


# --- import


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "unionfs import [OPTIONS] FILE|DIR|-|host [NAME[:TAG]]"
    add = parser.add_argument
    add("-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="a Dockerfile's, as in USER www")
    add("-m", "--message", default="", metavar="TEXT", help="a comment for its history")
    add("--with", action="append", default=[], dest="programs", metavar="PROGRAM", help="host: one more program")
    add("source", metavar="FILE|DIR|-|host", help="an archive, a directory, or this machine's own shell and tools")
    add("name", nargs="?", default="", metavar="NAME[:TAG]", help="its name")


def _import(arguments: argparse.Namespace) -> None:
    source, changes = arguments.source, apply_changes({}, arguments.change)
    if arguments.name:
        reference.parse(arguments.name)
    with _store() as store:
        if source == "host" and not os.path.exists(source):
            image = imports.import_host(store, arguments.name, arguments.programs, changes)
        elif arguments.programs:
            raise UsageError("--with", "is for an import of this machine", "unionfs import host --with PROGRAM")
        elif os.path.isdir(source):
            image = imports.import_directory(store, source, arguments.name, changes, arguments.message)
        else:
            with _input(source) as file, bar("import", _size(file)) as tell:
                image = imports.import_archive(store, file, arguments.name, changes, arguments.message, tell)
    print(image.id)


# --- pull, push


def _pull_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-q", "--quiet", action="store_true", help="only its name")
    add("--tls-verify", choices=("true", "false"), help="false: a registry without TLS")
    add("name", metavar="NAME[:TAG]", help="what to get")


def _pull(arguments: argparse.Namespace) -> None:
    wanted = reference.parse(arguments.name)
    with _store() as store:
        image = transfer.pull(store, wanted, arguments.tls_verify, arguments.quiet)
    print(wanted.familiar if arguments.quiet else f"{wanted.familiar}: {image.id}")


def _push(arguments: argparse.Namespace) -> None:
    wanted = reference.parse(arguments.name)
    with _store() as store:
        transfer.push(store, store.resolve(arguments.name), wanted, arguments.tls_verify, arguments.quiet)
    print(wanted.familiar)


_LS = Command("The images.", _ls_arguments, _ls)
COMMANDS = {
    "images": _LS,
    "image ls": _LS,
    "image inspect": Command("All that is known of images, as JSON.", inspects("IMAGE", ".Config.Cmd"), _inspect),
    "history": Command("The steps by which an image was made, the newest first.", _history_arguments, _history),
    "tag": Command("Give an image one more name.", _tag_arguments, _tag),
    "rmi": Command("Remove images: by name that name, and with its last name the image.", _rm_arguments, rooted(_rm)),
    "image prune": Command("Remove images that nothing needs.", _prune_arguments, rooted(_prune)),
    "load": Command(
        "Load images from an archive: docker's or OCI's, in any usual compression.", _load_arguments, rooted(_load)
    ),
    "save": Command(
        "Save images to an archive that docker, podman and others load: an OCI layout with docker's manifest.json.",
        _save_arguments, rooted(_save),
    ),
    "import": Command(
        "Make an image of one layer: of an archive of a root filesystem, of a directory, or of this machine's own "
        "shell and tools (host), which needs no network.",
        _import_arguments, rooted(_import),
    ),
    "pull": Command("Get an image from a registry. Needs the program skopeo.", _pull_arguments, rooted(_pull)),
    "push": Command("Put an image into a registry. Needs the program skopeo.", _pull_arguments, rooted(_push)),
}  # fmt: skip
