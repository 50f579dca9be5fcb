"""`unionfs quiz`: questions about layers, without an end, for paper or for oneself.

Loaded by `main.py`.
"""

from __future__ import annotations

import argparse
import random
from itertools import islice

from unionfs.cli.command import Command, positive
from unionfs.lab.quiz import Question, questions
from unionfs.lab.stacks import draw


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-s", "--seed", type=int, metavar="SEED", help="the same seed gives the same questions; by chance without")
    add("-n", type=positive, default=1, metavar="N", help="so many questions (1)")
    add("-r", "--reverse", action="store_true", help="the upper is given, and which command it was is asked")
    add("-c", "--compute", action="store_true", help="with the answers")
    add("--commands", type=positive, default=3, metavar="N", help="commands in a question (3)")


def _quiz(arguments: argparse.Namespace) -> None:
    seed = random.randrange(1, 100_000) if arguments.seed is None else arguments.seed
    tell = _reversed if arguments.reverse else _forward
    for number, question in enumerate(islice(questions(seed, arguments.commands), arguments.n), 1):
        layers = draw([{}, *question.lowers])
        print(f"Question {number}\n\nThe layers, the upper first:\n\n{layers}\n")
        tell(question, arguments.compute)
        print()
    if not arguments.compute:
        again = f"unionfs quiz -s {seed} -n {arguments.n}{' -r' if arguments.reverse else ''}"
        more = f" --commands {arguments.commands}" if arguments.commands != 3 else ""
        print(f"The answers: {again}{more} -c")


def _forward(question: Question, answers: bool) -> None:
    last = question.steps[-1]
    print("\n".join(f"  $ {step.command}" for step in question.steps))
    print(f"\nWhat is in the upper now, marks and all?\n  {_listed(last.upper) if answers else '?'}")
    print(f"What does the union show?\n  {_listed(last.shown) if answers else '?'}")


def _reversed(question: Question, answers: bool) -> None:
    print("After each command the upper holds this. Which command was it?\n")
    for step in question.steps:
        print(f"  $ {step.command if answers else '?'}\n      {_listed(step.upper)}")


def _listed(names: list[str]) -> str:
    return "   ".join(names) or "nothing"


COMMANDS = {
    "quiz": Command(
        "Ask about layers: some layers and commands are given; what is in the upper then, marks and all, and what does "
        "the union show? Answers are computed by the union itself.",
        _arguments,
        _quiz,
        "In the upper, .wh.NAME deletes NAME below, .wh..wh..opq in a directory hides what is below it, and\n"
        ".wh..wh..redirect in it says what it is called below. A directory's name ends with a slash.\n"
        "Other commands than the answer's may lead to the same.\n",
    )
}
