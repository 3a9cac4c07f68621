"""Our half of a TensorRT inference on a driver's stand-in: buffers, order of work, shapes, refits, cache."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from host_tensorrt import MOST, HostTensorRT, compile_cuda
from tiny_package import FEATURES, LENGTH, make_package
from typer.testing import CliRunner

from contracts.answers import difference, pack, tolerance_of
from contracts.errors import DeviceError, PackageError
from contracts.files.packages import Package, load_package, safetensors_bytes
from contracts.release import ReleaseManifest
from export.build_command import command
from runtime.engines import EngineOptions, cuda, plans, tensorrt
from runtime.engines.device import KEPT_SHAPES
from runtime.engines.golden import require_golden
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.engines.tensorrt import TensorRTEngine
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits

PLAN = b"a plan"
POLICY = Path(__file__).resolve().parents[3] / "pretrained" / "policy-open_drawer"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_cuda(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def trt(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostTensorRT:
    """TensorRT and CUDA as the engine finds them."""
    device = cuda._open(str(library))
    assert isinstance(device, cuda.Cuda)
    monkeypatch.setattr(cuda, "_found", [device])
    module = HostTensorRT(ctypes.CDLL(str(library)))
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def package(tmp_path: Path, trt: HostTensorRT) -> Package:
    package = make_package(tmp_path / "package")
    trt.plans[PLAN] = package.graph_weights("head")
    return package


def _inputs(samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "features": rng.normal(size=(1, FEATURES)).astype(np.float32),
        "noise": rng.normal(size=(samples, LENGTH, 6)).astype(np.float32),
    }


def _shapes(samples: int) -> tuple[tuple[int, ...], ...]:
    return ((1, FEATURES), (samples, LENGTH, 6))


def _expected(inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
    centre = inputs["features"] @ weights["head/mix"] + weights["head/bias"]
    return inputs["noise"] * weights["head/scale"] + centre


def _engine(package: Package) -> TensorRTEngine:
    return TensorRTEngine(package, "head", EngineOptions(kind="tensorrt"), PLAN)


def test_the_driver_is_found_by_name_and_described(library: Path) -> None:
    code = (
        "from runtime.engines import cuda; d = cuda.look();"
        "print(d.device_name, d.capability, d.driver_version)"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["host", "memory", "0", "8.7", "12.6"]


@pytest.mark.parametrize("captures", [True, False])
def test_every_answer_is_this_calls(package: Package, trt: HostTensorRT, captures: bool) -> None:
    """The stand-in does nothing before a wait and copies pinned memory only: a wrong order shows."""
    trt.captures_fail = not captures
    engine = _engine(package)
    launched = trt.library.host_launches()
    for seed in range(6):
        for samples in (1, 3, 64):
            inputs = _inputs(samples, seed)
            answer = engine.run(inputs)
            np.testing.assert_allclose(
                answer["chunks"], _expected(inputs, package.weights), rtol=1e-6, atol=1e-5
            )
            assert answer["values"].shape == (samples,) and answer["choice"].tolist() == [0]
    assert engine.bound is not None
    assert engine.bound.is_captured(((1, FEATURES), (3, LENGTH, 6))) == captures
    # Each shape's first run is the one it is captured after.
    assert trt.library.host_launches() - launched == (15 if captures else 0)
    engine.close()


def test_outputs_are_written_over_and_outlive_the_engine(package: Package) -> None:
    engine = _engine(package)
    first = engine.run(_inputs(3, 1))["chunks"]
    kept = first.copy()
    assert engine.run(_inputs(3, 2))["chunks"] is first
    assert not np.array_equal(first, kept)
    engine.close()
    gc.collect()
    np.testing.assert_allclose(first, _expected(_inputs(3, 2), package.weights), atol=1e-5)


def test_nothing_is_left_on_the_device(package: Package, trt: HostTensorRT) -> None:
    gc.collect()  # outputs that failed tests or tracebacks still hold
    before = [trt.library.host_blocks(host) for host in (0, 1)]
    engine = _engine(package)
    for samples in range(1, KEPT_SHAPES + 4):
        engine.run(_inputs(samples))
    per_shape = (trt.library.host_blocks(0) - before[0]) / KEPT_SHAPES
    assert per_shape == 5, "buffers of shapes that were let go are still there"
    engine.close()
    engine.close()
    del engine
    gc.collect()
    assert [trt.library.host_blocks(host) for host in (0, 1)] == before


def test_who_forgets_to_close_leaves_nothing_on_the_device(
    package: Package, trt: HostTensorRT
) -> None:
    gc.collect()
    before = [trt.library.host_blocks(host) for host in (0, 1)]
    engine = _engine(package)
    engine.run(_inputs(2))
    assert trt.library.host_blocks(0) > before[0]
    del engine
    gc.collect()
    assert [trt.library.host_blocks(host) for host in (0, 1)] == before


def test_shapes_in_use_are_not_let_go(package: Package) -> None:
    engine = _engine(package)
    for samples in (*range(1, KEPT_SHAPES + 1), 1, KEPT_SHAPES + 1):
        engine.run(_inputs(samples))
    assert engine.bound is not None
    kept = [s for s in range(1, KEPT_SHAPES + 2) if engine.bound.knows(_shapes(s))]
    assert kept == [1, *range(3, KEPT_SHAPES + 2)]
    engine.close()


@pytest.mark.parametrize(("samples", "outcome"), [(5, "swapped"), (MOST + 1, "rejected")])
def test_a_releases_candidates_are_captured_or_refused_before_it_acts(
    package: Package, tmp_path: Path, samples: int, outcome: str
) -> None:
    slots = SlotStore(tmp_path / "slots", package.package_id)
    limits = SwapLimits(latency_s=1.0)
    swapper = Swapper("policy", slots, package, _engine(package), robot_id="r", limits=limits)
    data = safetensors_bytes(package.refinable_weights())
    manifest = ReleaseManifest(
        "policy", package.package_id, 1, 0, 1, "", hashlib.sha256(data).hexdigest(), len(data),
        package.manifest.refinable, samples, (), "", 0.0, 1e12, "t",
    )  # fmt: skip
    slot, _ = slots.begin_fetch(manifest, 0.0)
    slots.partial_path(slot).write_bytes(data)
    slots.mark_verified(slot, 0.0, len(data))
    slots.mark_staged(slot, 0.0)
    (found,) = swapper.swap(episode_seq=1)
    assert found.outcome == outcome
    if outcome == "rejected":
        assert f"does not take the release's {samples} candidates" in found.reason
        assert "outside the built profile" in found.reason and swapper.version == 0
    else:
        engine = swapper.engine
        assert isinstance(engine, TensorRTEngine) and engine.bound is not None
        assert engine.bound.is_captured(_shapes(samples))
    swapper.close()


def test_shapes_outside_the_profile_are_refused_and_cost_nothing(
    package: Package, trt: HostTensorRT
) -> None:
    engine = _engine(package)
    engine.run(_inputs(2))
    before = trt.library.host_blocks(0)
    with pytest.raises(PackageError, match=r"'noise' .* outside the built profile"):
        engine.run(_inputs(MOST + 1))
    assert trt.library.host_blocks(0) == before
    with pytest.raises(PackageError, match="found float64"):
        engine.run({**_inputs(2), "noise": np.zeros((2, LENGTH, 6))})
    inputs = _inputs(2, 5)
    np.testing.assert_allclose(
        engine.run(inputs)["chunks"], _expected(inputs, package.weights), atol=1e-5
    )


def test_a_standby_has_the_new_weights_and_the_engine_its_own(package: Package) -> None:
    engine = _engine(package)
    inputs = _inputs(3)
    before = engine.run(inputs)["chunks"].copy()
    weights = {n: t * np.float32(1.5) for n, t in package.refinable_weights().items()}
    standby = engine.standby(weights)
    np.testing.assert_allclose(standby.run(inputs)["chunks"], _expected(inputs, weights), atol=1e-4)
    np.testing.assert_array_equal(engine.run(inputs)["chunks"], before)


def test_after_a_failed_refit_the_plan_is_loaded_again(package: Package, trt: HostTensorRT) -> None:
    engine = _engine(package)
    weights = {n: t * np.float32(1.5) for n, t in package.refinable_weights().items()}
    inputs = _inputs(3)
    trt.refits_fail = True
    before = trt.library.host_blocks(0)
    with pytest.raises(PackageError, match="refused the refit"):
        engine.standby(weights)
    assert trt.library.host_blocks(0) == before
    trt.refits_fail, loads = False, trt.loads
    same = engine.standby(package.refinable_weights())
    assert trt.loads == loads + 1
    for answering in (engine, same):
        np.testing.assert_allclose(
            answering.run(inputs)["chunks"], _expected(inputs, package.weights), atol=1e-5
        )


@pytest.mark.parametrize(("sound", "outcome"), [(True, "swapped"), (False, "rejected")])
def test_a_refit_is_judged_by_the_numbers_that_came_with_the_release(
    package: Package, trt: HostTensorRT, tmp_path: Path, sound: bool, outcome: str
) -> None:
    """Every weight was set and the refit says that it went well, and half of them are the plan's still."""
    slots = SlotStore(tmp_path / "slots", package.package_id)
    limits = SwapLimits(latency_s=1.0)
    swapper = Swapper("policy", slots, package, _engine(package), robot_id="r", limits=limits)
    weights = {n: t * np.float32(1.02) for n, t in package.refinable_weights().items()}
    answers = []
    for case in package.golden["head"]:
        chunks = _expected(case.inputs, weights)
        values = chunks.mean(axis=(1, 2), dtype=np.float32)
        answers.append({"chunks": chunks, "values": values, "choice": np.zeros(1, np.int64)})
    said = pack(answers, [case.outputs for case in package.golden["head"]])
    data = safetensors_bytes(weights)
    manifest = ReleaseManifest(
        "policy", package.package_id, 1, 0, 1, "", hashlib.sha256(data).hexdigest(), len(data),
        package.manifest.refinable, 0, (), "", 0.0, 1e12, "t", answers=said,
    )  # fmt: skip
    slot, _ = slots.begin_fetch(manifest, 0.0)
    slots.partial_path(slot).write_bytes(data)
    slots.mark_verified(slot, 0.0, len(data))
    slots.mark_staged(slot, 0.0)
    trt.refits_half = not sound
    (found,) = swapper.swap(episode_seq=1)
    assert found.outcome == outcome and swapper.version == int(sound)
    if not sound:
        assert "'chunks' on golden input 0: expected at most" in found.reason
        golden = package.golden["head"][0]
        acts = swapper.engine.run(golden.inputs)
        assert difference(golden.outputs, acts, 1e-5) is None, "the engine before it acts on"
    swapper.close()


