"""TensorRT where there is none: one clear sentence. Where `tensorrt_rtx` is: our graphs parse."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from tiny_package import make_package

from contracts.errors import MissingDependency
from contracts.package import TensorSpec
from runtime.engines import EngineOptions, building, cuda, open_engine, tensorrt


def test_absent_tensorrt_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tensorrt.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    package = make_package(tmp_path / "package")
    with pytest.raises(
        MissingDependency, match=r"needs TensorRT.*not installed; on a Jetson.*engine onnxruntime"
    ):
        open_engine(package, "head", EngineOptions(kind="tensorrt"))


def test_the_stub_of_pypi_is_not_taken_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependency, match="stub"):
        tensorrt.require_tensorrt()


def test_without_a_driver_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_found", [cuda._open("libcuda-that-is-not-there.so")])
    assert cuda.find() is None
    with pytest.raises(MissingDependency, match=r"needs an NVIDIA GPU.*no NVIDIA driver"):
        tensorrt.require_cuda()


def test_profiles_cover_one_to_many() -> None:
    shapes = building.profile_shapes(TensorSpec("noise", "float32", (-1, 16, 6)), 8)
    assert shapes == ((1, 16, 6), (8, 16, 6), (building.MAX_BATCH, 16, 6))


def test_graphs_parse_and_their_refinable_weights_are_refittable(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    package = make_package(tmp_path / "package")
    logger = trt.Logger(trt.Logger.ERROR)
    for graph in package.manifest.graphs:
        builder = trt.Builder(logger)
        network, _parser = building.parse(trt, logger, builder, package, graph.name)
        building.mark_refittable(network, package, graph.name)
        assert network.num_layers > 0


def test_a_graph_is_built_as_it_was_checked_and_not_read_again(tmp_path: Path) -> None:
    """What another hand puts in its place meanwhile is not built, and a graph changed in memory is."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    package = make_package(tmp_path / "package")
    (package.folder / "head.onnx").write_bytes(b"something else")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network, _parser = building.parse(trt, logger, builder, package, "head")
    names = {network.get_output(index).name for index in range(network.num_outputs)}
    assert names == {spec.name for spec in package.manifest.graph("head").outputs}
