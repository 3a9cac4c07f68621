"""A cluster that is not there, and one that is too small."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from contracts.errors import ConfigError
from trainer import collect_ray, ray_cluster


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "here:there"])
def test_an_address_where_no_cluster_answers_is_one_sentence(address: str) -> None:
    """Before Ray is asked, which would try for ever."""
    ray = SimpleNamespace(is_initialized=lambda: False)
    expected = f"no Ray cluster at {re.escape(address)}.*ray start"
    with pytest.raises(ConfigError, match=expected), ray_cluster.cluster(ray, address):
        pass


@pytest.mark.parametrize(
    ("processors", "gpus", "room"),
    [
        (4, 0.0, True),
        (5, 0.0, False),
        (2, 0.5, True),
        (2, 1.0, True),
        (4, 0.5, False),
        (2, 2.0, False),
    ],
)
def test_a_robot_that_no_machine_has_room_for_is_said(
    processors: int, gpus: float, room: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that has the processors and another that has the GPU are not enough."""
    told = [
        ({"CPU": 4.0}, True),
        ({"CPU": 2.0, "GPU": 1.0}, True),
        ({"CPU": 64.0, "GPU": 8.0}, False),
    ]
    nodes = [{"Resources": resources, "Alive": alive} for resources, alive in told]
    collect_ray.warn_if_too_large(SimpleNamespace(nodes=lambda: nodes), processors, gpus)
    said = f"no machine of the cluster has {processors} processors and {gpus:g} GPUs: waiting"
    assert (said in capsys.readouterr().err) is not room