def test_a_plan_of_other_weights_is_known_by_its_golden_answers(
    package: Package, trt: HostTensorRT
) -> None:
    require_golden(_engine(package), package, "head")
    trt.plans[PLAN]["mix"] = trt.plans[PLAN]["mix"] * np.float32(1.03)
    with pytest.raises(PackageError, match=r"graph 'head' .*'chunks' on input 0: expected at most"):
        require_golden(_engine(package), package, "head")


def test_standbys_are_made_in_other_threads(package: Package) -> None:
    """The context is made current in each, and a capture here survives an allocation there."""
    engine, inputs = _engine(package), _inputs(3)
    expected = _expected(inputs, package.weights)
    failures: list[BaseException] = []

    def swap() -> None:
        try:
            for k in range(1, 6):
                weights = {n: t * np.float32(k) for n, t in package.refinable_weights().items()}
                standby = engine.standby(weights)
                found = standby.run(inputs)["chunks"]
                np.testing.assert_allclose(found, _expected(inputs, weights), rtol=1e-5, atol=1e-3)
                standby.close()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=swap)
    thread.start()
    while thread.is_alive():
        np.testing.assert_allclose(engine.run(inputs)["chunks"], expected, atol=1e-5)
    assert not failures, failures


def test_a_plan_that_does_not_load_is_one_sentence(package: Package) -> None:
    with pytest.raises(PackageError, match=r"can't load the plan.*robot-export build --anew"):
        TensorRTEngine(package, "head", EngineOptions(kind="tensorrt"), b"another plan")


