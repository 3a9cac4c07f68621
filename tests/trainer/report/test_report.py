"""The whole report from real files, whole and cut short at every stage."""

from __future__ import annotations

import math
import re
from pathlib import Path

import av
import pytest
from made_run import INSTRUCTION, RESET_S, MadeRun
from typer.testing import CliRunner

from contracts.errors import EntracteError
from trainer.app import app
from trainer.report.analysis import (
    before_and_after,
    gate_counts,
    good_and_bad,
    idle,
    judges,
    learned_tallies,
    pushes,
    timing,
    truth_tallies,
)
from trainer.report.build import build
from trainer.report.evaluation import evaluation
from trainer.report.load import load_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    run = MadeRun(root, seed=3)
    run.evaluate("base", 8, 0.35)
    for number in (1, 2, 3):
        run.iterate(number, 0.5)
    run.evaluate("final", 8, 0.95)
    run.demo(3)
    return root


def test_rows_say_what_was_written(whole: Path) -> None:
    run = load_run(whole)
    assert [len(run.of(phase)) for phase in ("base", "refine", "final")] == [8, 12, 8]
    assert run.missing == ()
    assert run.instruction == INSTRUCTION
    assert [e.iteration for e in run.of("refine")] == [1] * 4 + [2] * 4 + [3] * 4
    assert all(e.judgement.success is not None and e.truth is not None for e in run.of("refine"))
    assert all(e.judgement.success is None for e in run.of("base"))
    assert [r.outcome for r in run.releases] == ["committed"] * 3
    assert run.releases[0].tensors == ("head/mix", "head/bias", "head/scale")


def test_judgement_and_truth_are_held_apart(whole: Path) -> None:
    run = load_run(whole)
    judged = sum(t.successes for t in learned_tallies(run))
    assert judged == sum(e.judgement.success is True for e in run.of("refine"))
    true = sum(t.successes for t in truth_tallies(run))
    assert true == sum(e.truth is not None and e.truth.success for e in run.of("refine"))
    reward, constant, clock = judges(run.of("refine"))
    assert reward.confusion.count == constant.confusion.count == clock.confusion.count == 12
    assert constant.confusion.true_negative == 0
    assert constant.confusion.true_positive == true


def test_figures(whole: Path) -> None:
    run = load_run(whole)
    found = evaluation(run)
    assert found.pairs == 8
    assert found.difference.value == pytest.approx(found.final.value - found.base.value)
    push = pushes(run)
    assert push is not None and push.graphs == ("head",) and push.effective == 3
    assert 0 < push.head_share < 1
    gate = gate_counts(run)
    assert gate.steps == sum(e.steps for e in run.episodes)
    assert gate.passed + sum(n for *_, n in gate.verdicts) == gate.steps  # one verdict each here
    loop = timing(run)
    assert [name for name, *_ in loop.sections] == ["sense", "infer", "gate", "act"]
    assert dict(loop.lateness)["max"] < 0.01
    good, bad = good_and_bad(run)
    assert good is not None and good.truth is not None and good.truth.success
    assert bad is not None and bad.truth is not None and not bad.truth.success
    before, after = before_and_after(run)[0]
    assert before.seed == after.seed


def test_how_long_the_robot_waited_for_its_releases(whole: Path, tmp_path: Path) -> None:
    """Without what lies between any two episodes; of another start of the robot nothing is known."""
    made = MadeRun(tmp_path / "run", seed=4, wait_s=0.7)
    for number in (1, 2, 3):
        made.iterate(number, 0.5)
    made.demo(3)
    run = load_run(tmp_path / "run")
    waits, reset_s = idle(run)
    assert [one.iteration for one in waits] == [1, 2], "nothing followed the last one"
    assert reset_s == pytest.approx(RESET_S, abs=1e-6)
    for one in waits:
        acted_s = sum(e.duration_s for e in run.of("refine") if e.iteration == one.iteration)
        assert one.idle_s == pytest.approx(0.7, abs=1e-6)
        assert one.share == pytest.approx(0.7 / acted_s)
    text = build(tmp_path / "run", tmp_path / "report").read_text()
    assert '<th class="n">robot idle</th>' in text and "700\N{NO-BREAK SPACE}ms" in text
    assert "by the robot’s clock: median" in text
    assert idle(load_run(whole)) == ([], pytest.approx(math.nan, nan_ok=True)), "a simulated clock"


