"""From a name or a folder to a loaded model: found, measured, loaded as asked, told apart.

Owns what transformers, huggingface_hub and torchao are called for. Runs no code or pickles of a checkpoint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contracts.errors import ConfigError, EntracteError, MissingDependency, PackageError
from trainer.rewards.vlm.memory import MemoryEstimate, check_fits, estimate, weight_files

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["none", "int8", "bnb8", "bnb4"]
OUR_LAYOUT = ("qwen3_vl", "qwen2_5_vl")
"""Model types that are laid out by `trainer.rewards.vlm.layout`; any other goes through its AutoProcessor."""
_SIDE_FILES = (
    "*config.json", "tokenizer*", "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "*.model", "chat_template*",
)  # fmt: skip
"""What decides beside the weights what the model is shown and how it answers: how pictures are scaled, words
cut, conversations written, answers drawn."""
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Loaded:
    """`model` in evaluation mode on its device; `kind`: transformers' model type; `folder`: its files.
    `quantize` "int8" is still to be done, by `to_int8`, once adapters are in: peft wraps plain layers."""

    model: Any
    kind: str
    folder: Path
    needed: MemoryEstimate
    quantize: Quantize


def find(model: str) -> Path:
    """The folder of a model: the path itself, or the local copy of a Hugging Face model of that name.

    Raises `ConfigError` where there is neither, and the hub can't be reached.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise _missing() from error
    try:
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
        return Path(snapshot_download(model, allow_patterns=wanted))
    except Exception as error:  # the hub's and the network's own types
        raise ConfigError(
            f"vision-language model '{model}'",
            expected="a folder, or a model's name on the Hugging Face hub",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        ) from error


def load(
    model: str,
    *,
    dtype: Dtype = "auto",
    quantize: Quantize = "none",
    device: str = "auto",
    tokens: int = 4096,
    batch: int = 1,
) -> Loaded:
    """The model of a name or folder. `device` "auto": the GPU where there is one.

    Raises `EntracteError` before it allocates anything if it won't fit at `batch` prompts of `tokens` tokens;
    `PackageError` for a folder that is no such checkpoint; `MissingDependency`.
    """
    torch, transformers = _libraries()
    folder = find(model)
    where = _device(torch, device)
    needed = estimate(folder, dtype=dtype, quantize=quantize, tokens=tokens, batch=batch)
    check_fits(needed, _free(torch, where), _place(where), _remedy(dtype, quantize))
    settings: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if quantize.startswith("bnb"):
        settings["quantization_config"] = _bitsandbytes(transformers, quantize)
        settings["device_map"] = {"": where}
    try:
        kind = transformers.AutoConfig.from_pretrained(folder).model_type
        net, report = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **settings
        )
    except Exception as error:  # transformers', torch's and safetensors' own types
        raise PackageError(
            f"{folder} won't load as an image-text-to-text model",
            found=f"{type(error).__name__}: {error}",
        ) from error
    # transformers fills what a file lacks with random numbers, and only warns.
    if report["missing_keys"] or report["mismatched_keys"]:
        odd = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise PackageError(
            f"weights of {folder}", expected="all of the model's", found=f"without {odd[:3]}"
        )
    net.eval()
    if not quantize.startswith("bnb"):
        net.to(where)
    return Loaded(net, kind, folder, needed, quantize)


def checkpoint_identity(folder: Path, adapters: Mapping[str, Path], loaded_as: str) -> str:
    """Hex digest of every weight of the model and its adapters, of the files beside them that change what it
    says, and of how it was loaded."""
    beside = {path for pattern in _SIDE_FILES for path in folder.glob(pattern) if path.is_file()}
    parts = [loaded_as, *(_file_digest(path) for path in weight_files(folder))]
    for path in sorted(beside):
        parts += [path.name, _file_digest(path)]
    for name in sorted(adapters):
        files = sorted(p for p in adapters[name].iterdir() if p.suffix in (".json", ".safetensors"))
        parts += [name, *(_file_digest(path) for path in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    kept = path.resolve()
    # The hub's cache names large files by their sha256: no need to read 16 GB again.
    if kept.parent.name == "blobs" and _HEX.fullmatch(kept.name):
        return kept.name
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise _missing() from error
    return torch, transformers


def _missing() -> MissingDependency:
    return MissingDependency(
        "the reward model 'vlm' needs torch and transformers", remedy="pip install 'entracte[vlm]'"
    )


def _device(torch: Any, device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _free(torch: Any, where: str) -> int:
    if where.startswith("cuda"):
        return int(torch.cuda.mem_get_info(where)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _place(where: str) -> str:
    return "the GPU's memory" if where.startswith("cuda") else "this machine's memory"


def _remedy(dtype: str, quantize: str) -> str:
    if quantize == "none":
        half = "" if dtype in ("bfloat16", "float16") else "dtype: bfloat16, "
        return f"try {half}quantize: int8, a smaller model, or the endpoint reward model"
    return "try a smaller model, or the endpoint reward model"


def _bitsandbytes(transformers: Any, quantize: str) -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            f"quantize: {quantize} needs bitsandbytes",
            remedy="pip install bitsandbytes, or use quantize: int8",
        ) from error
    return transformers.BitsAndBytesConfig(
        load_in_8bit=quantize == "bnb8", load_in_4bit=quantize == "bnb4"
    )


def to_int8(net: Any) -> None:
    """Weight-only int8, a scale for each row, in place; embeddings, norms, head and adapters stay.

    Raises `MissingDependency`; `EntracteError` where torchao can't do it.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise MissingDependency(
            "quantize: int8 needs torchao", remedy="pip install 'entracte[vlm]' torchao"
        ) from error
    import torch

    def linear(module: Any, name: str) -> bool:
        own = "lm_head" in name or "lora_" in name
        return isinstance(module, torch.nn.Linear) and not own

    try:
        quantize_(net, Int8WeightOnlyConfig(), filter_fn=linear)
    except Exception as error:  # torchao's own types
        raise EntracteError(
            "the model can't be quantised to int8", found=f"{type(error).__name__}: {error}"
        ) from error