def test_errors_of_the_driver_have_their_names(trt: HostTensorRT) -> None:
    device = cuda.find()
    assert device is not None
    device.use_here()
    with pytest.raises(DeviceError, match=r"cuMemFree_v2 failed: found CUDA_ERROR_INVALID_VALUE"):
        device.free(12345)


def test_the_device_is_part_of_a_plans_identity(
    package: Package, trt: HostTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(_trt: object, _logger: object, _package: Package, graph: str, _options: object):
        built.append(graph)
        return PLAN

    monkeypatch.setattr(tensorrt, "build_plan", build)
    options = EngineOptions(kind="tensorrt", cache=str(tmp_path / "plans"))
    inputs = _inputs(2)
    for _ in range(2):
        answer = TensorRTEngine(package, "head", options).run(inputs)["chunks"]
        np.testing.assert_allclose(answer, _expected(inputs, package.weights), atol=1e-5)
    assert built == ["head"]
    (card,) = [p for p in (tmp_path / "plans").glob("*.json")]
    text = card.read_text()
    assert '"host memory 0, 4 multiprocessors"' in text and '"8.7"' in text
    trt.__version__ = "10.16.0"
    obtained = tensorrt.cached_plan(package, "head", options)
    assert built == ["head", "head"] and isinstance(obtained, plans.Obtained)
    # Every Orin module has one name: a cache that is copied with its card from board to board is no use.
    monkeypatch.setattr(cuda.find(), "multiprocessors", 16)
    assert tensorrt.cached_plan(package, "head", options).rebuilt == "none was built yet"
    # A cap that is asked for is kept to; what was built with it serves robot-run, which asks for none.
    capped = msgspec.structs.replace(options, workspace_mib=256)
    assert "all memory" in tensorrt.cached_plan(package, "head", capped).rebuilt
    assert not tensorrt.cached_plan(package, "head", options).rebuilt and len(built) == 4


def test_robot_export_build_says_where_plans_lie_and_builds_once(
    package: Package, trt: HostTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(_trt: object, _logger: object, _package: Package, graph: str, options: Any) -> bytes:
        options.report("Building", 0.5)
        built.append(graph)
        return graph.encode()

    monkeypatch.setattr(tensorrt, "build_plan", build)
    app = typer.Typer()
    app.command()(command)
    words = [str(package.folder), "--cache", str(tmp_path / "plans")]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    assert "tensorrt 10.3.0 for host memory 0 (compute capability 8.7)" in first.output
    assert "50 %" in first.output and "none was built yet" in first.output
    again = CliRunner().invoke(app, [*words, "--json"])
    rows = json.loads(again.stdout)["graphs"]
    assert [(row["graph"], row["built"]) for row in rows] == [("trunk", False), ("head", False)]
    assert [Path(row["file"]).read_bytes() for row in rows] == [b"trunk", b"head"]
    assert built == ["trunk", "head"]
    assert CliRunner().invoke(app, [*words, "--anew"]).exit_code == 0 and len(built) == 4


@pytest.mark.gpu
def test_tensorrt_swaps_under_load_show_one_weight_set_or_the_other(tmp_path: Path) -> None:
    """On a GPU with TensorRT: a thread infers at full rate while two sets of weights take turns."""
    package = load_package(POLICY)
    base = tensorrt.TensorRTEngine(
        package, "head", EngineOptions(kind="tensorrt", cache=str(tmp_path))
    )
    inputs = package.golden["head"][0].inputs
    sets = [
        {n: t * np.float32(by) for n, t in package.refinable_weights().items()}
        for by in (1.0, 1.02)
    ]
    # Kept for the whole test: outputs of a refitted engine are the same in each engine of these weights.
    references = [
        {n: a.copy() for n, a in base.standby(weights).run(inputs).items()} for weights in sets
    ]
    assert not np.array_equal(references[0]["chunks"], references[1]["chunks"])
    active, counts, wrong = [base.standby(sets[0])], [0, 0], [0]
    done, between = threading.Event(), threading.Lock()

    def infer() -> None:
        while not done.is_set():
            with between:
                out = active[0].run(inputs)
                same = [all(np.array_equal(out[n], want[n]) for n in want) for want in references]
            if sum(same) == 1:
                counts[same.index(True)] += 1
            else:
                wrong[0] += 1

    thread = threading.Thread(target=infer)
    thread.start()
    for number in range(1, 1001):
        standby = base.standby(sets[number % 2])  # refits beside running inferences
        with (
            between
        ):  # as the swapper's caller promises: nothing in flight while they change places
            old, active[0] = active[0], standby
        old.close()
    alive = thread.is_alive()
    done.set()
    thread.join(30)
    assert alive and wrong == [0] and min(counts) > 100


@pytest.mark.gpu
@pytest.mark.parametrize("graph", ["trunk", "head"])
def test_tensorrt_answers_as_the_golden_vectors(tmp_path: Path, graph: str) -> None:
    package = load_package(POLICY)
    options = EngineOptions(kind="tensorrt", cache=str(tmp_path))
    engine = tensorrt.TensorRTEngine(package, graph, options)
    for _ in range(2):  # the second time by the captured graph
        for case in package.golden[graph]:
            for name, array in engine.run(case.inputs).items():
                scale = max(1.0, float(np.abs(case.outputs[name]).max()))
                np.testing.assert_allclose(array, case.outputs[name], atol=1e-3 * scale)
    assert engine.bound is not None
    shapes = tuple(package.golden[graph][0].inputs[spec.name].shape for spec in engine.inputs)
    assert engine.bound.is_captured(shapes)
    assert not tensorrt.cached_plan(package, graph, options).rebuilt


@pytest.mark.gpu
def test_tensorrt_refitted_answers_as_onnx_runtime_with_the_same_weights(tmp_path: Path) -> None:
    """What a release's numbers ask of a refit, within the tolerance that is asked on the robot."""
    package = load_package(POLICY)
    options = EngineOptions(kind="tensorrt", cache=str(tmp_path))
    for graph in ("trunk", "head"):
        require_golden(tensorrt.TensorRTEngine(package, graph, options), package, graph)
    base = tensorrt.TensorRTEngine(package, "head", options)
    reference = OnnxRuntimeEngine(package, "head", EngineOptions())
    tolerance = tolerance_of(package.manifest, "head")
    for by in (1.0, 0.97, 1.03):
        weights = {n: t * np.float32(by) for n, t in package.refinable_weights().items()}
        refitted, right = base.standby(weights), reference.standby(weights)
        for case in package.golden["head"]:
            assert difference(right.run(case.inputs), refitted.run(case.inputs), tolerance) is None
