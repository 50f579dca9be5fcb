"""Programs as people run them, in a union: unpack, clone, install, import, query, compile, search. Used by `suite.py`.

Everything works without a network: the trees are made of this machine's headers and modules, or of made text. What a
program does besides, it does on every peer: a ratio near 1 may say that it hardly touches files.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from contextlib import closing
from importlib.util import find_spec

import trees
from workload import PASSTHROUGH, VOLATILE, Layers, Maker, Row, Sample, Target, Workload

REAL = (Target(PASSTHROUGH, 1.3, 0.7),)
TREE = 5000
REPOSITORY = 10_000
PACKAGE = 2000
PROJECT = 100
MODULES = (
    "argparse asyncio bdb calendar cgi cmd code codecs collections concurrent.futures configparser contextlib csv "
    "ctypes dataclasses decimal difflib dis doctest email.mime.multipart email.parser fractions ftplib getpass "
    "gettext glob gzip heapq html.parser http.client http.cookiejar http.server imaplib importlib.metadata "
    "inspect ipaddress json logging.config logging.handlers lzma mailbox mimetypes multiprocessing.pool netrc "
    "optparse pathlib pdb pickle platform plistlib poplib pprint profile pstats pydoc queue random sched shelve "
    "shlex shutil smtplib socketserver sqlite3 ssl statistics string subprocess tarfile tempfile textwrap timeit "
    "tokenize trace tracemalloc typing unittest.mock urllib.request uuid wave weakref webbrowser "
    "wsgiref.simple_server xml.dom.minidom xml.etree.ElementTree xml.sax xmlrpc.client zipfile"
).split()
GIT = ("git", "-c", "safe.directory=*", "-c", "core.autocrlf=false", "-c", "gc.auto=0")
QUIET = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip
"""git as it is without anybody's settings."""


def beside(sample: Sample, *names: str) -> str:
    """What `make` made next to the layers: read from there by each peer alike."""
    return os.path.join(sample.made, *names)


def count_files(path: str) -> int:
    return sum(len(names) for _, _, names in os.walk(path))


# --- unpack