def test_every_robot_answers_for_itself_and_the_rewards_head_has_numbers_of_its_own(
    tmp_path: Path,
) -> None:
    made = MadeRun(tmp_path / "run", seed=3)
    made.iterate(1, 0.5)
    made.iterate(2, 0.5)
    alone = pushes(load_run(tmp_path / "run"))
    refused = {"outcome": "rolled_back", "reason": "bounded change", "bytes_on_wire": 99}
    made.metrics.add("release", target="reward", publish_seq=2, **refused)
    made.metrics.add("release", target="reward", publish_seq=4, outcome="committed")
    assert pushes(load_run(tmp_path / "run")) == alone
    refused = {"outcome": "rejected", "reason": "calibration", "bytes_on_wire": 0}
    made.metrics.add("release", robot_id="b", target="policy", publish_seq=1, **refused)
    made.metrics.add("release", robot_id="b", target="policy", publish_seq=2, outcome="swapped")
    found = pushes(load_run(tmp_path / "run"))
    assert alone is not None and found is not None
    assert (found.offered, found.effective, found.robots) == (2, 2, 2)
    assert [(r.publish_seq, r.robot_id, r.outcome) for r in found.refused] == [(1, "b", "rejected")]
    assert found.bytes_total == 1.5 * alone.bytes_total, "b fetched one of the two"
    text = build(tmp_path / "run", tmp_path / "report").read_text()
    assert "release 1 was rejected by b (calibration)" in text
    assert "1 committed, 1 rejected" in text and "1 committed, 1 swapped" in text


