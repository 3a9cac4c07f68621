"""Memory is known before it is taken; small number formats load; what is no checkpoint is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vlm import ANYTHING, some_video

from contracts.errors import ConfigError, EntracteError, MissingDependency, PackageError
from trainer.rewards.vlm import loading
from trainer.rewards.vlm.factory import read_options, vlm
from trainer.rewards.vlm.memory import check_fits, estimate, tensors
from trainer.rewards.vlm.model import VlmReward

Judge = Callable[..., VlmReward]
TASK = "open the drawer"


def resident(model: VlmReward) -> int:
    parts = (model.engine._parts, model.engine._head)
    found = {t.data_ptr(): t.nbytes for part in parts for t in part.parameters()}
    return sum(found.values())


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_the_estimate_of_the_weights_is_exact(qwen3: Path, judge: Judge, dtype: str) -> None:
    expected = resident(judge(qwen3, dtype=dtype))
    assert estimate(qwen3, dtype=dtype).weights == pytest.approx(expected, rel=0.01)


def test_cache_and_activations_grow_with_what_is_asked(qwen3: Path) -> None:
    little, much = estimate(qwen3, tokens=1000), estimate(qwen3, tokens=1000, batch=4)
    # 3 layers x keys and values x 2 heads x 16 numbers x 4 bytes, each token.
    assert little.cache == 2 * 3 * 2 * 16 * 4 * 1000
    assert much.cache == 4 * little.cache
    assert much.working == 4 * little.working


def test_an_8b_model_is_measured_from_headers_alone(tmp_path: Path) -> None:
    # Headers of Qwen3-VL-8B's size, and files with holes in place of 16 GB.
    text = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "num_hidden_layers": 36, "intermediate_size": 12288, "dtype": "bfloat16"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"text_config": text}))
    size = 4096 * 1_000_000 * 2
    header = {"w": {"dtype": "BF16", "shape": [4096, 1_000_000], "data_offsets": [0, size]}}
    for shard in ("a", "b"):
        raw = json.dumps({k + shard: v for k, v in header.items()}).encode()
        path = tmp_path / f"{shard}.safetensors"
        path.write_bytes(len(raw).to_bytes(8, "little") + raw)
        with path.open("r+b") as file:
            file.truncate(8 + len(raw) + size)
    index = {"weight_map": {"wa": "a.safetensors", "wb": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    needed = estimate(tmp_path, tokens=2000)
    assert needed.weights == 2 * size
    assert estimate(tmp_path, quantize="int8").weights == pytest.approx(size, rel=0.04)
    with pytest.raises(
        EntracteError, match=r"won't fit into the GPU.*15\.2. GiB.*8\.00 GiB free; try"
    ):
        check_fits(needed, 8 * 2**30, "the GPU's memory", "try quantize: int8")
    check_fits(needed, 24 * 2**30, "the GPU's memory", "")


def test_a_model_that_will_not_fit_is_not_begun(
    qwen3: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_free", lambda torch, where: 1000)
    with pytest.raises(
        EntracteError, match=r"won't fit into this machine's memory.*quantize: int8"
    ):
        judge(qwen3)


def test_bfloat16_scores_nearly_the_same(qwen3: Path, judge: Judge) -> None:
    exact, short = judge(qwen3), judge(qwen3, dtype="bfloat16")
    a, b = exact.score(some_video(5), TASK), short.score(some_video(5), TASK)
    assert b.process == pytest.approx(a.process, abs=0.1)
    assert exact.model_id != short.model_id


def test_int8_weights_take_a_quarter_and_score_nearly_the_same(qwen3: Path, judge: Judge) -> None:
    pytest.importorskip("torchao", reason="optional: quantize: int8")
    exact, small = judge(qwen3), judge(qwen3, quantize="int8")
    layer = small.engine._parts.language_model.layers[0].mlp.up_proj.weight  # type: ignore[attr-defined]
    assert "Int8" in type(layer).__name__ or "Affine" in type(layer).__name__
    a, b = exact.score(some_video(5), TASK), small.score(some_video(5), TASK)
    assert not b.abstained
    assert b.process == pytest.approx(a.process, abs=0.1)
    assert b.process != a.process
    assert exact.model_id != small.model_id


def test_adapters_work_on_int8_weights(qwen3: Path, adapters: dict[str, str], judge: Judge) -> None:
    pytest.importorskip("torchao", reason="optional: quantize: int8")
    options = {"signals": list(adapters), "adapters": adapters}
    a = judge(qwen3, **options).score(some_video(5), TASK)
    b = judge(qwen3, quantize="int8", **options).score(some_video(5), TASK)
    assert b.process == pytest.approx(a.process, abs=0.1)
    assert b.completion == pytest.approx(a.completion, abs=0.1)


def test_bitsandbytes_is_named_where_it_is_missing(qwen3: Path, judge: Judge) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependency, match="pip install bitsandbytes"):
            judge(qwen3, quantize="bnb4")
    else:
        assert not judge(qwen3, quantize="bnb8").score(some_video(4), TASK).abstained


def test_a_checkpoint_with_a_tensor_missing_is_refused(
    qwen3: Path, judge: Judge, tmp_path: Path
) -> None:
    folder = tmp_path / "less"
    shutil.copytree(qwen3, folder)
    path = folder / "model.safetensors"
    less = {k: v for k, v in load_file(path).items() if "layers.1.mlp.up_proj" not in k}
    save_file(less, path, {"format": "pt"})
    with pytest.raises(PackageError, match="up_proj"):
        judge(folder)


def test_weights_that_are_no_safetensors_are_refused(
    qwen3: Path, judge: Judge, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(qwen3, folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(PackageError, match="no safetensors file"):
        judge(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PackageError, match="pickled weights"):
        judge(folder)


def test_a_wrong_patch_size_is_refused(qwen3: Path, judge: Judge, tmp_path: Path) -> None:
    folder = tmp_path / "patches"
    shutil.copytree(qwen3, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "patch_size": 14}))
    with pytest.raises(PackageError, match="patch, merge and temporal size"):
        judge(folder)


def test_the_identity_changes_with_one_weight(qwen3: Path, judge: Judge, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(qwen3, folder)
    assert judge(folder).model_id == judge(qwen3).model_id
    path = folder / "model.safetensors"
    changed = load_file(path)
    next(iter(changed.values())).view(-1)[0] += 1
    save_file(changed, path, {"format": "pt"})
    assert judge(folder).model_id != judge(qwen3).model_id
    assert set(tensors(folder)) == set(tensors(qwen3))


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("video_preprocessor_config.json", '"longest_edge": 16384', '"longest_edge": 4096'),
        ("preprocessor_config.json", "0.4", "0.45"),
        ("chat_template.jinja", "assistant\\n", "assistant\\nI think "),
        ("tokenizer.json", '"normalizer": null', '"normalizer": {"type": "Lowercase"}'),
        ("generation_config.json", "{", '{"repetition_penalty": 1.5, '),
    ],
)
def test_the_identity_changes_with_what_the_weights_are_shown(
    qwen3: Path, judge: Judge, tmp_path: Path, name: str, old: str, new: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(qwen3, folder)
    (folder / "README.md").write_text("a model")
    assert judge(folder).model_id == judge(qwen3).model_id
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    assert judge(folder).model_id != judge(qwen3).model_id


def test_the_factory_scores_whole_episodes_by_config(qwen3: Path) -> None:
    made = vlm(package=qwen3, demonstrations=(), options={**ANYTHING, "scores_per_s": 1.0}, seed=0)
    signal = made.model.score(some_video(4), TASK)
    assert signal.model_id == made.model_id
    assert made.completion_threshold == 0.5
    assert torch.isfinite(torch.tensor(signal.process))


@pytest.mark.parametrize(
    "options, says",
    [
        ({}, "model: a folder, or a name"),
        ({"model": "x", "signals": ["pace"]}, "pace"),
        ({"model": "x", "frames": 8}, "frames"),
        ({"model": "x", "pixels": "many"}, "pixels"),
    ],
)
def test_options_that_are_wrong_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_options(options)
