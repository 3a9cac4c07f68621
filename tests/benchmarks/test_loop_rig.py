"""What the loop benchmark drives is a robot that may start."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loop_rig import Rig
from runtime.config import load_config


@pytest.mark.parametrize("rate_hz", [30.0, 50.0, 100.0])
def test_the_rigs_configuration_is_a_robots(tmp_path: Path, rate_hz: float) -> None:
    config = load_config(None, Rig(tmp_path).overrides(rate_hz, tmp_path / "policy"))
    assert config.loop.rate_hz == rate_hz and not config.bench.enabled
