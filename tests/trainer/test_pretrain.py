"""Pretraining on glances: labels land on the right cells, many questions equal single ones, runs repeat."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from tiny_flow import make_config, make_examples, make_policy
from typer.testing import CliRunner

from contracts import language
from contracts.errors import ConfigError, PackageError
from contracts.package import Provenance
from trainer import glances as seen
from trainer.app import app
from trainer.checkpoint import Checkpoint
from trainer.policies.flow import FlowPolicy
from trainer.policies.vision import CELL_PX, CameraEncoder
from trainer.pretrain import PretrainOptions, check_start, pointing_loss, pretrain
from trainer.training import Progress

pytest.importorskip("mujoco", reason="glances are recorded on the bench (extra: sim)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from runtime.bench import glances

    path = tmp_path_factory.mktemp("glances") / "few"
    tasks = ["put_on", "open_drawer", "lift"]
    assert glances.main(
        ["--scenes", "6", "--moments", "3", "--workers", "1", "--output", str(path), "--tasks", *tasks]
    ) == 0  # fmt: skip
    return path


def _read(folder: Path) -> seen.Glances:
    texts = seen.instructions([folder])
    return seen.read([folder], vocabulary=language.build_vocabulary(texts), instruction_length=16)


def test_glances_hold_what_they_say(folder: Path) -> None:
    found = _read(folder)
    count = len(found)
    assert 6 <= count <= 18
    assert found.images["front"].shape == (count, 96, 128, 3)
    assert found.texts.shape == (count, seen.ROWS)
    assert found.points.shape == (count, seen.ROWS, 2, 3)
    assert np.isfinite(found.points[:, 0, 0]).all(), "the own thing is always somewhere"
    inside = found.pixels[np.isfinite(found.pixels).all(-1)]
    assert (inside >= 0).all() and (inside < (128, 96)).all()
    assert np.isfinite(found.pixels[:, 0, 0, 0]).mean() > 0.8, "the front camera sees most of it"


def test_a_projected_label_is_where_the_simulator_draws_the_thing(folder: Path) -> None:
    """A red cube's label lies on red pixels in most pictures (the hand may hide it)."""
    texts = seen.instructions([folder])
    found = _read(folder)
    hits = []
    for moment in range(len(found)):
        for row in range(seen.ROWS):
            words = texts[found.texts[moment, row]].split()
            colours = [w for w in words if w in ("red", "green", "blue")]
            column, line = found.pixels[moment, row, 0, 0]
            if not colours or not np.isfinite(column):
                continue
            patch = (
                found.images["front"][moment][
                    max(int(line) - 2, 0) : int(line) + 3, max(int(column) - 2, 0) : int(column) + 3
                ]
                .reshape(-1, 3)
                .astype(int)
            )
            channel = {"red": 0, "green": 1, "blue": 2}[colours[0]]
            others = [k for k in range(3) if k != channel]
            hits.append(((patch[:, channel] - patch[:, others].max(1)) > 15).any())
    assert len(hits) >= 5, "too few coloured things to judge by"
    assert np.mean(hits) > 0.6


