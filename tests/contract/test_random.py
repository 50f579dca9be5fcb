"""Random sequences of operations, compared with the model and, in the overlay dialect, with the kernel's overlayfs.

A short run in every test run; `UNIONFS_EXAMPLES=5000 ./tests/run --long tests/contract/test_random.py` for a long one.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import providers
from hypothesis.stateful import run_state_machine_as_test

from tests.contract.conftest import require
from tests.contract.machine import machine
from tests.contract.world import World

TOGETHER = {
    "core-aufs": ([("core", "aufs")], 150),
    "core-aufs by block": ([("core", "aufs", "block")], 60),
    "core-overlay without data": ([("core", "overlay", "auto")], 60),
    "core-overlay and kernel": ([("core", "overlay"), ("kernel", "overlay")], 150),
    "native-aufs": ([("native", "aufs")], 20),
    "native-aufs with the index": ([("native", "aufs", "index", "coherent")], 20),
    "native-overlay": ([("native", "overlay")], 20),
    "native-aufs without opening": ([("native", "aufs", "cached")], 15),
    "fusepy-aufs": ([("fusepy", "aufs")], 10),
    "fusepy-overlay": ([("fusepy", "overlay")], 10),
}
"""The subjects of a run, and the number of its examples in a short one."""
LONG = int(os.environ.get("UNIONFS_EXAMPLES", "2000"))


def run(name: str, mounter, examples: int, same: bool = False) -> None:
    """`same`: the same sequences each time, so that every test run is of one and the same thing."""
    kinds = TOGETHER[name][0]
    for kind, *_ in kinds:
        require(kind)
    before = World.operations
    run_state_machine_as_test(
        machine("Random", kinds, mounter),
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, database=None, derandomize=same,
            print_blob=not same,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
        ),
    )  # fmt: skip
    print(f"{name}: {World.operations - before} operations in {examples} sequences")


@pytest.fixture
def the_same_each_time(monkeypatch):
    """Hypothesis tries the numbers and names that it finds in the modules that are loaded, so any change of the code
    would change the sequences: a red test would not be due to the change that it came with."""
    none = providers.Constants(**{kind: set() for kind in ("integers", "floats", "bytes", "strings")})
    monkeypatch.setattr(providers, "_get_local_constants", lambda: none)
    providers.CONSTANTS_CACHE.cache.clear()
    yield
    providers.CONSTANTS_CACHE.cache.clear()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.apart] if {kind for kind, *_ in kinds} == {"core"} else [])
        for name, (kinds, _) in TOGETHER.items()
    ],
)
@pytest.mark.usefixtures("the_same_each_time")
def test_random_operations(name, mounter):
    run(name, mounter, TOGETHER[name][1], same=True)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TOGETHER)
def test_many_random_operations(name, mounter):
    share = TOGETHER[name][1] / TOGETHER["core-aufs"][1]
    run(name, mounter, max(1, int(LONG * share)))
