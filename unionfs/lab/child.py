"""One check of a student's file, in a process of its own: `python -m unionfs.lab.child LAB DIRECTORY CHECK FD`.

Started by `grade.py`, which ends it when it takes too long. It loads the project's own union first, for the right
answers; then once more, with the student's definitions in the place of the module's that the lab replaces: the module's
source is run, and the student's file after it in the same namespace. The result is one line of JSON, written to FD.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
import traceback
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any, NoReturn

from unionfs.lab import ladder
from unionfs.lab.checks import Student, Wrong, collect
from unionfs.lab.ladder import Lab


class _Replacing(MetaPathFinder, Loader):
    """Finds one module, and runs the student's file after its own source."""

    def __init__(self, lab: Lab, file: Path) -> None:
        self._lab = lab
        self._file = file
        self._own = importlib.util.find_spec(lab.replaces)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self._lab.replaces else None

    def exec_module(self, module: ModuleType) -> None:
        assert self._own is not None and self._own.origin is not None
        module.__file__ = self._own.origin
        own = Path(self._own.origin)
        exec(compile(own.read_text(encoding="utf-8"), str(own), "exec"), module.__dict__)
        before = dict(module.__dict__)
        _run(self._file, module.__dict__)
        if self._lab.methods:
            for name, value in list(module.__dict__.items()):
                if isinstance(value, FunctionType) and before.get(name) is not value:
                    setattr(module.__dict__[self._lab.methods], name, value)


def _run(file: Path, namespace: dict[str, Any]) -> None:
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), namespace)


def load(lab: Lab, directory: Path) -> Student:
    """The student's code, and the project's. Raises whatever their file raises when it is run."""
    sys.path.insert(0, str(directory))
    file = directory / lab.file
    if not lab.replaces:
        module = ModuleType(file.stem)
        module.__file__ = str(file)
        if file.suffix == ".py":
            _run(file, module.__dict__)
        return Student(directory, module, None, importlib.import_module("unionfs.union.union").Union)
    true_union = importlib.import_module("unionfs.union.union").Union
    for name in [name for name in sys.modules if name.startswith(("unionfs.union", "unionfs.fuse"))]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Replacing(lab, file))
    union = importlib.import_module("unionfs.union.union").Union
    return Student(directory, sys.modules[lab.replaces], union, true_union)


def judge(lab: Lab, directory: Path, number: int) -> dict[str, Any]:
    """What becomes of one check."""
    check = collect(lab.path / "checks.py")[number]
    try:
        check.run(load(lab, directory))
    except Wrong as wrong:
        return {"passed": False, "output": str(wrong)}
    except BaseException as failure:
        return {"passed": False, "output": _told(failure, directory)}
    return {"passed": True, "output": ""}


def _told(failure: BaseException, directory: Path) -> str:
    """An exception with the line of the student's file that it came from."""
    frames = [
        frame for frame in traceback.extract_tb(failure.__traceback__) if Path(frame.filename).parent == directory
    ]
    where = (
        f"{os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}, in {frames[-1].name}: " if frames else ""
    )
    if isinstance(failure, SyntaxError) and failure.filename:
        where = f"{os.path.basename(failure.filename)}, line {failure.lineno}: "
    words = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
    notes = "\n".join(getattr(failure, "__notes__", ()))
    return f"{where}{words}" + (f"\n{notes}" if notes else "")


def _late(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit("it took too long")


def main() -> None:
    signal.signal(signal.SIGTERM, _late)
    number, directory, check, fd = sys.argv[1:]
    told = judge(ladder.find(int(number)), Path(directory).resolve(), int(check))
    os.write(int(fd), json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main()
