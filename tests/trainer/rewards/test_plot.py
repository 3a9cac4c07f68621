"""What `robot-reward plot` shows: every moment as it would be seen online, abstentions, the film's curves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from contracts.errors import ConfigError, EntracteError
from contracts.files import outputs
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal
from trainer.report.pictures import write_film
from trainer.reward_app import app
from trainer.rewards.data import Clip, read_records
from trainer.rewards.edge import EdgeReward
from trainer.rewards.plot_command import default_name
from trainer.rewards.plotting import MARK, figure
from trainer.rewards.plotting.film import HOLD_LAST_S, frames
from trainer.rewards.plotting.footage import Footage, Wanted, open_footage
from trainer.rewards.plotting.scoring import Scores, score_online

REPOSITORY = Path(__file__).parents[3]
ZERO_SHOT = REPOSITORY / "pretrained" / "reward-zero-shot"
BOTH = ("front", "wrist")


@pytest.fixture(scope="module")
def recorded(clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two played clips as a LeRobotDataset of 10 Hz."""
    root = tmp_path_factory.mktemp("recorded") / "set"
    features = {"observation.state": Feature("float32", (6,)), "action": Feature("float32", (6,))}
    features |= {f"observation.images.{c}": Feature("video", (96, 128, 3)) for c in BOTH}
    with DatasetWriter.create(root, 10, features, "so101") as writer:
        for clip in [clip for clip in clips if clip.record.rate_hz][:2]:
            zeros = np.zeros((clip.record.frames, 6), np.float32)
            writer.add_episode(
                columns={"observation.state": zeros, "action": zeros},
                frames={f"observation.images.{c}": list(clip.pictures(c)) for c in BOTH},
                depth={},
                task=clip.record.goals[0].instructions[0],
            )
    return root


class Fickle:
    """Knows how far an episode is by how much of it there is; fails in its second quarter."""

    model_id, completion_threshold, completion_consecutive = "fickle", 0.5, 2
    contract = FrameContract("append", 2.0, 1, 1000)

    def score(self, video: Video, instruction: str) -> RewardSignal:
        done = len(video) / 20
        if 0.25 < done <= 0.5:
            raise RuntimeError(f"no memory (at {done:.2f})")
        return RewardSignal(
            int(video.steps[-1]), done, float(done > 0.7), uncertainty=0.2, model_id="fickle"
        )


def _video(count: int = 20, cameras: tuple[str, ...] = ("front",)) -> Video:
    images = np.random.default_rng(0).integers(0, 255, (count, 24, 32, 3), np.uint8)
    return Video(dict.fromkeys(cameras, images), np.arange(count) / 2.0, np.arange(count))


def _fickle() -> tuple[Footage, Scores]:
    footage = Footage("twenty frames", _video(), "open the drawer")
    return footage, score_online(Fickle(), footage.video, footage.instruction, range(20))


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "side-by-side.mp4"
    images = np.random.default_rng(1).integers(0, 255, (30, 96, 256, 3), np.uint8)
    write_film(path, iter(images), 10.0)
    return path


