"""What networks have changed of the machine, to be put back: whether packets are forwarded, and the table of rules.

Called by `wiring.py`, within the state's write transaction. It is kept in a file of its own, $UNIONFS_ROOT/machine, as
a change is noted before it is made: the transaction of a process that is killed is undone, the change is not. A note
says that something may be so: `rules` is the text that the kernel has, "" when that is not sure.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

from unionfs.container.state import boot_id
from unionfs.image.database import Database

_FILE = "machine"


class Notes:
    """`home` is the network namespace that they are about. Those of another one, and of another run of the machine, are
    not to be put back here, and are forgotten."""

    def __init__(self, database: Database, home: str) -> None:
        self._path = database.path(_FILE)
        self._aside = database.aside()
        self._here = f"{boot_id()} {os.readlink(home or '/proc/self/ns/net')}"
        self.forwards = False
        """We have switched it on."""
        self.rules: str | None = None
        """None: there is no table of ours."""
        with suppress(OSError, ValueError), open(self._path, encoding="utf-8") as file:
            noted = json.load(file)
            if noted["here"] == self._here:
                self.forwards, self.rules = noted["forwards"], noted["rules"]

    @property
    def is_empty(self) -> bool:
        return not self.forwards and self.rules is None

    def save(self) -> None:
        if self.is_empty:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            return
        with open(self._aside, "w", encoding="utf-8") as file:
            json.dump({"here": self._here, "forwards": self.forwards, "rules": self.rules}, file)
        os.rename(self._aside, self._path)
