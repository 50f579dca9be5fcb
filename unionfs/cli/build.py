"""`unionfs build`: an image by a Dockerfile.

Loaded by `main.py`. What the steps print goes to standard output, as they print it.
"""

from __future__ import annotations

import argparse

from unionfs.cli.command import Command, UsageError
from unionfs.cli.launching import rooted
from unionfs.container.build import Settings, build
from unionfs.image import reference


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-t", "--tag", action="append", default=[], metavar="NAME[:TAG]", help="the image's name")
    add("-f", "--file", default="", metavar="FILE", help="by default Dockerfile, in DIR")
    add("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="a value for an ARG")
    add("--label", action="append", default=[], metavar="NAME=VALUE", help="a note for people and programs")
    add("--target", default="", metavar="STAGE", help="stop behind this stage")
    add("--no-cache", action="store_true", help="do every step anew")
    add("--network", default="", metavar="NETWORK", help="the network of RUN; by default bridge")
    add("-q", "--quiet", action="store_true", help="print only the image's id")
    add("context", metavar="DIR", help="the directory whose files COPY and ADD find")


def _pair(option: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise UsageError(option, f"{word} is not NAME=VALUE")
    return name, value


def _build(arguments: argparse.Namespace) -> None:
    for name in arguments.tag:
        reference.parse(name)
    settings = Settings(
        context=arguments.context, file=arguments.file, names=tuple(arguments.tag), target=arguments.target,
        arguments=tuple(_pair("--build-arg", word) for word in arguments.build_arg),
        labels=tuple(_pair("--label", word) for word in arguments.label),
        uses_cache=not arguments.no_cache, network=arguments.network,
    )  # fmt: skip
    image = build(settings, tell=(lambda line: None) if arguments.quiet else _tell)
    if arguments.quiet:
        print(image.id)
        return
    print(f"Successfully built {image.short_id}")
    for name in arguments.tag:
        print(f"Successfully tagged {reference.parse(name).familiar}")


def _tell(line: str) -> None:
    print(line, flush=True)


COMMANDS = {
    "build": Command(
        "Make an image by a Dockerfile: FROM, RUN, COPY, ADD (local files), ENV, WORKDIR, USER, CMD, ENTRYPOINT, "
        "EXPOSE, VOLUME, LABEL, ARG, STOPSIGNAL. Each step is a layer or a change of the config, and is not done again "
        "while nothing that it depends on changes.",
        _arguments, rooted(_build),
    )
}  # fmt: skip
