"""Images as the store has them: found by name, with their configs and the directories of their layers.

Called by the container floor and the commands; what brings images in and takes them away is in `store.py`, which takes
longer to load. An image is its config: an ordered list of layers, and the rules by which containers are created.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, NamedTuple

from unionfs.errors import UnionfsError, did_you_mean
from unionfs.image import overlay, reference
from unionfs.image.database import Database

PREFIX = "sha256:"
_SHORT = 12


class Image(NamedTuple):
    """`config` is OCI's image config; `layers` are diffIDs, the lowest first; `tags` as people write them; `created` is
    when it came here, in seconds since the epoch; `size` in bytes, of its layers unpacked."""

    id: str
    config: dict[str, Any]
    layers: tuple[str, ...]
    tags: tuple[str, ...]
    created: float
    size: int
    manifest: str

    @property
    def short_id(self) -> str:
        return self.id.removeprefix(PREFIX)[:_SHORT]

    @property
    def rules(self) -> dict[str, Any]:
        """What containers of it start from: the `config` of its config, as Env, Cmd, User."""
        return self.config.get("config") or {}

    @property
    def name(self) -> str:
        """What to call it: its first name, or its id."""
        return self.tags[0] if self.tags else self.short_id


class Layer(NamedTuple):
    """A layer as the store has it."""

    diff_id: str
    blob: str
    media_type: str
    blob_size: int
    size: int
    has_marks: int


class Images:
    def __init__(self, database: Database) -> None:
        self.database = database

    def resolve(self, name: str) -> Image:
        """By name, id, beginning of an id, or digest of the manifest. Raises UnionfsError when there is none."""
        word = name.removeprefix(PREFIX)
        is_hex = bool(word) and not word.strip(reference.HEX) and len(word) <= reference.DIGEST_LENGTH
        if name.startswith(PREFIX) and is_hex:
            return self._by_prefix(name, word)
        row = self._by_reference(name)
        if row is None:
            if is_hex:
                return self._by_prefix(name, word)
            raise self._unknown(name)
        return self._image(row)

    def _by_reference(self, name: str) -> sqlite3.Row | None:
        try:
            full = reference.parse(name)
        except UnionfsError:
            if name.strip(reference.HEX):
                raise
            return None
        if full.digest:
            row = self.database.row("SELECT * FROM images WHERE manifest = ?", full.digest)
            return row
        query = "SELECT images.* FROM tags JOIN images ON image = id WHERE reference = ?"
        return self.database.row(query, str(full))

    def _by_prefix(self, name: str, word: str) -> Image:
        rows = self.database.rows("SELECT * FROM images WHERE id GLOB ?", f"{PREFIX}{word}*")
        if len(rows) > 1:
            raise UnionfsError(f"image {name}", f"{len(rows)} ids begin like that", "give more of the id, or a name")
        if not rows:
            raise self._unknown(name)
        return self._image(rows[0])

    def _unknown(self, name: str) -> UnionfsError:
        known = [tag for image in self.images() for tag in image.tags]
        near = did_you_mean(name, [*known, *(tag.removesuffix(":latest") for tag in known)])
        hint = near or "unionfs image ls lists them; unionfs pull, load, import or build makes more"
        return UnionfsError(f"no such image: {name}", "", hint)

    def images(self) -> list[Image]:
        """The newest first."""
        return [self._image(row) for row in self.database.rows("SELECT * FROM images ORDER BY created DESC, id")]

    def _image(self, row: sqlite3.Row) -> Image:
        layers = self.database.rows("SELECT diff_id FROM image_layers WHERE image=? ORDER BY position", row["id"])
        tags = self.database.rows("SELECT reference FROM tags WHERE image=? ORDER BY reference", row["id"])
        return Image(
            row["id"], json.loads(row["config"]), tuple(layer[0] for layer in layers),
            tuple(reference.familiar(tag[0]) for tag in tags), row["created"], row["size"], row["manifest"],
        )  # fmt: skip

    def raw_config(self, image: Image) -> bytes:
        """The config as it came, to the byte."""
        row = self.database.row("SELECT config FROM images WHERE id=?", image.id)
        return str(row[0]).encode() if row else b""

    def layer(self, diff_id: str) -> Layer | None:
        row = self.database.row("SELECT * FROM layers WHERE diff_id=?", diff_id)
        return Layer(*row) if row else None

    def layer_directories(self, image: Image, dialect: str = "aufs") -> tuple[str, ...]:
        """Where the image's layers are, the topmost first, with deletions in the words of a dialect. A layer that an
        image has twice counts where it is on top: below that, all that it says is said already."""
        found = []
        for diff_id in dict.fromkeys(reversed(image.layers)):
            path = self.layer_path(diff_id)
            if dialect == "overlay" and (layer := self.layer(diff_id)) and layer.has_marks:
                path = overlay.translated(self.database, path, diff_id.removeprefix(PREFIX))
            found.append(path)
        return tuple(found)

    def layer_path(self, diff_id: str) -> str:
        return self.database.path("layers", diff_id.removeprefix(PREFIX))
