"""A whole checkpoint folder of the real SmolVLM class with few random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny_vlm import TEMPLATE, _tokenizer

SIDE = 32
SPECIAL = ("<fake_token_around_image>", "<global-img>", "<image>")


def build_smolvlm(folder: Path) -> Path:
    """A checkpoint in the new `folder`: pictures of 32 x 32 in 4 vectors each."""
    import transformers

    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    template = TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    torch.manual_seed(0)
    wide = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.SmolVLMConfig(
        vision_config={**wide, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8},
        text_config={
            **wide, "model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": len(tokenizer), "max_position_embeddings": 4096,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        },
        scale_factor=2, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = transformers.SmolVLMForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim >= 2:
                tensor.normal_(0.0, 1.2 * tensor[0].numel() ** -0.5)
            elif "norm" not in name:
                tensor.normal_(0.0, 0.1)
    model.save_pretrained(folder, safe_serialization=True)
    picture = {
        "image_processor_type": "SmolVLMImageProcessor", "do_image_splitting": False, "resample": 1,
        "size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE},
        "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder
