"""The prompts of a vision-language reward model in tokens: what a robot needs in place of the tokenizer.

Tokens are prepared for a list of instructions. A tokenizer on the robot would be a second copy of the
prompt code and pulls a network client in (`tokenizers` needs huggingface_hub); what a robot is told to do
is known when its package is made. Each prompt is compared, token by token, with what the trainer's reward
model lays out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from contracts.errors import PackageError
from contracts.frames import Video
from contracts.vlm import Asked, Branch, PromptTokens, TimeTokens, VlmSpec
from contracts.vlm_prompts import Laid, clips_of, lay_out
from trainer.rewards.vlm.lrm import Completion, Contrastive, Progress
from trainer.rewards.vlm.question import Clip, Prompt, Question
from trainer.rewards.vlm.roboreward import SCORES, RoboReward

UNSEEN = 1 << 40
"""First number of a picture's vectors while tokens are still the checkpoint's."""
_VIDEOS = 24
"""Random videos that the prompts are compared on."""
_EVEN_S = 10.0
"""Apart: slower than any frame contract looks."""
_LATEST_S = 5999.9
"""Times beyond this say nothing new: an episode of 100 minutes."""


@dataclass(frozen=True)
class Laying:
    """A prompt up to a place where its choices part. `texts`: token ids before each temporal patch, and
    behind the last; `positions` int64[3, L] of all tokens; `choices`: each choice's next token, or -1."""

    texts: tuple[tuple[int, ...], ...]
    positions: np.ndarray
    choices: tuple[int, ...]


Sequencer = Callable[[Prompt], list[Laying]]
"""A checkpoint's own layout of a prompt: one sequence for each place where its choices part."""


def asked_of(question: Question, video: Video) -> Asked:
    """A question of the trainer's, its prompts still to come. Raises `PackageError` for one that a package
    can't hold (`topreward` looks at the first moment in a pass of its own)."""
    values: dict[str, tuple[float, ...]] = {}
    count = len(question.text.choices)
    if isinstance(question, RoboReward):
        values["process"] = tuple(float(v) for v in np.linspace(0, 1, SCORES))
        values["completion"] = (0.0,) * (SCORES - 1) + (1.0,)
    elif isinstance(question, Progress):
        values["process"] = tuple(float(v) for v in np.linspace(0, 1, count))
    elif isinstance(question, Completion):
        values["completion"] = (0.0, 1.0)
    elif not isinstance(question, Contrastive):
        raise PackageError(
            f"the question '{question.text.name}' can't go into a package",
            expected="roboreward, progress, completion or contrastive",
            remedy="score it on the workstation (reward model 'vlm')",
        )
    prompt = question.ask(video, "anything")[0]
    newest = video.times_s[-1]
    clips = [
        "video"
        if part.video
        else "last"
        if part.times_s[0] == newest
        else ("earlier" if isinstance(question, Contrastive) else "first")
        for part in prompt.parts
        if isinstance(part, Clip)
    ]
    return Asked(
        name=question.text.name,
        frames=question.frames,
        clips=tuple(clips),  # type: ignore[arg-type]
        choices=question.text.choices,
        prompts={},
        values=values,
        distribution=isinstance(question, RoboReward),
        earlier_s=float(question.settings.get("earlier_s", 0.0)),  # type: ignore[arg-type]
    )


