"""The network's promises: antisymmetry, what it was trained by, and that training is repeatable."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from contracts.language import UNKNOWN_ID, encode
from tests.trainer.rewards.conftest import SETTINGS
from trainer.rewards import train_edge
from trainer.rewards.data import BatchSampler, Clip
from trainer.rewards.demonstrations import Adapter, demonstration, replayed, with_context
from trainer.rewards.edge_model import EdgeHead, EdgeShape
from trainer.rewards.train_edge import (
    Edge,
    TrainSettings,
    calibrate,
    embed_clip,
    fit,
    load,
    losses,
    new_edge,
    save,
    score,
    train,
)


@pytest.mark.parametrize("context", [0, 12])
def test_contrastive_is_antisymmetric(context: int) -> None:
    torch.manual_seed(0)
    shape = EdgeShape(vocabulary_size=30, context=context)
    head = EdgeHead(shape).eval()
    if context:
        head.context.data.normal_()
        head.context_progress.data.uniform_()
    first, a, b = torch.randn(3, 8, shape.embedding_size).unbind(0)
    tokens = torch.randint(2, 30, (8, shape.instruction_length))
    forth, back = head(first, a, b, tokens)[2], head(first, b, a, tokens)[2]
    assert forth.abs().max() > 1e-4
    assert (forth + back).abs().max() <= 1e-6
    assert head(first, a, a, tokens)[2].abs().max() <= 1e-6


def test_a_short_training_run_reduces_the_loss_and_is_deterministic(
    edge: Edge, clips: list[Clip]
) -> None:
    again = train(clips, SETTINGS)
    for name, tensor in edge.head.state_dict().items():
        if not name.startswith("ground"):
            assert torch.equal(tensor, again.head.state_dict()[name]), name
    length = edge.shape.instruction_length
    sampler = BatchSampler(clips, edge.vocabulary, length, np.random.default_rng(5), augment=False)
    batch = sampler.draw()
    fresh = new_edge(edge.shape, edge.vocabulary, SETTINGS.seed)
    with torch.no_grad():
        before = sum(float(v) for v in losses(fresh, batch, SETTINGS).values())
        after = sum(float(v) for v in losses(edge, batch, SETTINGS).values())
    assert after < before - 0.05


def test_training_says_how_far_it_is_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = new_edge(EdgeShape(vocabulary_size=30), (), 0)
    weight = edge.head.process.weight
    clock = itertools.count(0.0, 4.0)  # a step takes 4 s
    monkeypatch.setattr(train_edge, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    said: list[int] = []
    fit(
        *(edge, [weight], lambda: {"process": weight.square().sum()}, TrainSettings(steps=9)),
        lambda step, done, losses: said.append(step),
    )
    assert said == [0, 3, 6, 8]


def test_ground_is_zero_for_unknown_words_and_falls_for_strange_pictures(
    edge: Edge, clips: list[Clip]
) -> None:
    embeddings = embed_clip(edge.trunk, clips[1])
    said = clips[1].record.goals[0].instructions[0]
    assert score(edge, embeddings, said)["ground"].min() > 0.5
    assert score(edge, embeddings, f"{said} quickly")["ground"].max() == 0.0
    assert UNKNOWN_ID in encode("put the teapot away", edge.vocabulary, 16)
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 128, 3), dtype=np.uint8)
    strange = edge.trunk(torch.from_numpy(noise), torch.from_numpy(noise)).detach()
    assert score(edge, strange, said)["ground"].max() < 0.5


def test_calibration_bounds_false_positives(edge: Edge, clips: list[Clip]) -> None:
    figures = calibrate(edge, clips[:6], 0.02)
    assert figures["frame_fpr"] <= 0.02 + 1e-6
    assert 0.5 <= edge.settings["completion_threshold"] <= 0.99


def test_saved_models_load_alike(edge: Edge, clips: list[Clip], tmp_path: Path) -> None:
    save(edge, tmp_path / "model")
    twin = load(tmp_path / "model")
    said = clips[1].record.goals[0].instructions[0]
    mine, other = (
        score(one, embed_clip(one.trunk, clips[1]), said)["completion"] for one in (edge, twin)
    )
    assert np.allclose(mine, other, atol=1e-6)
    assert twin.examples.keys() == edge.examples.keys()


def test_adaptation_starts_from_the_base_and_carries_the_demonstrations(
    edge: Edge, clips: list[Clip]
) -> None:
    played = [c for c in clips if c.record.rate_hz and c.record.task == "put_on"]
    said = played[0].record.goals[0].instructions[0]
    embeddings = embed_clip(edge.trunk, played[0])
    adapted = with_context(edge, 16)
    before = score(edge, embeddings, said)["completion"]
    assert np.allclose(before, score(adapted, embeddings, said)["completion"], atol=1e-6)
    examples = [demonstration(edge, said, c.pictures("front"), c.pictures("wrist")) for c in played]
    replay = replayed(edge, [c for c in clips if c.record.rate_hz] * 4, np.random.default_rng(0))
    adapter = Adapter(adapted, examples, replay, seed=0)
    if not adapter.kinds:  # too few successes among so few clips
        adapter.kinds = [replay[0].kind]
        adapter.by_kind = {replay[0].kind: list(range(4))}
    adapter.run(TrainSettings(steps=3, learning_rate=1e-3))
    head = adapted.head
    assert head.context.abs().sum() > 0
    assert float(head.context_progress.max()) == 1.0
    assert not np.allclose(before, score(adapted, embeddings, said)["completion"], atol=1e-6)
