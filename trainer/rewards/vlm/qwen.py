"""Qwen3-VL and Qwen2.5-VL through transformers: our own layout, vision features kept by content, and the
key-value cache of whatever an episode's earlier prompts have in common with the next. Owns no prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from contracts.errors import PackageError
from trainer.rewards.vlm.adapters import Adapters
from trainer.rewards.vlm.layout import Layout, Segment, positions, text_segment
from trainer.rewards.vlm.pictures import load_pixel_rule
from trainer.rewards.vlm.question import Prompt

_KEPT_FEATURES = 256
"""Temporal patches whose features are kept: an episode of four minutes at 2 Hz."""


@dataclass(frozen=True)
class _Row:
    """[L, D] input vectors, int64[3, L] positions, bool[L] which are pictures', their deepstack features."""

    vectors: torch.Tensor
    places: torch.Tensor
    pictured: torch.Tensor
    deep: list[torch.Tensor]


class QwenEngine:
    """`Engine` of a `Qwen3VLForConditionalGeneration` or `Qwen2_5_VLForConditionalGeneration`."""

    def __init__(self, model: Any, layout: Layout, adapters: Adapters | None = None) -> None:
        """`model` in evaluation mode; `adapters` are those loaded into it."""
        self._parts, self._head = model.model, model.lm_head
        self._layout, self._adapters = layout, adapters
        self._merge = layout.rule.merge
        self._stop = _stop_tokens(model)
        self._features: OrderedDict[tuple[str, bytes], _Features] = OrderedDict()
        self.forwards = 0

    @property
    def layout(self) -> Layout:
        return self._layout

    @property
    def multiple(self) -> int:
        return self._layout.rule.multiple

    def choose(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        places = [self._layout.lay_out(prompt) for prompt in prompts]
        names = [p.adapter for p, of in zip(prompts, places, strict=True) for _ in of]
        logits = iter(self._logits([row for of in places for row, _ in of], names))
        return [choice_scores([(next(logits), tokens) for _, tokens in of]) for of in places]

    def logits(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """float32[B, V] where each prompt's answer is first read."""
        rows = [self._layout.lay_out(prompt)[0][0] for prompt in prompts]
        return self._logits(rows, [prompt.adapter for prompt in prompts])

    @torch.inference_mode()
    def _logits(self, rows: Sequence[list[Segment]], names: Sequence[str]) -> torch.Tensor:
        """One padded batch, adapters mixed."""
        for name in dict.fromkeys(names):  # one pass of the vision tower for all that look alike
            together = [row for row, of in zip(rows, names, strict=True) if of == name]
            self._look([segment for row in together for segment in row], name)
        features = [self._look(row, name) for row, name in zip(rows, names, strict=True)]
        with self._speaking(names):
            return self._run(rows, features)

    @torch.inference_mode()
    def complete(self, prompt: Prompt, most_tokens: int) -> str:
        segments = self._layout.unanswered(prompt)
        features = self._look(segments, prompt.adapter)
        cache = DynamicCache()
        answer: list[int] = []
        with self._speaking([prompt.adapter]):
            row, seen = [segments], 0
            while len(answer) < most_tokens:
                logits = self._run(row, [features], cache, seen)
                token = int(logits[0].argmax())
                if token in self._stop:
                    break
                answer.append(token)
                seen = sum(len(s.ids) for s in row[0])
                row = [[*row[0], Segment((token,), b"")]]
        return self._layout.decode(answer)

    def forget(self) -> None:
        """Drops all kept vision features."""
        self._features.clear()

    def session(self) -> GrowingPrompts:
        return GrowingPrompts(self)

    def _speaking(self, names: Sequence[str]) -> AbstractContextManager[None]:
        return self._adapters.speaking(names) if self._adapters else nullcontext()

    def _look(self, segments: Sequence[Segment], adapter: str) -> list[_Features | None]:
        """Vision features of each segment (None: text); those not kept are made in one pass."""
        seen = self._adapters.sees(adapter) if self._adapters else ""
        wanted = {s.key: s for s in segments if s.images is not None}
        new = [s for key, s in wanted.items() if (seen, key) not in self._features]
        if new:
            speaking = self._adapters.speaking([seen]) if self._adapters else nullcontext()
            with speaking:
                made = self._see(new)
            self._features.update({(seen, s.key): f for s, f in zip(new, made, strict=True)})
        for key in wanted:
            self._features.move_to_end((seen, key))
        found = [None if s.images is None else self._features[seen, s.key] for s in segments]
        while len(self._features) > _KEPT_FEATURES:
            self._features.popitem(last=False)
        return found

    def _see(self, segments: Sequence[Segment]) -> list[_Features]:
        visual = self._parts.visual
        device = self._head.weight.device
        found = np.concatenate([self._layout.pixels(segment) for segment in segments])
        pixels = torch.from_numpy(found)
        grid = torch.tensor([[1, *s.grid] for s in segments], device=device)
        output = visual(pixels.to(device, visual.dtype), grid_thw=grid)
        # Qwen3-VL gives features for its first language layers too (deepstack), Qwen2.5-VL doesn't.
        embeddings, deep = output if isinstance(output, tuple) else (output, [])
        counts = [len(s.ids) for s in segments]
        parts = [torch.split(levels, counts) for levels in (embeddings, *deep)]
        return [tuple(levels) for levels in zip(*parts, strict=True)]

    def _run(
        self,
        rows: Sequence[Sequence[Segment]],
        features: Sequence[Sequence[_Features | None]],
        cache: DynamicCache | None = None,
        seen: int = 0,
    ) -> torch.Tensor:
        """float32[B, V] behind the last token of each row. `cache` holds the first `seen` tokens of the one
        row there then is, a whole number of segments."""
        device = self._head.weight.device
        new = [self._embed(row, looks, seen) for row, looks in zip(rows, features, strict=True)]
        lengths = [len(row.vectors) for row in new]
        longest = max(lengths)
        padded = torch.nn.utils.rnn.pad_sequence([row.vectors for row in new], batch_first=True)
        places = torch.ones(3, len(rows), longest, dtype=torch.long, device=device)
        pictured = torch.zeros(len(rows), longest, dtype=torch.bool, device=device)
        for i, row in enumerate(new):
            # On the right: a causal model's last real token never sees it, and positions stay simple.
            places[:, i, : lengths[i]], pictured[i, : lengths[i]] = row.places, row.pictured
        extra: dict[str, Any] = {}
        deep = [row.deep for row in new if row.deep]
        if deep:
            extra["visual_pos_masks"] = pictured
            levels = [torch.cat(level) for level in zip(*deep, strict=True)]
            extra["deepstack_visual_embeds"] = levels
        output = self._parts.language_model(
            inputs_embeds=padded,
            position_ids=places,
            attention_mask=_causal(seen, longest, padded).expand(len(rows), -1, -1, -1),
            past_key_values=cache,
            use_cache=cache is not None,
            cache_position=torch.arange(seen, seen + longest, device=device),
            **extra,
        )
        self.forwards += 1
        last = torch.tensor(lengths, device=device) - 1
        hidden = output.last_hidden_state[torch.arange(len(rows), device=device), last]
        logits: torch.Tensor = self._head(hidden[:, None])[:, 0].float()
        return logits

    def _embed(self, row: Sequence[Segment], looks: Sequence[_Features | None], seen: int) -> _Row:
        """What the language model is given of a row behind its first `seen` tokens."""
        device = self._head.weight.device
        begin = _segments_in(row, seen)
        shown = list(zip_longest(row, looks))[begin:]
        ids = torch.tensor([token for s, _ in shown for token in s.ids], device=device)
        pictured = [look is not None for s, look in shown for _ in s.ids]
        vectors = self._parts.language_model.get_input_embeddings()(ids)
        looked = [look for _, look in shown if look is not None]
        mark = torch.tensor(pictured, device=device)
        deep: list[torch.Tensor] = []
        if looked:
            vectors[mark] = torch.cat([look[0] for look in looked]).to(vectors.dtype)
            deep = [torch.cat(level) for level in zip(*(k[1:] for k in looked), strict=True)]
        places = np.concatenate(positions(row, self._merge)[begin:], axis=1)
        return _Row(vectors, torch.from_numpy(places).to(device), mark, deep)


_Features = tuple[torch.Tensor, ...]
"""Of one temporal patch: [tokens, D] for the language model's input, then for each deepstack level."""
_Known = tuple[bytes, tuple[int, ...]]
_Place = tuple[int, int, str]


class GrowingPrompts:
    """`Session` of a `QwenEngine`: each prompt of the list has a key-value cache, which is cut back to what
    the next call's prompt begins with."""

    def __init__(self, engine: QwenEngine) -> None:
        self._engine = engine
        self._rows: dict[_Place, tuple[list[_Known], DynamicCache]] = {}

    @torch.inference_mode()
    def choose(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        scores = []
        for index, prompt in enumerate(prompts):
            parting = self._engine.layout.lay_out(prompt)
            read = [
                (self._grow((index, part, prompt.adapter), segments), tokens)
                for part, (segments, tokens) in enumerate(parting)
            ]
            scores.append(choice_scores(read))
        return scores

    def _grow(self, place: _Place, segments: list[Segment]) -> torch.Tensor:
        engine, adapter = self._engine, place[2]
        known, cache = self._rows.pop(place, ([], DynamicCache()))
        whole = [(s.key, _words(s)) for s in segments]
        segments, shared = _in_common(segments, known)
        seen = sum(len(segment.ids) for segment in segments[:shared])
        cache.crop(seen)
        features = engine._look(segments, adapter)
        with engine._speaking([adapter]):
            logits = engine._run([segments], [features], cache, seen)[0]
        self._rows[place] = (whole, cache)
        return logits


def _words(segment: Segment) -> tuple[int, ...]:
    """The tokens of a text; of a temporal patch none, since it is all the same or not at all."""
    return segment.ids if segment.images is None else ()


def _in_common(segments: list[Segment], known: Sequence[_Known]) -> tuple[list[Segment], int]:
    """`segments` with the first text that differs cut where it differs, and how many then are as `known`.
    At least one token is left over: the one behind which the answer is read."""
    shared = 0
    for segment, (key, _) in zip(segments[:-1], known, strict=False):
        if segment.key != key:
            break
        shared += 1
    if shared >= len(known):
        return segments, shared
    here, there = _words(segments[shared]), known[shared][1]
    same = 0
    for one, other in zip(here[:-1], there, strict=False):
        if one != other:
            break
        same += 1
    if not same:
        return segments, shared
    halves = [text_segment(here[:same]), text_segment(here[same:])]
    return [*segments[:shared], *halves, *segments[shared + 1 :]], shared + 1


def choice_scores(parting: Sequence[tuple[torch.Tensor, Sequence[int]]]) -> np.ndarray:
    """float64[K]: log-probabilities of the choices from the logits float[V] at each place where they part,
    and their tokens there (-1: not there). Over the whole vocabulary at the first place, among the choices
    behind it. NaN throughout where a logit is not finite."""
    scores = np.zeros(len(parting[0][1]))
    for place, (logits, tokens) in enumerate(parting):
        if not bool(torch.isfinite(logits).all()):
            return np.full(len(scores), np.nan)
        whole = torch.log_softmax(logits.double(), dim=-1)
        rest = sorted({token for token in tokens if token >= 0})
        lost = torch.logsumexp(whole[rest], 0).item() if place else 0.0
        scores += [whole[token].item() - lost if token >= 0 else 0.0 for token in tokens]
    return scores


def _segments_in(row: Sequence[Segment], tokens: int) -> int:
    """How many whole segments the first `tokens` tokens are."""
    count = 0
    while tokens > 0:
        tokens -= len(row[count].ids)
        count += 1
    return count


def _causal(seen: int, count: int, like: torch.Tensor) -> torch.Tensor:
    """[1, 1, count, seen + count]: 0 where a token may look, else the least number. Whole masks of ours, as
    transformers takes a vision block's equal positions for the seam of two packed texts without one, and
    spends longer on making one than a short suffix takes to run."""
    places = torch.arange(seen + count, device=like.device)
    ahead = places[None, :] > places[seen:, None]
    mask = torch.zeros(count, seen + count, dtype=like.dtype, device=like.device)
    return mask.masked_fill(ahead, torch.finfo(like.dtype).min)[None, None]


def _stop_tokens(model: Any) -> set[int]:
    stop = model.generation_config.eos_token_id
    return {stop} if isinstance(stop, int) else set(stop or ())


def layout_of(model: Any, folder: Path) -> Layout:
    """The layout that belongs to a loaded checkpoint. Raises `PackageError`."""
    from transformers import AutoTokenizer

    tokenizers: Any = AutoTokenizer
    third = model.config.model_type == "qwen3_vl"
    vision = model.config.vision_config
    rule = load_pixel_rule(folder, vision, video_is_whole=third)
    try:
        tokenizer = tokenizers.from_pretrained(folder)
    except Exception as error:  # transformers' and tokenizers' own types
        raise PackageError(
            f"tokenizer of {folder}", found=f"{type(error).__name__}: {error}"
        ) from error
    layout = Layout(
        tokenizer,
        rule,
        timestamps=third,
        tokens_per_second=int(getattr(vision, "tokens_per_second", 1)),
    )
    config = model.config
    layout.check_tokens(config.image_token_id, config.video_token_id)
    return layout