def prepare_prompts(
    draft: VlmSpec,
    questions: Sequence[Question],
    instructions: Sequence[str],
    sequencer: Sequencer,
    encode: Callable[[str], Sequence[int]],
    video: Video,
    *,
    dated: bool,
) -> VlmSpec:
    """`draft` with every question's prompts in the checkpoint's own tokens, and `length` and `most_patches`
    as they need them. `encode`: text -> token ids; `video`: of the robot's camera, of as many frames as are
    ever shown; `dated`: each patch of a video has its time before it. Raises `PackageError` where the
    prompts, taken apart, don't fit together again for other times."""
    times: TimeTokens | None = None
    between: tuple[int, ...] = ()
    made: list[Asked] = []
    for question in questions:
        asked = asked_of(question, video)
        prompts: dict[str, PromptTokens] = {}
        for text in instructions:
            prompt = question.ask(video, text)[0]
            layings = sequencer(prompt)
            if asked.clips == ("video",):
                between, times = _between(layings[0], prompt, draft.temporal, encode, dated)
            prompts[text] = _taken_apart(layings, prompt, draft.temporal, times)
        made.append(msgspec.structs.replace(asked, prompts=prompts))
    whole = msgspec.structs.replace(
        draft,
        questions=tuple(made),
        between=between,
        times=times,
        first_seen=UNSEEN,
        length=1 << 16,
        most_patches=1 << 10,
    )
    length, patches = _compared(whole, questions, sequencer, video)
    return msgspec.structs.replace(whole, length=-(-length // 8) * 8, most_patches=patches)


def renumbered(spec: VlmSpec) -> tuple[VlmSpec, list[int], list[int]]:
    """The spec in the package's own tokens, the checkpoint's token of each of its numbers, and the tokens
    that are read."""
    texts = [
        ids
        for asked in spec.questions
        for prompt in asked.prompts.values()
        for ids in (*prompt.texts, *(branch.ids for branch in prompt.branches))
    ]
    if spec.times is not None:
        texts += [spec.times.digits, (spec.times.point,), spec.times.behind]
    texts.append(spec.between)
    vocabulary = sorted({token for text in texts for token in text})
    number = {token: index for index, token in enumerate(vocabulary)}
    branches = [
        branch
        for asked in spec.questions
        for prompt in asked.prompts.values()
        for branch in prompt.branches
    ]
    scores = sorted({token for branch in branches for token in branch.columns if token >= 0})
    column = {token: index for index, token in enumerate(scores)} | {-1: -1}

    def own(ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(number[token] for token in ids)

    def renumber(prompt: PromptTokens) -> PromptTokens:
        return PromptTokens(
            tuple(map(own, prompt.texts)),
            tuple(Branch(own(b.ids), tuple(column[t] for t in b.columns)) for b in prompt.branches),
        )

    times_own = spec.times and TimeTokens(
        own(spec.times.digits),
        number[spec.times.point],
        own(spec.times.behind),
    )
    asked = tuple(
        msgspec.structs.replace(
            one, prompts={text: renumber(prompt) for text, prompt in one.prompts.items()}
        )
        for one in spec.questions
    )
    renewed = msgspec.structs.replace(
        spec,
        questions=asked,
        between=own(spec.between),
        times=times_own,
        first_seen=len(vocabulary),
    )
    return renewed, vocabulary, scores


def _counts(prompt: Prompt, temporal: int) -> list[tuple[Clip, int]]:
    """Each clip and how many temporal patches it has."""
    clips = [part for part in prompt.parts if isinstance(part, Clip)]
    return [(clip, -(-len(clip.images) // temporal)) for clip in clips]


def _middle(clip: Clip, temporal: int) -> float:
    shown = clip.times_s[:temporal]
    return (float(shown[0]) + float(shown[-1])) / 2


def _between(
    laying: Laying,
    prompt: Prompt,
    temporal: int,
    encode: Callable[[str], Sequence[int]],
    dated: bool,
) -> tuple[tuple[int, ...], TimeTokens | None]:
    """What stands between two patches of the prompt's video, and how their times are said, read off the
    first two."""
    ((clip, _),) = _counts(prompt, temporal)
    first, second = laying.texts[:2]
    if not dated:
        return second, None
    singles = {character: list(encode(character)) for character in "0123456789."}
    odd = {character: len(ids) for character, ids in singles.items() if len(ids) != 1}
    if odd:
        raise PackageError(
            "the tokenizer has no token of its own for each digit",
            expected="one token for each of 0 to 9 and the point",
            found=odd,
        )
    one = {character: ids[0] for character, ids in singles.items()}
    said = tuple(one[character] for character in f"{_middle(clip, temporal):.1f}")
    begins = [i for i in range(len(first)) if first[i : i + len(said)] == said]
    if not begins:
        raise PackageError("times in the prompt", expected="digit by digit", found=first[-12:])
    behind = first[begins[-1] + len(said) :]
    later = clip.times_s[temporal : 2 * temporal]
    length = len(f"{(float(later[0]) + float(later[-1])) / 2:.1f}")
    digits = tuple(one[d] for d in "0123456789")
    between = second[: len(second) - len(behind) - length]
    return between, TimeTokens(digits, one["."], behind)


def _taken_apart(
    layings: Sequence[Laying], prompt: Prompt, temporal: int, times: TimeTokens | None
) -> PromptTokens:
    """Of a dated clip the text ends before the first digit of its first time."""
    texts, at = [], 0
    for clip, count in _counts(prompt, temporal):
        text = layings[0].texts[at]
        if clip.video and times is not None:
            text = text[: -len(times.said(_middle(clip, temporal)))]
        texts.append(text)
        at += count
    branches = tuple(Branch(laying.texts[-1], laying.choices) for laying in layings)
    return PromptTokens(tuple(texts), branches)


def _compared(
    spec: VlmSpec, questions: Sequence[Question], sequencer: Sequencer, video: Video
) -> tuple[int, int]:
    """(tokens, patches) of the longest prompt; raises `PackageError` where ours is not the checkpoint's."""
    rng = np.random.default_rng(0)
    longest = patches = 0
    for turn in range(_VIDEOS):
        part = _some_times(video, rng, longest=turn == 0)
        for question, asked in zip(questions, spec.questions, strict=True):
            for text, tokens in asked.prompts.items():
                asks = question.ask(part, text)
                for prompt, clips in zip(asks, clips_of(asked, part), strict=True):
                    ours = lay_out(spec, tokens, clips)
                    for one, other in zip(ours, sequencer(prompt), strict=True):
                        _require_equal(one, other, spec, asked.name, text)
                        longest = max(longest, int(one.last[0]) + 1)
                        patches = max(patches, len(one.patches))
    return longest, patches


def _some_times(video: Video, rng: np.random.Generator, *, longest: bool) -> Video:
    """The video at other times: at first late and even, so that all is shown and the digits are the most."""
    count = len(video) if longest else int(rng.integers(2, len(video) + 1))
    steps = np.full(count, _EVEN_S) if longest else np.round(rng.uniform(0.1, 3.0, count), 2)
    times = np.cumsum(steps) - steps[0]
    if longest:
        times += _LATEST_S - times[-1]
    views = {camera: images[:count] for camera, images in video.views.items()}
    return Video(views, times, video.steps[:count])


def _require_equal(ours: Laid, other: Laying, spec: VlmSpec, name: str, text: str) -> None:
    used = int(ours.last[0]) + 1
    flat: list[int] = []
    for index, ids in enumerate(other.texts):
        flat += ids
        if index < len(other.texts) - 1:
            first = spec.first_seen + index * spec.patch_tokens
            flat += range(first, first + spec.patch_tokens)
    same = flat == ours.tokens[:used].tolist() and other.choices == ours.columns
    if not same or not np.array_equal(other.positions, ours.positions[:, :used]):
        raise PackageError(
            f"the question '{name}' about {text!r}",
            expected="the same tokens and positions as the checkpoint's own layout",
            found=f"{used} tokens, the checkpoint has {len(flat)}",
            remedy="its tokenizer merges text across a time or a picture; score it on the workstation",
        )
