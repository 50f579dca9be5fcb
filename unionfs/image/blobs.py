"""Blobs: files named by the sha256 of what is in them, and the forms in which layers come compressed.

Called by the store. It promises: what is under blobs/sha256/HEX has that digest, and comes there whole or not at all.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from unionfs.errors import UnionfsError
from unionfs.image.database import Database

_CHUNK = 1 << 20
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_OPENERS: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file), "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile,
}  # fmt: skip
Progress = Callable[[int], object]
"""Called with how many more bytes were read."""


def silent(count: int) -> None:
    """Nobody watches."""


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Hashing:
    """A stream that is read through, and whose digest is known at its end."""

    def __init__(self, stream: IO[bytes], progress: Progress = silent) -> None:
        self._stream = stream
        self._progress = progress
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size if size >= 0 else _CHUNK)
        self._hash.update(data)
        self.size += len(data)
        self._progress(len(data))
        return data

    def drain(self) -> None:
        """What nobody wanted to read counts too."""
        while self.read(_CHUNK):
            pass

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


class Blobs:
    def __init__(self, database: Database) -> None:
        self.database = database

    def path(self, digest: str) -> str:
        return self.database.path("blobs", "sha256", digest.removeprefix("sha256:"))

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def read(self, digest: str) -> bytes:
        with open(self.path(digest), "rb") as file:
            return file.read()

    def put(self, content: bytes) -> str:
        """A small one, as a config or a manifest: its digest."""
        digest = digest_of(content)
        with self.aside() as path:
            with open(path, "wb") as file:
                file.write(content)
            self.publish(path, digest)
        return digest

    @contextmanager
    def aside(self) -> Iterator[str]:
        """A free path for what is being made; what is left there at the end goes."""
        path = self.database.aside()
        try:
            yield path
        finally:
            with suppress(OSError):
                os.unlink(path)

    def copy(self, stream: IO[bytes] | Hashing, path: str, progress: Progress = silent) -> tuple[str, int]:
        """A stream to a file: digest and size."""
        source = Hashing(stream, progress)  # type: ignore[arg-type]
        with open(path, "xb") as file:
            while data := source.read(_CHUNK):
                file.write(data)
        return source.digest, source.size

    def publish(self, path: str, digest: str) -> None:
        """Give a file its name; one that is there already is the same."""
        os.chmod(path, 0o644)
        os.rename(path, self.path(digest))


def compression_of(path: str) -> str:
    """gzip, bzip2, xz, zstd, or "" for none of them."""
    with open(path, "rb") as file:
        head = file.read(8)
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


@contextmanager
def decompressed(path: str) -> Iterator[IO[bytes]]:
    """The content of a file that may be compressed. Damage is a UnionfsError, where it is met."""
    kind = compression_of(path)
    with open(path, "rb") as file:
        try:
            if kind == "zstd":
                with _zstd(file) as stream:
                    yield stream
            elif kind:
                yield _OPENERS[kind](file)
            else:
                yield file
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise UnionfsError("the archive", f"is damaged ({kind or 'tar'}): {error}", "get it again") from error


@contextmanager
def _zstd(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """By the program, as the standard library has no zstd before Python 3.14."""
    try:
        process = subprocess.Popen(["zstd", "-dcq"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        hint = "install it (Debian, Ubuntu: apt-get install zstd)"
        raise UnionfsError("the archive", "is compressed with zstd, and there is no program zstd", hint) from None
    assert process.stdout is not None and process.stderr is not None
    try:
        yield process.stdout
        if process.stdout.read(1):
            return
        if process.wait():
            why = process.stderr.read().decode("utf-8", "replace").strip()
            raise UnionfsError("the archive", f"is damaged (zstd): {why}", "get it again")
    finally:
        process.stdout.close()
        process.stderr.close()
        process.kill()
        process.wait()
