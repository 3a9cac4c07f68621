"""Packages of LeRobot checkpoints through a TensorRT's parser, refit check and builder, without a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.files.packages import load_package
from export.support import markdown, support

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed (pip install tensorrt-rtx)",
)


@needs_rtx
@pytest.mark.parametrize("name", ["act", pytest.param("diffusion-ddim", marks=pytest.mark.slow)])
def test_trunk_and_head_parse_build_and_every_refinable_tensor_can_be_refitted(
    name: str, package_folder: Callable[[str], Path]
) -> None:
    folder = package_folder(name)
    found = support(folder)
    print(markdown([found]))
    trunk, head = found.graphs
    assert (trunk.refinable, trunk.unsupported, head.unsupported) == (0, (), ())
    assert head.refinable == len(load_package(folder).manifest.refinable) > 50
    assert head.refittable == head.refinable, head.not_refittable
    assert found.holds, (trunk.failed, head.failed)
