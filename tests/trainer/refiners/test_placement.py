"""Several that share every batch learn what one learns alone; here they are threads, which start at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_policy
import torch
from refiner_kinds import KINDS, Make, maker
from small_policy import same

from contracts import registry
from contracts.errors import ConfigError, MissingDependency
from trainer.config import load_config
from trainer.interfaces import Refiner, Update
from trainer.policies.chance import Chance
from trainer.refined_package import open_refiner
from trainer.refiners import placement
from trainer.refiners.placement import ALONE, Placement, placement_of


class Meeting:
    """What accelerate does between processes, between threads."""

    def __init__(self, parts: int) -> None:
        self._given: list[torch.Tensor | None] = [None] * parts
        self._barrier = threading.Barrier(parts, timeout=60)

    def of(self, part: int) -> SimpleNamespace:
        return SimpleNamespace(reduce=lambda given, _: self._mean(part, given))

    def _mean(self, part: int, given: torch.Tensor) -> torch.Tensor:
        self._given[part] = given.clone()
        self._barrier.wait()
        mean = torch.stack([one for one in self._given if one is not None]).mean(0)
        self._barrier.wait()
        return mean


@pytest.fixture
def make(request: pytest.FixtureRequest, demonstrations: Path) -> Make:
    return maker(request, demonstrations)


def close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Up to what sums in another order make of float32 within a few steps."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=2e-5, atol=2e-6, err_msg=name)


CASES: list[tuple[str, int, dict[str, Any]]] = [
    *((kind, 2, {}) for kind in KINDS if kind != "ppo"),
    # All episodes are the base's: further from what was learned since than it would take them for.
    ("ppo", 2, {"unaccounted": 1e6}),
    ("bestofn", 4, {"anchor": 1.0}),
    ("dsrl", 2, {"distil": True, "steps": 4}),
    # Of 16 chunks the last 4 make a batch that three can't share.
    ("ppo", 3, {"batch": 12, "unaccounted": 1e6}),
]


@pytest.mark.parametrize(("kind", "parts", "options"), CASES)
def test_they_learn_what_one_learns_alone(
    make: Make, driver, kind: str, parts: int, options: dict[str, Any]
) -> None:
    """The same weights up to rounding, all of them to the bit the same, and the same figures."""
    alone, meeting = make(kind, ALONE, **options), Meeting(parts)
    members = [
        make(kind, Placement(part=part, parts=parts, accelerator=meeting.of(part)), **options)
        for part in range(parts)
    ]
    with ThreadPoolExecutor(parts) as threads:
        for number in (1, 2):
            given = [driver.drive(one) for one in small_policy.iteration(number)]
            expected = alone.update(given, number)

            def update(member: Refiner, given=given, number=number) -> Update:
                return member.update(given, number)

            found = list(threads.map(update, members))
            assert found[0].metrics["gradient_steps"] == expected.metrics["gradient_steps"] > 0
            close(found[0].tensors, expected.tensors)
            for other in found[1:]:
                assert same(found[0].tensors, other.tensors)
            for name, value in expected.metrics.items():
                mean = np.mean([one.metrics[name] for one in found])
                assert mean == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_what_is_drawn_for_some_of_them_is_their_rows_of_what_is_drawn_for_all() -> None:
    def drawn(part: int, parts: int) -> list[torch.Tensor]:
        chance = Chance(torch.Generator().manual_seed(3), None, part, parts)
        rows = 6 // parts
        return [chance.normal((rows, 5)), chance.uniform((rows,)), chance.normal((rows, 2))]

    whole = drawn(0, 1)
    for parts in (2, 3):
        for at, expected in enumerate(whole):
            found = torch.cat([drawn(part, parts)[at] for part in range(parts)])
            assert torch.equal(found, expected)
    assert torch.equal(whole[0], torch.randn(6, 5, generator=torch.Generator().manual_seed(3)))


def test_a_batch_that_can_not_be_shared_evenly_is_everybodys() -> None:
    whole = torch.arange(12.0).reshape(2, 6)
    last = Placement(part=1, parts=2)
    assert last.rows(whole).tolist() == whole[1:].tolist()
    assert last.rows(whole, 1).tolist() == whole[:, 3:].tolist()
    assert torch.equal(last.rows(whole[:, :5], 1), whole[:, :5])
    assert ALONE.rows(whole) is whole


@pytest.mark.parametrize(
    ("device", "processes", "said"),
    [
        (
            "cuda",
            1,
            r"expected a GPU that torch can use as 'cuda', found 0 GPUs.*refiner.device=cpu",
        ),
        ("cuda:1", 1, r"a GPU that torch can use as 'cuda:1', found 0 GPUs"),
        ("cuda", 2, r"expected a GPU that torch can use"),
        ("cuda:x", 1, r"expected cpu, cuda, cuda:<number> or auto, found cuda:x"),
        ("tpu", 1, r"expected cpu, cuda, cuda:<number> or auto, found tpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused_at_the_start(
    package, monkeypatch, device: str, processes: int, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = [f"refiner.package={package.folder}", f"refiner.device={device}"]
    config = load_config(None, [*settings, f"refiner.processes={processes}"])
    with pytest.raises(ConfigError, match=rf"^refiner\.device: .*{said}"):
        open_refiner(config)


def test_too_few_gpus_and_one_named_for_several_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"expected 3 of them, one for each .*, found 2 GPUs"):
        placement_of("cuda", 3)
    with pytest.raises(ConfigError, match=r"beside refiner\.processes above 1.*found cuda:1"):
        placement_of("cuda:1", 2)
    assert placement._device_named("auto") == "cuda"


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placement_of("auto", 1).device.type == "cpu"


def test_several_need_accelerate(monkeypatch) -> None:
    monkeypatch.setattr("trainer.refiners.together.find_spec", lambda _: None)
    with pytest.raises(MissingDependency, match=r"processes=2 needs accelerate; pip install"):
        placement_of("cpu", 2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch": 9}, r"batch: expected a multiple of 2, as refiner\.processes is 2, found 9"),
        ({"critic_batch": 7}, r"critic_batch: expected a multiple of 2"),
    ],
)
def test_a_batch_that_they_can_not_share_is_refused(make: Make, options, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^refiner\.options\.{named}"):
        make("bestofn", placement_of("cpu", 2), **options)
    if "batch" in options:
        with pytest.raises(ConfigError, match="a multiple of 4"):
            make("dsrl", placement_of("cpu", 2), batch=10, distil=True)


def test_a_refiner_that_can_not_be_told_where_is_refused(monkeypatch, package) -> None:
    """A user's own, which says so itself; as long as nothing else is asked for it is told nothing."""
    told: list[dict[str, Any]] = []

    def own(*, package, demonstrations, options, seed) -> SimpleNamespace:
        told.append({"seed": seed})
        return SimpleNamespace(package_id=registry_id)

    registry_id = package.package_id
    monkeypatch.setattr(registry, "load", lambda group, name: own)
    settings = ["refiner.kind=own", f"refiner.package={package.folder}"]
    open_refiner(load_config(None, settings))
    assert told == [{"seed": 0}]
    with pytest.raises(ConfigError, match="'own' says itself where it computes"):
        open_refiner(load_config(None, [*settings, "refiner.device=auto"]))


def test_less_than_one_process_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"refiner\.processes: expected >= 1, found 0"):
        load_config(None, ["refiner.processes=0"])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_learns_what_the_cpu_learns(make: Make, driver, kind: str, tmp_path: Path) -> None:
    """From the same draws; what it saves is the CPU's, too, and either goes on from it."""
    made = {device: make(kind, placement_of(device, 1)) for device in ("cpu", "cuda")}
    for number in (1, 2):
        given = [driver.drive(one) for one in small_policy.iteration(number)]
        updates = {device: one.update(given, number) for device, one in made.items()}
        for name, tensor in updates["cpu"].tensors.items():
            np.testing.assert_allclose(
                updates["cuda"].tensors[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name
            )
    made["cuda"].save(tmp_path / "state")
    given = [driver.drive(one) for one in small_policy.iteration(3)]
    on = {device: make(kind, placement_of(device, 1)) for device in made}
    for one in on.values():
        one.load(tmp_path / "state")
    after = {device: one.update(given, 3).tensors for device, one in on.items()}
    for name, tensor in after["cpu"].items():
        np.testing.assert_allclose(after["cuda"][name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
