"""What several files of this folder build their layers with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.changes.layers import DIALECTS, HandMade, Make


@pytest.fixture(params=DIALECTS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return lambda name: HandMade(tmp_path / name, request.param)
