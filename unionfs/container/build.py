"""Build: an image by a Dockerfile, each step a layer.

Called by the command `build`. A RUN is a container of ours that is committed; COPY and ADD write into a directory that
becomes a layer; the others change the config alone. A step is known by its parent, its words and what it copies: one
that was done before is not done again. A step that fails leaves the steps before it, for the next try, and nothing
else.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import posixpath
import shlex
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from unionfs.container import commit, dockerfile, transfer
from unionfs.container.create import Request
from unionfs.container.dockerfile import Instruction
from unionfs.container.lifecycle import Container
from unionfs.container.process import FAILED
from unionfs.container.transfer import Rights
from unionfs.errors import UnionfsError
from unionfs.image import manifest
from unionfs.image.blobs import compression_of, decompressed
from unionfs.image.changes import apply_change, command, environment
from unionfs.image.database import Database
from unionfs.image.ignore import Ignore
from unionfs.image.images import Image
from unionfs.image.store import Store

SCRATCH = "scratch"
_CHUNK = 1 << 20
Teller = Callable[[str], object]


class Settings(NamedTuple):
    """What a build is asked for. `arguments` are those of --build-arg, `labels` those of --label."""

    context: str
    file: str = ""
    names: tuple[str, ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    target: str = ""
    uses_cache: bool = True
    network: str = ""


class StepFailed(UnionfsError):
    """A RUN ended with another status than 0, which is the build's too."""

    def __init__(self, step: str, status: int) -> None:
        super().__init__(f"the command {step}", f"returned a non-zero code: {status}")
        self.exit_status = status


def build(settings: Settings, root: str | None = None, tell: Teller = print) -> Image:
    """Carry the Dockerfile out. Raises UnionfsError, naming the line."""
    if not os.path.isdir(settings.context):
        raise UnionfsError(f"build context {settings.context}", "is no directory", "name the directory with the files")
    path = settings.file or os.path.join(settings.context, "Dockerfile")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise UnionfsError(path, (error.strerror or str(error)).lower(), "name the Dockerfile: -f FILE") from error
    instructions = dockerfile.parse(text, path)
    with Database(root) as database:
        return _Build(settings, path, Store(database), tell).run(instructions)


class _Stage:
    """What the steps so far have made: an image, or nothing yet (FROM scratch), and the config to come."""

    def __init__(self, image: Image | None, name: str = "") -> None:
        self.image = image
        self.name = name
        self.config: dict[str, Any] = dict(image.rules) if image else {}
        self.arguments: dict[str, str] = {}


