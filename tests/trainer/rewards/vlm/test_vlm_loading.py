"""Memory is known before it is taken; small number formats load; what is no checkpoint is refused."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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


def test_a_package_is_a_folder_and_never_a_name_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find", lambda model: pytest.fail(f"{model} was looked for"))
    with pytest.raises(ConfigError, match=r"no folder models/nothere.*--option model=NAME"):
        vlm(package=Path("models/nothere"))


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


def write_headers(folder: Path, shapes: dict[str, list[int]], **text: object) -> int:
    """A bfloat16 checkpoint of these tensors, with holes in place of their bytes; how many bytes they are."""
    (folder / "config.json").write_text(json.dumps({"text_config": {**text, "dtype": "bfloat16"}}))
    at, header = 0, {}
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with path.open("r+b") as file:
        file.truncate(8 + len(raw) + at)
    return at


EIGHT_BILLION_TEXT = {
    "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "num_hidden_layers": 36, "intermediate_size": 12288,
}  # fmt: skip
EIGHT_BILLION = {"embed": [50_000, 4096], **{f"{k}.mlp": [4096, 4096] for k in range(480)}}


def test_an_8b_model_is_measured_from_headers_alone(tmp_path: Path) -> None:
    size = write_headers(tmp_path, EIGHT_BILLION, **EIGHT_BILLION_TEXT)
    one = 2 * 4096 * 4096
    needed = estimate(tmp_path, tokens=2000)
    assert needed.weights == needed.loading == size and not needed.host
    with pytest.raises(
        EntracteError, match=r"won't fit into the GPU.*15\.96 GiB.*8\.00 GiB free; try"
    ):
        check_fits(needed, 8 * 2**30, "the GPU's memory", "try quantize: int8")
    check_fits(needed, 24 * 2**30, "the GPU's memory", "")
    embedding = 2 * 50_000 * 4096
    for quantize, share in (("int8", 0.5), ("bnb8", 0.5), ("bnb4", 0.25)):
        small = estimate(tmp_path, tokens=2000, quantize=quantize)
        assert small.weights == pytest.approx(embedding + share * 480 * one, rel=0.04)
        # One tensor after the other: the whole model is never there as it was stored.
        assert small.loading == small.weights + embedding
        assert estimate(tmp_path, quantize=quantize, on_gpu=False).loading == size
    assert estimate(tmp_path, dtype="float16").host == size
    assert estimate(tmp_path, dtype="float16", quantize="int8").host == size
    assert not estimate(tmp_path, dtype="float16", quantize="bnb4").host


def test_every_logit_is_counted_where_a_class_makes_them_all(tmp_path: Path) -> None:
    text = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
            "intermediate_size": 64, "vocab_size": 128_000}  # fmt: skip
    write_headers(tmp_path, {"w": [32, 32]}, **text)
    assert estimate(tmp_path, tokens=1000).working < 2**20
    every = estimate(tmp_path, tokens=1000, batch=3, every_logit=True)
    assert every.working == 1000 * 3 * 128_000 * 2


@pytest.mark.parametrize(
    "free_gib, asked, says",
    [
        (16, ("float32", "none"), "try dtype: bfloat16, a smaller"),
        (12, ("auto", "none"), "try quantize: int8, a smaller"),
        (12, ("float32", "none"), "try quantize: int8, a smaller"),
        (9, ("float32", "none"), "try dtype: bfloat16, quantize: int8, a smaller"),
        (6, ("auto", "int8"), "try quantize: bnb4, a smaller"),
        (4, ("auto", "none"), "try a smaller"),
    ],
)
def test_what_is_advised_would_fit(
    tmp_path: Path, free_gib: int, asked: tuple[str, str], says: str
) -> None:
    write_headers(tmp_path, EIGHT_BILLION, **EIGHT_BILLION_TEXT)

    def fits(dtype: str, quantize: str) -> bool:
        needed = estimate(tmp_path, dtype=dtype, quantize=quantize, tokens=2000)
        return needed.peak <= free_gib * 2**30

    assert not fits(*asked)
    assert loading._remedy(fits, *asked).startswith(says)


def test_a_model_that_will_not_fit_is_not_begun(
    qwen3: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = estimate(qwen3, dtype="bfloat16", tokens=1).peak
    for free, advice in ((half, "dtype: bfloat16, a smaller"), (1000, "a smaller")):
        monkeypatch.setattr(loading, "_free", lambda torch, where, free=free: free)
        with pytest.raises(
            EntracteError, match=rf"won't fit into this machine's memory.*try {advice}"
        ):
            judge(qwen3, memory_tokens=1)


def test_weights_that_are_cast_on_their_way_to_a_gpu_must_fit_here_too(
    qwen3: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loading, "_free", lambda torch, where: 1000 if where == "cpu" else 16 * 2**30
    )
    with pytest.raises(
        EntracteError, match=r"this machine's memory while it is read.*try dtype: auto"
    ):
        judge(qwen3, device="cuda", dtype="bfloat16")


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


def test_int8_weights_go_to_their_device_one_by_one(
    qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, object]] = []
    torchao = SimpleNamespace(
        Int8WeightOnlyConfig=object, quantize_=lambda net, config, **how: calls.append(how)
    )
    monkeypatch.setitem(sys.modules, "torchao", SimpleNamespace(quantization=torchao))
    monkeypatch.setitem(sys.modules, "torchao.quantization", torchao)
    loaded = loading.load(str(qwen3), quantize="int8", device="meta")
    assert loaded.model.device.type == "cpu"
    loading.to_int8(loaded.model, loaded.device)
    assert [how["device"] for how in calls] == ["meta"]


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
