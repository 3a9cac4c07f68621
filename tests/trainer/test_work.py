"""What becomes of stored episodes: counted, held, learned from; and of updates that fail."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import numpy as np
import pytest
from daemon_bench import PLUGIN
from lied import Lied

from contracts.answers import pack
from contracts.errors import EntracteError
from contracts.messages import ABORTED
from contracts.release import ReleaseManifest
from contracts.reward import RewardSignal
from contracts.weights import read_tensors
from trainer.interfaces import ScoredEpisode, StoredEpisode, Update
from trainer.metrics import read_metrics
from trainer.monitors.records import Label, Pause, waiting


@pytest.fixture
def tiny(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))


@pytest.mark.usefixtures("tiny")
def test_what_was_held_is_evidence_before_it_is_learned_from(tmp_path: Path) -> None:
    run = Lied(tmp_path)
    run.stored(15, success=False)
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    assert work.paused and work.iteration == 2 and "is paused by labels" in work.note
    paused = run.records.standing().pause
    assert paused is not None and paused.arrival < 8

    run.records.resume("")
    work.look(now=True)
    pause = run.records.standing().pause
    assert pause is not None and pause.arrival == 14, "by those that came after the first"
    assert work.iteration == 2 and "is paused by labels" in work.note

    run.pause_at = 3
    run.records.resume("I know")
    work.look(now=True)
    assert work.paused and work.iteration == 3, "a pause stops what was begun"
    run.records.resume("")
    work.look(now=True)
    assert not work.paused and work.iteration == 5 and work.note == "waiting for episodes"


@pytest.mark.usefixtures("tiny")
def test_a_trainer_that_is_stopped_goes_on_with_what_was_held_at_its_next_start(
    tmp_path: Path,
) -> None:
    """It went through all of it first, hours of it after a long pause."""
    run = Lied(tmp_path, "monitors.audit.share=0.001")
    run.stored(9)
    run.records.pause(Pause("drift", "a lamp", -1, 0.0))
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    assert work.iteration == 0
    run.records.resume("")
    run.stop_at = 1
    run.stored(1, begin=9)
    work.take(run.store.entries[-1])
    assert (work.iteration, work.paused) == (1, "")

    run.stop_at, run.stopping = 0, False
    run.stored(2, begin=10)
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    seen = [(r["metrics"]["seen"], r["metrics"]["distinct"]) for r in run.told("iteration")]
    assert seen == [(n, n) for n in (3, 6, 9, 12)], "each once, in its order"


@pytest.mark.usefixtures("tiny")
def test_the_note_of_a_pause_ends_with_it(tmp_path: Path) -> None:
    run = Lied(tmp_path, "monitors.audit.share=1")
    run.stored(9)
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    assert work.iteration == 3 and not work.paused
    for row in waiting(run.records.rows(), {}):
        run.records.add_label(Label(row.key, False, "eve", 1.0))
    work = run.work()
    work.look()
    assert "is paused by labels" in work.note
    run.records.resume("")
    work.look(now=True)
    assert work.note == "waiting for episodes"


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("{{spoil_at: {at}, spoil: values}}", "holds NaN or infinity"),
        ("{{spoil_at: {at}, spoil: names}}", "is not refinable"),
        ("{{unsaved_at: {at}}}", "RuntimeError: this refiner was told not to save"),
    ],
)
def test_an_update_that_fails_leaves_no_trace_in_the_refiner(
    tmp_path: Path, at: int, spoil: str, said: str
) -> None:
    """Of the first one, too, before which nothing was saved; also by a trainer that starts again."""
    options = f"refiner.options={spoil.format(at=at)}"
    run = Lied(tmp_path, "monitors.enabled=false", options)
    run.stored(9)
    for begin, end in ((0, 4), (3, 9)):
        work = run.work()
        for entry in run.store.entries[begin:end]:
            work.take(entry)
    done = [r for r in read_metrics(run.root / "metrics.jsonl") if r["kind"] == "iteration"]
    failures = [r["refiner_failure"] for r in done]
    assert [bool(failure) for failure in failures] == [n == at for n in (1, 2, 3)]
    assert said in failures[at - 1]
    assert [r["metrics"].get("seen") for r in done if not r["refiner_failure"]] == [3.0, 6.0]
    assert work.publisher is not None
    golden = [case.outputs for case in run.package.golden["head"]]
    for seq in range(1, 4):  # of its own the refiner says nothing; the package's are known
        manifest = run.root / "releases" / "policy" / f"{seq:08d}" / "manifest.json"
        signed = msgspec.json.decode(manifest.read_bytes(), type=ReleaseManifest)
        assert signed.answers == (pack(golden, golden) if seq == at == 1 else b"")
    before, *released = [
        run.package.refinable_weights()["head/bias"],
        *(read_tensors(work.publisher.load_weights(seq))["head/bias"] for seq in range(1, 4)),
    ]
    moved = np.cumsum([0.04 * (n != at) for n in (1, 2, 3)])
    np.testing.assert_allclose(
        [r - before for r in released], moved[:, None] * np.ones(6), atol=1e-5
    )
    kept = {path.name for path in (run.root / "state").iterdir()}
    assert kept == {"state.json", "refiner-000003", f"refiner-00000{1 if at == 2 else 2}"}


@pytest.mark.usefixtures("tiny")
def test_a_refiner_that_can_not_be_saved_as_it_was_opened_is_refused(tmp_path: Path) -> None:
    run = Lied(tmp_path, "refiner.options={unsaved_at: 0}")
    with pytest.raises(EntracteError, match=r"'tiny' can't save its state.*told not to save"):
        run.work()
    assert list((run.root / "state").iterdir()) == []


@pytest.mark.usefixtures("tiny")
def test_a_full_disk_is_no_refiners_failure(tmp_path: Path, monkeypatch) -> None:
    """What the iteration would have learned is not given up: the next start makes it again."""
    run = Lied(tmp_path, "monitors.enabled=false")
    run.stored(3)
    work = run.work()

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no room"):
        patched.setattr(work.refiner, "save", full)
        for entry in run.store.entries:
            work.take(entry)
    assert work.iteration == 0
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    (done,) = (r for r in read_metrics(run.root / "metrics.jsonl") if r["kind"] == "iteration")
    assert (done["refiner_failure"], done["metrics"]["seen"]) == ("", 3.0)


@pytest.mark.usefixtures("tiny")
def test_a_disk_of_the_refiners_own_that_is_full_costs_its_iteration(
    tmp_path: Path, monkeypatch
) -> None:
    """Its /tmp, say: the same iteration would fail at every start."""
    run = Lied(tmp_path, "monitors.enabled=false")
    run.stored(3)
    work = run.work()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room in its cache")

    monkeypatch.setattr(work.refiner, "update", full)
    for entry in run.store.entries:
        work.take(entry)
    (done,) = (r for r in read_metrics(run.root / "metrics.jsonl") if r["kind"] == "iteration")
    assert "no room in its cache" in done["refiner_failure"] and work.iteration == 1


@pytest.mark.usefixtures("tiny")
def test_a_refiner_reads_while_the_rest_of_its_episodes_are_waited_for(tmp_path: Path) -> None:
    run = Lied(tmp_path, "monitors.enabled=false", "refiner.options={unreadable_at: 2}")
    run.stored(8)
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    # All but an iteration's last, which the update reads; what it can't do ahead costs nothing.
    assert work.iteration == 2
    assert getattr(work.refiner, "ahead", None) == [(0, 1), (1, 1), (6, 3), (7, 3)]
    done = [r for r in read_metrics(run.root / "metrics.jsonl") if r["kind"] == "iteration"]
    assert [r["refiner_failure"] for r in done] == ["", ""]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("whose", "learned", "skipped"),
    [("[model]", 6, 0), ("[operator, model]", 3, 0), ("[operator]", 0, 3)],
)
def test_a_persons_label_wins_where_it_is_to_count_and_the_reward_is_held_against_it(
    tmp_path: Path, whose: str, learned: int, skipped: int
) -> None:
    """A reward that calls everything a success; somebody calls the second half failures."""
    run = Lied(tmp_path, f"reward.labels={whose}", "monitors.audit.share=0.001")
    run.stored(3)
    run.stored(3, begin=3, success=False)
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    done = [r for r in read_metrics(run.root / "metrics.jsonl") if r["kind"] == "iteration"]
    assert sum(r["successes"] for r in done) == learned
    assert sum(r["abstained"] for r in done) == skipped
    rows = run.records.rows()
    assert [row.verdict for row in rows] == [True] * 6, "the reward's own word"
    assert [row.operator for row in rows] == [None] * 3 + [False] * 3


@pytest.mark.usefixtures("tiny")
def test_a_robot_that_runs_another_package_is_not_learned_from(tmp_path: Path, capsys) -> None:
    """It gets no release of ours, and its version is a number of somebody else's."""
    run = Lied(tmp_path)
    given: list[list[tuple[str, int]]] = []
    run.stored(1)
    run.stored(4, robot_id="other", policy_id="f" * 16, version=500, success=False)
    run.stored(1, begin=1)
    for _ in range(2):  # a start in the middle of an iteration finds the same
        work = run.work()
        for entry in run.store.entries:
            work.take(entry)
        assert work.iteration == 0 and work.note == "iteration 1: 2 of 3 episodes scored"
    assert work.refiner is not None
    honest = work.refiner.update

    def update(episodes: list[ScoredEpisode], iteration: int) -> Update:
        given.append([(e.episode.key.robot_id, e.episode.key.episode_seq) for e in episodes])
        return honest(episodes, iteration)

    work.refiner.update = update  # type: ignore[method-assign]
    run.stored(1, begin=2)
    work.take(run.store.entries[-1])
    assert given == [[("bench-0", 0), ("bench-0", 1), ("bench-0", 2)]]
    (done,) = run.told("iteration")
    assert (done["of_other_packages"], done["policy_versions"]) == (4, [0])
    assert len(run.told("episode")) == 7, "scored all the same"
    assert {row.key.split("_")[0] for row in run.records.rows()} == {"bench-0"}
    assert not any(work.learns_from(e) for e in run.store.entries if e.robot_id == "other")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all("robot 'other' runs package 'ffff" in line for line in told)
    assert [r["robot_id"] for r in run.told("other_package")] == ["other"] * 2, "once a start"

    run.stored(3, begin=3)
    for entry in run.store.entries:
        work.take(entry)
    assert run.told("iteration")[-1]["of_other_packages"] == 0


