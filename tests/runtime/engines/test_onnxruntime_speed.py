"""What ONNX Runtime's engine owes: no memory per call, swaps in which no inference sees half of either."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from tiny_package import FEATURES, head_inputs, make_package

from contracts.errors import MissingDependency
from contracts.files.packages import Package, load_package
from runtime.engines import EngineOptions, open_engine
from runtime.engines.binding import KEPT_SHAPES
from runtime.engines.overridable import with_overridable

POLICY = Path(__file__).resolve().parents[3] / "pretrained" / "policy-open_drawer"
SWAPS = 1000


@pytest.fixture(scope="module")
def policy() -> Package:
    return load_package(POLICY)


def _other(package: Package, by: float) -> dict[str, np.ndarray]:
    return {n: t * np.float32(by) for n, t in package.refinable_weights().items()}


def test_outputs_are_the_engines_own_and_written_over(policy: Package) -> None:
    engine = open_engine(policy, "head", EngineOptions())
    first, second = policy.golden["head"][0], policy.golden["head"][1]
    answer = engine.run(first.inputs)
    kept = {name: array.copy() for name, array in answer.items()}
    again = engine.run(second.inputs)
    for name, array in again.items():
        assert array is answer[name]
    assert not np.array_equal(answer["chunks"], kept["chunks"])
    np.testing.assert_allclose(kept["chunks"], first.outputs["chunks"], atol=1e-3)


def test_a_call_allocates_no_outputs(policy: Package) -> None:
    engine = open_engine(policy, "trunk", EngineOptions())
    one = policy.golden["trunk"][0].inputs
    inputs = {name: np.concatenate([array] * 32) for name, array in one.items()}
    first = engine.run(inputs)
    size = sum(array.nbytes for array in first.values())
    assert size == 32 * 1024

    def calls() -> bool:
        return all(engine.run(inputs)["features"] is first["features"] for _ in range(4))

    calls()
    tracemalloc.start()
    try:
        calls()  # what Python itself allocates once
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        same = calls()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert same
    assert peak - before < size // 4, "outputs were allocated during a call"
    assert after - before < size // 4, "calls leave outputs behind"


def test_buffers_follow_the_number_of_candidates(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package")
    engine = open_engine(package, "head", EngineOptions())
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, FEATURES)).astype(np.float32)
    for count in [*range(1, KEPT_SHAPES + 3), 2, 1]:
        noise = rng.normal(size=(count, 4, 6)).astype(np.float32)
        chunks = engine.run({"features": features, "noise": noise})["chunks"]
        centre = features @ package.weights["head/mix"] + package.weights["head/bias"]
        np.testing.assert_allclose(chunks, noise * 0.5 + centre, rtol=1e-5, atol=1e-5)


def test_inputs_may_be_views_and_are_the_callers_again(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package")
    engine = open_engine(package, "head", EngineOptions())
    inputs = head_inputs(np.random.default_rng(1))
    expected = engine.run(inputs)["chunks"].copy()
    backwards = {name: array[..., ::-1].copy()[..., ::-1] for name, array in inputs.items()}
    assert not backwards["noise"].flags["C_CONTIGUOUS"]
    answer = engine.run(backwards)
    for array in backwards.values():
        array[:] = np.nan
    np.testing.assert_array_equal(answer["chunks"], expected)


@pytest.mark.parametrize("swap", ["feed", "session"])
def test_both_ways_to_new_weights_agree(policy: Package, swap: str) -> None:
    weights = _other(policy, 1.01)
    reference = open_engine(policy, "head", EngineOptions(swap="session")).standby(weights)
    engine = open_engine(policy, "head", EngineOptions(swap=swap))  # type: ignore[arg-type]
    standby = engine.standby(weights)
    for case in policy.golden["head"]:
        wanted, found = reference.run(case.inputs), standby.run(case.inputs)
        np.testing.assert_allclose(found["chunks"], wanted["chunks"], atol=1e-3)
        own = engine.run(case.inputs)["chunks"]
        np.testing.assert_allclose(own, case.outputs["chunks"], atol=1e-3)
        assert not np.array_equal(own, found["chunks"])


@pytest.mark.parametrize("swap", ["feed", "session"])
def test_no_inference_sees_half_new_weights(policy: Package, tmp_path: Path, swap: str) -> None:
    """A thread infers at full rate while two sets of weights take turns; closed engines included."""
    # A session of the real head takes 20 ms; the tiny one's a fraction of one.
    package = policy if swap == "feed" else make_package(tmp_path / "package")
    options = EngineOptions(swap=swap)  # type: ignore[arg-type]
    base = open_engine(package, "head", options)
    sets = [_other(package, 1.0), _other(package, 1.02)]
    inputs = package.golden["head"][0].inputs
    references = [base.standby(weights).run(inputs) for weights in sets]
    references = [{name: array.copy() for name, array in out.items()} for out in references]
    assert not np.array_equal(references[0]["chunks"], references[1]["chunks"])
    active = [base.standby(sets[0])]
    counts, wrong, done = [0, 0], [0], threading.Event()

    def infer() -> None:
        while not done.is_set():
            engine = active[0]
            try:
                out = engine.run(inputs)
            except Exception:
                if engine is active[0]:
                    raise
                continue  # closed under our hands: the new one is already there
            same = [
                all(np.array_equal(out[name], want[name]) for name in want) for want in references
            ]
            if sum(same) == 1:
                counts[same.index(True)] += 1
            else:
                wrong[0] += 1

    thread = threading.Thread(target=infer)
    thread.start()
    for number in range(1, SWAPS + 1):
        standby = base.standby(sets[number % 2])
        old, active[0] = active[0], standby
        old.close()
        seen = sum(counts)
        while number % 10 == 0 and sum(counts) == seen and thread.is_alive():
            done.wait(0.0005)
    alive = thread.is_alive()
    done.set()
    thread.join(10)
    assert alive and wrong == [0] and min(counts) > 20, (counts, wrong)


def test_overridable_weights_are_all_that_was_added(policy: Package) -> None:
    tensors = {n: policy.graph_weights("head")[n] for n in ("flow.time_in.weight",)} or {}
    before = onnx.load_from_string(policy.graphs["head"])
    after = onnx.load_from_string(with_overridable(policy.graphs["head"], tensors))
    (added,) = after.graph.input[len(before.graph.input) :]
    (name,) = tensors
    shape = tuple(dim.dim_value for dim in added.type.tensor_type.shape.dim)
    assert (added.name, shape) == (name, tensors[name].shape)
    assert added.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    del after.graph.input[len(before.graph.input) :]
    assert after == before


def test_threads_and_spinning_are_set(policy: Package) -> None:
    """Spinning threads of a session fight with every other process for the cores (FIELD_NOTES 3)."""
    code = (
        "import os, sys, threading; from pathlib import Path\n"
        "from contracts.files.packages import load_package\n"
        "from runtime.engines import EngineOptions, open_engine\n"
        f"package = load_package(Path({str(POLICY)!r}))\n"
        "engine = open_engine(package, 'trunk', EngineOptions(threads=int(sys.argv[1])))\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "import time; inputs = package.golden['trunk'][0].inputs\n"
        "for _ in range(5): engine.run(inputs)\n"
        "idle = time.process_time(); time.sleep(0.3); print(before, time.process_time() - idle)\n"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code, str(threads)],
            capture_output=True,
            text=True,
            check=True,
            cwd=POLICY.parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).stdout.split()
        for threads in (1, 3)
    ]
    assert int(found[1][0]) - int(found[0][0]) == 2, "two threads more beside the caller's"
    assert float(found[1][1]) < 0.05, "the idle threads burn processor time"


def test_cuda_where_there_is_none_is_one_sentence(policy: Package) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(MissingDependency, match=r"needs a GPU build.*choose provider cpu"):
        open_engine(policy, "head", EngineOptions(provider="cuda"))
    answer = open_engine(policy, "head", EngineOptions(provider="auto"))
    case = policy.golden["head"][0]
    np.testing.assert_allclose(answer.run(case.inputs)["chunks"], case.outputs["chunks"], atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", ["trunk", "head"])
def test_cuda_answers_as_the_cpu_does(policy: Package, graph: str) -> None:
    engine = open_engine(policy, graph, EngineOptions(provider="cuda"))
    engines = [engine]
    if graph == "head":
        engines.append(engine.standby(policy.refinable_weights()))
    for each in engines:
        for case in policy.golden[graph]:
            for name, array in each.run(case.inputs).items():
                scale = max(1.0, float(np.abs(case.outputs[name]).max()))
                np.testing.assert_allclose(array, case.outputs[name], atol=1e-4 * scale)


def test_options_are_plain_data() -> None:
    options = msgspec.convert({"provider": "auto", "swap": "feed"}, EngineOptions)
    assert (options.provider, options.swap, options.threads, options.spinning) == (
        *("auto", "feed"),
        *(1, False),
    )


def test_numpy_knows_its_floats_before_a_session_flushes_the_smallest() -> None:
    """In a process of its own: numpy looks once, and would warn and remember 0 if a session came first."""
    code = (
        "from pathlib import Path; import numpy as np, sys;"
        "from contracts.files.packages import load_package;"
        "from runtime.engines import EngineOptions, open_engine;"
        "engine = open_engine(load_package(Path(sys.argv[1])), 'head', EngineOptions());"
        "assert np.finfo(np.float32).tiny > 0"
    )
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-W", "error", "-c", code, str(POLICY)]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
