"""One of many processes that work in one directory at once; it tells at its end what must be there. See test_crowd.py.

    python -m tests.contract.crowd DIRECTORY NUMBER CROWD SECONDS EXCHANGE

Its own names begin with its number; of the lower layer's files those whose number is its own modulo CROWD are its own.
Tokens are made by whoever is first (O_EXCL), balls of the lower layer are taken by whoever renames them first.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import sys
import time

LOWER, BALLS, TOKENS = 400, 60, 300
EXCHANGE = 2
libc = ctypes.CDLL(None, use_errno=True)


class Worker:
    def __init__(self, number: int, crowd: int, exchanges: bool) -> None:
        self.number, self.exchanges = number, exchanges
        self.chance = random.Random(number)
        self.names = {f"low{i}": f"low{i}" for i in range(LOWER) if i % crowd == number}
        self.folders: list[str] = []
        self.tokens: list[int] = []
        self.balls: list[int] = []
        self.count = 0
        self.token = 0

    def fresh(self) -> str:
        self.count += 1
        return f"{self.number}-{self.count}"

    def any(self) -> str:
        return self.chance.choice(list(self.names))

    def step(self) -> None:
        ways = [self.create, self.create, self.rename, self.replace, self.delete, self.write, self.folder, self.claim,
                self.catch, self.link]  # fmt: skip
        if self.exchanges:
            ways.append(self.exchange)
        self.chance.choice(ways)()

    def create(self) -> None:
        name = self.fresh()
        with open(name, "x") as file:
            file.write(name)
        self.names[name] = name

    def rename(self) -> None:
        if self.names:
            old, new = self.any(), self.fresh()
            os.rename(old, new)
            self.names[new] = self.names.pop(old)

    def replace(self) -> None:
        if len(self.names) > 1:
            old, new = self.any(), self.any()
            if os.stat(old).st_ino != os.stat(new).st_ino:  # two names of one file both stay (rename(2))
                os.rename(old, new)
                self.names[new] = self.names.pop(old)

    def delete(self) -> None:
        if self.names:
            name = self.any()
            os.unlink(name)
            del self.names[name]

    def write(self) -> None:
        if self.names:
            name = self.any()
            self.names[name] = f"{name} {self.count}"
            os.rename(self._written(self.names[name]), name)

    def _written(self, content: str) -> str:
        name = f"{self.number}-new"
        with open(name, "w") as file:
            file.write(content)
        return name

    def link(self) -> None:
        if self.names:
            old, new = self.any(), self.fresh()
            os.link(old, new)
            self.names[new] = self.names[old]

    def exchange(self) -> None:
        if len(self.names) > 1:
            one, other = self.any(), self.any()
            if libc.renameat2(-100, one.encode(), -100, other.encode(), EXCHANGE):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), one)
            self.names[one], self.names[other] = self.names[other], self.names[one]

    def folder(self) -> None:
        if self.folders and self.chance.random() < 0.5:
            os.rmdir(self.folders.pop())
        else:
            self.folders.append(self.fresh())
            os.mkdir(self.folders[-1])

    def claim(self) -> None:
        try:
            with open(f"token{self.token}", "x") as file:
                file.write(str(self.number))
            self.tokens.append(self.token)
        except FileExistsError:
            pass
        self.token = (self.token + 1) % TOKENS

    def catch(self) -> None:
        ball, name = self.chance.randrange(BALLS), self.fresh()
        try:
            os.rename(f"ball{ball}", name)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        else:
            self.balls.append(ball)
            self.names[name] = f"ball{ball}"


def main(directory: str, number: int, crowd: int, seconds: float, exchanges: bool) -> None:
    os.chdir(directory)
    worker = Worker(number, crowd, exchanges)
    end, steps = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        worker.step()
        steps += 1
    told = {name: getattr(worker, name) for name in ("names", "folders", "tokens", "balls")}
    print(json.dumps({**told, "steps": steps}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == "yes")