def test_pointing_loss_is_least_where_the_pixel_is() -> None:
    rows, columns = 24, 32
    pixel = np.array([[[50.7, 33.1], [np.nan, np.nan]]], np.float32)
    scores = torch.zeros(1, 2, rows * columns + 1, requires_grad=True)
    optimiser = torch.optim.Adam([scores], lr=0.3)
    for _ in range(400):
        optimiser.zero_grad()
        pointing_loss(scores, pixel, (1, 96, 128, 3)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    attention = scores.detach().softmax(2)[0]
    grid_x = (np.arange(columns) + 0.5) * CELL_PX
    grid_y = (np.arange(rows) + 0.5) * CELL_PX
    there = attention[0, :-1].reshape(rows, columns).numpy()
    assert there.sum() > 0.98
    assert (there.sum(0) * grid_x).sum() == pytest.approx(50.7, abs=1.0)
    assert (there.sum(1) * grid_y).sum() == pytest.approx(33.1, abs=1.0)
    assert float(attention[1, -1]) > 0.98, "a thing out of view is nowhere"


def test_many_questions_of_one_picture_equal_single_ones() -> None:
    torch.manual_seed(0)
    encoder = CameraEncoder(96, 128).eval()
    images = torch.randint(0, 255, (2, 96, 128, 3), dtype=torch.uint8)
    phrases = torch.randn(6, encoder.nowhere.in_features)
    _, cells = encoder.look(images)
    together = encoder.ask(cells, phrases)[0]
    told = CameraEncoder.FOUND + CameraEncoder.POINTS
    assert together.shape == (6, told)
    for picture in range(2):
        for question in range(3):
            row = 3 * picture + question
            alone = encoder(images[picture : picture + 1], phrases[row : row + 1])
            torch.testing.assert_close(together[row], alone[0, -told:])


def test_two_folders_are_read_one_after_the_other(folder: Path) -> None:
    """The second one's instructions keep their meaning: each folder has numbered its own."""
    one = _read(folder)
    words = language.build_vocabulary(seen.instructions([folder]))
    two = seen.read([folder, folder], vocabulary=words, instruction_length=16)
    assert len(two) == 2 * len(one)
    for part in (slice(0, len(one)), slice(len(one), None)):
        np.testing.assert_array_equal(two.images["wrist"][part], one.images["wrist"])
        np.testing.assert_array_equal(two.tokens[two.texts[part]], one.tokens[one.texts])
    some = seen.read([folder, folder], vocabulary=words, instruction_length=16, most=len(one) + 3)
    assert len(some) == len(one) + 3


def _policy(folder: Path, found: seen.Glances) -> FlowPolicy:
    torch.manual_seed(0)
    policy = FlowPolicy(
        make_config(
            vocabulary=language.build_vocabulary(seen.instructions([folder])),
            image_height=96,
            image_width=128,
            instruction_length=16,
            chunk_length=16,
            features=48,
        )
    )
    policy.set_statistics(found.states[found.acted], found.chunks[found.acted])
    return policy


def test_pretraining_repeats_itself_bit_for_bit_and_learns(folder: Path) -> None:
    found = _read(folder)
    losses: list[float] = []

    def run() -> FlowPolicy:
        options = PretrainOptions(steps=25, batch=8, rate=2e-3)
        return pretrain(_policy(folder, found), found, options, lambda at: losses.append(at.loss))

    first, second = run(), run()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert losses[0] == losses[1] and losses[0] < 20.0


def test_a_stopped_pretraining_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.pretrain.CHECKPOINT_EVERY", 10)
    found = _read(folder)
    options = PretrainOptions(steps=50, batch=8, rate=2e-3)
    checkpoint = Checkpoint(tmp_path / "checkpoint.safetensors", "these glances")

    def power_cut(at: Progress) -> None:
        if at.step < at.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(_policy(folder, found), found, options, power_cut, checkpoint)
    steps: list[int] = []
    saved = checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda step, *rest: (steps.append(step), saved(step, *rest))
    )
    stopped = pretrain(_policy(folder, found), found, options, checkpoint=checkpoint)
    assert steps == [30, 40, 50], "it went on from the step 20 that it had saved"
    whole = pretrain(_policy(folder, found), found, options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]), name
    with pytest.raises(PackageError, match="another training"):
        pretrain(
            _policy(folder, found),
            found,
            options,
            checkpoint=Checkpoint(tmp_path / "checkpoint.safetensors", "other glances"),
        )
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(PackageError, match="damaged"):
        pretrain(_policy(folder, found), found, options, checkpoint=checkpoint)


