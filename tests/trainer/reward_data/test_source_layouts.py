"""Every layout that `build-data` imports: what each source makes of a tiny folder of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from contracts.errors import EntracteError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from tests.trainer.reward_data.layouts import (
    SHAPE,
    SHARED,
    moving_square,
    rlds_episode,
    tfrecord,
    write_mp4,
)
from trainer.reward_data.readers import decode_picture
from trainer.reward_data.recipe import recipe_from
from trainer.reward_data.record import SourceVideo
from trainer.reward_data.sources import read_source


def read(folder: Path, kind: str, **options: object) -> list[SourceVideo]:
    tree = {"sources": [{"kind": kind, "path": str(folder), "name": "x", **options}]}
    return read_source(recipe_from(tree, Path("."), "test").sources[0])


def square_at(picture: np.ndarray) -> float:
    """Column of the moving square's middle: which frame this is, as H.264 leaves it."""
    return float(np.flatnonzero((picture[..., 0] > 160).sum(0) > 5).mean())


def frames(video: SourceVideo, rows: list[int]) -> list[float]:
    return [square_at(picture) for picture in video.pictures.pictures(rows)]


def test_rlds_takes_only_episodes_that_reach_their_end_for_successes(rlds_folder: Path) -> None:
    cut = rlds_episode("close the door", 99, finished=False)
    (rlds_folder / "more.tfrecord").write_bytes(tfrecord([cut]))
    videos = read(rlds_folder, "rlds", rate_hz=4.0)
    (rlds_folder / "more.tfrecord").unlink()
    assert [(v.goals[0].reward, v.goals[0].label_origin) for v in videos] == [
        (1, "unfinished"),
        *[(5, "demonstration")] * 12,
    ]
    assert videos[1].frames == 10 and videos[1].rate_hz == 4.0
    assert videos[1].goals[0].task == "put the carrot on the plate"
    assert len({v.group for v in videos}) == 13
    left, right = frames(videos[1], [0, 9])
    assert left < 10 and right > 50


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data here")
def test_the_real_bridge_episodes_were_cut_short_and_are_no_successes() -> None:
    videos = read(SHARED / "bridge_debug", "rlds")
    assert len(videos) == len({v.group for v in videos}) == 25
    assert {v.goals[0].reward for v in videos} == {1}
    assert next(iter(videos[0].pictures.pictures([9]))).shape == (64, 64, 3)


def test_lerobot_takes_the_label_that_the_data_set_has(tmp_path: Path) -> None:
    features = {
        "observation.images.front": Feature("video", SHAPE),
        "observation.state": Feature("float32", (2,)),
        "action": Feature("float32", (2,)),
        "next.success": Feature("bool", (1,)),
    }
    with DatasetWriter.create(tmp_path / "set", 6, features, "toy") as writer:
        for n, success in enumerate((True, False)):
            zeros = np.zeros((10, 2), np.float32)
            done = np.zeros(10, bool)
            done[-1] = success
            columns = {"observation.state": zeros, "action": zeros, "next.success": done}
            pictures = {"observation.images.front": moving_square(10, n)}
            writer.add_episode(columns, pictures, depth=None, task="open the drawer")
    videos = read(tmp_path / "set", "lerobot", camera="front")
    assert [v.goals[0].reward for v in videos] == [5, 1]
    assert videos[0].goals[0].task == "open the drawer"
    assert videos[0].frames == 10 and videos[0].rate_hz == 6.0
    left, right = frames(videos[1], [0, 9])
    assert left < 10 and right > 50
    with pytest.raises(EntracteError, match=r"camera 'rear'.*observation\.images\.front"):
        read(tmp_path / "set", "lerobot", camera="rear")


