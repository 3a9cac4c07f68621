"""A prompt's token sequence as each family's own processor lays it out: what prepared prompts are held to."""

from __future__ import annotations

from typing import Any

import numpy as np

from contracts.errors import EntracteError, PackageError
from export.vlm_prompts import Laying, Sequencer
from trainer.rewards.vlm.layout import Layout, positions
from trainer.rewards.vlm.question import Clip, Prompt


def qwen(layout: Layout) -> Sequencer:
    """The trainer's layout of Qwen3-VL and Qwen2.5-VL."""

    def sequences(prompt: Prompt) -> list[Laying]:
        found = []
        for segments, choices in layout.lay_out(prompt):
            texts: list[tuple[int, ...]] = [()]
            for segment in segments:
                if segment.images is None:
                    texts[-1] += segment.ids
                else:
                    texts.append(())
            places = np.concatenate(positions(segments, layout.rule.merge), axis=1)
            found.append(Laying(tuple(texts), places, choices))
        return found

    return sequences


class SmolVlm:
    """`Sequencer` of SmolVLM (transformers' SmolVLMProcessor): each frame one whole picture, not split into
    tiles, between `<fake_token_around_image><global-img>` and `<fake_token_around_image>`."""

    AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"

    def __init__(self, tokenizer: Any, template: str, picture: str, vectors: int) -> None:
        """`template`: the processor's chat template; `picture`: the token of one of a picture's `vectors`."""
        self._tokenizer, self._template = tokenizer, template
        self._picture, self._vectors = picture, vectors
        missing = {self.AROUND, self.WHOLE, picture} - set(tokenizer.get_added_vocab())
        if missing:
            raise PackageError("vision tokens of the tokenizer", found=f"none of {sorted(missing)}")

    def __call__(self, prompt: Prompt) -> list[Laying]:
        pieces = self._render(prompt).split(self._picture)
        before = [piece + self.AROUND + self.WHOLE for piece in pieces[:-1]]
        texts = [self.encode((self.AROUND if i else "") + text) for i, text in enumerate(before)]
        answered, choices = self._parting((self.AROUND if before else "") + pieces[-1], prompt)
        texts.append(answered)
        count = sum(map(len, texts)) + self._vectors * len(before)
        return [Laying(tuple(texts), np.tile(np.arange(count), (3, 1)), choices)]

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _render(self, prompt: Prompt) -> str:
        content: list[dict[str, str]] = []
        for part in prompt.parts:
            if isinstance(part, Clip):
                content += [{"type": "image"}] * len(part.images)
                continue
            forbidden = [t for t in self._tokenizer.get_added_vocab() if t.strip() and t in part]
            if forbidden:
                raise EntracteError("a prompt's text holds tokens of the model", found=forbidden)
            content.append({"type": "text", "text": part})
        text: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

    def _parting(self, tail: str, prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens up to where the choices part, forced, and each choice's token there. Whole answers are
        encoded: a space may belong to the token behind it, or be one of its own."""
        whole = [self.encode(tail + prompt.answer + choice) for choice in prompt.choices]
        depth = 0
        while len({ids[: depth + 1] for ids in whole}) == 1:
            depth += 1
        tokens = tuple(ids[depth] if len(ids) > depth else -1 for ids in whole)
        if -1 in tokens or len(set(tokens)) < len(tokens):
            raise PackageError(
                f"choices {list(prompt.choices)} after '{prompt.answer}'",
                expected="each to begin with a token of its own",
                found=tokens,
                remedy="use letters or single digits in the prompt folder's answers.yaml",
            )
        return whole[0][:depth], tokens