def test_a_release_that_was_renewed_is_of_the_iteration_that_made_it(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", seed=3)
    made.iterate(1, 0.5)
    made.metrics.add("renewed", target="reward", parent=1, publish_seq=9)
    made.metrics.add("renewed", target="policy", parent=1, publish_seq=7)
    made.metrics.add("release", robot_id="b", publish_seq=7, outcome="committed")
    first, again = load_run(tmp_path / "run").releases
    assert (again.publish_seq, again.robot_id, again.outcome) == (7, "b", "committed")
    assert (again.iteration, again.nbytes) == (first.iteration, first.nbytes) != (0, 0)


def test_the_page_stands_alone(whole: Path, tmp_path: Path) -> None:
    page = build(whole, tmp_path / "report")
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)
    assert "@import" not in text and "<script" not in text
    linked = re.findall(r'(?:src|poster)="([^"]+)"', text)
    assert {Path(name).suffix for name in linked} == {".mp4", ".png"}
    assert all((page.parent / name).is_file() for name in linked)
    assert "Of a whole run it lacks" not in text
    for words in ("Success over the iterations", "What the reward saw", "Weights pushed", "clock"):
        assert words in text
    with av.open(str(page.parent / "before-after-1.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in film.decode(video=0)) > 10


def test_the_page_counts_the_episodes_that_the_reward_model_could_not_judge(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run", seed=5, per_iteration=5)
    run.iterate(1, 0.5)
    # What the trainer's metrics say where scoring failed: the last line of an episode counts.
    for seq, failure in (
        (1, "timeout: no answer within 20 s"),
        (2, "exception: ValueError: bad mood"),
        (3, "unparsable: returned str"),
        (4, ""),
    ):
        run.metrics.add("episode", session_id="s1", episode_seq=seq, success=None, failure=failure)
    found = load_run(tmp_path / "run")
    kinds = [e.judgement.silence for e in sorted(found.of("refine"), key=lambda e: e.seq)]
    assert kinds == ["timeout", "exception", "unparsable", "abstained", ""]
    text = build(tmp_path / "run", tmp_path / "report").read_text()
    said = re.search(r"<p>4\straining episodes without a verdict[^<]*</p>", text)
    assert said is not None
    for words in ("1 × no answer in time", "1 × the reward model raised", "1 × an answer that can"):
        assert words in said.group()


def test_episodes_that_were_stopped_are_none_that_the_reward_abstained_from(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run", seed=5, per_iteration=5)
    run.iterate(1, 0.5)
    for seq, end_reason, failure in (
        (1, "aborted", ""),
        (2, "aborted", ""),
        (3, "time_limit", ""),
        (4, "aborted", "timeout: no answer within 20 s"),
    ):
        run.metrics.add(
            "episode",
            session_id="s1",
            episode_seq=seq,
            success=None,
            failure=failure,
            end_reason=end_reason,
        )
    counts = {"episodes": 5, "successes": 1, "abstained": 2, "stopped": 2}
    run.metrics.add("iteration", iteration=2, **counts)
    found = load_run(tmp_path / "run")
    kinds = [e.judgement.silence for e in sorted(found.of("refine"), key=lambda e: e.seq)]
    assert kinds == ["stopped", "stopped", "abstained", "timeout", ""]
    assert [(it.abstained, it.stopped) for it in found.iterations] == [(0, 0), (2, 2)]
    text = build(tmp_path / "run", tmp_path / "report").read_text()
    said = re.search(r"<p>4\straining episodes without a verdict[^<]*</p>", text)
    assert said is not None
    assert "2 × the episode was stopped before it was done, by a person or a fault" in said.group()
    assert "1 × the reward model abstained by itself" in said.group()
    assert "2\N{NO-BREAK SPACE}more episodes the reward abstained" in text
    assert "2\N{NO-BREAK SPACE}episodes stopped before the end" in text
    (cells,) = re.findall(r"<tr>(<td[^>]*>2</td><td[^>]*>5</td>.*?)</tr>", text)
    assert re.findall(r"<td[^>]*>([^<]*)", cells)[:5] == ["2", "5", "1", "2", "2"]
    assert ">abstained</th>" in text and ">stopped</th>" in text


def test_a_run_cut_off_at_any_moment_has_a_report(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    page = build(root, tmp_path / "0")
    assert "The base policy was not evaluated." in page.read_text()
    run = MadeRun(root)
    run.demo(30, "it was interrupted with Ctrl-C")
    for number, more in enumerate(
        (lambda: run.evaluate("base", 2, 0.5), lambda: run.iterate(1, 0.5)), start=1
    ):
        more()
        # Cut in the middle of a line and of an episode.
        with (root / "trainer/metrics.jsonl").open("a") as file:
            file.write('{"kind": "episo')
        (root / "robot/spool").mkdir(exist_ok=True)
        (root / "robot/spool/s9_00000900.elog").write_bytes(b"ENTRLOG1\x00\x01")
        text = build(root, tmp_path / str(number)).read_text()
        assert "it was interrupted with Ctrl-C" in text
        assert "The refined policy was not evaluated." in text
        with (root / "trainer/metrics.jsonl").open("a") as file:
            file.write("\n")
    assert "after 1 of 30 iterations" in text


def test_hostile_words_are_escaped(tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = MadeRun(root)
    run.evaluate("base", 1, 0.5)
    truth = root / "eval/base/truth.jsonl"
    truth.write_text(truth.read_text().replace("open_drawer", "<img src=x onerror=1>"))
    run.demo(1, "<script>alert(1)</script>")
    text = build(root, tmp_path / "report").read_text()
    assert "<script>" not in text and "<img src=x" not in text


def test_no_run_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EntracteError, match="no run folder"):
        build(tmp_path / "absent", tmp_path / "report")


def test_the_command(whole: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["report", "--run", str(whole), "--output", str(tmp_path / "report")]
    )
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "report" / "index.html") in result.output
