"""A CLIP or SigLIP checkpoint -> a package of two encoders, its pictures' rule and prepared texts with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package
from contracts.package import Provenance
from contracts.pictures import Filter, PictureRule, prepare
from contracts.specs import ObservationSpec
from contracts.vlm import EncoderSpec
from export.exporters import AUTO
from export.onnx import GraphSource
from export.package import draft_manifest, export_package
from export.pictures import recorded
from export.provenance import versions
from export.towers.encoders import ImageEncoder, TextEncoder

KINDS = ("clip", "siglip")
_GOLDEN_PICTURES = 4
FILTERS: dict[int, Filter] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as preprocessor files have them."""


def export_encoder(
    source: Path, pictures: Path, folder: Path, texts: Sequence[str], exporter: str = AUTO
) -> Package:
    """Package of the checkpoint in folder `source`; `pictures`: recorded ones for the golden vectors;
    `texts`: what pictures will be compared with. Raises `PackageError`, `ConfigError`."""
    model, tokenizer = _load(source)
    return package_encoder(
        model,
        tokenizer,
        _json(source / "preprocessor_config.json"),
        pictures,
        folder,
        texts,
        exporter,
    )


def package_encoder(
    model: Any,
    tokenizer: Any,
    settings: Mapping[str, Any],
    pictures: Path,
    folder: Path,
    texts: Sequence[str],
    exporter: str = AUTO,
) -> Package:
    """`model`: transformers' `CLIPModel` or `SiglipModel`, `tokenizer` its own; `settings`: what its
    preprocessor_config.json says."""
    kind = model.config.model_type
    if kind not in KINDS:
        raise PackageError("encoder checkpoint", expected=f"one of {KINDS}", found=kind)
    if not texts or len(set(texts)) < len(texts):
        raise ConfigError(
            "texts of the package", expected="one or more, all different", found=texts
        )
    rule = picture_rule(settings, int(model.config.vision_config.image_size))
    model = model.eval()
    model.set_attn_implementation("eager")
    image = ImageEncoder(
        model, _three(settings, "image_mean"), _three(settings, "image_std")
    ).eval()
    text = TextEncoder(model).eval()
    tokens = _tokens(tokenizer, texts, text)
    shown = np.stack([prepare(frame, rule) for frame in recorded(pictures, _GOLDEN_PICTURES)])
    batch = {0: "batch"}
    graphs = (
        GraphSource(
            "image",
            image,
            {"pixels": np.concatenate([shown[:1]] * 2)},
            ("embedding",),
            {"pixels": batch, "embedding": batch},
        ),
        GraphSource(
            "text",
            text,
            {"tokens": np.concatenate([tokens[:1]] * 2)},
            ("embedding",),
            {"tokens": batch, "embedding": batch},
        ),
    )
    spec = EncoderSpec(
        picture=rule,
        texts={one: tuple(map(int, ids)) for one, ids in zip(texts, tokens, strict=True)},
        logit_scale=math.exp(model.logit_scale.item()),
        logit_bias=model.logit_bias.item() if hasattr(model, "logit_bias") else 0.0,
        sigmoid=kind == "siglip",
    )
    draft = draft_manifest(
        model="encoder",
        architecture=kind,
        observation=ObservationSpec((), (), ()),
        action=None,
        image_width=rule.width,
        image_height=rule.height,
        cameras=(),
        vocabulary=(),
        instruction_length=text.length,
        provenance=Provenance(
            command="robot-export encoder",
            seed=0,
            data="recorded pictures for the golden vectors only",
            licence="as the checkpoint's",
            created_unix_s=0.0,
            versions=versions("torch", "transformers", "optimum", "optimum-onnx", "onnx"),
        ),
        encoder=spec,
    )
    golden = {
        "image": [{"pixels": shown[i : i + 1]} for i in range(len(shown))],
        "text": [{"tokens": tokens[i : i + 1]} for i in range(len(tokens))],
    }
    return export_package(folder, draft, graphs, golden, (), exporter)


def picture_rule(settings: Mapping[str, Any], side: int) -> PictureRule:
    """What the checkpoint's own processor does to a picture, for a tower of `side` x `side`. Raises
    `PackageError` for a processor that does something else."""
    size = settings.get("size", side)
    size = size if isinstance(size, dict) else {"shortest_edge": size}
    crop = bool(settings.get("do_center_crop", False))
    cut = settings.get("crop_size", side)
    cut = cut if isinstance(cut, dict) else {"height": cut, "width": cut}
    whole = (int(size.get("height", 0)), int(size.get("width", 0)))
    good = (
        int(size.get("shortest_edge", 0)) == side and (cut["height"], cut["width"]) == (side, side)
        if crop
        else whole == (side, side)
    )
    number = int(settings.get("resample", 3))
    if (
        not good
        or number not in FILTERS
        or abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6
    ):
        raise PackageError(
            "what the checkpoint's processor does to a picture",
            expected=f"scaled to {side}x{side}, or its shorter side to {side} and the middle cut out, "
            "and divided by 255",
            found={name: settings.get(name) for name in ("size", "crop_size", "resample")},
        )
    return PictureRule(side, side, FILTERS[number], crop)


def _tokens(tokenizer: Any, texts: Sequence[str], encoder: TextEncoder) -> np.ndarray:
    """int64[N, L], padded as the model was trained. Raises `ConfigError` for a text that is too long."""
    found = tokenizer(list(texts), padding="max_length", max_length=encoder.length)["input_ids"]
    for text, ids in zip(texts, found, strict=True):
        if len(ids) > encoder.length:
            raise ConfigError(
                f"text {text!r}", expected=f"<= {encoder.length} tokens", found=len(ids)
            )
        if encoder.causal and encoder.end not in ids:
            raise PackageError(f"the tokenizer does not end a text with token {encoder.end}")
    return np.array(found, np.int64)


def _three(settings: Mapping[str, Any], name: str) -> tuple[float, ...]:
    found = settings.get(name)
    if not isinstance(found, list) or len(found) != 3:
        raise PackageError(f"{name} of the preprocessor", expected="three numbers", found=found)
    return tuple(map(float, found))


def _load(source: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    models: Any = AutoModel
    tokenizers: Any = AutoTokenizer
    try:
        model, report = models.from_pretrained(
            source, use_safetensors=True, dtype="float32", output_loading_info=True
        )
        tokenizer = tokenizers.from_pretrained(source)
    except Exception as error:  # transformers', torch's and safetensors' own types
        raise PackageError(
            f"{source} won't load as an encoder with its tokenizer",
            expected="a folder with config, model.safetensors, tokenizer and preprocessor_config.json",
            found=f"{type(error).__name__}: {error}",
        ) from error
    # transformers fills what a file lacks with random numbers, and only warns.
    if report["missing_keys"] or report["mismatched_keys"]:
        odd = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise PackageError(
            f"weights of {source}", expected="all of them", found=f"without {odd[:3]}"
        )
    return model, tokenizer


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} can't be read", found=str(error)) from error
