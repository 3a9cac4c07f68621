"""What is opened is closed: when a later part of a policy does not open, and when the robot is done."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_package import make_package

from contracts.errors import ConfigError, EntracteError, PackageError
from contracts.files.packages import Package, safetensors_bytes
from runtime.config import PolicySection
from runtime.control.robot import Robot
from runtime.engines import Engine, EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.models import opening, policy
from runtime.weights.probation import Probation


def run_of(folder: Path, **section: Any) -> Any:
    chosen = PolicySection(package=str(folder / "package"), **section)
    robot = SimpleNamespace(id="bench-0")
    return SimpleNamespace(
        config=SimpleNamespace(policy=chosen, robot=robot, probation=Probation()),
        slots_dir=folder / "slots",
    )


def is_closed(engine: OnnxRuntimeEngine) -> bool:
    return engine._bound is None


@pytest.mark.parametrize("late", ["head", "weights", "settings"])
def test_a_policy_that_does_not_open_leaves_no_engine(
    tmp_path: Path, opened: list[OnnxRuntimeEngine], monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    package = make_package(tmp_path / "package")
    section: dict[str, Any] = {}
    if late == "head":
        watched = opening.open_engine

        def no_head(package: Package, graph: str, options: EngineOptions) -> Engine:
            if graph == "head":
                raise PackageError("no head")
            return watched(package, graph, options)

        monkeypatch.setattr(opening, "open_engine", no_head)
    elif late == "weights":
        tensors = {**package.refinable_weights(), "head/bias": np.zeros(7, np.float32)}
        (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(tensors))
        section["weights"] = str(tmp_path / "w.safetensors")
    else:

        def refuses(_package: Package) -> int:
            raise PackageError("observation_steps")

        monkeypatch.setattr(policy, "_observations", refuses)
    with pytest.raises(EntracteError):
        policy.open_policy(run_of(tmp_path, **section))
    assert len(opened) == (1 if late == "head" else 2)
    assert all(map(is_closed, opened))


def test_weights_of_a_file_are_read_up_to_what_a_release_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[OnnxRuntimeEngine]
) -> None:
    package = make_package(tmp_path / "package")
    path = tmp_path / "w.safetensors"
    data = safetensors_bytes(package.refinable_weights())
    path.write_bytes(data)
    monkeypatch.setattr(opening, "MAX_WEIGHTS_BYTES", len(data))
    opening.open_head(package, EngineOptions(), str(path)).close()
    assert len(opened) == 1 and all(map(is_closed, opened))
    path.write_bytes(data + b" ")
    with pytest.raises(ConfigError, match=r"can't read weights .*too large"):
        opening.open_head(package, EngineOptions(), str(path))
    with pytest.raises(ConfigError, match="can't read weights"):
        opening.open_head(package, EngineOptions(), str(tmp_path))


def test_a_robot_closes_its_engines_last_whatever_else_fails(
    tmp_path: Path, opened: list[OnnxRuntimeEngine]
) -> None:
    make_package(tmp_path / "package")
    runner = policy.open_policy(run_of(tmp_path))
    order: list[str] = []

    def closing(name: str, error: Exception | None = None) -> Any:
        def close() -> None:
            assert not any(map(is_closed, opened)), "an engine went before what may use it"
            order.append(name)
            if error is not None:
                raise error

        return SimpleNamespace(close=close, busy=False)

    part: Any = SimpleNamespace()
    robot = Robot(
        part, part, part, part, part,
        scene=closing("scene", RuntimeError("lost")),
        senses=closing("senses", OSError("gone")),
        gate=closing("gate", EntracteError("no answer")),
        stream=part,
        policy=runner,
        policy_lane=closing("policy lane"),
        reward=None,
        reward_lane=closing("reward lane"),
        pace=part, floor=part, helm=part, show=part, periodicity=part, box=part,
    )  # fmt: skip
    robot.close()
    assert order == ["gate", "policy lane", "reward lane", "senses", "scene"]
    assert len(opened) == 2 and all(map(is_closed, opened))
