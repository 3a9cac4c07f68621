"""A vision-language checkpoint -> a package that scores in one forward pass: vision and prefill graphs,
prompts in tokens, golden vectors. The reference is the trainer's reward model `vlm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import nn

from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package
from contracts.frames import Video
from contracts.pictures import PictureRule, prepare
from contracts.specs import CameraSpec, ObservationSpec
from contracts.vlm import PREFILL, VISION, VlmSpec
from contracts.vlm_prompts import clips_of, lay_out
from export.onnx import GraphSource
from export.package import draft_manifest, export_package, torch_outputs
from export.pictures import recorded
from export.preprocessors import FILTERS, read_json, require_kind, require_usual, three
from export.provenance import of_checkpoint, versions
from export.towers.prefill import Prefill
from export.towers.sequencers import SmolVlm, qwen
from export.towers.vision import QwenVision, SmolVision
from export.vlm_prompts import Sequencer, prepare_prompts, renumbered
from trainer.rewards.vlm.asking import Asking, question_of
from trainer.rewards.vlm.loading import OUR_LAYOUT, Loaded, checkpoint_identity, find, load
from trainer.rewards.vlm.question import Question
from trainer.rewards.vlm.roboreward import RoboReward

KINDS = (*OUR_LAYOUT, "smolvlm")
_GOLDEN_FRAMES = 8


@dataclass(frozen=True)
class VlmOptions:
    """`camera_size` (width, height): pictures of the robot's `camera`; `pixels`: most of a frame as it is
    shown (SmolVLM has a size of its own); `normaliser`: the prefill also gives the sum over the whole
    vocabulary, so that an answer that is none of the choices abstains (costs the whole output matrix)."""

    instructions: tuple[str, ...]
    camera: str = "front"
    camera_size: tuple[int, int] = (640, 480)
    pixels: int = 256 * 256
    asking: Asking = field(default_factory=Asking)
    normaliser: bool = True
    exporter: str = "legacy"


@dataclass(frozen=True)
class _Family:
    """What differs between checkpoints' classes. `vision`: the module; `text`, `head`: of the language
    model; `dated`, `encode`: see `prepare_prompts`; `outputs`: the vision graph's."""

    vision: nn.Module
    text: Any
    head: nn.Linear
    spec: VlmSpec
    questions: list[Question]
    sequencer: Sequencer
    encode: Any
    dated: bool
    outputs: tuple[str, ...]


def export_vlm(source: str, pictures: Path, folder: Path, options: VlmOptions) -> Package:
    """Package of the checkpoint in folder (or of name) `source`; `pictures`: recorded ones for the golden
    vectors. Raises `PackageError`, `ConfigError`."""
    if not options.instructions or len(set(options.instructions)) < len(options.instructions):
        raise ConfigError(
            "instructions of the package",
            expected="one or more, all different",
            found=options.instructions,
        )
    frames = recorded(pictures, _GOLDEN_FRAMES)
    checkpoint = find(source)
    # Before transformers is asked, which answers a foreign kind with a page.
    require_kind(checkpoint, KINDS, "robot-export encoder takes CLIP and SigLIP")
    loaded = load(str(checkpoint), dtype="float32", device="cpu")
    # Whole matrices and a softmax: what every engine has.
    loaded.model.set_attn_implementation("eager")
    family = _smolvlm(loaded, options) if loaded.kind == "smolvlm" else _qwen(loaded, options)
    shown = max([4, *(q.frames.most for q in family.questions if isinstance(q, RoboReward))])
    wide, high = options.camera_size
    blank = np.zeros((shown, high, wide, 3), np.uint8)
    video = Video({options.camera: blank}, np.arange(shown) * 10.0, np.arange(shown))
    raw = prepare_prompts(
        family.spec,
        family.questions,
        options.instructions,
        family.sequencer,
        family.encode,
        video,
        dated=family.dated,
    )
    spec, vocabulary, scores = renumbered(raw)
    spec.check()
    prefill = Prefill(family.text, family.head, vocabulary, scores, whole=options.normaliser)
    return _package(folder, loaded, options, family, spec, prefill.eval(), frames)


def _package(
    folder: Path,
    loaded: Loaded,
    options: VlmOptions,
    family: _Family,
    spec: VlmSpec,
    prefill: Prefill,
    frames: np.ndarray,
) -> Package:
    scaled = np.stack([prepare(frame, spec.picture) for frame in frames])
    seen = [{"frames": _patch(scaled, (row, row + 1), spec.temporal)} for row in range(len(scaled))]
    vision = GraphSource(VISION, family.vision, seen[0], family.outputs, frozen=True)
    asked = _golden_prompts(spec, vision, scaled, options)
    outputs = ("logits", "normaliser") if options.normaliser else ("logits",)
    language = GraphSource(PREFILL, prefill, asked[0], outputs, frozen=True)
    wide, high = options.camera_size
    rate = max(question.frames.rate_hz for question in spec.questions)
    draft = draft_manifest(
        model="vlm",
        architecture=loaded.kind,
        observation=ObservationSpec((CameraSpec(options.camera, wide, high, rate),), (), ()),
        action=None,
        image_width=spec.picture.width,
        image_height=spec.picture.height,
        cameras=(options.camera,),
        vocabulary=(),
        instruction_length=0,
        provenance=of_checkpoint(
            "vlm",
            loaded.folder,
            versions("torch", "transformers", "onnx"),
            f"checkpoint {checkpoint_identity(loaded.folder, {}, 'float32')[:16]}",
        ),
        vlm=spec,
    )
    golden = {VISION: seen, PREFILL: asked}
    return export_package(folder, draft, (vision, language), golden, (), options.exporter)


