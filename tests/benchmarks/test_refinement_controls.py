"""The control that learns from demonstrations alone is the same beside every refiner of an experiment."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import refinement_plan
from benchmarks.refinement_plan import (
    ACTORS,
    Plan,
    demonstrations,
    robot_settings,
    trainer_settings,
)
from benchmarks.refinement_processes import CellFailed
from contracts import registry

ENDPOINTS = dict.fromkeys(("frames", "episodes", "weights", "health"), "tcp://127.0.0.1:1")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Nothing is recorded, and the packages with an actor are there."""
    made = Plan(tmp_path / "out", tmp_path / "work", tmp_path / "shipped", 1, 1, 1, False)
    monkeypatch.setattr(refinement_plan, "demonstrations", lambda plan, task: plan.work / task)
    for kind, *_ in ACTORS.values():
        (made.work / f"{kind}-open_drawer").mkdir(parents=True)
    return made


def told(words: list[str]) -> dict[str, object]:
    pairs = (word.split("=", 1) for word in words if word != "--set")
    return {name: json.loads(value) for name, value in pairs}


@pytest.mark.parametrize("refiner", [*ACTORS, "awr"])
def test_it_refines_the_shipped_policy_by_its_own_refiner_and_options(
    plan: Plan, refiner: str
) -> None:
    options = ("refiner.options.steps=7", "iteration.episodes=3")
    plan = dataclasses.replace(plan, refiner=refiner, options=options)
    shipped = plan.pretrained / "policy-open_drawer"
    control = told(trainer_settings(plan, "open_drawer", "demonstrations", 0))
    assert control["refiner.kind"] == "demonstrations"
    assert control["refiner.package"] == str(shipped)
    assert control["iteration.episodes"] == 3 and "refiner.options.steps" not in control
    assert refinement_plan.policy_package(plan, "open_drawer", "demonstrations") == shipped
    explores = told(robot_settings(plan, "demonstrations", 0, ENDPOINTS))
    assert "policy.explore_deg" not in explores, "the bench's, as with every refiner"

    refined = told(trainer_settings(plan, "open_drawer", "truth", 0))
    assert refined["refiner.kind"] == refiner and refined["refiner.options.steps"] == 7
    acted = plan.work / f"{ACTORS[refiner][0]}-open_drawer" if refiner in ACTORS else shipped
    assert refined["refiner.package"] == str(acted)


def test_options_of_the_refiner_that_the_control_is_made_of_are_the_controls_too(
    plan: Plan,
) -> None:
    plan = dataclasses.replace(plan, options=("refiner.options.gradient_steps=7",))
    control = told(trainer_settings(plan, "open_drawer", "demonstrations", 0))
    assert control["refiner.options.gradient_steps"] == 7


def test_every_refiner_with_an_actor_is_registered() -> None:
    for kind in ACTORS:
        registry.load("refiners", kind)


def test_another_robot_is_named_and_its_demonstrations_are_somebody_elses(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert plan.robot == []
    plan = dataclasses.replace(plan, config=Path("hw_configs/metaworld.yaml"))
    assert plan.robot == ["--config", "hw_configs/metaworld.yaml"]
    with pytest.raises(CellFailed, match="record --expert --config hw_configs"):
        demonstrations(plan, "push")
    there = plan.pretrained / "demonstrations-push"
    (there / "meta").mkdir(parents=True)
    (there / "meta/info.json").touch()
    assert demonstrations(plan, "push") == there
