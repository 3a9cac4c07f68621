"""A package whose engines do not answer as its golden outputs say is refused before anything moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_package import head_inputs, make_package

from contracts.answers import TOLERANCE
from contracts.errors import PackageError
from contracts.files.golden_vectors import GoldenCase
from contracts.files.packages import safetensors_bytes, write_package
from runtime.config import PolicySection
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.models import opening, policy
from runtime.weights.probation import Probation

Change = Callable[[dict[str, np.ndarray]], None]


def run_of(folder: Path) -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(
            policy=PolicySection(package=str(folder / "package")),
            robot=SimpleNamespace(id="bench-0"),
            probation=Probation(),
        ),
        slots_dir=folder / "slots",
    )


def remade(folder: Path, **changes: Any) -> None:
    """A sound package whose weights, golden cases or manifest were others when it was written: every hash
    holds."""
    package = make_package(folder / "package")
    parts = {"manifest": package.manifest, "weights": package.weights, "golden": package.golden}
    parts |= {name: change(parts[name]) for name, change in changes.items()}
    write_package(
        folder / "package", parts["manifest"], package.graphs, parts["weights"], parts["golden"]
    )


def scaled(name: str, at: int, by: float) -> Callable[[Any], dict[str, np.ndarray]]:
    """The same tensors but for one number of one of them."""

    def change(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensor = weights[name].copy()
        tensor.reshape(-1)[at] *= np.float32(by)
        return {**weights, name: tensor}

    return change


def answered(graph: str, name: str, value: float) -> Callable[[Any], dict[str, Any]]:
    """The same golden cases but for one number of the last one."""

    def change(golden: dict[str, tuple[GoldenCase, ...]]) -> dict[str, Any]:
        *first, last = golden[graph]
        array = last.outputs[name].copy()
        array.reshape(-1)[0] = value
        return {
            **golden,
            graph: (*first, GoldenCase(last.inputs, {**last.outputs, name: array})),
        }

    return change


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("weights", scaled("trunk/wide", 3, 1.05), r"graph 'trunk' of .*'features' on input 0"),
        ("weights", scaled("head/mix", 5, 1.05), r"graph 'head' of .*'chunks' on input 0"),
        (
            "golden",
            answered("head", "chunks", 55.0),
            "'chunks' on input 3: expected at most .* off",
        ),
        ("golden", answered("head", "chunks", np.nan), "expected finite numbers to compare with"),
        ("golden", answered("head", "choice", 2), "'choice' on input 3: expected at most 0.0e"),
        ("golden", answered("trunk", "features", 9.0), "graph 'trunk' of .*'features' on input 0"),
    ],
)
def test_an_engine_that_answers_otherwise_is_refused_and_closed(
    tmp_path: Path, opened: list[OnnxRuntimeEngine], part: str, change: Change, words: str
) -> None:
    remade(tmp_path, **{part: change})
    with pytest.raises(PackageError, match=words) as raised:
        policy.open_policy(run_of(tmp_path))
    assert "robot-export check" in str(raised.value) and "\n" not in str(raised.value)
    assert opened and all(engine._bound is None for engine in opened)


def test_two_tensors_of_one_shape_that_changed_places_are_refused(
    tmp_path: Path, opened: list[OnnxRuntimeEngine]
) -> None:
    """As an exporter might that orders initializers otherwise: every name, dtype, shape and hash holds."""

    def rows_swapped(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        mix = weights["head/mix"]
        return {**weights, "head/mix": np.ascontiguousarray(mix[::-1])}

    remade(tmp_path, weights=rows_swapped)
    with pytest.raises(PackageError, match=r"graph 'head' .*'chunks'"):
        policy.open_policy(run_of(tmp_path))
    assert len(opened) == 2 and all(engine._bound is None for engine in opened)


@pytest.mark.parametrize(("claimed", "passes"), [(0.1, True), (0.9, False)])
def test_a_packages_own_tolerance_is_believed_within_a_bound(
    tmp_path: Path, claimed: float, passes: bool
) -> None:
    """Of a quantised trunk: its engines come as near as the manifest says, and no claim lets all pass."""
    remade(
        tmp_path,
        weights=scaled("trunk/wide", 3, 1.05),
        manifest=lambda m: msgspec.structs.replace(m, golden_tolerance={"trunk": claimed}),
    )
    if passes:
        policy.open_policy(run_of(tmp_path)).close()
        return
    with pytest.raises(PackageError, match=r"golden_tolerance of graph 'trunk': expected 0 to 0.5"):
        policy.open_policy(run_of(tmp_path))


def test_rounding_is_let_pass(tmp_path: Path, opened: list[OnnxRuntimeEngine]) -> None:
    remade(tmp_path, weights=scaled("head/mix", 5, 1 + TOLERANCE / 20))
    policy.open_policy(run_of(tmp_path)).close()
    assert len(opened) == 2


def test_an_engine_that_fails_on_a_golden_input_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[OnnxRuntimeEngine]
) -> None:
    make_package(tmp_path / "package")

    def fails(_self: object, _inputs: object) -> None:
        raise RuntimeError("CUDA failure 700:\nan illegal memory access")

    monkeypatch.setattr(OnnxRuntimeEngine, "run", fails)
    with pytest.raises(
        PackageError, match=r"'trunk' .* golden input 0: found RuntimeError: CUDA"
    ) as why:
        policy.open_policy(run_of(tmp_path))
    assert "\n" not in str(why.value) and all(engine._bound is None for engine in opened)


def test_weights_of_a_file_are_loaded_into_an_engine_that_was_proven(tmp_path: Path) -> None:
    remade(tmp_path, weights=scaled("head/mix", 5, 1.05))
    package = opening.open_package(str(tmp_path / "package"), "policy")
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(package.refinable_weights()))
    with pytest.raises(PackageError, match="graph 'head'"):
        opening.open_head(package, EngineOptions(), str(tmp_path / "w.safetensors"))
    sound = make_package(tmp_path / "sound")
    path = tmp_path / "more.safetensors"
    more = {**sound.refinable_weights(), "head/bias": np.full(6, 7, np.float32)}
    path.write_bytes(safetensors_bytes(more))
    head = opening.open_head(sound, EngineOptions(), str(path))
    inputs = head_inputs(np.random.default_rng(0))
    centre = inputs["features"] @ more["head/mix"] + more["head/bias"]
    np.testing.assert_allclose(
        head.run(inputs)["chunks"], inputs["noise"] * more["head/scale"] + centre, atol=1e-4
    )
    head.close()
