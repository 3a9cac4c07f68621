"""Any other image-text-to-text model through its own AutoProcessor: videos as rows of pictures, no caches.

Owns nothing that Qwen-VL needs; those have a layout of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contracts.errors import ConfigError, EntracteError, MissingDependency, PackageError
from trainer.rewards.vlm.engine import Session
from trainer.rewards.vlm.loading import keeps_logits
from trainer.rewards.vlm.question import Clip, Prompt
from trainer.rewards.vlm.qwen import choice_scores


class GenericEngine:
    """`Engine` of a model that transformers can load with its processor."""

    multiple = 1

    def __init__(self, model: Any, folder: Path) -> None:
        """Raises `MissingDependency` where the processor needs a library that isn't there; `PackageError`."""
        self._model, self._processor = model, _processor(folder)
        self._tokenizer = self._processor.tokenizer
        # On the right, as a causal model never looks there; what is read is each row's last real token.
        self._tokenizer.padding_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self.forwards = 0

    @torch.inference_mode()
    def choose(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        texts = [self._render(prompt) for prompt in prompts]
        forced = [self._forced(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        inputs = self._inputs(prompts, [text + f[0] for text, f in zip(texts, forced, strict=True)])
        last = inputs["attention_mask"].sum(dim=1) - 1
        each = torch.arange(len(prompts), device=last.device)
        if keeps_logits(type(self._model)):
            # Logits of every token of a video would be most of the memory that a pass takes.
            logits = self._model(**inputs, use_cache=False, logits_to_keep=last).logits[each, each]
        else:
            logits = self._model(**inputs, use_cache=False).logits[each, last]
        self.forwards += 1
        read = zip(logits.float(), forced, strict=True)
        return [choice_scores([(row, first)]) for row, (_, first) in read]

    @torch.inference_mode()
    def complete(self, prompt: Prompt, most_tokens: int) -> str:
        inputs = self._inputs([prompt], [self._render(prompt)])
        output = self._model.generate(**inputs, max_new_tokens=most_tokens, do_sample=False)
        self.forwards += output.shape[1] - inputs["input_ids"].shape[1]
        new = output[0, inputs["input_ids"].shape[1] :]
        text: str = self._tokenizer.decode(new, skip_special_tokens=True)
        return text

    def session(self) -> Session:
        return self

    def _render(self, prompt: Prompt) -> str:
        content: list[dict[str, str]] = []
        for part in prompt.parts:
            if isinstance(part, Clip):
                content += [{"type": "image"}] * len(part.images)
                continue
            forbidden = [t for t in self._tokenizer.get_added_vocab() if t in part and t.strip()]
            if forbidden:
                raise EntracteError("a prompt's text holds tokens of the model", found=forbidden)
            content.append({"type": "text", "text": part})
        message = [{"role": "user", "content": content}]
        text: str = self._processor.apply_chat_template(message, add_generation_prompt=True)
        return text

    def _inputs(self, prompts: Sequence[Prompt], texts: list[str]) -> Any:
        pictures = [
            [
                _sized(image, part)
                for part in prompt.parts
                if isinstance(part, Clip)
                for image in part.images
            ]
            for prompt in prompts
        ]
        # A template that begins with BOS has written it already: transformers' own way, too.
        begun = self._tokenizer.bos_token and texts[0].startswith(self._tokenizer.bos_token)
        inputs = self._processor(
            images=pictures,
            text=texts,
            padding=True,
            return_tensors="pt",
            **({"add_special_tokens": False} if begun else {}),
        )
        return inputs.to(self._model.device, self._model.dtype)

    def _forced(self, prompt: Prompt, text: str) -> tuple[str, list[int]]:
        """The forced beginning of the answer, and each choice's first token behind it."""
        answer = prompt.answer.rstrip()
        head = self._tokenizer.encode(text + answer, add_special_tokens=False)
        gap = prompt.answer[len(answer) :]
        whole = [
            self._tokenizer.encode(text + answer + gap + choice, add_special_tokens=False)
            for choice in prompt.choices
        ]
        # A space of its own between them is forced too; one that belongs to the choice is read with it.
        shared = len(head)
        if gap and len({tuple(ids[: shared + 1]) for ids in whole}) == 1:
            answer, shared = prompt.answer, shared + 1
        first = [ids[shared] if len(ids) > shared else -1 for ids in whole]
        if (
            -1 in first
            or len(set(first)) < len(first)
            or any(w[: len(head)] != head for w in whole)
        ):
            raise ConfigError(
                f"choices {list(prompt.choices)} after '{prompt.answer}'",
                expected="each to begin with a token of its own",
                found=first,
                remedy="use letters or single digits in the prompt folder's answers.yaml",
            )
        return answer, first


def _sized(image: np.ndarray, clip: Clip) -> Any:
    from PIL import Image

    picture = Image.fromarray(image)
    return picture.resize(clip.size, Image.Resampling.BICUBIC) if clip.size else picture


def _processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    processors: Any = AutoProcessor

    try:
        processor = processors.from_pretrained(folder, use_fast=False)
    except ImportError as error:
        raise MissingDependency(
            f"the processor of {folder} needs a library that isn't installed",
            found=next((line for line in str(error).splitlines() if line.strip()), ""),
            remedy="install it (often torchvision), or use a Qwen3-VL or Qwen2.5-VL model, which needs none",
        ) from error
    except Exception as error:  # transformers' own types
        raise PackageError(
            f"processor of {folder}", found=f"{type(error).__name__}: {error}"
        ) from error
    if not getattr(processor, "chat_template", None):
        raise PackageError(f"the processor of {folder} has no chat template")
    return processor