def _golden_prompts(
    spec: VlmSpec, vision: GraphSource, scaled: np.ndarray, options: VlmOptions
) -> list[dict[str, np.ndarray]]:
    """Each question's first prompt about the recorded pictures, as the prefill is given it."""
    count = len(scaled)
    video = Video({options.camera: scaled}, np.arange(count) / 2.0, np.arange(count))
    cases = []
    for asked in spec.questions:
        for clips in clips_of(asked, video)[:1]:
            laid = lay_out(spec, asked.prompts[options.instructions[0]], clips)[0]
            looked = [
                torch_outputs(
                    vision, vision.module, {"frames": _patch(scaled, rows, spec.temporal)}
                )
                for rows in laid.patches
            ]
            case = {"tokens": laid.tokens, "positions": laid.positions, "last": laid.last}
            for name in vision.outputs:
                found = np.concatenate([look[name] for look in looked], axis=-2)
                whole = spec.most_patches * spec.patch_tokens
                held = np.zeros((*found.shape[:-2], whole, found.shape[-1]), np.float32)
                held[..., : found.shape[-2], :] = found
                case[name] = held
            cases.append(case)
    return cases


def _patch(scaled: np.ndarray, rows: Sequence[int], temporal: int) -> np.ndarray:
    """uint8[temporal, H, W, 3]: these frames, the last again where there are fewer."""
    chosen = [min(row, len(scaled) - 1) for row in rows][:temporal]
    return scaled[chosen + chosen[-1:] * (temporal - len(chosen))]


def _questions(options: VlmOptions, pixels: int, multiple: int) -> list[Question]:
    asking = msgspec.structs.replace(options.asking, cameras=(options.camera,))
    return [
        question_of(signal, asking, video_pixels=pixels, picture_pixels=pixels, multiple=multiple)
        for signal in asking.signals
    ]


def _spec(options: VlmOptions, picture: PictureRule, **fields: Any) -> VlmSpec:
    asking = options.asking
    return VlmSpec(
        picture=picture,
        most_patches=0,
        length=0,
        first_seen=0,
        questions=(),
        normaliser=options.normaliser,
        least_mass=asking.least_mass,
        completion_threshold=asking.completion_threshold,
        completion_consecutive=asking.completion_consecutive,
        **fields,
    )


def _qwen(loaded: Loaded, options: VlmOptions) -> _Family:
    from transformers import AutoTokenizer

    from trainer.rewards.vlm.qwen import layout_of

    if options.pixels <= 0:
        raise ConfigError("pixels of a frame", expected="above 0: the graph's grid is fixed")
    net = loaded.model
    layout = layout_of(net, loaded.folder)
    rule = layout.rule
    questions = _questions(options, options.pixels, rule.multiple)
    wide, high = questions[0].frames.size(*options.camera_size)
    tokenizers: Any = AutoTokenizer
    tokenizer = tokenizers.from_pretrained(loaded.folder)
    third = loaded.kind == "qwen3_vl"
    spec = _spec(
        options,
        PictureRule(wide, high),
        temporal=rule.temporal,
        rows=high // rule.multiple,
        columns=wide // rule.multiple,
        grid=True,
        tokens_per_second=int(getattr(net.config.vision_config, "tokens_per_second", 1)),
    )
    vision = QwenVision(net.model.visual, rule, (wide, high)).eval()
    return _Family(
        vision=vision,
        text=net.model.language_model,
        head=net.lm_head,
        spec=spec,
        questions=questions,
        sequencer=qwen(layout),
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
        dated=third,
        outputs=("features", "deep")
        if third and net.model.visual.deepstack_visual_indexes
        else ("features",),
    )


def _smolvlm(loaded: Loaded, options: VlmOptions) -> _Family:
    from transformers import AutoTokenizer

    net, folder = loaded.model, loaded.folder
    settings = read_json(folder / "preprocessor_config.json")
    require_usual(settings)
    side = int(net.config.vision_config.image_size)
    tokenizers: Any = AutoTokenizer
    tokenizer = tokenizers.from_pretrained(folder)
    template = _template(folder) or tokenizer.chat_template
    if not template:
        raise PackageError(f"{folder} has no chat template", remedy="use an Instruct model")
    vectors = int(net.model.image_seq_len)
    picture = tokenizer.convert_ids_to_tokens(net.config.image_token_id)
    sequencer = SmolVlm(tokenizer, template, picture, vectors)
    mean, std = three(settings, "image_mean"), three(settings, "image_std")
    rule = PictureRule(side, side, FILTERS[int(settings.get("resample", 1))])
    return _Family(
        vision=SmolVision(net.model, mean, std).eval(),
        text=net.model.text_model,
        head=net.lm_head,
        spec=_spec(options, rule, temporal=1, rows=1, columns=vectors, grid=False),
        questions=_questions(options, 0, 1),
        sequencer=sequencer,
        encode=sequencer.encode,
        dated=False,
        outputs=("features",),
    )


def _template(folder: Path) -> str:
    written = folder / "chat_template.jinja"
    if written.is_file():
        return written.read_text(encoding="utf-8")
    found = (
        read_json(folder / "chat_template.json")
        if (folder / "chat_template.json").is_file()
        else {}
    )
    return str(found.get("chat_template", ""))
