"""What the commands share: how one is described, how its words are parsed, how names are shown.

Used by `main.py` and every command's module. Wrong usage is a UsageError (exit status 2) with a suggestion.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from unionfs.errors import UnionfsError, did_you_mean


class UsageError(UnionfsError):
    """The command line itself is wrong."""

    exit_status = 2


class Command(NamedTuple):
    """One command: what it does in a paragraph, what it takes, and the function that does it (None means status 0)."""

    description: str
    arguments: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], int | None]
    epilog: str = ""
    usage_status: int = UsageError.exit_status
    takes_words: bool = False
    """Its words are another program's: they are given to it as `words`, and not looked at."""
    own_help: bool = False
    """It has an option -h of its own, and adds --help itself."""


class _Formatter(argparse.HelpFormatter):
    """Asked for the width itself, argparse imports shutil for each parser: a tenth of the time that a start takes."""

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 0
        super().__init__(prog, width=min(columns or 80, 120) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """What has lines of its own is laid out already; the rest, a paragraph, is filled."""
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """argparse's, with our words for what is wrong: raises UsageError, and never prints the whole usage for it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise self._wrong(message, "")

    def parse(self, words: list[str]) -> argparse.Namespace:
        arguments, rest = self.parse_known_args(words)
        if rest:
            name = rest[0].partition("=")[0]
            if not name.startswith("-"):
                raise self._wrong(f"unexpected argument {rest[0]}", "")
            near = did_you_mean(name, self.option_strings()) if name.startswith("--") else ""
            raise self._wrong(f"unexpected option {name}", near)
        return arguments

    def _wrong(self, why: str, hint: str) -> UsageError:
        command = self.prog.removeprefix("unionfs").strip()
        return UsageError(command or why, why if command else "", hint or f"{self.prog} --help")

    def option_strings(self) -> list[str]:
        return [word for action in self._actions for word in action.option_strings]

    def visible_actions(self) -> list[argparse.Action]:
        """The options and arguments that the help shows, for completion and the manual's test."""
        return [action for action in self._actions if action.help != argparse.SUPPRESS]


def positive(text: str) -> int:
    """The type of an argument that is a number from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: it must be 1 at least")
    return value


def make_parser(name: str, command: Command) -> Parser:
    parser = Parser(
        prog=f"unionfs {name}", description=command.description, epilog=command.epilog, add_help=not command.own_help
    )
    command.arguments(parser)
    return parser


def run(name: str, command: Command, words: list[str]) -> int:
    """Run a command with the words behind its name; its exit status."""
    if command.takes_words:
        return command.run(argparse.Namespace(words=words)) or 0
    try:
        arguments = make_parser(name, command).parse(words)
    except UnionfsError as failure:
        failure.exit_status = command.usage_status
        raise
    try:
        return command.run(arguments) or 0
    except UsageError as failure:
        failure.exit_status = command.usage_status
        raise


def told(error: UnionfsError | OSError) -> UnionfsError:
    """A failure as it is told: that of a system call names its file and says why."""
    if isinstance(error, UnionfsError):
        return error
    why = (error.strerror or str(error)).lower()
    named = isinstance(error.filename, str | bytes)
    return UnionfsError(os.fsdecode(error.filename), why) if named else UnionfsError(why)


def as_root(command: str) -> str:
    """A command as this user has to type it, when only root may do it."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def this_command() -> str:
    """How this program was called; Debian's package unionfs-fuse has a command of the same name."""
    program = os.path.abspath(sys.argv[0])
    return program if os.path.basename(program) == "unionfs" else f"{sys.executable} -m unionfs"


def shown(name: bytes | str) -> str:
    """A file's name for people: what would move the cursor or end the line is escaped."""
    text = os.fsdecode(name)
    return text if text.isprintable() else "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    surrogate = "\udc80" <= character <= "\udcff"  # a byte that is not UTF-8, kept by surrogateescape
    return character if character.isprintable() or surrogate else character.encode("unicode_escape").decode()