class _Build:
    def __init__(self, settings: Settings, path: str, store: Store, tell: Teller) -> None:
        self.settings = settings
        self.path = path
        self.store = store
        self.tell = tell
        self.given = dict(settings.arguments)
        self.global_arguments: dict[str, str] = {}
        self.stages: list[_Stage] = []
        self.ignore = Ignore.read(settings.context)

    def run(self, instructions: Sequence[Instruction]) -> Image:
        for number, instruction in enumerate(instructions, 1):
            self.tell(f"Step {number}/{len(instructions)} : {instruction.text}")
            self._step(instruction)
            if self.stages and self.stages[-1].image is not None:
                self.tell(f" ---> {self.stages[-1].image.short_id}")
            at_end = number == len(instructions) or instructions[number].name == "FROM"
            if at_end and self.settings.target and self.stages and self.stages[-1].name == self.settings.target:
                break
        return self._finish()

    def _finish(self) -> Image:
        stage = self.stages[-1]
        if self.settings.target and stage.name != self.settings.target:
            raise UnionfsError(f"--target {self.settings.target}", "the Dockerfile has no stage of that name")
        if self.settings.labels:
            labels = {**(stage.config.get("Labels") or {}), **dict(self.settings.labels)}
            self._configure(stage, {**stage.config, "Labels": labels}, "LABEL " + json.dumps(labels))
        if stage.image is None:
            raise UnionfsError(self.path, "makes no image: nothing comes after FROM scratch")
        for name in self.settings.names:
            self.store.tag(stage.image, name)
        unused = sorted(self.given.keys() - {name for stage in self.stages for name in stage.arguments}
                        - self.global_arguments.keys())  # fmt: skip
        if unused:
            self.tell(f"warning: build arguments that no ARG takes: {', '.join(unused)}")
        return self.store.resolve(stage.image.id)

    def _step(self, raw: Instruction) -> None:
        stage = self.stages[-1] if self.stages else None
        variables = self.global_arguments if stage is None or raw.name == "FROM" else self._variables(stage)
        instruction = dockerfile.expand(raw, variables)
        try:
            if instruction.name == "ARG":
                self._arg(stage, instruction)
            elif instruction.name == "FROM":
                self._from(instruction)
            elif stage is not None:
                self._within(stage, instruction)
        except UnionfsError as failure:
            if not isinstance(failure, StepFailed):
                failure.what = f"{self.path}, line {raw.line}: {failure.what}"
            raise

    def _variables(self, stage: _Stage) -> dict[str, str]:
        return {**stage.arguments, **environment(stage.config)}

    def _within(self, stage: _Stage, instruction: Instruction) -> None:
        if instruction.name == "RUN":
            self._run(stage, instruction)
        elif instruction.name in ("COPY", "ADD"):
            self._copy(stage, instruction)
        else:
            _refuse_flags(instruction, ())
            config = apply_change(stage.config, instruction.name, instruction.rest)
            self._configure(stage, config, instruction.text)

    def _arg(self, stage: _Stage | None, instruction: Instruction) -> None:
        for word in shlex.split(instruction.rest):
            name, equals, default = word.partition("=")
            value = self.given.get(name, default if equals else self.global_arguments.get(name))
            arguments = self.global_arguments if stage is None else stage.arguments
            if value is not None:
                arguments[name] = value
            elif stage is not None:
                stage.arguments.setdefault(name, "")

    def _from(self, instruction: Instruction) -> None:
        _refuse_flags(instruction, ("platform",))
        words = instruction.rest.split()
        name = words[2].lower() if len(words) == 3 and words[1].lower() == "as" else ""
        if len(words) not in (1, 3) or (len(words) == 3 and not name):
            raise UnionfsError("FROM", "is written FROM IMAGE [AS NAME]")
        earlier = next((stage for stage in self.stages if stage.name and stage.name == words[0].lower()), None)
        if earlier is not None:
            stage = _Stage(earlier.image, name)
            stage.config = dict(earlier.config)
        else:
            stage = _Stage(None if words[0] == SCRATCH else self.store.resolve(words[0]), name)
        self.stages.append(stage)

    # Steps that make an image

    def _configure(self, stage: _Stage, config: dict[str, Any], words: str) -> None:
        key = self._key(stage, "config", json.dumps(config, sort_keys=True))
        stage.config = config
        if not self._cached(stage, key):
            layers = stage.image.layers if stage.image else ()
            self._enter(stage, key, layers, words, empty=True)

    def _run(self, stage: _Stage, instruction: Instruction) -> None:
        _refuse_flags(instruction, ())
        if stage.image is None:
            raise UnionfsError("RUN", "there is nothing to run in an image from scratch", "COPY a program first")
        words = command(instruction.rest)
        key = self._key(stage, "run", json.dumps([words, sorted(stage.arguments.items())]))
        if self._cached(stage, key):
            return
        container = Container.make(self._request(stage, words), self.store.database.root)
        try:
            status = container.attach(container.start(), interactive=False)
            if status != 0:
                raise StepFailed(f"'{instruction.rest}'", status if status < FAILED else 1)
            layer = commit.add_layer(self.store, container.record)
        finally:
            container.remove(force=True, volumes=True)
        self._enter(stage, key, [*stage.image.layers, layer], "RUN " + instruction.rest)

    def _request(self, stage: _Stage, words: Sequence[str]) -> Request:
        assert stage.image is not None
        arguments = tuple(f"{name}={value}" for name, value in stage.arguments.items())
        settings = tuple(f"{name}={value}" for name, value in environment(stage.config).items())
        return Request(
            image=stage.image.id, entrypoint=(), command=tuple(words), environment=arguments + settings,
            workdir=stage.config.get("WorkingDir") or None, user=stage.config.get("User") or None,
            network=self.settings.network,
        )  # fmt: skip

    def _copy(self, stage: _Stage, instruction: Instruction) -> None:
        """COPY and ADD are one: ADD unpacks a local archive too."""
        flags = dict(_refuse_flags(instruction, ("from", "chown", "chmod")))
        words = json.loads(instruction.rest) if instruction.rest.startswith("[") else shlex.split(instruction.rest)
        if len(words) < 2:
            raise UnionfsError(instruction.name, "needs a source and a target", f"{instruction.name} FILE /DIR/")
        *patterns, to = words
        workdir = stage.config.get("WorkingDir") or "/"
        target = posixpath.normpath(posixpath.join("/", workdir, to)) + ("/" if to.endswith("/") or to == "." else "")
        owner = flags.get("chown") or ("" if "from" in flags else "0:0")
        rights = transfer.Rights(owner, _mode(flags.get("chmod")))
        if "from" in flags:
            self._copy_from(stage, instruction, flags, patterns, target, rights)
            return
        sources = self._sources(instruction, patterns)
        if len(sources) > 1 and not target.endswith("/"):
            raise UnionfsError(instruction.name, "with several sources the target is a directory", f"write {target}/")
        content = _digest(sources, self.ignore)
        key = self._key(stage, "copy", json.dumps([instruction.name, sorted(flags.items()), target, content]))
        if self._cached(stage, key):
            return

        def copy(container: Container) -> None:
            for source in sources:
                if instruction.name == "ADD" and _is_archive(source):
                    transfer.make_directory(container, target)
                    with decompressed(source) as stream:
                        transfer.archive_in(container, stream, target, transfer.KEPT)
                else:
                    transfer.copy_in(container, source, target, rights, wanted=self.ignore.wanted_below(source))

        self._changed(stage, key, instruction, target, copy)

    def _copy_from(
        self, stage: _Stage, instruction: Instruction, flags: dict[str, str], patterns: Sequence[str], target: str,
        rights: Rights,
    ) -> None:  # fmt: skip
        name = flags["from"]
        earlier = next((one for one in self.stages[:-1] if one.name == name.lower()), None)
        if earlier is None and name.isdecimal() and int(name) < len(self.stages) - 1:
            earlier = self.stages[int(name)]
        image = earlier.image if earlier is not None else self.store.resolve(name)
        if image is None:
            raise UnionfsError(f"--from={name}", "has nothing to copy: it is from scratch and empty")
        words = [instruction.name, sorted(flags.items()), image.id, list(patterns), target]
        key = self._key(stage, "copy-from", json.dumps(words))
        if self._cached(stage, key):
            return
        other = Container.make(Request(image=image.id, entrypoint=(), command=("-",)), self.store.database.root)

        def copy(container: Container) -> None:
            for pattern in patterns:
                transfer.copy_between(other, pattern, container, target, rights)

        try:
            self._changed(stage, key, instruction, target, copy)
        finally:
            other.remove(volumes=True)

    def _changed(
        self, stage: _Stage, key: str, instruction: Instruction, target: str, change: Callable[[Container], None]
    ) -> None:
        """A layer of what `change` does to a container that is never started."""
        base = stage.image or self._empty()
        container = Container.make(Request(image=base.id, entrypoint=(), command=("-",)), self.store.database.root)
        try:
            transfer.make_directory(container, target if target.endswith("/") else posixpath.dirname(target))
            change(container)
            layer = commit.add_layer(self.store, container.record)
        finally:
            container.remove(volumes=True)
        self._enter(stage, key, [*(stage.image.layers if stage.image else ()), layer], instruction.text)

    def _empty(self) -> Image:
        """An image without layers, for what is copied before there is any."""
        config = manifest.encode(manifest.new_config(None, (), {}, "FROM scratch"))
        return self.store.add_image(config, ())

    # The cache

    def _key(self, stage: _Stage, *words: str) -> str:
        parent = stage.image.id if stage.image else SCRATCH
        config = json.dumps(stage.config, sort_keys=True)
        return hashlib.sha256("\0".join((parent, config, *words)).encode()).hexdigest()

    def _cached(self, stage: _Stage, key: str) -> bool:
        if not self.settings.uses_cache:
            return False
        row = self.store.database.row("SELECT image FROM build_cache WHERE key=?", key)
        if row is None:
            return False
        self.tell(" ---> Using cache")
        stage.image = self.store.resolve(row[0])
        return True

    def _enter(self, stage: _Stage, key: str, layers: Sequence[str], words: str, empty: bool = False) -> None:
        base = stage.image.config if stage.image else None
        config = manifest.new_config(base, layers, stage.config, words, empty=empty)
        stage.image = self.store.add_image(manifest.encode(config), layers)
        with self.store.database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO build_cache VALUES (?, ?)", (key, stage.image.id))

    def _sources(self, instruction: Instruction, patterns: Sequence[str]) -> list[str]:
        """The paths in the context, patterns filled in. Raises UnionfsError for what is not there, or outside."""
        context = os.path.realpath(self.settings.context)
        found = []
        for pattern in patterns:
            if pattern.startswith(("http://", "https://", "git@")):
                raise UnionfsError(f"{instruction.name} {pattern}", "is not local", "RUN a program that fetches it")
            path = os.path.join(context, os.path.normpath("/" + pattern).lstrip("/"))
            matches = sorted(glob.glob(path)) or ([path] if os.path.lexists(path) else [])
            kept = [match for match in matches if self.ignore.wants(os.path.relpath(match, context))]
            if not kept:
                raise UnionfsError(f"{instruction.name} {pattern}", f"not found in the build context {context}")
            for match in kept:
                if os.path.commonpath((os.path.realpath(match), context)) != context:
                    raise UnionfsError(f"{instruction.name} {pattern}", "leads out of the build context")
            found += [match + ("/." if os.path.isdir(match) else "") for match in kept]
        return found


