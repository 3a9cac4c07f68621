"""The reward model `vlm` as a config names it: options checked, model loaded, adapters proven.

Owns the options and their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from contracts.errors import ConfigError
from trainer.rewards.episodes import OnEpisodes
from trainer.rewards.prompts import PromptText, load_prompt
from trainer.rewards.vlm import asking
from trainer.rewards.vlm.asking import Asking, SignalName
from trainer.rewards.vlm.engine import Engine
from trainer.rewards.vlm.loading import (
    OUR_LAYOUT,
    Dtype,
    Loaded,
    Quantize,
    checkpoint_identity,
    load,
    to_int8,
)
from trainer.rewards.vlm.model import Judging, VlmReward
from trainer.rewards.vlm.question import Clip, Prompt, Question

SIGNALS = get_args(SignalName)
_APPEND_PIXELS = 256 * 256
"""Pixels of a frame in an episode that grows: its size may not change when frames are added."""


class Options(Asking, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the reward model `vlm`; see `Asking` for which questions are asked, of `SIGNALS`.

    `model`: a folder, or a name on the Hugging Face hub. `adapters`: signal -> folder of the LoRA adapter
    that answers it. `pixels`: most of a frame (0: the checkpoint's rule, 65536 for layout "append"). `mode`
    "generate": the model writes the score instead of being read. `memory_tokens`, `memory_batch`: the largest
    forward pass that the memory check counts with.
    """

    model: str = ""
    adapters: dict[str, str] = msgspec.field(default_factory=dict)
    dtype: Dtype = "auto"
    quantize: Quantize = "none"
    device: str = "auto"
    threads: int = 0
    mode: Literal["expect", "generate"] = "expect"
    pixels: int = 0
    memory_tokens: int = 4096
    memory_batch: int = 1


def vlm(
    *,
    package: Path | None = None,
    demonstrations: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> OnEpisodes:
    """`RewardModelFactory` of the registry. `package`: the model's folder, in place of option `model`; the
    hub is never asked for it."""
    del demonstrations, seed
    if package and not package.is_dir():
        raise ConfigError(
            f"no folder {package}",
            expected="a vision-language model's",
            remedy="give a name on the Hugging Face hub as the option 'model' (--option model=NAME)",
        )
    chosen = read_options({**({"model": str(package)} if package else {}), **(options or {})})
    return OnEpisodes(make(chosen), chosen.scores_per_s)


def read_options(options: Mapping[str, Any]) -> Options:
    """Raises `ConfigError` for an option that isn't there or has another type."""
    try:
        chosen = msgspec.convert(dict(options), Options)
    except msgspec.ValidationError as error:
        raise ConfigError("options of the reward model 'vlm'", found=str(error)) from error
    if not chosen.model:
        raise ConfigError(
            "options of the reward model 'vlm'",
            expected="model: a folder, or a name such as teetone/RoboReward-4B",
            found="none",
        )
    odd = sorted(set(chosen.adapters) - set(chosen.signals))
    if odd:
        raise ConfigError("adapters of signals", expected=list(chosen.signals), found=odd)
    return chosen


def make(options: Options) -> VlmReward:
    """The loaded model with its questions; every adapter proven, every question answered once.

    Raises `EntracteError` where it won't fit, `PackageError`, `ConfigError`, `MissingDependency`.
    """
    # Once before the model is loaded: a prompt folder that can't be used is known in no time.
    for signal in options.signals:
        question_of(signal, options, 1)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    loaded = load(
        options.model,
        dtype=options.dtype,
        quantize=options.quantize,
        device=options.device,
        tokens=options.memory_tokens,
        batch=options.memory_batch,
    )
    folders = {signal: Path(folder) for signal, folder in options.adapters.items()}
    engine = engine_of(loaded, folders)
    questions = [question_of(signal, options, engine.multiple) for signal in options.signals]
    # Choices that the tokenizer can't tell apart show here, not in the first episode.
    for question in questions:
        engine.choose([probe(question.text)])
    weights = checkpoint_identity(loaded.folder, folders, f"{options.dtype}/{options.quantize}")
    judging = Judging(
        options.least_mass,
        options.completion_threshold,
        options.completion_consecutive,
        options.mode == "generate",
    )
    return VlmReward(engine, questions, weights, judging)


def engine_of(loaded: Loaded, adapters: Mapping[str, Path]) -> Engine:
    """Our own layout for Qwen-VL, the checkpoint's AutoProcessor for any other class.

    Raises `PackageError` for an adapter that isn't in effect.
    """
    if loaded.kind not in OUR_LAYOUT:
        from trainer.rewards.vlm.generic import GenericEngine

        if adapters:
            raise ConfigError("adapters", expected=f"a model of {OUR_LAYOUT}", found=loaded.kind)
        _quantise(loaded)
        return GenericEngine(loaded.model, loaded.folder)
    from trainer.rewards.vlm.adapters import Adapters
    from trainer.rewards.vlm.qwen import QwenEngine, layout_of

    layout = layout_of(loaded.model, loaded.folder)
    held = Adapters(loaded.model, adapters) if adapters else None
    _quantise(loaded)
    engine = QwenEngine(loaded.model, layout, held)
    if held:
        text = load_prompt("completion")
        held.prove(lambda name: engine.logits([probe(text, name)])[0])
    return engine


def _quantise(loaded: Loaded) -> None:
    if loaded.quantize == "int8":
        to_int8(loaded.model, loaded.device)


def probe(text: PromptText, adapter: str = "") -> Prompt:
    """A prompt of fixed content: one small picture with structure in it, one sentence."""
    ramp = np.arange(64, dtype=np.uint8) * 4
    picture = np.stack([*np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None])], axis=2)
    clip = Clip(picture[None], np.zeros(1), video=False, size=None)
    return Prompt((clip, "Is the task done?"), text.answer, text.choices, adapter)


def question_of(signal: SignalName, options: Options, multiple: int) -> Question:
    """The question that gives `signal`; `multiple`: of which the model wants width and height."""
    append = _APPEND_PIXELS if options.layout == "append" else 0
    return asking.question_of(
        signal,
        options,
        video_pixels=options.pixels or append,
        picture_pixels=options.pixels,
        multiple=multiple,
        adapter=signal if signal in options.adapters else "",
    )
