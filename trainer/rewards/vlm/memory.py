"""How much memory a model will take, read from its files before any of it is allocated.

Owns the estimate and the sentence that says it won't fit. Needs no torch.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import EntracteError, PackageError

_BYTES = {
    "F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_FLOATS = {"F64", "F32", "F16", "BF16"}
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTISED_BYTES = {"int8": 1.0, "bnb8": 1.0, "bnb4": 0.5}
_SCALE_SHARE = 1.03
"""A scale for each row or block of a quantised weight: 0.4 % (int8 by row) to 3 % (4 bits, blocks of 64)."""
_BEING_QUANTISED = {"int8": 5, "bnb8": 2, "bnb4": 2}
"""Sizes of one tensor that are taken while it is quantised, itself among them: measured with torchao 0.18;
transformers 4.57 hands bitsandbytes, beside the one that it read, a second of one tensor after the other."""
_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes. `loading`: the most while weights come in, quantised one by one where they are; `weights`: once
    they are in; `cache`: keys and values of the tokens asked about; `working`: activations of one forward
    pass, its logits included. `host`: what lies in the machine's memory until then, wherever the model goes:
    weights of another number type than stored; others are mapped from their files."""

    loading: int
    weights: int
    cache: int
    working: int
    host: int = 0

    @property
    def peak(self) -> int:
        return max(self.loading, self.weights + self.cache + self.working)

    def __str__(self) -> str:
        return (
            f"{_gib(self.peak)} at most ({_gib(self.weights)} weights, {_gib(self.cache)} cache, "
            f"{_gib(self.working)} activations; {_gib(self.loading)} while loading)"
        )


def estimate(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    *,
    dtype: str = "auto",
    quantize: str = "none",
    tokens: int = 4096,
    batch: int = 1,
    every_logit: bool = False,
    on_gpu: bool = True,
) -> MemoryEstimate:
    """For the checkpoint in `folder` at `batch` prompts of `tokens` tokens. `config`: its config, with what
    its class fills in (None: as the file has it); `dtype` "auto": as stored; `quantize`: "none" or a key of
    `QUANTISED_BYTES`; `every_logit`: a pass makes logits of every token; `on_gpu`: the model goes to one.
    Weights are exact; activations are twice those of the widest layer, the vision tower's included. Raises
    `PackageError` for other folders."""
    config = config or _json(folder / "config.json")
    text = config.get("text_config", config)
    loading, weights, host = _of_weights(folder, dtype, quantize, on_gpu)
    width = DTYPE_BYTES.get(dtype) or DTYPE_BYTES.get(_stored_dtype(config, text), 4)
    heads = int(text["num_attention_heads"])
    hidden = int(text["hidden_size"])
    head = int(text.get("head_dim") or hidden // heads)
    layers, kv_heads = int(text["num_hidden_layers"]), int(text.get("num_key_value_heads", heads))
    cache = 2 * layers * kv_heads * head * tokens * batch * width
    vision = config.get("vision_config", {})
    # A token of the language model is merge² patches of the vision tower.
    patches = tokens * int(vision.get("spatial_merge_size", 2)) ** 2
    wide = int(vision.get("intermediate_size", 0)) + 4 * int(vision.get("hidden_size", 0))
    working = max(
        tokens * batch * (2 * int(text["intermediate_size"]) + 4 * hidden), patches * batch * wide
    )
    logits = tokens * batch * int(text.get("vocab_size", 0)) if every_logit else 0
    return MemoryEstimate(loading, weights, cache, max(2 * working, logits) * width, host)


def _of_weights(folder: Path, dtype: str, quantize: str, on_gpu: bool) -> tuple[int, int, int]:
    """`loading`, `weights` and `host` of a `MemoryEstimate`."""
    stored = plain = quantised = cast = 0.0
    largest = largest_quantised = 0
    for name, (kind, shape) in tensors(folder).items():
        count = math.prod(shape)
        size = count * _BYTES[kind]
        if kind in _FLOATS and dtype not in ("auto", _DTYPES.get(kind)):
            size = count * DTYPE_BYTES[dtype]
            cast += size
        stored += size
        largest = max(largest, size)
        # Quantisers leave embeddings, norms and the head alone.
        fixed = len(shape) != 2 or "embed" in name or "lm_head" in name
        if quantize == "none" or fixed:
            plain += size
        else:
            quantised += count * QUANTISED_BYTES[quantize] * _SCALE_SHARE
            largest_quantised = max(largest_quantised, size)
    weights = round(plain + quantised)
    if quantize == "none":
        return weights, weights, round(cast)
    loading = weights + max(largest, _BEING_QUANTISED[quantize] * largest_quantised)
    if not on_gpu:
        # There little is given back in between, and bitsandbytes takes far more: 0.75 (int8) to 1.1 times
        # (bnb4) what is stored, measured with tensors of 50 MB.
        loading = max(loading, round(stored))
    # bitsandbytes is handed each tensor as it is read: no other waits here.
    return loading, weights, round(cast) if quantize == "int8" else 0


def check_fits(needed: MemoryEstimate, available: int, where: str, remedy: str) -> None:
    """Raises `EntracteError`, one sentence, where `needed` is more than the `available` bytes of `where`."""
    if needed.peak > available:
        raise EntracteError(
            f"the model won't fit into {where}",
            expected=f"{needed}",
            found=f"{_gib(available)} free",
            remedy=remedy,
        )


def check_host_fits(needed: MemoryEstimate, available: int, remedy: str) -> None:
    """Raises `EntracteError` where what `needed` says of this machine's memory is more than `available`."""
    if needed.host > available:
        raise EntracteError(
            "the model won't fit into this machine's memory while it is read",
            expected=f"{_gib(needed.host)} for weights of another number type than stored",
            found=f"{_gib(available)} free",
            remedy=remedy,
        )


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype (safetensors' name) and shape of every tensor of a checkpoint, from its files' headers alone."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in weight_files(folder):
        with path.open("rb") as file:
            begin = file.read(8)
            length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else 0
            if not 0 < length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
                raise PackageError(
                    f"{path} is no safetensors file", found=f"a header of {length} bytes"
                )
            try:
                header = json.loads(file.read(length))
                known = {k: v for k, v in header.items() if k != "__metadata__"}
                found |= {k: (v["dtype"], tuple(map(int, v["shape"]))) for k, v in known.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise PackageError(f"header of {path}", found=repr(error)) from error
    odd = {kind for kind, _ in found.values()} - set(_BYTES)
    if odd:
        raise PackageError(f"number types in {folder}", expected=sorted(_BYTES), found=sorted(odd))
    return found


def weight_files(folder: Path) -> list[Path]:
    """The checkpoint's safetensors files, by name. Raises `PackageError` for none or a missing one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_json(index).get("weight_map", {}).values()))
        # A name is a file of this folder; an index from elsewhere may not point out of it.
        files = [folder / Path(name).name for name in names]
    else:
        files = [folder / "model.safetensors"]
    missing = [path.name for path in files if not path.is_file()]
    if missing or not files:
        raise PackageError(
            f"weights of {folder}",
            expected="model.safetensors, or its index and all shards",
            found=f"{missing or 'none'} missing",
            remedy="convert pickled weights to safetensors first; they are not read",
        )
    return files


def _stored_dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    keys = ("dtype", "torch_dtype")
    return str(next((c[k] for c in (text, config) for k in keys if c.get(k)), "float32"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} can't be read", found=str(error)) from error


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