def test_what_was_stopped_or_what_a_policy_did_is_no_demonstration(tmp_path: Path) -> None:
    features = {
        "observation.images.front": Feature("video", SHAPE),
        "action": Feature("float32", (2,)),
    }
    ends = (
        ("record", "operator", None, 5, 5),
        ("record", "time_limit", False, 1, 1),
        ("record", "aborted", None, None, None),
        ("record", "fault", None, None, None),
        ("record", "rerecord", None, None, None),
        ("refine", "completed", True, 5, 5),
        ("refine", "aborted", None, None, None),
        ("refine", "time_limit", None, None, 5),
        ("evaluate", "completed", None, None, 5),
        ("", "", None, 5, 5),  # LeRobot's own
    )
    with DatasetWriter.create(tmp_path / "set", 6, features, "toy") as writer:
        for n, (purpose, reason, label, _, _) in enumerate(ends):
            pictures = {"observation.images.front": moving_square(6, n)}
            end = {"reason": reason, "operator_success": label}
            extra = {"start": {"purpose": purpose}, "end": end} if reason else {}
            columns = {"action": np.zeros((6, 2), np.float32)}
            writer.add_episode(columns, pictures, depth=None, task="open it", extra=extra)
    videos = read(tmp_path / "set", "lerobot")
    assert [v.goals[0].reward for v in videos] == [bare for *_, bare, _ in ends]
    videos = read(tmp_path / "set", "lerobot", outcome="success")
    assert [v.goals[0].reward for v in videos] == [named for *_, named in ends]
    assert {v.goals[0].label_origin for v in videos if v.goals[0].reward is None} == {"unknown"}


def test_roboreward_rows_over_the_same_pictures_are_one_group(tmp_path: Path) -> None:
    split = tmp_path / "train"
    for name, seed in (("a.mp4", 1), ("b.mp4", 1), ("c.mp4", 2)):
        write_mp4(split / name, seed=seed)
    rows = [
        {"file_name": "a.mp4", "task": "open the box", "reward": 5, "gpt5_mini_check": True},
        {"file_name": "b.mp4", "task": "close the box", "reward": 1, "gpt5_mini_check": True},
        {"file_name": "c.mp4", "task": "open the box", "reward": 3, "gpt5_mini_check": False},
    ]
    (split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    a, b, c = read(tmp_path, "roboreward")
    assert [v.goals[0].reward for v in (a, b, c)] == [5, 1, 3]
    assert a.group == b.group != c.group
    assert a.frames == 12 and a.rate_hz == 6.0
    for wrong, said in (({"reward": 7}, "1 to 5"), ({"file_name": "../../x.mp4"}, "outside")):
        (split / "metadata.jsonl").write_text(json.dumps({**rows[0], **wrong}))
        with pytest.raises(EntracteError, match=said):
            read(tmp_path, "roboreward")


def test_roboarena_maps_a_persons_progress_to_scores_and_keeps_sessions_together(
    arena_folder: Path, tmp_path: Path
) -> None:
    videos = read(arena_folder, "roboarena")
    # 10, 30, 50, 70 of 100 for policy A; policy B did it.
    assert [v.goals[0].reward for v in videos] == [1, 5, 2, 5, 3, 5, 4, 5]
    assert [v.style for v in videos[:2]] == ["pi_a", "pi_b"]
    assert all(a.group == b.group for a, b in zip(videos[::2], videos[1::2], strict=True))
    assert len({v.group for v in videos}) == 4
    assert videos[0].frames == 10, "the left camera, not the wrist"

    folder = tmp_path / "evaluation_sessions" / "s"
    write_mp4(folder / "A_x" / "left_shoulder.mp4")
    said = "language_instruction: wipe it\npolicies: {A: {policy_name: x, partial_success: 63}}\n"
    (folder / "metadata.yaml").write_text(said)
    (one,) = read(tmp_path, "roboarena", progress_scale=100)
    assert one.goals[0].reward == 4
    with pytest.raises(EntracteError, match="progress_scale"):
        read(tmp_path, "roboarena")


def test_a_score_that_is_no_number_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation_sessions" / "s"
    write_mp4(folder / "A_x" / "left_shoulder.mp4")
    for wrong in ("much", "[1]", ".nan"):
        said = f"language_instruction: wipe it\npolicies: {{A: {{partial_success: {wrong}}}}}\n"
        (folder / "metadata.yaml").write_text(said)
        with pytest.raises(EntracteError, match="partial_success of A"):
            read(tmp_path, "roboarena")


def test_a_copy_of_a_video_is_in_the_group_of_the_first_whatever_its_folder(tmp_path: Path) -> None:
    write_mp4(tmp_path / "one" / "a.mp4", seed=1)
    write_mp4(tmp_path / "two" / "day" / "b.mp4", seed=1)
    write_mp4(tmp_path / "two" / "day" / "c.mp4", seed=2)
    for file in tmp_path.rglob("*.mp4"):
        file.with_suffix(".txt").write_bytes(b"open the caf\xe9")
    (first,) = read(tmp_path / "one", "human")
    copy, other = read(tmp_path / "two", "human")
    assert first.group == copy.group != other.group
    assert first.video_id != copy.video_id


def test_a_picture_of_a_wild_size_is_refused_before_it_is_decoded() -> None:
    ok, encoded = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))
    data = bytearray(encoded.tobytes())
    assert ok and decode_picture(bytes(data), "x").shape == (8, 8, 3)
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    with pytest.raises(EntracteError, match="pixels"):
        decode_picture(bytes(data), "x")
    with pytest.raises(EntracteError):
        decode_picture(bytes(data[:12]), "x")


