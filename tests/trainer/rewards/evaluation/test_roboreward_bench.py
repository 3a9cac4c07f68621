"""RoboRewardBench's protocol: published histogram, macro by hand, answers that can't be read, real videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from contracts.errors import EntracteError
from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal
from trainer.rewards.evaluation.roboreward_bench import (
    TEST_HISTOGRAM,
    ask,
    grade,
    parse_answer,
    read_answers,
    read_bench,
    score_of,
)
from trainer.rewards.evaluation.videos import read_video


def _folder(path: Path, rows: list[tuple[str, str, int]]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"file_name": f, "task": t, "reward": r, "gpt5_mini_check": "ok"})
        for f, t, r in rows
    ]
    (path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return path


def test_always_three_on_the_published_histogram(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(1, 6), TEST_HISTOGRAM)
    rows = [(f"set_{i % 23:02d}/{i}.mp4", "do it", int(label)) for i, label in enumerate(labels)]
    bench = read_bench(_folder(tmp_path, rows))
    report = grade(bench, ["ANSWER: 3"] * len(bench), "always 3", draws=50)
    assert report.rows == 2831
    assert round(report.figures["micro_mae"].value, 3) == 1.233
    assert report.figures["exact"].value == pytest.approx(556 / 2831)
    assert report.figures["within_1"].value == pytest.approx((641 + 556 + 418) / 2831)
    assert len(report.subsets) == 23
    assert report.notes() == []


def test_macro_is_the_mean_over_subsets(tmp_path: Path) -> None:
    rows = [
        ("droid/a.mp4", "t", 1),
        ("droid/b.mp4", "t", 5),
        ("droid/c.mp4", "t", 3),
        ("test/bridge/a.mp4", "t", 2),
    ]
    bench = read_bench(_folder(tmp_path, rows))
    # droid errs by 0, 2 and 1 (mean 1), bridge by 3: macro 2, micro 6 / 4.
    report = grade(bench, [1, 3.0, "ANSWER: 4", 5], "hand", draws=50)
    assert report.subsets == {"droid": (3, 1.0), "bridge": (1, 3.0)}
    assert report.figures["macro_mae"].value == 2.0
    assert report.figures["micro_mae"].value == 1.5
    assert "2 subsets" in report.notes()[0]


def test_bad_answers_cost_four_and_are_named(tmp_path: Path) -> None:
    rows = [(f"s/{i}.mp4", "t", 5) for i in range(6)]
    bench = read_bench(_folder(tmp_path, rows))
    said = ["ANSWER: 9", "it went well", None, "ANSWER: 1 or ANSWER: 5", -3, "4"]
    report = grade(bench, said, "bad", draws=20)
    assert report.errors.tolist() == [0, 4, 4, 4, 4, 1]
    assert report.out_of_range == 2
    assert report.unparsable == ("s/1.mp4 | t", "s/3.mp4 | t")
    assert report.missing == ("s/2.mp4 | t",)
    assert "s/2.mp4" in " ".join(report.notes())
    assert parse_answer(float("nan")) is None
    assert parse_answer(True) is None


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("answer: 2.", 2.0),
        ("ANSWER: 7", 7.0),
        ("The lid is open.\n**ANSWER: 4**\nIt took 3 tries.", 4.0),
        ("ANSWER: 3\nANSWER: 3", 3.0),
        ("ANSWER: 3.5", 3.5),
        ("-3", -3.0),
        *((text, None) for text in ("ANSWER: 4 or 5", "ANSWER: 3/5", "ANSWER: 2-4", "ANSWER: 50%")),
        *((text, None) for text in ("ANSWER: 1,2,3,4,5", "ANSWER: 1 (out of 1-5)", "ANSWER: 1e3")),
        *((text, None) for text in ("ANSWER: 3\nANSWER: 4", "ANSWER: 4 or 5\nANSWER: 4", "2-4")),
        *((text, None) for text in ("ANSWER: <score>", "ANSWER: .5", "ANSWER:", "", "5 I guess")),
    ],
)
def test_an_answer_is_one_number_and_nothing_behind_it(said: str, score: float | None) -> None:
    assert parse_answer(said) == score


def test_silence_is_no_lowest_score(tmp_path: Path) -> None:
    rows = [(f"s/{i}.mp4", "t", 1 + i // 2) for i in range(10)]
    bench = read_bench(_folder(tmp_path, rows))
    # Nothing said of the failures, the wrong way round of the others.
    said = [None] * 4 + [5, 5, 4, 4, 3, 3]
    report = grade(bench, said, "sly", draws=20)
    assert report.figures["rank"].value == -1.0
    assert report.figures["kendall"].value == -1.0


def test_an_abstention_that_quotes_an_answer_is_none(tmp_path: Path) -> None:
    class Quoting(_Brightness):
        def score(self, video: Video, instruction: str) -> RewardSignal:
            if instruction == "boom":
                raise ValueError("can't read 'ANSWER: 5'")
            return RewardSignal(0, abstained="roboreward: unparsable answer: 'ANSWER: 5 I guess'")

    film(tmp_path / "s/a.mp4", [200] * 11)
    bench = read_bench(_folder(tmp_path, [("s/a.mp4", "t", 5), ("s/a.mp4", "boom", 5)]))
    answers, _ = ask(Quoting(), bench, tmp_path)
    report = grade(bench, answers, "quoting", draws=20)
    assert report.errors.tolist() == [4, 4]
    assert len(report.unparsable) == 2 and not report.missing
    # Given answers that are neither text nor number are named too.
    assert grade(bench, [False, True], "bools", draws=20).unparsable == report.unparsable


def test_a_row_can_not_name_a_file_elsewhere_and_blank_lines_are_none(tmp_path: Path) -> None:
    folder = _folder(tmp_path, [("s/a.mp4", "t", 5)])
    table = folder / "metadata.jsonl"
    table.write_text("\n" + table.read_text() + "\n\n")
    assert len(read_bench(folder)) == 1
    with pytest.raises(EntracteError, match="outside its folder"):
        read_bench(_folder(tmp_path, [("../../etc/a.mp4", "t", 5)]))


def test_a_video_that_would_fill_the_memory_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(tmp_path / "v.mp4", [0] * 20)
    monkeypatch.setattr("trainer.rewards.evaluation.videos.MOST_BYTES", 19 * 64 * 48 * 3)
    with pytest.raises(EntracteError, match="20 pictures of 64x48"):
        read_video(tmp_path / "v.mp4")
    assert len(read_video(tmp_path / "v.mp4", FrameContract("ends"))) == 2


def test_given_answers_find_their_rows(tmp_path: Path) -> None:
    bench = read_bench(
        _folder(tmp_path, [("s/a.mp4", "open", 5), ("s/a.mp4", "close", 1), ("s/b.mp4", "lift", 3)])
    )
    path = tmp_path / "answers.jsonl"

    def write(*items: dict[str, Any]) -> Path:
        path.write_text("\n".join(json.dumps(i) for i in items))
        return path

    first = {"file_name": "s/a.mp4", "task": "open", "answer": "ANSWER: 5"}
    found = read_answers(write(first, {"file_name": "s/b.mp4", "answer": 3}), bench)
    assert found == ["ANSWER: 5", None, 3]
    with pytest.raises(EntracteError, match="'task' in each answer"):
        read_answers(write({"file_name": "s/a.mp4", "answer": 1}), bench)
    with pytest.raises(EntracteError, match="second answer"):
        read_answers(write(first, first), bench)
    with pytest.raises(EntracteError, match="the set lacks"):
        read_answers(write({"file_name": "s/z.mp4", "answer": 1}), bench)
    with pytest.raises(EntracteError, match="line 1: reward"):
        read_bench(_folder(tmp_path, [("s/a.mp4", "t", 6)]))


class _Brightness:
    """A real reward model of a kind: progress is how bright the last frame is."""

    model_id = "brightness"
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self) -> None:
        self.contract = FrameContract(rate_hz=2.0, least=4, most=8)
        self.shown: list[Video] = []

    def score(self, video: Video, instruction: str) -> RewardSignal:
        self.shown.append(video)
        if instruction == "boom":
            raise RuntimeError("no memory")
        if instruction == "dunno":
            return RewardSignal(0, abstained="unknown words")
        light = float(video.views["video"][-1].mean()) / 255.0
        return RewardSignal(int(video.steps[-1]), process=light, model_id=self.model_id)


def film(path: Path, brightness: list[int], rate: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in brightness:
            frame = np.full((48, 64, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def test_a_model_is_shown_the_videos_at_its_frame_contract(tmp_path: Path) -> None:
    # 31 frames at 10 Hz, 3 s: 7 frames at 2 Hz, the first and the last among them. B-frames included.
    film(tmp_path / "s/bright.mp4", list(np.linspace(0, 255, 31).astype(int)))
    film(tmp_path / "s/dark.mp4", [10] * 31)
    (tmp_path / "s/torn.mp4").write_bytes(b"no video")
    rows = [
        ("s/bright.mp4", "t", 5),
        ("s/dark.mp4", "t", 1),
        ("s/dark.mp4", "boom", 1),
        ("s/dark.mp4", "dunno", 1),
        ("s/torn.mp4", "t", 1),
    ]
    model = _Brightness()
    answers, signals = ask(model, read_bench(_folder(tmp_path, rows)), tmp_path)
    assert answers[:2] == [5.0, 1.0]
    assert model.shown[0].steps.tolist() == [0, 5, 10, 15, 20, 25, 30]
    assert model.shown[0].times_s[-1] == pytest.approx(3.0)
    light = model.shown[0].views["video"].mean(axis=(1, 2, 3))
    assert np.allclose(light, np.array([0, 5, 10, 15, 20, 25, 30]) * 8.5, atol=6)
    assert "no memory" in str(answers[2])
    assert "unknown words" in str(answers[3])
    assert signals[4] is None
    report = grade(read_bench(tmp_path), answers, model.model_id, draws=20)
    assert report.errors.tolist() == [0, 0, 4, 4, 4]
    assert len(report.unparsable) == 3


def test_pictures_side_by_side_are_cut_apart(tmp_path: Path) -> None:
    film(tmp_path / "v.mp4", [0, 50, 100])
    video = read_video(tmp_path / "v.mp4", cameras=("front", "wrist"))
    assert {k: v.shape for k, v in video.views.items()} == {
        "front": (3, 48, 32, 3),
        "wrist": (3, 48, 32, 3),
    }


def test_a_score_is_read_from_the_distribution_or_from_progress() -> None:
    two_humps = RewardSignal(0, score_distribution=(0.4, 0.0, 0.0, 0.3, 0.3))
    assert score_of(two_humps, "discrete") == 1.0
    assert score_of(two_humps, "expected") == pytest.approx(0.4 + 1.2 + 1.5)
    progress = RewardSignal(0, process=0.6)
    assert score_of(progress, "discrete") == 3.0
    assert score_of(progress, "expected") == pytest.approx(3.4)
