"""`unionfs completion bash|zsh|fish`: a completion script, made from the parsers, so that it cannot lag behind them.

Loaded by `main.py`. The script goes to standard output: `source <(unionfs completion bash)`.
"""

from __future__ import annotations

import argparse
import sys

from unionfs.cli.command import Command, Parser, make_parser
from unionfs.cli.main import GROUPS, PLACES, commands_of, load
from unionfs.fuse.options import OTHERS_WORDS, VALUES, known

SHELLS = ("bash", "zsh", "fish")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="whose completion")


def _completion(arguments: argparse.Namespace) -> None:
    single = [name for name, place in PLACES.items() if place.summary and " " not in name]
    parsers = {name: make_parser(name, load(name)) for name in single} | {group: _group(group) for group in GROUPS}
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell]
    sys.stdout.write(script(parsers))


def _summary_of(name: str) -> str:
    return PLACES[name].summary if name in PLACES else f"commands about a{'n' * (name[0] in 'aeiou')} {name}"


def _group(group: str) -> Parser:
    """A group as a command whose argument is one of its commands."""
    parser = Parser(prog=f"unionfs {group}")
    parser.add_argument("command", choices=commands_of(group), help="what to do")
    return parser


def _mount_words() -> list[str]:
    """Mount options worth offering; those that take a value end in "="."""
    return [f"{word}=" if word in VALUES else word for word in known() if word not in OTHERS_WORDS]


def _choices(action: argparse.Action) -> list[str]:
    return [str(choice) for choice in action.choices or ()]