def test_human_videos_without_a_caption_are_left_out(human_folder: Path, tmp_path: Path) -> None:
    videos = read(human_folder, "human")
    assert len(videos) == 8
    assert videos[2].goals[0] == videos[5].goals[0]
    assert videos[2].goals[0].task == "open the drawer"
    assert videos[0].frames == 14

    write_mp4(tmp_path / "a.mp4")
    row = {"file_name": "a.mp4", "caption": "fold the towel"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    assert read(tmp_path, "human", outcome="unknown")[0].goals[0].reward is None


def test_egodex_says_what_was_done_and_what_was_not(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="EgoDex needs h5py (extra data)")
    for n, which in enumerate(("1", "2")):
        write_mp4(tmp_path / "part1" / "plug_unplug" / f"{n}.mp4", 20, 30)
        with h5py.File(tmp_path / "part1" / "plug_unplug" / f"{n}.hdf5", "w") as file:
            file.attrs.update(
                llm_type="reversible",
                llm_description="Plug in the charger.",
                llm_description2="Unplug the charger.",
                which_llm_description=which,
            )
    write_mp4(tmp_path / "part1" / "fold" / "0.mp4", 20, 30)
    with h5py.File(tmp_path / "part1" / "fold" / "0.hdf5", "w") as file:
        file.attrs["llm_description"] = "Fold the towel."
    fold, plug, unplug = read(tmp_path, "egodex")
    assert [g.task for g in fold.goals] == ["Fold the towel."]
    assert [(g.task, g.reward) for g in plug.goals] == [
        ("Plug in the charger.", 5),
        ("Unplug the charger.", 1),
    ]
    assert unplug.goals[0].task == "Unplug the charger." and unplug.goals[1].reward == 1
    assert plug.rate_hz == 30.0


@pytest.mark.parametrize("form", ["events", "markResult"])
def test_hoi4d_gives_one_video_an_event_on_the_clock_of_the_marks(
    tmp_path: Path, form: str
) -> None:
    task = tmp_path / "ZY20210800001" / "H1" / "C2" / "N31" / "S200" / "s01" / "T2"
    write_mp4(task / "align_rgb" / "image.mp4", 60, 15)  # 4 s, marked on a clock of 2 s
    names = ("startTime", "endTime") if form == "events" else ("hdTimeStart", "hdTimeEnd")
    marks = [
        {"event": event, names[0]: start, names[1]: end}
        for event, start, end in (("rest", 0, 0.5), ("Pickup", 0.5, 1.0), ("Putdown", 1.0, 2.0))
    ]
    said = {"events": marks} if form == "events" else {"markResult": {"marks": marks}}
    table = task / "action" / "color.json"
    table.parent.mkdir()
    table.write_text(json.dumps({"info": {"duration": 2}, **said}))
    up, down = read(tmp_path, "hoi4d")
    assert up.goals[0].task == "pick up the mug" and down.goals[0].task == "put down the mug"
    assert (up.frames, down.frames) == (15, 30)
    assert up.group == down.group
    start, end = frames(down, [0, 29])
    assert 25 < start < 40 and end > 50


def test_bench_clips_bring_the_states_word_for_every_goal(
    bench_folder: Path, tmp_path: Path
) -> None:
    videos = read(bench_folder, "bench")
    assert videos, "clips with motion"
    for video in videos:
        assert [g.meant for g in video.goals] == [True] + [False] * (len(video.goals) - 1)
        for goal in video.goals:
            assert len(goal.progress) == len(goal.done) == video.frames
            assert (goal.reward == 5) == goal.done[-1]
    picture = next(iter(videos[0].pictures.pictures([videos[0].frames - 1])))
    assert picture.shape == (96, 128, 3)
    # The other camera, and a copy of the folder under another name, are the same recordings.
    copied = shutil.copytree(bench_folder, tmp_path / "another name")
    groups = [video.group for video in videos]
    assert len({*groups}) == len(groups)
    assert [video.group for video in read(copied, "bench", camera="wrist")] == groups
