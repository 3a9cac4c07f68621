"""The demo-conditioned head begins where the zero-shot one stands, and learns words of demonstrations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.errors import EntracteError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.language import unknown_words
from runtime.bench import clips as recorder
from trainer.outcomes import successful
from trainer.rewards.data import Clip, load_clips
from trainer.rewards.demonstrations import demonstration, read_demonstrations, with_context
from trainer.rewards.recipe import adapt_to
from trainer.rewards.train_edge import Edge, TrainSettings, embed_clip, load, save, score

NEW = "jiggle the red thingamabob"


def test_room_for_demonstrations_changes_nothing_yet(edge: Edge, clips: list[Clip]) -> None:
    clip = clips[1]
    said = clip.record.goals[0].instructions[0]
    embeddings = embed_clip(edge.trunk, clip)
    before = score(edge, embeddings, said)
    for new in ((), (NEW, said)):
        after = score(with_context(edge, 16, new), embeddings, said)
        for name, value in before.items():
            np.testing.assert_allclose(after[name], value, atol=1e-6)


def test_words_that_only_demonstrations_say_join_the_vocabulary(
    edge: Edge, clips: list[Clip]
) -> None:
    pictures = [clips[1].pictures(camera) for camera in ("front", "wrist")]
    with pytest.raises(EntracteError, match="jiggle"):
        demonstration(edge, NEW, *pictures)
    wider = with_context(edge, 16, [NEW, NEW])
    assert wider.vocabulary[: len(edge.vocabulary)] == edge.vocabulary
    assert not unknown_words(NEW, wider.vocabulary)
    assert len(wider.vocabulary) == len(edge.vocabulary) + len(unknown_words(NEW, edge.vocabulary))
    words = wider.head.instruction.words.weight.detach()
    assert len(words) == len(wider.vocabulary) + 2
    fresh = words[len(edge.vocabulary) + 2 :]
    assert 0.3 < float(fresh.std() / words[2 : len(edge.vocabulary) + 2].std()) < 3.0
    assert demonstration(wider, NEW, *pictures).is_demonstration


def test_only_what_shows_how_it_is_done_is_read_as_a_demonstration(tmp_path: Path) -> None:
    cameras = [f"observation.images.{camera}" for camera in ("front", "wrist")]
    features = {camera: Feature("video", (32, 32, 3)) for camera in cameras}
    features["action"] = Feature("float32", (2,))
    ends = (
        ("record", "operator", None),
        ("record", "operator", False),
        ("record", "aborted", None),
        ("record", "fault", None),
        ("refine", "time_limit", None),
        ("refine", "completed", True),
        ("", "", None),  # LeRobot's own
    )
    extras = [
        {"start": {"purpose": p}, "end": {"reason": reason, "operator_success": label}} if p else {}
        for p, reason, label in ends
    ]
    taken = [0, 5, 6]
    with DatasetWriter.create(tmp_path / "set", 10, features, "toy") as writer:
        for n, extra in enumerate(extras):
            pictures = dict.fromkeys(cameras, [np.zeros((32, 32, 3), np.uint8)] * 4)
            columns = {"action": np.zeros((4, 2), np.float32)}
            writer.add_episode(columns, pictures, depth=None, task=f"task {n}", extra=extra)
    # What `robot-trainer imitate` and the refiners take, too.
    assert [n for n, extra in enumerate(extras) if successful({"extra": extra})] == taken
    said = [text for text, _, _ in read_demonstrations(tmp_path / "set", 2, 10.0)]
    assert said == ["task 0", "task 5"], "the first two of those that count"
    with DatasetWriter.create(tmp_path / "none", 10, features, "toy") as writer:
        writer.add_episode(columns, pictures, depth=None, task="task", extra=extras[2])
    with pytest.raises(EntracteError, match="no demonstration"):
        read_demonstrations(tmp_path / "none", 2, 10.0)


def test_a_task_of_new_words_is_adapted_to_saved_and_judged(edge: Edge, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    work = [("open_drawer", 300 + k, False) for k in range(14)]
    recorder.record(folder, 0, work, "train", ("expert", "failure"))
    meta = {
        "format": 1,
        "split": "train",
        "width": 128,
        "height": 96,
        "command": "test",
        "fx": 93.0,
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    done = [clip for clip in load_clips([folder]) if clip.success[0, -1]][:2]
    shown = [(NEW, c.pictures("front"), c.pictures("wrist")) for c in done]
    with torch.no_grad():
        first = score(with_context(edge, 16, [NEW]), embed_clip(edge.trunk, done[0]), NEW)
    adapted, _ = adapt_to(edge, shown, [folder], [], TrainSettings(steps=3, learning_rate=1e-3))
    save(adapted, tmp_path / "adapted")
    again = load(tmp_path / "adapted")
    assert again.trained_on["demonstrated"] == [NEW]
    found = score(again, embed_clip(again.trunk, done[0]), NEW)
    assert np.isfinite(found["completion"]).all()
    assert found["ground"].max() > 0, "its words are known now"
    assert not np.allclose(found["completion"], first["completion"])