def _summary(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")


# --- bash


def _bash(parsers: dict[str, Parser]) -> str:
    options = "\n".join(
        f"    {name}) words='{' '.join(parser.option_strings())}' ;;" for name, parser in parsers.items()
    )
    values = "\n".join(
        f"    {name}:{word}) _unionfs_words '{' '.join(_choices(action))}' \"$current\"; return ;;"
        for name, parser in parsers.items()
        for action in parser.visible_actions()
        for word in action.option_strings or ["*"]
        if _choices(action)
    )
    choices = "\n".join(
        f"    {name}=*) _unionfs_words '{kind.replace('|', ' ')}' \"${{piece#*=}}\" ;;"
        for name, kind in VALUES.items()
        if "|" in kind and kind == kind.lower()
    )
    return f"""\
# bash completion for unionfs: source <(unionfs completion bash)
_unionfs_words() {{ COMPREPLY=($(compgen -W "$1" -- "$2")); }}
_unionfs_files() {{
    local IFS=$'\\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen "$1" -- "$2"))
}}
# The piece of -o OPTIONS behind the last comma; bash has cut the word at = and : already.
_unionfs_mount_option() {{
    local piece=${{1##*,}} current=$2
    compopt -o nospace 2>/dev/null
    case $piece in
{choices}
    *=*) piece=${{piece#*=}}; _unionfs_files -f "${{piece##*:}}" ;;
    *) COMPREPLY=($(compgen -P "${{current%"$piece"}}" -W '{" ".join(_mount_words())}' -- "$piece")) ;;
    esac
}}
_unionfs() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} command=${{COMP_WORDS[1]}} words=
    local line=${{COMP_LINE:0:COMP_POINT}}
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        _unionfs_words '{" ".join(parsers)} --help --version' "$current"
        return
    fi
    case "${{line% *}}" in *" -o") _unionfs_mount_option "${{line##* }}" "$current"; return ;; esac
    if [ "$current" = = ]; then
        current=
    elif [ "$previous" = = ]; then
        previous=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    case $command in
{options}
    esac
    if [ "${{current#-}}" != "$current" ]; then
        _unionfs_words "$words" "$current"
        return
    fi
    case $command:$previous in
{values}
    esac
    _unionfs_files -f "$current"
}}
complete -F _unionfs unionfs
"""


# --- zsh


def _zsh(parsers: dict[str, Parser]) -> str:
    overview = "\n".join(f"        {_quoted(f'{name}:{_summary_of(name)}')}" for name in parsers)
    cases = "\n".join(f"    {name}) _arguments -s {_zsh_arguments(parser)} ;;" for name, parser in parsers.items())
    return f"""\
#compdef unionfs
# zsh completion for unionfs: unionfs completion zsh > DIR/_unionfs, for a DIR of $fpath
_unionfs_layers() {{ compset -P '*:'; _files -/; }}
_unionfs_mount_options() {{
    _values -s , 'mount option' {" ".join(_quoted(_zsh_value(word)) for word in _mount_words())}
}}
_unionfs() {{
    local state
    local -a commands
    commands=(
{overview}
    )
    if (( CURRENT == 2 )); then
        _arguments '--help[say what there is]' '--version[show the version]' ':command:->command'
        [ "$state" != command ] || _describe command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{cases}
    esac
}}
if [ "$funcstack[1]" = _unionfs ]; then _unionfs "$@"; else compdef _unionfs unionfs; fi
"""


def _zsh_value(word: str) -> str:
    name, equals, _ = word.partition("=")
    if not equals:
        return name
    return f"{name}:{name}:{_zsh_values(VALUES[name])}"


def _zsh_values(kind: str) -> str:
    if kind.startswith("DIR"):
        return "_unionfs_layers" if ":" in kind else "_files -/"
    if kind.startswith("FILE"):
        return "_files"
    return f"({kind.replace('|', ' ')})" if "|" in kind else " "


def _zsh_arguments(parser: Parser) -> str:
    specs: list[str] = []
    for action in parser.visible_actions():
        values = f"({' '.join(_choices(action))})" if action.choices else "_files"
        if not action.option_strings and not any(spec.startswith("*") for spec in specs):
            specs.append(f"*:{str(action.metavar or action.dest).replace(':', ' ')}:{values}")
        for word in action.option_strings:
            equals = "=" if word.startswith("--") and action.nargs != 0 else ""
            spec = f"{word}{equals}[{_summary(action).replace('[', '(').replace(']', ')')}]"
            if action.nargs != 0:
                spec += f":{action.dest}:{'_unionfs_mount_options' if word == '-o' else values}"
            specs.append(spec)
    return " ".join(map(_quoted, specs))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish


def _fish(parsers: dict[str, Parser]) -> str:
    lines = ["# fish completion for unionfs: unionfs completion fish > ~/.config/fish/completions/unionfs.fish"]
    lines += ["complete -c unionfs -n __fish_use_subcommand -f -l version -d 'show the version'"]
    for name, parser in parsers.items():
        lines.append(
            f"complete -c unionfs -n __fish_use_subcommand -f -a {name} -d {_fish_quoted(_summary_of(name))}"
        )
        for action in parser.visible_actions():
            lines += _fish_lines(f"complete -c unionfs -n '__fish_seen_subcommand_from {name}'", action)
    return "\n".join(lines) + "\n"


def _fish_lines(start: str, action: argparse.Action) -> list[str]:
    choices = _mount_words() if "-o" in action.option_strings else _choices(action)
    values = f" -a {_fish_quoted(' '.join(choices))}" if choices else ""
    if not action.option_strings:
        return [f"{start} -f{values}"] if choices else []
    words = [f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" for word in action.option_strings]
    takes = " -r" if action.nargs != 0 else ""
    return [f"{start} {' '.join(words)}{takes}{values} -d {_fish_quoted(_summary(action))}"]


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


COMMANDS = {
    "completion": Command(
        "Write a completion script for a shell to standard output.",
        _arguments,
        _completion,
        "bash: source <(unionfs completion bash)\n"
        "zsh:  unionfs completion zsh > DIR/_unionfs, for a DIR of $fpath\n"
        "fish: unionfs completion fish > ~/.config/fish/completions/unionfs.fish\n",
    )
}