def _run(*words: str) -> str:
    done = CliRunner().invoke(app, ["plot", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_clip_of_the_bench_becomes_a_picture_and_a_film_with_the_truth_in_them(
    clip_folder: Path, tmp_path: Path
) -> None:
    played = next(n for n, r in enumerate(read_records(clip_folder)) if r.rate_hz > 0)
    stem = tmp_path / "new" / "clip"
    said = json.loads(
        _run(str(clip_folder), "--episode", str(played), "--output", str(stem), "--json")
    )
    record = read_records(clip_folder)[played]
    assert said["instruction"] == record.goals[0].instructions[0]
    assert len(said["moments"]) == record.frames
    assert cv2.imread(str(stem.with_suffix(".png"))).shape[1] == 11 * 110
    with av.open(str(stem.with_suffix(".mp4"))) as film:
        count = sum(1 for _ in film.decode(video=0))
    assert count == record.frames + round(HOLD_LAST_S * record.rate_hz)
    shown = open_footage(clip_folder, Wanted(episode=played))
    assert shown.truth is not None and len(shown.truth) == record.frames
    other = open_footage(clip_folder, Wanted("dance", episode=played))
    assert other.truth is None


def test_a_moment_is_scored_from_the_frames_up_to_it_alone(recorded: Path) -> None:
    model = EdgeReward(package=ZERO_SHOT, options={"ground_threshold": 0.0})
    whole = open_footage(recorded, Wanted(episode=1, rate_hz=5.0, looked_at=BOTH))
    half = len(whole.video) // 2
    other = {name: view.copy() for name, view in whole.video.views.items()}
    for view in other.values():
        view[half:] = 0
    changed = Video(other, whole.video.times_s, whole.video.steps)
    rows = range(0, len(whole.video), 4)
    before, after = (
        score_online(model, video, whole.instruction, rows).values("process")
        for video in (whole.video, changed)
    )
    known = np.array(rows) < half
    assert np.array_equal(before[known], after[known])
    assert not np.allclose(before[~known], after[~known])


def test_a_model_that_fails_abstains_for_its_moment_and_success_is_called_on_what_was_said() -> (
    None
):
    scores = _fickle()[1]
    assert dict(scores.abstained) == {"the model failed: RuntimeError: no memory": 5}
    assert np.isnan(scores.values("process")).sum() == 5
    # Completion is said from the 15th frame on, twice in a row from the 16th: at 7.5 s.
    assert scores.first_called_s == 7.5
    assert scores.called[6] is None and scores.called[-1] is True
    assert not scores.gives("contrastive")
    assert figure.panels_of(scores) == ["process", "completion"]


def test_a_value_before_an_abstention_holds_until_it_and_no_abstention_is_a_value() -> None:
    _, scores = _fickle()
    times, values = figure.stepped(scores.times_s, scores.values("process"), 10.0)
    # From the 6th frame, at 2.5 s, it abstains until the 11th, at 5 s.
    silent = np.isnan(values)
    assert times[~silent & (times < 3)].max() == 2.5 and values[times == 2.5][0] == 0.25
    assert times[~silent & (times > 3)].min() == 5.0 and times[-1] == 10.0
    ax = figure.Figure().add_subplot()
    figure._abstentions(ax, scores, 10.0)
    (marks,) = ax.lines
    assert marks.get_ydata().min() > 1 and marks.get_transform() == ax.get_xaxis_transform()


def test_a_film_shows_nothing_of_a_curve_before_its_moment() -> None:
    footage, scores = _fickle()
    curves = figure.panels(footage, scores, 640)
    column = round(curves.left + 0.5 * (curves.right - curves.left))
    at_half = curves.at(0.5)
    assert np.array_equal(at_half[:, column + 3 :], curves.empty[:, column + 3 :])
    assert not np.array_equal(curves.full[:, column + 3 :], curves.empty[:, column + 3 :])
    assert np.array_equal(at_half[:, : column - 6], curves.full[:, : column - 6])
    film = [*frames(footage, scores)]
    assert len(film) == 23 and {f.shape for f in film} == {(film[0].shape[0], 960, 3)}


def test_a_file_with_both_cameras_side_by_side_becomes_a_gif(mp4: Path, tmp_path: Path) -> None:
    words = ("--instruction", "open the drawer", "--cameras", "front,wrist", "--gif")
    said = _run(str(mp4), *words, "--output", str(tmp_path / "seen.v1"))
    assert "abstained" in said and "seen.v1.gif" in said
    with av.open(str(tmp_path / "seen.v1.gif")) as film:
        assert sum(1 for _ in film.decode(video=0)) > 10


def test_what_an_earlier_plot_drew_is_drawn_again_and_nothing_else_is(
    mp4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default a film is called like its video, which may lie in the same folder, and like the model."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(mp4, "holiday.mp4")
    before = Path("holiday.mp4").read_bytes()
    words = ("holiday.mp4", "--instruction", "open the drawer", "--cameras", "front,wrist")
    with pytest.raises(ConfigError, match=r"holiday\.mp4 can't be written.*other content"):
        _run(*words, "--output", "holiday")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]
    for more in (("--gif",), ()):  # the second draws the picture again
        _run(*words, *more, "--scores-per-s", "1")
    assert Path("holiday.mp4").read_bytes() == before
    drawn = sorted(tmp_path.glob("holiday-reward-zero-shot*"))
    assert [path.suffix for path in drawn] == [".gif", ".mp4", ".png"]
    assert all(outputs.containing(MARK.encode())(path) for path in drawn)


def test_by_default_another_episode_or_model_replaces_no_picture(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test.mp4").touch()
    names = [
        str(default_name(tmp_path / name, episode, model))
        for name, episode, model in (
            ("test", 3, "mine"), ("test", 14, "mine"), ("test", 3, "vlm"), ("test.mp4", 0, "mine")
        )
    ]  # fmt: skip
    assert names == ["test-3-mine", "test-14-mine", "test-3-vlm", "test-mine"]


def test_a_file_that_was_cut_into_cameras_says_so(mp4: Path) -> None:
    found = open_footage(mp4, Wanted("open the drawer", cameras=BOTH, looked_at=BOTH))
    assert found.note == "split into front | wrist"


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Wanted("open the drawer", looked_at=BOTH), "expected front, wrist, found video"),
        (Wanted(), "give --instruction"),
        (Wanted("open the drawer", episode=2), "--episode of a video file"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(
    mp4: Path, wanted: Wanted, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        open_footage(mp4, wanted)


def test_one_picture_stands_for_both_cameras_only_when_asked_to(mp4: Path) -> None:
    found = open_footage(mp4, Wanted("open the drawer", looked_at=BOTH, one_view=True))
    assert sorted(found.video.views) == ["front", "wrist"] and "front and wrist" in found.note


def test_stills_and_strange_files_are_refused(
    clip_folder: Path, recorded: Path, tmp_path: Path
) -> None:
    still = next(n for n, r in enumerate(read_records(clip_folder)) if r.rate_hz == 0)
    (tmp_path / "notes.mp4").write_text("no video")
    for path, episode, sentence in (
        (clip_folder, still, "stills of arranged scenes"),
        (clip_folder, 999, "--episode"),
        (recorded, 99, "no such episode"),
        (tmp_path / "notes.mp4", 0, "no video that can be read"),
        (tmp_path, 0, "folder of something else"),
    ):
        with pytest.raises(EntracteError, match=sentence):
            open_footage(path, Wanted("open the drawer", episode=episode))
