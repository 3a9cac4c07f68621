"""The CPU engine: injected weights are the ones that count, whatever ONNX Runtime folds or packs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_package import FEATURES, LENGTH, head_inputs, make_package

from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package
from runtime.engines import EngineOptions, onnxruntime, open_engine, refinable_names
from runtime.engines.binding import KEPT_FEEDS, KEPT_SHAPES
from runtime.engines.onnxruntime import OnnxRuntimeEngine


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return make_package(tmp_path / "package")


def _expected(inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
    centre = inputs["features"] @ weights["head/mix"] + weights["head/bias"]
    return inputs["noise"] * weights["head/scale"] + centre


def test_an_engine_by_name_answers_with_the_packages_weights(package: Package) -> None:
    engine = open_engine(package, "head", EngineOptions())
    inputs = head_inputs(np.random.default_rng(3))
    answer = engine.run(inputs)
    np.testing.assert_allclose(
        answer["chunks"], _expected(inputs, package.weights), rtol=1e-5, atol=1e-5
    )
    assert [spec.name for spec in engine.outputs] == ["chunks", "values", "choice"]


def test_standby_has_the_new_weights_and_leaves_the_running_engine(package: Package) -> None:
    engine = open_engine(package, "head", EngineOptions())
    inputs = head_inputs(np.random.default_rng(4))
    before = engine.run(inputs)["chunks"].copy()
    rng = np.random.default_rng(5)
    weights = {
        name: rng.normal(size=tensor.shape).astype(np.float32)
        for name, tensor in package.refinable_weights().items()
    }
    expected = _expected(inputs, weights)
    standby = engine.standby(weights)
    for tensor in weights.values():
        tensor[:] = 0.0  # the caller's buffers are the caller's
    np.testing.assert_allclose(standby.run(inputs)["chunks"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(engine.run(inputs)["chunks"], before)
    engine.close()
    np.testing.assert_allclose(standby.run(inputs)["chunks"], expected, rtol=1e-5, atol=1e-5)


def test_weights_that_are_folded_into_constants_are_replaced_too(package: Package) -> None:
    """W + C is constant: ORT computes it when the session is made, from the values it was given."""
    size = 64
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["mix", "fixed"], ["sum"]),
            helper.make_node("Transpose", ["sum"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "turned"], ["y"]),
        ],
        "folded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", size])],
        [_external("mix", size), _external("fixed", size)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rng = np.random.default_rng(0)
    x, mix, fixed, other = (rng.normal(size=(size, size)).astype(np.float32) for _ in range(4))
    manifest = package.manifest.graph("head").__class__(
        "head", "", "", _spec("x", size), _spec("y", size)
    )
    odd = Package(
        package.folder,
        _with_graph(package, manifest),
        "id",
        {"head": model.SerializeToString()},
        {},
        {},
    )
    for value in (mix, other):
        engine = OnnxRuntimeEngine(odd, "head", EngineOptions(), {"mix": value, "fixed": fixed})
        np.testing.assert_allclose(
            engine.run({"x": x})["y"], x @ (value + fixed).T, rtol=1e-3, atol=1e-3
        )


def _external(name: str, size: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=(size, size))
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.safetensors")
    return tensor


def _spec(name: str, size: int):  # type: ignore[no-untyped-def]
    from contracts.package import TensorSpec

    return (TensorSpec(name, "float32", (-1, size)),)


def _with_graph(package: Package, graph):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(package.manifest, graphs=(graph,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("head/bias"), "'head/bias' is missing"),
        (lambda w: w.update({"head/other": w["head/bias"]}), "'head/other' is not refinable"),
        (lambda w: w.update({"trunk/wide": np.zeros((1, 8), np.float32)}), "not refinable"),
        (lambda w: w.update({"head/bias": w["head/bias"][:3]}), r"should be float32\[6\]"),
        (lambda w: w.update({"head/bias": w["head/bias"].astype(np.float64)}), "float64"),
        (lambda w: w.update({"head/bias": w["head/bias"] * np.nan}), "NaN or infinity"),
    ],
)
def test_standby_takes_exactly_the_refinable_tensors(package: Package, change, words) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(package, "head", EngineOptions())
    weights = package.refinable_weights()
    change(weights)
    with pytest.raises(PackageError, match=words):
        engine.standby(weights)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"features": np.zeros((1, FEATURES), np.float32)}, "no input 'noise'"),
        (
            {
                "features": np.zeros((2, FEATURES), np.float32),
                "noise": np.zeros((3, 4, 6), np.float32),
            },
            r"expected float32\[1, 8\], found float32\[2, 8\]",
        ),
        ({"features": np.zeros((1, FEATURES)), "noise": np.zeros((3, 4, 6))}, "found float64"),
    ],
)
def test_wrong_inputs_are_named(package: Package, inputs, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PackageError, match=words):
        open_engine(package, "head", EngineOptions()).run(inputs)


def test_a_graph_whose_weights_are_missing_does_not_open(package: Package) -> None:
    tensors = package.graph_weights("head")
    del tensors["mix"]
    with pytest.raises(PackageError, match="can't open graph 'head'"):
        OnnxRuntimeEngine(package, "head", EngineOptions(), tensors)


def test_standbys_are_made_while_the_engine_runs(package: Package) -> None:
    engine = open_engine(package, "head", EngineOptions())
    inputs = head_inputs(np.random.default_rng(6))
    expected = engine.run(inputs)["chunks"].copy()
    failures: list[BaseException] = []

    def make() -> None:
        try:
            for k in range(10):
                weights = {n: t * float(k) for n, t in package.refinable_weights().items()}
                engine.standby(weights).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        np.testing.assert_array_equal(engine.run(inputs)["chunks"], expected)
    assert not failures


def test_a_closed_engine_says_so(package: Package) -> None:
    engine = open_engine(package, "head", EngineOptions())
    engine.close()
    with pytest.raises(PackageError, match="closed"):
        engine.run(head_inputs(np.random.default_rng(0)))


def test_memory_of_a_standby_is_lent_again_only_when_nothing_can_read_it(package: Package) -> None:
    engine = open_engine(package, "head", EngineOptions(swap="feed"))
    rng = np.random.default_rng(8)
    inputs = head_inputs(rng)

    def made() -> tuple[dict[str, np.ndarray], OnnxRuntimeEngine]:
        weights = {
            name: rng.normal(size=tensor.shape).astype(np.float32)
            for name, tensor in package.refinable_weights().items()
        }
        standby = engine.standby(weights)
        assert isinstance(standby, OnnxRuntimeEngine)
        return weights, standby

    def check(weights: dict[str, np.ndarray], run: Callable[..., dict[str, np.ndarray]]) -> None:
        wanted = _expected(inputs, weights)
        np.testing.assert_allclose(run(inputs)["chunks"], wanted, rtol=1e-4, atol=1e-4)

    weights, standby = made()
    check(weights, standby.run)
    # What a run holds while another thread closes its engine.
    bound, given = standby._bound, [inputs[spec.name] for spec in standby.inputs]
    standby.close()
    assert bound is not None
    others = [made() for _ in range(2 * KEPT_FEEDS)]
    check(weights, lambda _: bound.run(given, tuple(array.shape for array in given)))
    for each, other in others:
        check(each, other.run)

    # Let go of, it is used again: a second lease has the first one's memory.
    feed = engine._feeding  # type: ignore[attr-defined]
    lease = feed.fill(weights[f"head/{name}"] for name in refinable_names(package, "head"))
    values = lease.values
    del lease
    again = feed.fill(weights[f"head/{name}"] for name in refinable_names(package, "head"))
    assert again.values is values


def test_an_unknown_engine_is_named_with_those_there_are(package: Package) -> None:
    with pytest.raises(ConfigError, match="onnxruntime"):
        open_engine(package, "head", EngineOptions(kind="abacus"))


def test_shapes_in_use_are_not_let_go(package: Package) -> None:
    engine = open_engine(package, "head", EngineOptions())
    rng = np.random.default_rng(0)
    given = {
        k: {**head_inputs(rng), "noise": np.zeros((k, LENGTH, 6), np.float32)} for k in range(1, 7)
    }
    first = engine.run(given[1])["chunks"]
    for samples in (*range(2, KEPT_SHAPES + 1), 1, KEPT_SHAPES + 1, 1, KEPT_SHAPES + 2):
        engine.run(given[samples])
    assert engine.run(given[1])["chunks"] is first


def test_auto_that_ends_on_the_cpu_says_so_once(
    package: Package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where CUDA is there and its libraries are of another version: ONNX Runtime says nothing."""
    monkeypatch.setattr(onnxruntime, "provider_for", lambda options: "CUDAExecutionProvider")
    onnxruntime._say_fallback.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this CPU build does
        for _ in range(2):
            engine = open_engine(package, "head", EngineOptions(provider="auto"))
            engine.run(head_inputs(np.random.default_rng(0)))
    (line,) = capsys.readouterr().err.splitlines()
    assert "CUDA provider did not load and CPUExecutionProvider runs instead" in line