def make_tar(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    trees.source_tree(maker.directory("tree"), maker.scale.count(TREE))
    with tarfile.open(os.path.join(maker.path, "tree.tar"), "w") as archive:
        archive.add(os.path.join(maker.path, "tree"), "tree")
    return maker.flat(lowers)


def untar(sample: Sample) -> None:
    sample.program("untar", ["tar", "xf", beside(sample, "tree.tar")])
    sample.expect("files", count_files(sample.path("tree")), sample.scale.count(TREE))
    sample.settle()
    sample.program("rm -r", ["rm", "-r", "tree"])
    sample.expect("files", count_files(sample.place.merged), 0)


# --- git


def make_repository(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    work = maker.directory("0", "work")
    trees.source_tree(work, maker.scale.count(REPOSITORY))
    environment = {**os.environ, **QUIET}
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all")):
        subprocess.run([*GIT, *words], cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
    return maker.flat(lowers)


def git(sample: Sample) -> None:
    status = [*GIT, "-C", "work", "status", "--porcelain"]
    # The first one finds that inode and device numbers are other ones than those that the index knows.
    sample.expect("changed files", sample.program("git status, first", status, QUIET), "")
    sample.expect("changed files", sample.program("git status, again", status, QUIET), "")
    sample.settle()
    sample.program("git clone", [*GIT, "clone", "-q", "--no-hardlinks", "work", "clone"], QUIET)
    sample.expect("files", len(os.listdir(sample.path("clone"))), len(os.listdir(sample.path("work"))))
    sample.expect("changed files", sample.run([*GIT, "-C", "clone", "status", "--porcelain"], QUIET), "")


# --- Python


def make_wheel(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    info = "large-1.0.dist-info"
    files = {
        f"large/p{index // 50:02}/m{index:04}.py": b'"""' + trees.text(60, index) + b'"""\n'
        for index in range(maker.scale.count(PACKAGE))
    }
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: large\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: benchmark\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]).encode()
    with zipfile.ZipFile(os.path.join(maker.path, "large-1.0-py3-none-any.whl"), "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return maker.flat(lowers)


def pip(sample: Sample) -> None:
    words = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    wheel = beside(sample, "large-1.0-py3-none-any.whl")
    variables = {"PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    sample.program("pip install", [sys.executable, *words, "--target", "site", wheel], variables)
    sample.expect("modules", count_files(sample.path("site", "large")), sample.scale.count(PACKAGE))


def make_library(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    library = maker.directory("0", "library")
    trees.copy_tree(os.path.dirname(os.__file__), library, ("site-packages", "test", "tests", "config-*", "idlelib"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", library], check=False, stdout=subprocess.DEVNULL)
    return maker.flat(lowers)


def importing(sample: Sample) -> None:
    there = [name for name in MODULES if find_spec(name.split(".")[0]) is not None]
    script = f"import {', '.join(there)}; print(argparse.__file__)"
    words = [sys.executable, "-S", "-X", "importtime", "-c", script]
    variables = {"PYTHONPATH": sample.path("library"), "PYTHONDONTWRITEBYTECODE": "1"}
    for row in ("python -X importtime, cold", "python -X importtime, warm"):
        said = sample.program(row, words, variables)
        sample.expect("module", said.strip(), sample.path("library", "argparse.py"))


# --- sqlite


def make_database(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    with closing(sqlite3.connect(os.path.join(lowers[0], "lower.db"))) as database:
        database.execute("create table words (id integer primary key, word text, number integer)")
        _insert(database, maker.scale.count(100_000), 1)
    return maker.flat(lowers)


def _insert(database: sqlite3.Connection, count: int, transactions: int) -> None:
    chance = random.Random(count)
    each = max(count // transactions, 1)
    for _ in range(transactions):
        rows = [(f"word {chance.random()}", chance.randrange(1 << 30)) for _ in range(each)]
        with database:
            database.executemany("insert into words (word, number) values (?, ?)", rows)


def sqlite(sample: Sample) -> None:
    count, queries = sample.scale.count(100_000), sample.scale.count(5000)
    chance = random.Random(1)
    with closing(sqlite3.connect(sample.path("lower.db"))) as database:
        with sample.timed("sqlite, queries"):
            for _ in range(queries):
                database.execute("select word from words where id = ?", [chance.randrange(count) + 1]).fetchone()
        with sample.timed("sqlite, updates of a lower file"):
            for _ in range(sample.scale.count(30)):
                with database:
                    database.execute("update words set number = 0 where id = ?", [chance.randrange(count) + 1])
    with closing(sqlite3.connect(sample.path("new.db"))) as database:
        database.execute("create table words (id integer primary key, word text, number integer)")
        with sample.timed("sqlite, inserts, synced"):
            _insert(database, sample.scale.count(3000), 30)
        database.execute("pragma synchronous = off")
        with sample.timed("sqlite, inserts, not synced"):
            _insert(database, sample.scale.count(20_000), sample.scale.count(100))
        sample.expect("integrity", database.execute("pragma integrity_check").fetchone(), ("ok",))


# --- compile, search


def make_project(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    trees.c_project(maker.directory("0", "project"), maker.scale.count(PROJECT))
    return maker.flat(lowers)


def build(sample: Sample) -> None:
    sample.program("gcc build", ["make", "-s", "-C", "project", "-j2"])
    sample.expect(
        "objects",
        sum(name.endswith(".o") for name in os.listdir(sample.path("project"))),
        sample.scale.count(PROJECT) + 1,
    )
    sample.expect("program's output", sample.run(["./project/program"]).strip().lstrip("-").isdigit(), True)
    sample.program("make, nothing to do", ["make", "-s", "-C", "project"])


def make_usr(maker: Maker) -> Layers:
    """As it is; a part of it in a smaller run."""
    path = "/usr" if maker.scale.factor >= 1 else "/usr/share" if maker.scale.factor >= 0.2 else "/usr/include/linux"
    return Layers((path if os.path.isdir(path) else "/usr/bin",), path)


def search(sample: Sample) -> None:
    (lower,) = sample.place.lowers
    said = sample.program("find, cold", ["find", ".", "-size", "+1000000k"])
    wanted = sample.program("find, warm", ["find", ".", "-size", "+1000000k"])
    sample.expect("files", said, wanted)
    below = next((name for name in ("include", "man", "netfilter") if os.path.isdir(os.path.join(lower, name))), ".")
    words = ["grep", "-rIc", "--include=*[!y]", "never_in_any_file_of_this", below]
    for row in ("grep -r, first", "grep -r, again"):
        found = sample.program(row, words, succeeds=(0, 1)).count("\n")
    if sample.is_first:
        wanted_lines = subprocess.run(words, cwd=lower, capture_output=True, check=False).stdout.count(b"\n")
        sample.expect("files that were searched", found, wanted_lines)


WORKLOADS = (
    Workload(
        "untar", "real",
        (
            Row("untar", "tar xf of a tree of source text", "5,000 files", REAL),
            Row("rm -r", "and away with it", "5,000 files"),
        ),
        make_tar, untar, core=True, programs=("tar",), seconds=40,
    ),
    Workload(
        "git", "real",
        (
            Row("git status, first", "of a repository in a lower layer, right after mounting", "10,000 files", REAL),
            Row("git status, again", "warm", "10,000 files", REAL),
            Row("git clone", "from the lower layer into the union", "10,000 files", REAL),
        ),
        make_repository, git, programs=("git",), seconds=90,
    ),
    Workload(
        "pip", "real",
        (Row("pip install", "of a made wheel, without its compiling", "2,000 modules", REAL),),
        make_wheel, pip, seconds=25,
    ),
    Workload(
        "import", "real",
        (
            Row("python -X importtime, cold", "the standard library, compiled, in a lower layer", "88 modules", REAL),
            Row("python -X importtime, warm", "the same again", "88 modules", REAL),
        ),
        make_library, importing, core=True, changes=False, seconds=12,
    ),
    Workload(
        "sqlite", "real",
        (
            Row("sqlite, queries", "by key, of a database in a lower layer", "5,000 queries", REAL),
            Row("sqlite, updates of a lower file", "each in a transaction of its own, synced", "30 updates", REAL),
            Row("sqlite, inserts, synced", "into a new database", "3,000 rows, 30 times", REAL),
            Row("sqlite, inserts, not synced", "with synchronous = off", "20,000 rows, 100 times", REAL),
        ),
        make_database, sqlite, core=True, variants=VOLATILE, seconds=10,
    ),
    Workload(
        "gcc", "real",
        (
            Row("gcc build", "make -j2, sources in a lower layer", "100 files", REAL),
            Row("make, nothing to do", "stats all of them", "100 files"),
        ),
        make_project, build, programs=("gcc", "make"), seconds=25,
    ),
    Workload(
        "usr", "real",
        (
            Row("find, cold", "find -size over /usr (a smaller run: /usr/share), just mounted", "/usr", REAL),
            Row("find, warm", "the same again", "/usr", REAL),
            Row("grep -r, first", "through its headers (a smaller run: its manuals)", "/usr/include", REAL),
            Row("grep -r, again", "the same again", "/usr/include", REAL),
        ),
        make_usr, search, changes=False, programs=("find", "grep"), seconds=60,
    ),
)  # fmt: skip
