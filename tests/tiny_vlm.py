"""A whole checkpoint folder of a real Qwen-VL class with few random weights, and LoRA adapters for it.

Nothing that loads it can tell that it is small: config, safetensors, tokenizer, chat template, preprocessor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contracts.frames import Video
from trainer.rewards.prompts import load_prompt

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for item in message.content -%}"
    "{%- if item.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif item.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- item.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
# How Qwen's tokenizers cut text before they merge: digits stand alone, a space goes with the word behind it.
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ANYTHING = {"least_mass": 0.0}
"""Option for a model whose random weights put little on the choices."""


def build_vlm(folder: Path, kind: str = "qwen3_vl", width: int = 32, seed: int = 0) -> Path:
    """A checkpoint of `kind` ("qwen3_vl" or "qwen2_5_vl") with layers `width` wide, in the new `folder`."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = _model(kind, width, tokenizer)
    # The library's own small start leaves all logits alike; spread out, a wrong token or place shows.
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim >= 2:
                tensor.normal_(0.0, 1.2 * tensor[0].numel() ** -0.5)
            elif "norm" not in name:
                tensor.normal_(0.0, 0.1)
    model.save_pretrained(folder, safe_serialization=True)
    patch = model.config.vision_config.patch_size
    picture: dict[str, Any] = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor" if kind == "qwen3_vl" else "Qwen2_5_VLProcessor",
        "size": {"shortest_edge": 4 * patch**2, "longest_edge": 64 * patch**2},
        "patch_size": patch, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7],
    }  # fmt: skip
    video = {**picture, "size": {"shortest_edge": 16 * patch**2, "longest_edge": 256 * patch**2}}
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    return folder


def build_adapter(model_folder: Path, folder: Path, seed: int, vision: bool = False) -> Path:
    """A LoRA adapter with random weights (none of them zero) for a checkpoint made above."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    targets = r".*language_model.*\.(q_proj|v_proj)" + (r"|.*visual.*\.qkv" if vision else "")
    base = AutoModelForImageTextToText.from_pretrained(model_folder)
    wrapped = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in wrapped.named_parameters():
            if "lora_" in name:
                tensor.normal_(0.0, 0.3)
    wrapped.save_pretrained(folder, safe_serialization=True)
    return folder


def some_video(frames: int, rate_hz: float = 2.0, width: int = 64, height: int = 48) -> Video:
    """A square that wanders over coloured stripes: every frame differs."""
    rows, columns = np.mgrid[:height, :width]
    images = []
    for k in range(frames):
        image = np.stack([columns * 3 % 256, rows * 5 % 256, (rows + columns) * 2 % 256], axis=2)
        left, top = (7 * k) % (width - 12), (5 * k) % (height - 12)
        image[top : top + 12, left : left + 12] = (255, 40 + k % 60, 0)
        images.append(image.astype(np.uint8))
    return Video({"front": np.stack(images)}, np.arange(frames) / rate_hz, np.arange(frames) * 5)


def _tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    bytes_apart = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CUT), "isolated"), bytes_apart]
    )
    raw.decoder = decoders.ByteLevel()
    names = ("roboreward", "progress", "completion", "contrastive", "topreward")
    texts = [load_prompt(name).text for name in names] * 4
    texts += [
        "<0.2 seconds>",
        "system\n user\n assistant\n",
        "open the drawer. put the cup on the tray",
    ]
    texts += [f"{load_prompt(n).answer}{c}" for n in names for c in load_prompt(n).choices] * 4
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=640, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    return Qwen2TokenizerFast(
        tokenizer_object=raw,
        chat_template=TEMPLATE,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )


def _model(kind: str, width: int, tokenizer: Any) -> Any:
    import transformers

    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in (
        "image_pad", "video_pad", "vision_start", "vision_end", "im_end", "endoftext")}  # fmt: skip
    tokens = {
        "image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"], "vision_end_token_id": ids["vision_end"],
    }  # fmt: skip
    third = kind == "qwen3_vl"
    head = max(16, width // 4)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": head,
        "rope_scaling": {"rope_type": "default", "mrope_section": [head // 4, head // 8, head // 8],
                         **({"mrope_interleaved": True} if third else {"type": "default"})},
        "max_position_embeddings": 32768, "bos_token_id": ids["endoftext"], "eos_token_id": ids["im_end"],
        "pad_token_id": ids["endoftext"],
    }  # fmt: skip
    vision = {
        "depth": 3, "hidden_size": width, "intermediate_size": 2 * width, "num_heads": 2,
        "out_hidden_size": width, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    if third:
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)
        return transformers.Qwen3VLForConditionalGeneration(config).eval()
    text["head_dim"] = None
    text["hidden_size"] = max(width, 4 * 16)
    text["rope_scaling"]["mrope_section"] = [4, 2, 2]
    vision |= {"out_hidden_size": text["hidden_size"], "window_size": 32, "fullatt_block_indexes": [2],
               "tokens_per_second": 2}  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def build_llava(folder: Path, seed: int = 0) -> Path:
    """A checkpoint of LLaVA's class: CLIP vision, Llama language, a processor that needs Pillow alone."""
    import transformers

    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
        .replace("item.type == 'video'", "false")
    )  # fmt: skip
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        chat_template=template, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    wide = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            **wide, num_attention_heads=2, image_size=32, patch_size=8
        ),
        text_config=transformers.LlamaConfig(
            **wide, num_attention_heads=2, vocab_size=len(tokenizer), max_position_embeddings=4096,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim >= 2:
                tensor.normal_(0.0, 1.2 * tensor[0].numel() ** -0.5)
            elif "norm" not in name:
                tensor.normal_(0.0, 0.1)
    model.save_pretrained(folder, safe_serialization=True)
    return folder
