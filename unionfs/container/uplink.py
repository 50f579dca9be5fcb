"""A container's network as its monitor holds it: the namespace, the sockets of its ports, the helper that serves them.

Called by the monitor, `roots.py` and `lifecycle.py`. This file is one of the doors through which a module is imported
when it is wanted: bridges, addresses and ports (`wiring.py`, `helper.py`) are for networks that have them, and a
container with the network none or host starts without.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from unionfs import events
from unionfs.container import etcfiles, process
from unionfs.container.explain import Explainer
from unionfs.container.spec import HOST, NONE
from unionfs.container.state import Containers, Record
from unionfs.errors import UnionfsError
from unionfs.image.database import Database
from unionfs.linux.capabilities import rules_the_machine


def _wiring() -> Any:
    return importlib.import_module("unionfs.container.wiring")


class Uplink:
    """`namespace` is a descriptor of the network namespace, or what process.py has in place of one."""

    def __init__(self, root: str, container: str) -> None:
        self.root, self.container = root, container
        self.namespace = process.OF_MACHINE
        self.listening: Sequence[Any] = ()
        self.has_names = self.is_wired = False
        self.helper: Any = None

    def make(self, database: Database, record: Record, explain: Explainer) -> bool:
        """Make the network before the container's first process; whether it needs a helper, by `serve`."""
        folder = Containers(database).directory(record.id)
        if record.spec.network in (NONE, HOST):
            etcfiles.write(folder, record.spec)
            self.namespace = process.OF_ITS_OWN if record.spec.network == NONE else process.OF_MACHINE
            return False
        self.is_wired = True
        self.namespace, self.listening, self.has_names = _wiring().wire(database, record, explain)
        # Without root what is forked later is born in the container's pid namespace (process.py), and holds up its end
        # until this process reaps it: so there it is forked now, for names that may come.
        return bool(self.listening) or self.has_names or (self.namespace >= 0 and not rules_the_machine())

    def serve(self, foreign: Sequence[int], explain: Explainer) -> None:
        """Fork the helper. `foreign` are descriptors that it must not keep open. This process has no state open."""
        with Database(self.root) as database:
            containers = Containers(database)
            log, spec = containers.directory(self.container, "monitor.log"), containers.get(self.container).spec
        explain.step("fork()", "a helper serves ports, and names at 127.0.0.11", "fork(2)")
        self.helper = importlib.import_module("unionfs.container.helper").spawn(
            self.root, self.container, log, self.namespace, self.listening, spec.dns or etcfiles.resolvers(), foreign
        )
        if self.has_names:
            self.helper.answer_names()

    def answer_names(self) -> None:
        """It has come to a network with names: see to it that somebody answers for them."""
        self.has_names = True
        if self.helper is None:
            self.serve((), Explainer())
        else:
            self.helper.answer_names()

    def lost_helper(self) -> None:
        """Its helper was killed: another one takes the same sockets, but where it would be born in the container."""
        events.error("the helper of its network was killed")
        self.helper.end()
        self.helper = None
        if rules_the_machine():
            self.serve((), Explainer())

    def release(self) -> None:
        """Its ports and addresses are free for others."""
        if self.helper is not None:
            self.helper.end()
        for one in self.listening:
            one.socket.close()
        if self.namespace >= 0:
            os.close(self.namespace)
        if self.is_wired:
            with Database(self.root) as database:
                _wiring().unwire(database, self.container)

    def tidy(self) -> None:
        """The machine follows: a bridge that nobody is on any more goes, with its rules. It takes a while, so whoever
        waits for the container has been told of its end before."""
        if self.is_wired:
            try:
                with Database(self.root) as database:
                    _wiring().tidy(database)
            except UnionfsError as failure:
                events.error(f"a bridge stays: {failure}")


def clear(database: Database, container: str) -> None:
    """What the killed monitor of a container left of its network."""
    query = "SELECT 1 FROM endpoints WHERE container=? AND outer<>'' UNION SELECT 1 FROM ports WHERE container=?"
    if database.row(query, container, container) is not None:
        _wiring().unwire(database, container)
        _wiring().tidy(database)


def connect(
    database: Database, record: Record, network: str, aliases: Sequence[str], addresses: Sequence[str]
) -> bool:
    """Put a container on a network; whether that has names. Raises UnionfsError."""
    has_names: bool = _wiring().connect(database, record, network, aliases, addresses)
    return has_names


def disconnect(database: Database, record: Record, network: str) -> None:
    """Take a container off a network. Raises UnionfsError."""
    _wiring().disconnect(database, record, network)
