"""A CLIP or SigLIP checkpoint -> a package of two encoders, its pictures' rule and prepared texts with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package
from contracts.pictures import prepare
from contracts.specs import ObservationSpec
from contracts.vlm import EncoderSpec
from export.exporters import AUTO
from export.onnx import GraphSource
from export.package import draft_manifest, export_package
from export.pictures import recorded
from export.preprocessors import picture_rule, read_json, require_kind, three
from export.provenance import of_checkpoint, versions
from export.towers.encoders import ImageEncoder, TextEncoder
from trainer.rewards.vlm.loading import checkpoint_identity

KINDS = ("clip", "siglip")
_GOLDEN_PICTURES = 4


def export_encoder(
    source: Path, pictures: Path, folder: Path, texts: Sequence[str], exporter: str = AUTO
) -> Package:
    """Package of the checkpoint in folder `source`; `pictures`: recorded ones for the golden vectors;
    `texts`: what pictures will be compared with. Raises `PackageError`, `ConfigError`."""
    # Before transformers is asked, which answers a foreign kind with a page.
    kind = require_kind(source, KINDS, "robot-export vlm takes vision-language models")
    model, tokenizer = _load(source)
    settings = read_json(source / "preprocessor_config.json")
    if not texts or len(set(texts)) < len(texts):
        raise ConfigError(
            "texts of the package", expected="one or more, all different", found=texts
        )
    rule = picture_rule(settings, int(model.config.vision_config.image_size))
    model = model.eval()
    model.set_attn_implementation("eager")
    image = ImageEncoder(model, three(settings, "image_mean"), three(settings, "image_std")).eval()
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
        provenance=of_checkpoint(
            "encoder",
            source,
            versions("torch", "transformers", "optimum", "optimum-onnx", "onnx"),
            f"checkpoint {checkpoint_identity(source, {}, 'float32')[:16]}",
        ),
        encoder=spec,
    )
    golden = {
        "image": [{"pixels": shown[i : i + 1]} for i in range(len(shown))],
        "text": [{"tokens": tokens[i : i + 1]} for i in range(len(tokens))],
    }
    return export_package(folder, draft, graphs, golden, (), exporter)


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
