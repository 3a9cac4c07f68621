"""`build-data` as a whole: same seed, same bytes, whoever does the work; nothing leaks between splits."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from contracts.errors import ConfigError, EntracteError
from tests.trainer.reward_data.layouts import SHARED, TASKS, rlds_episode, tfrecord, write_mp4
from trainer.reward_data import ray_build
from trainer.reward_data.build import PARTS, build, work
from trainer.reward_data.formats import key_frames
from trainer.reward_data.plan import Plan, make_plan
from trainer.reward_data.readers import video_length
from trainer.reward_data.recipe import Recipe, read_recipe
from trainer.rewards.build_data_command import command

Write = Callable[..., Path]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(folder: Path, table: str = "metadata.jsonl") -> dict[str, list[dict[str, Any]]]:
    return {
        split: [json.loads(line) for line in (folder / split / table).read_text().splitlines()]
        for split in ("train", "val", "test")
    }


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture
def built(scratch: Path, recipe_file: Write) -> Path:
    """The test recipe, built once, in this process."""
    folder = scratch / "first"
    if not folder.exists():
        build(read_recipe(recipe_file()), folder)
    return folder


def test_the_same_seed_gives_the_same_bytes_by_processes_too(
    built: Path, tmp_path: Path, recipe_file: Write
) -> None:
    build(read_recipe(recipe_file()), tmp_path / "again", workers=2)
    assert digests(tmp_path / "again") == digests(built)
    small = {"videos": 3, "output": {"lrm": False}}
    for seed in (3, 4):
        build(read_recipe(recipe_file(seed=seed, **small)), tmp_path / str(seed))
    assert digests(tmp_path / "3") != digests(tmp_path / "4")


def test_no_recording_has_samples_in_two_splits(built: Path) -> None:
    lrm = built / "lrm"
    for tables in (rows(built), rows(lrm, "completion.jsonl"), rows(lrm, "pairs.jsonl")):
        groups = {split: {row["group"] for row in part} for split, part in tables.items()}
        assert all(groups.values())
        assert not groups["train"] & groups["val"]
        assert not groups["train"] & groups["test"]
        assert not groups["val"] & groups["test"]


def test_two_cameras_of_one_recording_stay_in_one_split(
    tmp_path: Path, recipe_file: Write, arena_folder: Path
) -> None:
    cameras = [
        {"kind": "roboarena", "name": name, "path": str(arena_folder), "camera": [name]}
        for name in ("left", "wrist")
    ]
    build(read_recipe(recipe_file(sources=cameras)), tmp_path / "two")
    where: dict[str, set[str]] = {}
    for split, part in rows(tmp_path / "two").items():
        for row in part:
            where.setdefault(row["group"], set()).add(split)
    assert len(where) == 4 and all(len(splits) == 1 for splits in where.values())


def test_every_sample_says_how_it_was_made_and_of_what(built: Path) -> None:
    every = {row["id"]: row for part in rows(built).values() for row in part}
    origins = {row["origin"] for row in every.values()}
    assert origins == {
        "success", "failure", "counterfactual", "clip", "near_miss", "rewind", "pause", "speed", "paraphrase",
    }  # fmt: skip
    for row in every.values():
        natural = row["origin"] in ("success", "failure")
        assert natural == (row["derived_from"] == "")
        if not natural:
            parent = every[row["derived_from"]]
            assert parent["source_video"] == row["source_video"]
            assert row["how"], row
            assert (row["task"] == parent["task"]) == (
                row["origin"] not in ("counterfactual", "paraphrase")
            )
    assert {row["licence"] for row in every.values() if row["source"] == "rlds"} == {"CC BY 4.0"}


def test_videos_have_the_frames_that_their_rows_say(built: Path) -> None:
    for split, part in rows(built).items():
        assert len({row["file_name"] for row in part}) == len(part)
        for row in part[:12]:
            assert video_length(built / split / row["file_name"]) == (row["frames"], row["fps"])


def test_lrm_frames_are_eleven_with_progress_of_time_and_pairs_in_both_orders(built: Path) -> None:
    successes = {
        row["source_video"]
        for part in rows(built).values()
        for row in part
        if row["origin"] == "success"
    }
    for split, part in rows(built / "lrm", "progress.jsonl").items():
        assert {row["source_video"] for row in part} <= successes
        by_video: dict[str, list[float]] = {}
        for row in part:
            by_video.setdefault(row["source_video"], []).append(row["progress"])
            assert (built / "lrm" / split / row["current"]).exists()
        assert any(said == [k / 10 for k in range(11)] for said in by_video.values())
        # A video of fewer pictures shows each once.
        assert {(said[0], said[-1]) for said in by_video.values()} == {(0.0, 1.0)}
    for part in rows(built / "lrm", "pairs.jsonl").values():
        said = {(row["first"], row["second"]): row["second_is_closer"] for row in part}
        assert all(said[b, a] is not truth for (a, b), truth in said.items())
    for part in rows(built / "lrm", "completion.jsonl").values():
        assert {row["complete"] for row in part} == {True, False}


def test_the_card_counts_what_is_there_and_the_sheet_is_a_picture(built: Path) -> None:
    card = json.loads((built / "card.json").read_text())
    every = [row for part in rows(built).values() for row in part]
    assert card["samples"] == len(every)
    for score in "12345":
        assert card["scores"][score] == sum(row["reward"] == int(score) for row in every) > 0
    assert card["origins"]["clip"] == sum(row["origin"] == "clip" for row in every)
    assert [s["used"] for s in card["sources"]] == [8, 8, 4], "weights 1, 1, 0.5"
    page = (built / "README.md").read_text()
    assert "CC BY 4.0" in page and "contact_sheet.png" in page
    with Image.open(built / "contact_sheet.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 300
    assert not (built / PARTS).exists()


def test_a_picture_is_one_key_frame_and_no_pair_with_itself() -> None:
    # 1 frame a second shown at 5: each picture five times.
    rows = [row for row in (0, 1, 2, 3) for _ in range(5)]
    assert key_frames(rows, 11) == ([0, 1, 2, 3], [0.0, 0.35, 0.6, 1.0])
    assert key_frames(list(range(0, 22, 2)), 11) == (
        list(range(0, 22, 2)),
        pytest.approx([k / 10 for k in range(11)]),
    )
    assert key_frames([7, 7], 11) == ([7], [1.0])


def test_a_build_that_was_killed_after_its_card_is_whole(
    built: Path, tmp_path: Path, recipe_file: Write
) -> None:
    output = tmp_path / "whole"
    shutil.copytree(built, output)
    (output / PARTS).mkdir()
    (output / PARTS / "identity").write_text("left over")
    assert build(read_recipe(recipe_file()), output)["samples"] > 0
    assert digests(output) == digests(built)


def test_two_videos_with_one_id_are_refused(tmp_path: Path, recipe_file: Write) -> None:
    # Two versions of a data set: the same episodes by their own names.
    for version in ("1.0.0", "2.0.0"):
        (tmp_path / "toy" / version).mkdir(parents=True)
        records = tfrecord([rlds_episode("open the drawer", n) for n in range(2)])
        (tmp_path / "toy" / version / "a.tfrecord").write_bytes(records)

    def plan(*folders: str) -> Plan:
        sources = [
            {"kind": "rlds", "name": f"s{n}", "path": str(tmp_path / "toy" / folder)}
            for n, folder in enumerate(folders)
        ]
        return make_plan(read_recipe(recipe_file(sources=sources)))

    with pytest.raises(EntracteError, match="can't be told apart"):
        plan("")
    both = plan("1.0.0", "2.0.0").items
    assert len({item.video.video_id for item in both}) == 4
    assert len({(item.video.group, item.split) for item in both}) == 2


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(
    built: Path, tmp_path: Path, recipe_file: Write
) -> None:
    recipe = recipe_file()
    code = (
        "import sys, pathlib; from trainer.reward_data.build import build; "
        "from trainer.reward_data.recipe import read_recipe; "
        "build(read_recipe(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]))"
    )
    output = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code, str(recipe), str(output)])
    while process.poll() is None and len(list((output / PARTS).glob("*.json"))) < 4:
        time.sleep(0.002)
    assert process.poll() is None, "the build was over before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "card.json").exists()
    steps: list[int] = []
    build(read_recipe(recipe), output, progress=lambda done, of: steps.append(done))
    assert steps[0] >= 3, "parts that were done are not done again"
    assert digests(output) == digests(built)


def test_a_folder_with_something_else_in_it_is_left_alone(
    built: Path, tmp_path: Path, recipe_file: Write
) -> None:
    with pytest.raises(EntracteError, match="another recipe"):
        build(read_recipe(recipe_file(seed=9)), built)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(EntracteError, match="not empty"):
        build(read_recipe(recipe_file()), tmp_path / "mine")


@pytest.mark.parametrize("finished", [True, False])
def test_what_a_source_said_before_is_neither_kept_nor_mixed_with_what_it_says_now(
    finished: bool, tmp_path: Path, recipe_file: Write
) -> None:
    def recipe(task: str, reward: int, disk: str = "a") -> Recipe:
        folder = tmp_path / disk / "judged"
        said = [{"file_name": f"{n}.mp4", "task": task, "reward": reward} for n in range(3)]
        for number in range(3):
            write_mp4(folder / f"{number}.mp4", seed=number)
        (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in said))
        source = {"kind": "roboreward", "name": "judged", "path": str(folder)}
        return read_recipe(recipe_file(sources=[source], output={"lrm": False}))

    def stopped(items: list[bytes], output: str) -> Iterator[str]:
        yield work(items[0], output)
        raise KeyboardInterrupt

    output, first = tmp_path / "out", ("open the drawer", 5)
    with nullcontext() if finished else pytest.raises(KeyboardInterrupt):
        build(recipe(*first), output, run=None if finished else stopped)
    for corrected in (("open the drawer", 1), ("close the drawer", 5)):
        with pytest.raises(EntracteError, match="said otherwise"):
            build(recipe(*corrected), output)
    assert build(recipe(*first, disk="b"), output)["scores"]["5"], "moved, it is the same data"


def test_a_video_that_cannot_be_read_is_named_and_left_out_but_not_most_of_them(
    tmp_path: Path, recipe_file: Write
) -> None:
    episodes = [rlds_episode(TASKS[n % 3], n) for n in range(5)]
    damaged = [episode.replace(b"\xff\xd8\xff", b"\0\0\0") for episode in episodes]
    (tmp_path / "set").mkdir()

    def build_with(damage: int) -> Any:
        data = tfrecord([*damaged[:damage], *episodes[damage:]])
        (tmp_path / "set" / "a.tfrecord").write_bytes(data)
        source = {"kind": "rlds", "name": "toy", "path": str(tmp_path / "set")}
        recipe = recipe_file(sources=[source], output={"lrm": False})
        app = typer.Typer()
        app.command()(command)
        given = ["--recipe", str(recipe), "--output", str(tmp_path / "out")]
        return CliRunner().invoke(app, given)

    most = build_with(3)
    assert isinstance(most.exception, EntracteError)
    assert "3 of 5 source videos can't be read" in str(most.exception)
    one = build_with(1)
    assert one.exit_code == 0 and "left out, can't be read: 1: toy/" in one.output
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["source_videos"] == card["sources"][0]["used"] == 4
    assert len({row["group"] for part in rows(tmp_path / "out").values() for row in part}) == 4
    assert "1 more can't be read" in (tmp_path / "out" / "README.md").read_text()
    assert "can't be read: 1" in build_with(1).output, "said again of the finished folder"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sorces": []}, "did you mean 'sources'"),
        ({"sources": [{"kind": "rdls", "path": "x"}]}, "did you mean 'rlds'"),
        ({"sources": [{"kind": "rlds", "path": "x", "wieght": 2}]}, "did you mean 'weight'"),
        ({"sources": [{"kind": "rlds", "path": "x", "weight": "2"}]}, "Expected `float`"),
        ({"derive": {"clip": 2}}, "did you mean 'clips'"),
        ({"split": {"train": 0.5}}, "sum to 1"),
        ({"fractions": {"score_2": [0.1, 0.4]}}, "must not overlap"),
        ({"counterfactual": {"proposer": "model"}}, "needs proposer_model"),
        ({"sources": []}, "at least one"),
        ({"sources": [{"kind": "human", "path": "x", "name": "../x"}]}, "begin a file's name"),
        ({"sources": [{"kind": "lerobot", "path": "x", "failure": 5}]}, "failure must be 1 to 4"),
        ({"sources": [{"kind": "rlds", "path": "x", "rate_hz": 0.0}]}, "rate_hz must be above 0"),
    ],
)
def test_a_wrong_recipe_is_one_sentence_that_names_the_key(
    changes: dict[str, Any], said: str, recipe_file: Write
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_recipe(recipe_file(**changes))


def test_bench_and_real_bridge_clips_mix(
    tmp_path: Path, recipe_file: Write, bench_folder: Path
) -> None:
    sources = [{"kind": "bench", "name": "bench", "path": str(bench_folder)}]
    if SHARED.exists():
        sources.append({"kind": "rlds", "name": "bridge", "path": str(SHARED / "bridge_debug")})
    card = build(read_recipe(recipe_file(sources=sources)), tmp_path / "mixed")
    assert card["label_origins"]["state"] > 6
    page = (tmp_path / "mixed" / "README.md").read_text()
    assert "Found in bench: played clips alone; stills of arranged scenes are left out" in page
    assert card["counterfactual_changes"]["goal"] > 0, "the sheet says: another goal"
    if SHARED.exists():
        assert card["scores_by_source"]["bridge"]["5"] == 0, "they stop after 10 steps"
        assert card["counterfactual_changes"]["object"] > 0


def test_ray_gives_the_same_bytes(built: Path, tmp_path: Path, recipe_file: Write) -> None:
    ray = pytest.importorskip("ray", reason="--ray needs Ray Data (extra cluster)")
    try:
        build(read_recipe(recipe_file()), tmp_path / "ray", run=ray_build.run)
    finally:
        ray.shutdown()
    assert digests(tmp_path / "ray") == digests(built)


def test_the_verb_builds_says_what_it_built_and_finds_it_finished_the_next_time(
    tmp_path: Path, recipe_file: Write
) -> None:
    app = typer.Typer()
    app.command()(command)
    given = ["--recipe", str(recipe_file(videos=3)), "--output", str(tmp_path / "out")]
    first = CliRunner().invoke(app, given)
    assert first.exit_code == 0, first.output
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert f"{card['samples']} samples" in first.output
    before = digests(tmp_path / "out")
    assert CliRunner().invoke(app, given).exit_code == 0
    assert digests(tmp_path / "out") == before