@pytest.mark.usefixtures("tiny")
def test_an_episode_that_does_not_tell_its_package_is_learned_from(tmp_path: Path) -> None:
    """As one whose line in the index is of before."""
    run = Lied(tmp_path)
    run.stored(3)
    entries = [msgspec.structs.replace(entry, policy_id="") for entry in run.store.entries]
    work = run.work()
    for entry in entries:
        work.take(entry)
    assert work.iteration == 1


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("held", [False, True])
def test_an_episode_that_no_reward_model_answered_for_is_asked_about_again(
    tmp_path: Path, monkeypatch, held: bool
) -> None:
    """At the next start, and when a pause is over: an endpoint that was down for minutes cost it for good."""
    run = Lied(tmp_path, "monitors.enabled=true")
    run.stored(2)
    if held:
        run.records.pause(Pause("drift", "a lamp", -1, 0.0))
    work = run.work()

    def down(episode: StoredEpisode) -> list[RewardSignal]:
        raise ConnectionRefusedError("no endpoint")

    with monkeypatch.context() as patched:
        patched.setattr(work.scorer.model, "score_episode", down)
        for entry in run.store.entries:
            work.take(entry)
    run.stored(1, begin=2)
    if held:
        work.take(run.store.entries[-1])
        run.records.resume("")
        work.look(now=True)
    else:
        work = run.work()
        for entry in run.store.entries:
            work.take(entry)
    (done,) = run.told("iteration")
    assert (done["successes"], done["abstained"]) == (3, 0)
    said = [(r["episode_seq"], bool(r["failure"])) for r in run.told("episode")]
    assert [s for s in said if s[1]] == [(0, True), (1, True)]
    assert sorted(s for s in said if not s[1]) == [(0, False), (1, False), (2, False)]


