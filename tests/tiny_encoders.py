"""Whole checkpoint folders of the real CLIP and SigLIP classes with few random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE = 32
TEXTS = ("open the drawer", "close the drawer", "a picture of a cup")


def build_encoder(folder: Path, kind: str) -> Path:
    """A checkpoint of `kind` ("clip" or "siglip") in the new `folder`."""
    import transformers

    folder.mkdir(parents=True)
    tokenizer = _tokenizer(kind)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    wide: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    }  # fmt: skip
    text = {
        **wide, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_dim": 24,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {**wide, "image_size": SIDE, "patch_size": 8}
    if kind == "clip":
        model: Any = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        )
    else:
        model = transformers.SiglipModel(
            transformers.SiglipConfig(text_config=text, vision_config=vision)
        )
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim >= 2:
                tensor.normal_(0.0, 1.2 * tensor[0].numel() ** -0.5)
            elif "norm" not in name and tensor.ndim == 1:
                tensor.normal_(0.0, 0.1)
    model.save_pretrained(folder, safe_serialization=True)
    size: dict[str, Any] = {"height": SIDE, "width": SIDE}
    picture: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor" if kind == "clip" else "SiglipImageProcessor",
        "do_center_crop": kind == "clip", "crop_size": size, "resample": 3,
        "size": {"shortest_edge": SIDE} if kind == "clip" else size,
        "image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.25, 0.27], "rescale_factor": 1 / 255,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder


def _tokenizer(kind: str) -> Any:
    """Words as tokens. As in the real ones CLIP's texts have a token at either end, SigLIP's at the last."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<start>", "<unk>", "<end>", *sorted({w for t in TEXTS for w in t.split()})]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>" if kind == "clip" else "$A <end>",
        special_tokens=[("<start>", 1), ("<end>", 3)] if kind == "clip" else [("<end>", 3)],
    )
    # CLIP pads with the token that ends a text.
    pad = "<end>" if kind == "clip" else "<pad>"
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<end>", pad_token=pad, unk_token="<unk>"
    )