def test_a_start_that_does_not_fit_is_refused() -> None:
    wanted = make_config()
    check_start(make_config(vocabulary=(*wanted.vocabulary, "tray")), wanted, "x")
    with pytest.raises(ConfigError, match=r"words.*drawer"):
        check_start(make_config(vocabulary=("open", "the")), wanted, "x")
    with pytest.raises(ConfigError, match="pictures"):
        check_start(make_config(image_width=64), wanted, "x")


def test_another_split_or_an_unfinished_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished glances"):
        seen.instructions([tmp_path])
    meta = json.loads((folder / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "split": "eval"}))
    with pytest.raises(ConfigError, match="split"):
        seen.instructions([tmp_path])


def test_a_head_learns_from_what_the_expert_does_in_glances(folder: Path, tmp_path: Path) -> None:
    found = _read(folder)
    policy = _policy(folder, found)
    policy.save(tmp_path / "trunk", seen.examples(found), Provenance("t", 0, "", "", 0.0, {}))
    told = _imitate(tmp_path / "base", "--glances", folder, "--start", tmp_path / "trunk")
    assert told.exit_code == 0, (told.output, told.exception)
    before, after = policy.state_dict(), FlowPolicy.load(tmp_path / "base").state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed and all(name.startswith("head.") for name in changed)
    base = FlowPolicy.load(tmp_path / "base").config
    assert base.provenance is not None
    assert base.provenance.data == f"few: glances, {found.acted.sum()} steps"


def test_only_what_an_expert_did_about_its_own_instruction_is_imitated(
    folder: Path, tmp_path: Path
) -> None:
    shard = next(iter(folder.glob("shard-*.npz")))
    with np.load(shard) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["acted"] = np.arange(len(arrays["acted"])) % 3 == 1
    shutil.copytree(folder, tmp_path / "some")
    np.savez(tmp_path / "some" / shard.name, **arrays)
    every = _read(tmp_path / "some")
    words = language.build_vocabulary(seen.instructions([folder]))
    acted = {"vocabulary": words, "instruction_length": 16, "acted": True}
    some = seen.samples(seen.read([tmp_path / "some"], **acted))  # type: ignore[arg-type]
    assert len(some) == every.acted.sum() < len(every)
    np.testing.assert_array_equal(some.chunks, every.chunks[every.acted])
    np.testing.assert_array_equal(some.images["wrist"], every.images["wrist"][every.acted])
    own = every.tokens[every.texts[every.acted, 0]]
    np.testing.assert_array_equal(some.tokens, own)
    few = seen.read([tmp_path / "some"], most=1, **acted)  # type: ignore[arg-type]
    np.testing.assert_array_equal(few.chunks, some.chunks[:1])
    np.savez(tmp_path / "some" / shard.name, **{**arrays, "acted": 0 * arrays["acted"]})
    with pytest.raises(ConfigError, match="not one moment"):
        seen.read([tmp_path / "some"], **acted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "found neither"),
        (("--data", "x", "--glances", "x", "--start", "x"), "found both"),
        (("--glances", "x"), "--glances without --start"),
        (("--glances", "x", "--start", "x", "--every", "2"), "are about --data"),
    ],
)
def test_what_to_imitate_must_be_clear(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    told = _imitate(tmp_path / "base", *arguments)
    assert isinstance(told.exception, ConfigError) and says in str(told.exception)


def test_a_trunk_for_other_pictures_imitates_no_glances(folder: Path, tmp_path: Path) -> None:
    make_policy().save(tmp_path / "trunk", make_examples(), Provenance("t", 0, "", "", 0.0, {}))
    told = _imitate(tmp_path / "base", "--glances", folder, "--start", tmp_path / "trunk")
    assert isinstance(told.exception, ConfigError) and "other pictures" in str(told.exception)


def _imitate(output: Path, *arguments: object) -> Result:
    fixed = ("--trunk-rate", "0", "--new-head", "--steps", "3", "--batch", "8", "--views", "2")
    given = [str(one) for one in (*arguments, *fixed, "--noise", "0", "--output", output)]
    return CliRunner().invoke(app, ["imitate", *given])