@pytest.mark.usefixtures("tiny")
def test_a_kill_before_an_episodes_record_costs_it_nothing(tmp_path: Path, monkeypatch) -> None:
    run = Lied(tmp_path, "monitors.enabled=false")
    run.stored(1)

    class Killed(BaseException):
        pass

    def killed(kind: str, **_: object) -> bool:
        raise Killed(kind)

    work = run.work()
    with monkeypatch.context() as patched, pytest.raises(Killed, match="episode"):
        patched.setattr(work._metrics, "add", killed)
        work.take(run.store.entries[0])
    for _ in range(2):
        run.work().take(run.store.entries[0])
    assert [r["episode_seq"] for r in run.told("episode")] == [0], "and is told once"


@pytest.mark.usefixtures("tiny")
def test_an_episode_that_was_stopped_is_counted_apart(tmp_path: Path) -> None:
    """A reward that calls everything a failure, and one episode of three that nobody let end."""
    run = Lied(tmp_path, "monitors.enabled=false", "reward.options={completion: 0.0}")
    run.stored(2)
    run.stored(1, begin=2, reason=ABORTED)
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    (done,) = (r for r in read_metrics(run.root / "metrics.jsonl") if r["kind"] == "iteration")
    assert [done[name] for name in ("failures", "abstained", "stopped")] == [2, 0, 1]
