"""The image store: what brings images and their layers in, and takes them away.

Called by the commands, by builds and commits. A layer is unpacked once and shared by all images that have it. It
promises: every digest is checked on the way in; a layer or an image is there whole or not at all, whatever interrupts;
commands may run side by side; nothing that an image or a container needs is removed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from typing import IO

from unionfs.errors import UnionfsError
from unionfs.image import manifest, reference
from unionfs.image.archive import LIMITS, Limits, unpack
from unionfs.image.blobs import Blobs, Hashing, Progress, decompressed, silent
from unionfs.image.database import Database
from unionfs.image.images import PREFIX, Image, Images
from unionfs.linux import files


class Store(Images):
    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.blobs = Blobs(database)

    # Adding

    def add_layer(
        self, stream: IO[bytes], *, digest: str = "", diff_id: str = "", limits: Limits = LIMITS,
        progress: Progress = silent,
    ) -> str:  # fmt: skip
        """A layer from a tar, compressed or not: its diffID. `digest` and `diff_id` are what the stream and its
        content should have. Raises UnionfsError; nothing is left then."""
        if diff_id and (known := self.layer(diff_id)) is not None and self.blobs.has(known.blob):
            return diff_id
        with self.blobs.aside() as path:
            got, size = self.blobs.copy(stream, path, progress)
            if digest and got != digest:
                raise _mismatch("a layer's blob", digest, got)
            return self._unpack(path, got, size, diff_id, limits)

    def _unpack(self, blob: str, digest: str, size: int, expected: str, limits: Limits) -> str:
        with Aside(self.database) as folder:
            with decompressed(blob) as stream:
                content = Hashing(stream)
                unpacked = unpack(content, folder, limits)  # type: ignore[arg-type]
                content.drain()
            diff_id = content.digest
            if expected and diff_id != expected:
                raise _mismatch("a layer", expected, diff_id)
            media_type = manifest.layer_type(blob)
            with self.database.writing() as connection:
                if not connection.execute("SELECT 1 FROM layers WHERE diff_id=?", (diff_id,)).fetchone():
                    self._replace(folder, self.layer_path(diff_id))
                    self.blobs.publish(blob, digest)
                    row = (diff_id, digest, media_type, size, unpacked.size, int(unpacked.has_marks))
                    connection.execute("INSERT INTO layers VALUES (?, ?, ?, ?, ?, ?)", row)
        return diff_id

    def _replace(self, folder: str, path: str) -> None:
        """Within the transaction that enters it: what a killed process left in its place goes."""
        if os.path.lexists(path):
            os.rename(path, self.database.aside())
        os.rename(folder, path)

    def add_image(
        self, config: bytes, diff_ids: Sequence[str], names: Sequence[str] = (), manifest_bytes: bytes | None = None
    ) -> Image:
        """An image of layers that are here, with a config as it is to the byte. `manifest_bytes` is the manifest that
        came with it; without one it is made."""
        layers = [layer for layer in map(self.layer, diff_ids) if layer is not None]
        if len(layers) != len(diff_ids):
            raise UnionfsError("the image", "one of its layers was removed meanwhile", "try again")
        content = manifest_bytes or manifest.make(config, layers)
        size = sum(layer.size for layer in layers)
        tags = [str(reference.parse(name)) for name in names]
        try:
            with self.database.writing() as connection:
                image = self.blobs.put(config)
                row = (image, config.decode(), self.blobs.put(content), time.time(), size)
                connection.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)", row)
                for position, diff_id in enumerate(diff_ids):
                    place = (image, position, diff_id)
                    connection.execute("INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?)", place)
                for tag in tags:
                    connection.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (tag, image))
        except sqlite3.IntegrityError as error:
            raise UnionfsError("the image", "one of its layers was removed meanwhile", "try again") from error
        return self.resolve(image)

    def tag(self, image: Image, name: str) -> None:
        full = reference.parse(name)
        if full.digest:
            raise UnionfsError(f"tag {name}", "a digest is no tag", "NAME:TAG")
        with self.database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (str(full), image.id))

    # Removing

    def remove(self, name: str, force: bool = False) -> list[str]:
        """By name: that name goes, and with the last one the image. By id: the image with all its names, more than one
        by force only. What went, in docker's words. Raises UnionfsError."""
        image = self.resolve(name)
        is_id = image.id.removeprefix(PREFIX).startswith(name.removeprefix(PREFIX)) and name not in image.tags
        if not is_id and len(image.tags) > 1:
            tag = reference.parse(name)
            with self.database.writing() as connection:
                connection.execute("DELETE FROM tags WHERE reference=?", (str(tag),))
            return [f"Untagged: {tag.familiar}"]
        if is_id and len(image.tags) > 1 and not force:
            names = ", ".join(image.tags)
            raise UnionfsError(f"image {image.short_id}", f"has several names: {names}", "remove by name, or use -f")
        self._remove(image)
        return [*(f"Untagged: {tag}" for tag in image.tags), f"Deleted: {image.id}"]

    def _remove(self, image: Image) -> None:
        with self.database.writing() as connection:
            query = "SELECT name FROM containers WHERE image=? ORDER BY name"
            users = [row[0] for row in connection.execute(query, (image.id,))]
            if users:
                hint = f"remove what uses it first: unionfs rm {' '.join(users)}"
                raise UnionfsError(f"image {image.name}", f"is used by container {', '.join(users)}", hint)
            connection.execute("DELETE FROM tags WHERE image=?", (image.id,))
            connection.execute("DELETE FROM images WHERE id=?", (image.id,))
            aside, blobs = self._strike_out_unused(connection)
        for path in aside:
            files.remove_tree(os.fsencode(path))
        self._drop_blobs([image.id, image.manifest, *blobs])

    def _strike_out_unused(self, connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
        """Layers that no image has, out of the database and out of the way: where they are, to be removed in peace, and
        the digests of their blobs."""
        query = "SELECT diff_id, blob FROM layers WHERE diff_id NOT IN (SELECT diff_id FROM image_layers)"
        aside, blobs = [], []
        for diff_id, blob in connection.execute(query).fetchall():
            connection.execute("DELETE FROM layers WHERE diff_id=?", (diff_id,))
            name = diff_id.removeprefix(PREFIX)
            for path in (self.layer_path(diff_id), self.database.path("layers-overlay", name)):
                if os.path.isdir(path):
                    aside.append(self.database.aside())
                    os.rename(path, aside[-1])
            blobs.append(blob)
        return aside, blobs

    def _drop_blobs(self, digests: Sequence[str]) -> None:
        """Those that nothing has, struck out before. A blob comes and goes within a transaction only, so that none goes
        that another process is about to enter."""
        query = "SELECT 1 FROM images WHERE id=:it OR manifest=:it UNION SELECT 1 FROM layers WHERE blob=:it"
        with self.database.writing() as connection:
            for digest in digests:
                if connection.execute(query, {"it": digest}).fetchone() is None and self.blobs.has(digest):
                    os.unlink(self.blobs.path(digest))

    def prune(self, everything: bool) -> tuple[list[str], int]:
        """Remove images without a name, or with `everything` all that no container uses: what went, and bytes."""
        gone, size = [], 0
        for image in self.images():
            used = self.database.row("SELECT 1 FROM containers WHERE image=?", image.id) is not None
            if not used and (everything or not image.tags):
                self._remove(image)
                gone.append(image.id)
                size += image.size
        return gone, size


class Aside:
    """A new directory for what is being made; it goes at the end if it is still there."""

    def __init__(self, database: Database) -> None:
        self.path = database.aside()

    def __enter__(self) -> str:
        os.mkdir(self.path, 0o755)
        return self.path

    def __exit__(self, *failure: object) -> None:
        files.remove_tree(os.fsencode(self.path))


def _mismatch(what: str, expected: str, got: str) -> UnionfsError:
    return UnionfsError(what, f"has the digest {got}, and should have {expected}", "it was damaged: get it again")
