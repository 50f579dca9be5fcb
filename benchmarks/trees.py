"""The files that are worked on: the same in each run, on any machine as far as that is possible.

Used by the `rows_*.py`.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence

PER_DIRECTORY = 100
_WORDS = "union layer upper lower whiteout merge lookup inode dentry block page copy rename mount".split()


def names(count: int, per_directory: int = PER_DIRECTORY) -> list[str]:
    """`count` paths: directories of a hundred files each."""
    return [f"d{index // per_directory:04}/f{index:06}" for index in range(count)]


def fill(layers: Sequence[str], paths: Sequence[str], content: bytes) -> None:
    """Small files; the layers get them by turns, so that each directory is in all layers."""
    made: set[str] = set()
    for index, path in enumerate(paths):
        layer = layers[index % len(layers)]
        parent = os.path.join(layer, os.path.dirname(path))
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        write(os.path.join(layer, path), content)


def write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def walk(path: str) -> int:
    """Lists everything and stats everything, as `ls -lR` does; the number of files."""
    found, pending = 0, [path]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    found += 1
    return found


def text(lines: int, seed: int) -> bytes:
    """Words in lines."""
    chance = random.Random(seed)
    return "".join(f"{' '.join(chance.choices(_WORDS, k=9))}\n" for _ in range(lines)).encode()


def source_tree(directory: str, count: int) -> int:
    """So many files of source text, in directories: headers and Python of this machine, and made ones when these are
    too few. Returns the bytes."""
    total = index = 0
    for path in _sources():
        if index == count:
            break
        with open(path, "rb") as file:
            content = file.read(65536)
        total += _put(directory, index, content)
        index += 1
    for rest in range(index, count):
        total += _put(directory, rest, text(100 + rest % 200, rest))
    return total


def _put(directory: str, index: int, content: bytes) -> int:
    parent = os.path.join(directory, f"part{index // 400:02}", f"d{index // 40 % 10}")
    os.makedirs(parent, exist_ok=True)
    write(os.path.join(parent, f"source{index:05}.txt"), content)
    return len(content)


def _sources() -> Iterator[str]:
    for top, end in (("/usr/include", ".h"), ("/usr/lib/python3", ".py"), (os.path.dirname(os.__file__), ".py")):
        for where, below, files in os.walk(top):
            below.sort()
            yield from (os.path.join(where, name) for name in sorted(files) if name.endswith(end))


def c_project(directory: str, count: int) -> None:
    """A program of so many files, a header that all include, and a Makefile."""
    header = "".join(f"int part{index}(int value);\n" for index in range(count))
    lines = ["#include <stdio.h>", "#include <stdlib.h>", '#include "parts.h"']
    write(os.path.join(directory, "parts.h"), f"#pragma once\n{header}".encode())
    for index in range(count):
        body = "".join(
            f"static int step{step}(int value) {{ for (int i = 0; i < {step + 2}; i++) value = value * {step + 3} + i; "
            f"return value ^ {index}; }}\n"
            for step in range(20)
        )
        calls = "".join(f"    value = step{step}(value);\n" for step in range(20))
        source = "\n".join(lines) + f"\n{body}int part{index}(int value)\n{{\n{calls}    return value;\n}}\n"
        write(os.path.join(directory, f"part{index}.c"), source.encode())
    calls = "".join(f"    value = part{index}(value);\n" for index in range(count))
    main = "\n".join(lines) + f'\nint main(void)\n{{\n    int value = 1;\n{calls}    printf("%d\\n", value);\n}}\n'
    write(os.path.join(directory, "main.c"), main.encode())
    objects = " ".join(f"part{index}.o" for index in range(count))
    rules = "CFLAGS = -O0\n\nprogram: main.o $(OBJECTS)\n\t$(CC) -o $@ main.o $(OBJECTS)\n\n%.o: %.c parts.h\n"
    write(os.path.join(directory, "Makefile"), f"OBJECTS = {objects}\n{rules}\t$(CC) $(CFLAGS) -c -o $@ $<\n".encode())


def copy_tree(source: str, directory: str, leave_out: Sequence[str] = ()) -> None:
    shutil.copytree(source, directory, symlinks=True, ignore=shutil.ignore_patterns(*leave_out), dirs_exist_ok=True)
