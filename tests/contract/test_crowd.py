"""Twenty processes that create, rename, link and delete in one directory: the tree is what they say they did."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.contract import layers
from tests.contract.crowd import BALLS, LOWER
from tests.contract.mounter import ROOT
from tests.contract.subject import subjects

CROWD = 20


def work_together(u, seconds: float) -> None:
    exchanges = "no" if u.kind == "fusepy" else "yes"
    command = [sys.executable, "-m", "tests.contract.crowd", str(u.point / "d")]
    running = [
        subprocess.Popen(
            [*command, str(number), str(CROWD), str(seconds), exchanges],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(CROWD)
    ]  # fmt: skip
    told = []
    for process in running:
        output, complaint = process.communicate()
        assert process.returncode == 0, complaint
        told.append(json.loads(output))
    print(f"{u.name}: {sum(one['steps'] for one in told)} steps")
    for _ in range(2):
        check(u, told)
        u.remount()


def check(u, told) -> None:
    names: dict[str, str] = {}
    for one in told:
        names.update(one["names"])
    folders = {folder for one in told for folder in one["folders"]}
    tokens = {f"token{token}": str(number) for number, one in enumerate(told) for token in one["tokens"]}
    caught = [ball for one in told for ball in one["balls"]]
    assert len(tokens) == sum(len(one["tokens"]) for one in told), "a token was made twice"
    assert len(caught) == len(set(caught)), "a ball was caught twice"
    names.update({f"ball{ball}": f"ball{ball}" for ball in set(range(BALLS)) - set(caught)})
    names.update(tokens)
    listed = u.listdir("d")
    assert len(listed) == len(set(listed))
    assert set(listed) == set(names) | folders
    assert {name: u.read_bytes(f"d/{name}").decode() for name in names} == names
    assert all(os.listdir(u.at(f"d/{folder}")) == [] for folder in folders)


def layer() -> layers.Layer:
    names = [*(f"low{number}" for number in range(LOWER)), *(f"ball{number}" for number in range(BALLS))]
    return {f"d/{name}": name.encode() for name in names}


@pytest.mark.stress
@subjects("mounted")
def test_a_crowd_in_one_directory(union):
    u = union([layer()])
    work_together(u, 10 if u.name == "native-aufs" else 2)


@pytest.mark.long
@pytest.mark.stress
@subjects("mounted")
def test_a_crowd_for_a_minute(union):
    work_together(union([layer()]), 60)
