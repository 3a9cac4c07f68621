"""From a name or a folder to a loaded model: found, measured, loaded as asked, told apart.

Owns what transformers, huggingface_hub and torchao are called for. Runs no code or pickles of a checkpoint.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from contracts.errors import ConfigError, EntracteError, MissingDependency, PackageError
from trainer.rewards.vlm.memory import (
    MemoryEstimate,
    check_fits,
    check_host_fits,
    estimate,
    weight_files,
)

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
    """`model` in evaluation mode on its `device`; `kind`: transformers' model type; `folder`: its files.
    `quantize` "int8" is still to be done, by `to_int8`, once adapters are in: peft wraps plain layers. Until
    then such a model lies on the CPU."""

    model: Any
    kind: str
    folder: Path
    quantize: Quantize
    device: str


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
    config = _config(transformers, folder)
    needs = partial(
        estimate,
        folder,
        config.to_dict(),
        tokens=tokens,
        batch=batch,
        every_logit=_every_logit(transformers, config),
        on_gpu=where.startswith("cuda"),
    )
    _check_memory(torch, where, needs, dtype, quantize)
    settings: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if quantize.startswith("bnb"):
        settings["quantization_config"] = _bitsandbytes(transformers, quantize)
        settings["device_map"] = {"": where}
    try:
        net, report = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **settings
        )
    except Exception as error:  # transformers', torch's and safetensors' own types
        raise _wont_load(folder, error) from error
    # transformers fills what a file lacks with random numbers, and only warns.
    if report["missing_keys"] or report["mismatched_keys"]:
        odd = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise PackageError(
            f"weights of {folder}", expected="all of the model's", found=f"without {odd[:3]}"
        )
    net.eval()
    if quantize == "none":
        net.to(where)
    return Loaded(net, config.model_type, folder, quantize, where)


def keeps_logits(model_class: Any) -> bool:
    """Whether its forward can be told for which tokens to make logits."""
    return "logits_to_keep" in inspect.signature(model_class.forward).parameters


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


def _config(transformers: Any, folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(folder)
    except Exception as error:  # transformers' own types
        raise _wont_load(folder, error) from error


def _wont_load(folder: Path, error: Exception) -> PackageError:
    return PackageError(
        f"{folder} won't load as an image-text-to-text model",
        found=f"{type(error).__name__}: {error}",
    )


def _every_logit(transformers: Any, config: Any) -> bool:
    """Whether a pass of the engine that is made for this class makes logits of every token."""
    classes = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if config.model_type in OUR_LAYOUT or type(config) not in classes:
        return False
    return not keeps_logits(classes[type(config)])


def _check_memory(
    torch: Any, where: str, needs: Callable[..., MemoryEstimate], dtype: str, quantize: str
) -> None:
    free, host = _free(torch, where), _free(torch, "cpu")

    def fits(dtype: str, quantize: str) -> bool:
        needed = needs(dtype=dtype, quantize=quantize)
        return needed.peak <= free and needed.host <= host

    if not fits(dtype, quantize):
        needed, remedy = needs(dtype=dtype, quantize=quantize), _remedy(fits, dtype, quantize)
        check_fits(needed, free, _place(where), remedy)
        check_host_fits(needed, host, remedy)


def _remedy(fits: Callable[[str, str], bool], dtype: str, quantize: str) -> str:
    """What to try: the least change under which the model `fits`, if there is one."""
    ways = [(d, q) for q in ("none", "int8", "bnb4") for d in (dtype, "bfloat16", "auto")]
    for other, smaller in ways:
        if fits(other, smaller):
            settings = [f"dtype: {other}"] if other != dtype else []
            settings += [f"quantize: {smaller}"] if smaller != quantize else []
            return f"try {', '.join(settings)}, a smaller model, or the endpoint reward model"
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


def to_int8(net: Any, device: str) -> None:
    """Weight-only int8, a scale for each row, in place and on the way to `device`, so that no more than one
    whole weight is ever there; embeddings, norms, head and adapters stay as they are.

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
        quantize_(net, Int8WeightOnlyConfig(), filter_fn=linear, device=device)
    except Exception as error:  # torchao's own types
        raise EntracteError(
            "the model can't be quantised to int8", found=f"{type(error).__name__}: {error}"
        ) from error
