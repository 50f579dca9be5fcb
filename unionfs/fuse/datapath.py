"""Data path: who carries the bytes of open files. Agreed on when a mount starts, and told in the log.

Called by `calls.py` for INIT and by `server.py` once that is answered, since a backing file can be tried then only:

    passthrough    the kernel reads and writes the layers' files by itself; where it cannot, as daemon
    daemon         through this process and the page cache; each open and close is a request
    cached         the same, without requests for open and close (`noopen.py`): only when asked for
"""

from __future__ import annotations

from unionfs.fuse import protocol
from unionfs.fuse.passthrough import Passthrough
from unionfs.linux.capabilities import rules_the_machine

_PASSTHROUGH, _NO_OPEN = protocol.INIT_FLAGS["PASSTHROUGH"], protocol.INIT_FLAGS["NO_OPEN_SUPPORT"]
_TELLS = {
    "passthrough": "the kernel reads and writes files by itself",
    "coherent": "the kernel reads and writes files of the upper by itself, and those below through the daemon",
    "cached": "files are opened without asking the daemon, their data goes through it and the page cache",
}


class DataPath:
    """`opening` is the mount option open=, `coherent` the one of that name."""

    def __init__(self, opening: str, coherent: bool) -> None:
        self.opening = opening
        self.coherent = coherent
        self.way = "daemon"
        self.why = ""
        """Why it is not passthrough, or not for all layers."""
        self.told = ""
        """The same in words."""

    def wanted(self, wanted: int, offered: int) -> int:
        """Of the abilities that are wanted of the kernel those that go with this way, and are offered."""
        if self.opening == "cached":
            self.why = "open=cached"
            wanted = wanted & ~(_PASSTHROUGH | protocol.INIT_FLAGS["ATOMIC_O_TRUNC"]) | _NO_OPEN
        elif not offered & _PASSTHROUGH:
            self.why = "the kernel has no passthrough, Linux 6.9 is needed"
        elif not rules_the_machine():
            self.why = "passthrough needs CAP_SYS_ADMIN in the first user namespace"
            wanted &= ~_PASSTHROUGH
        return wanted & offered

    def find(self, agreed: int, passthrough: Passthrough) -> None:
        """See what can be had, and try it."""
        if agreed & _PASSTHROUGH:
            passthrough.attempt()
            self.why = passthrough.why
        else:
            passthrough.connection = None
        if passthrough.connection is not None:
            self.way = "passthrough"
            self.told = _TELLS["coherent" if self.coherent else "passthrough"]
            self.told += f"; not all: {self.why}" if self.why else ""
        elif agreed & _NO_OPEN:
            self.way = "cached"
            self.told = _TELLS["cached"]
        else:
            self.told = f"data goes through the daemon: {self.why}"