def _refuse_flags(instruction: Instruction, known: Iterable[str]) -> tuple[tuple[str, str], ...]:
    for name, _ in instruction.flags:
        if name not in known:
            raise UnionfsError(f"{instruction.name} --{name}", "is not supported")
    return instruction.flags


def _mode(word: str | None) -> int | None:
    if word is None:
        return None
    if not word or word.strip("01234567"):
        raise UnionfsError(f"--chmod={word}", "is no octal number", "as in --chmod=755")
    return int(word, 8)


def _is_archive(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return bool(compression_of(path)) or file.read(512)[257:262] == b"ustar"


def _digest(sources: Iterable[str], ignore: Ignore) -> str:
    """Of names, kinds, modes and contents; not of times, as docker."""
    total = hashlib.sha256()
    for source in sources:
        wanted = ignore.wanted_below(source)
        for path in _below(source.removesuffix("/."), "", wanted):
            place = os.path.join(source.removesuffix("/."), path) if path else source.removesuffix("/.")
            st = os.lstat(place)
            total.update(f"{os.path.basename(source)}/{path}\0{st.st_mode}\0".encode(errors="surrogateescape"))
            if stat.S_ISLNK(st.st_mode):
                total.update(os.fsencode(os.readlink(place)))
            elif stat.S_ISREG(st.st_mode):
                with open(place, "rb") as file:
                    while data := file.read(_CHUNK):
                        total.update(data)
    return total.hexdigest()


def _below(folder: str, path: str, wanted: Callable[[str], bool]) -> Iterable[str]:
    yield path
    place = os.path.join(folder, path) if path else folder
    if stat.S_ISDIR(os.lstat(place).st_mode):
        for name in sorted(os.listdir(place)):
            inner = f"{path}/{name}" if path else name
            if wanted(inner):
                yield from _below(folder, inner, wanted)

