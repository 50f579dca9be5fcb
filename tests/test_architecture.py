"""The rules of the house that a machine can hold: floors, circles, doors, sizes, nothing of one machine in a file."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "unionfs"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A file is one idea. The limit leaves room for a table that grows by a line.
LONGEST_FILE = 420

# The doors: where an import inside a function is the point. Each says why in its own docstring.
DOORS = {
    "unionfs/__init__.py",  # `import unionfs` loads what is asked of it
    "unionfs/cli/main.py",  # a command's module is loaded when that command is run: start time
    "unionfs/fuse/mount.py",  # an engine is loaded when it is chosen: fusepy may be absent
    "unionfs/lab/child.py",  # the union is loaded twice: as it is, and with a student's file in it
    "unionfs/container/storage.py",  # a storage driver is loaded when it is chosen: start time
    "unionfs/container/create.py",  # volumes are filled by the union library, which most starts do without
    "unionfs/container/uplink.py",  # bridges, addresses and ports, which the networks none and host do without
    "unionfs/container/helper.py",  # the resolver's library, for networks with names
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield node.module or ""


def imports_inside_functions(path: Path) -> Iterator[int]:
    for function in ast.walk(tree_of(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield node.lineno
                elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                    yield node.lineno


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs a git checkout, to know which files are the project's")
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(command, check=True, capture_output=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def texts(files: list[Path]) -> Iterator[tuple[Path, str]]:
    for path in files:
        content = path.read_bytes()
        if b"\0" not in content:
            yield path, content.decode("utf-8", "replace")


def test_floors_and_circles() -> None:
    """The contracts of pyproject.toml; exhaustive: a new package must be given its floor there."""
    lint = "from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", lint, "--no-cache", "--no-logo"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_nothing_imports_the_whole_package() -> None:
    """`import unionfs` is the public face, above all floors: a file inside names the module that it wants."""
    faults = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Import) and any(alias.name == "unionfs" for alias in node.names)
    ]
    assert faults == []


def test_imports_inside_functions_only_at_the_doors() -> None:
    faults = [
        f"{name_of(path)}:{line}"
        for path in SOURCES
        if name_of(path) not in DOORS
        for line in imports_inside_functions(path)
    ]
    assert faults == []


def test_ctypes_only_in_linux() -> None:
    faults = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if PACKAGE / "linux" not in path.parents
        for node in ast.walk(tree_of(path))
        if any(module.split(".")[0] in ("ctypes", "_ctypes", "cffi") for module in imported_modules(node))
    ]
    assert faults == []


def test_the_union_knows_nothing_of_fuse() -> None:
    """No name of the protocol stands in union/ (comments may say why): its operations serve any engine, and none."""
    faults, fuse = [], re.compile(r"(?<!re)fuse", re.IGNORECASE)
    for path in sorted((PACKAGE / "union").rglob("*.py")):
        with tokenize.open(path) as source:
            tokens = tokenize.generate_tokens(source.readline)
            names = [token for token in tokens if token.type == tokenize.NAME and fuse.search(token.string)]
            faults += [f"{name_of(path)}:{name.start[0]}: {name.string}" for name in names]
    assert faults == []


def test_no_file_is_longer_than_an_idea() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_every_module_says_what_it_is() -> None:
    assert [name_of(path) for path in SOURCES if not ast.get_docstring(tree_of(path))] == []


def test_every_test_file_has_a_test() -> None:
    """A test file without a test is a slip of the pen: pytest would pass it in silence."""
    test = re.compile(r"\bdef test|\bTestCase\b")
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    assert [name_of(path) for path in files if not test.search(path.read_text(encoding="utf-8"))] == []


# Paths of one machine, and addresses of package indexes: neither belongs into a project that others clone.
FOREIGN = re.compile(
    r"/root/[.\w]|/home/(?!(you|me|user|alice|bob)\b)\w+/|/opt/(wheels|pypi)"
    r"|--(extra-)?index-url|--find-links|--trusted-host|PIP_(EXTRA_)?INDEX_URL|pypi\.org/simple"
)


def test_nothing_of_one_machine_in_the_files() -> None:
    ours = {name_of(Path(__file__))}
    faults = [
        f"{name_of(path)}: {match.group()}"
        for path, text in texts(tracked_files())
        if name_of(path) not in ours
        for match in FOREIGN.finditer(text)
    ]
    assert faults == []


def test_no_file_names_this_checkout_or_this_package_index() -> None:
    settings = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    hosts = set(re.findall(r"https?://(?:[^@/\s']+@)?([^/:\s']+)", settings)) - {"pypi.org"}
    words = hosts | ({str(ROOT)} if len(ROOT.parts) > 2 else set())
    faults = [f"{name_of(path)}: {word}" for path, text in texts(tracked_files()) for word in words if word in text]
    assert faults == []


def test_no_lock_files() -> None:
    known = re.compile(r"(^|/)(.*\.lock|requirements.*\.txt|package-lock\.json)$")
    assert [name_of(path) for path in tracked_files() if known.search(name_of(path))] == []
