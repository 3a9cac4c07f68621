"""The reward server over its real socket: batching, growing episodes, deadlines, failures, odd senders."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from served import ConvReward, Numbers, RecurrentReward, serving, video, wait

from contracts import reward_service as wire
from contracts.errors import ConfigError
from contracts.reward import RewardSignal
from trainer.interfaces import BatchedRewardModel, GrowingRewardModel, VideoRewardModel
from trainer.reward_service.client import connect, health
from trainer.reward_service.connection import Connection
from trainer.reward_service.service import Limits
from trainer.rewards.episodes import score_moments


def test_concurrent_questions_share_forward_passes_and_get_the_same_scores() -> None:
    model, count = ConvReward(), 32
    videos = [video(seed) for seed in range(count)]
    direct = [model.score(v, "lift") for v in videos]
    with serving(model, limits=Limits(batch=16, wait_ms=100.0)) as service:
        askers = [connect(service.address) for _ in range(count)]
        before = model.passes
        with ThreadPoolExecutor(count) as pool:
            found = list(pool.map(lambda a, v: a.score(v, "lift"), askers, videos))
        assert model.passes - before <= count / 4
        for asker in askers:
            asker.close()
    for one, other in zip(found, direct, strict=True):
        assert one.completion == pytest.approx(other.completion, abs=1e-6)
        assert one.model_id == "conv" and math.isnan(one.staleness_s)


def test_a_growing_episode_sends_each_frame_once_and_computes_it_once() -> None:
    whole = video(1, frames=20)
    direct = score_moments(RecurrentReward(), whole, "lift", range(20))
    model = RecurrentReward()
    with serving(model) as service:
        asker, tested = connect(service.address), model.frames
        assert isinstance(asker, GrowingRewardModel)
        found = score_moments(asker, whole, "lift", range(20))
        assert model.frames - tested == 20
        assert health(service.address).frame_bytes == whole.views["front"].nbytes
        # The next question tells the server that the first episode is over.
        asker.score(video(2, frames=1), "lift")
        after = health(service.address)
        assert (after.sessions, after.frame_bytes) == (1, 64 * 64 * 3)
        asker.close()
    assert [s.process for s in found] == pytest.approx([s.process for s in direct], abs=1e-6)


def test_a_server_that_lost_the_frames_gets_them_again() -> None:
    first, whole = RecurrentReward(), video(3, frames=6)
    with serving(first) as service:
        address = service.address
        asker = connect(address, deadline_s=10.0)
        growing = asker.grow("lift")
        growing.see(whole.until(3))
    with serving(RecurrentReward(), address=address):
        found = growing.see(whole)
        asker.close()
    assert found.process == pytest.approx(RecurrentReward().score(whole, "lift").process, abs=1e-6)


def test_memory_for_frames_is_bounded_and_a_video_too_large_for_it_abstains() -> None:
    with serving(RecurrentReward(), limits=Limits(frames_mib=1)) as service:
        asker = connect(service.address)
        kept = [asker.grow("lift") for _ in range(8)]
        growths = [(g, video(i, 20)) for i, g in enumerate(kept)]
        said = [g.see(v.until(row)) for row in (9, 19) for g, v in growths]
        assert {s.abstained for s in said} == {""}
        assert health(service.address).frame_bytes <= 1 << 20
        large = asker.score(video(9, frames=30), "lift")
        assert "frames_mib" in large.abstained and math.isnan(large.process)
        asker.close()


def test_one_frame_named_thousands_of_times_is_refused_before_it_is_copied() -> None:
    with serving(ConvReward(), limits=Limits(frames_mib=1)) as service:
        connection = Connection(service.address)
        name = b"x" * 16
        frame = {"front": np.zeros((1, 64, 64, 3), np.uint8)}
        connection._socket.send_multipart(wire.pack(wire.Frames("s", (name,)), frame))
        count = wire.MAX_FRAMES
        times, steps = tuple(map(float, range(count))), tuple(range(count))
        ask = wire.Ask(7, "s", "conv", "lift", (name,) * count, times, steps, 5.0, math.nan)
        connection._socket.send_multipart(wire.pack(ask))
        answer = connection._receive(5.0)
        assert isinstance(answer, wire.Refused) and answer.request == 7
        assert "pictures of one video" in answer.reason
        connection.close()


class Gate(ConvReward):
    """Computes only when let through, after its self-test."""

    def __init__(self, name: str = "gate") -> None:
        super().__init__(name)
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def score_batch(self, requests):
        self.entered.set()
        assert self.open.wait(20)
        return super().score_batch(requests)

    def shut(self) -> None:
        self.entered.clear()
        self.open.clear()


def test_an_asker_waits_rather_than_fill_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.reward_service.connection.UNDER_WAY_BYTES", 500_000)
    with serving(ConvReward(), limits=Limits(frames_mib=1)) as service:
        asker = connect(service.address, deadline_s=10.0, window=64)
        said = asker.score_batch([(video(i, frames=2, side=128), "lift") for i in range(40)])
        asker.close()
    assert [s.abstained for s in said] == [""] * 40


def test_pictures_of_waiting_questions_are_bounded() -> None:
    model = Gate()
    with serving(model, limits=Limits(frames_mib=1, batch=1)) as service:
        asker = connect(service.address, deadline_s=5.0, window=64)
        model.shut()
        threading.Timer(0.5, model.open.set).start()
        # Each is 98 kB of pictures: ten are nearly a MiB, the rest is told at once.
        said = asker.score_batch([(video(i, frames=2, side=128), "lift") for i in range(40)])
        asker.close()
    full = [s.abstained for s in said if s.abstained]
    assert all(reason.startswith("overload: ") for reason in full)
    assert 20 < len(full) < 35


def test_a_batch_that_comes_back_as_nothing_is_asked_one_by_one() -> None:
    class Forgetful(ConvReward):
        """Returns nothing of a batch once it is served."""

        lost = False

        def score_batch(self, requests):
            found = super().score_batch(requests)
            return None if self.lost and len(requests) > 1 else found

    model = Forgetful()
    with serving(model) as service:
        asker = connect(service.address, deadline_s=5.0)
        model.lost = True
        said = asker.score_batch([(video(i), "lift") for i in range(4)])
        asker.close()
    assert [s.abstained for s in said] == [""] * 4


def test_late_questions_abstain_and_are_never_computed() -> None:
    model = Gate()
    with serving(model, limits=Limits(batch=4, wait_ms=0.0)) as service:
        model.shut()
        hasty = connect(service.address, deadline_s=0.3)
        patient = connect(service.address, deadline_s=20.0)
        with ThreadPoolExecutor(2) as pool:
            blocked = pool.submit(patient.score, video(0, 3), "lift")
            model.entered.wait(5)
            model.seen.clear()
            started = time.monotonic()
            late = hasty.score_batch([(video(i, frames=5 + i), "lift") for i in range(6)])
            assert time.monotonic() - started < 2.0, "the server answers while its model is busy"
            model.open.set()
            assert not blocked.result().abstained
        after = hasty.score(video(20, frames=20), "lift")
        assert not after.abstained
        state = health(service.address).models[0]
        assert state.abstained == {"late": 6} and state.scored == 2
        for asker in (hasty, patient):
            asker.close()
    assert all(s.abstained.startswith("late:") for s in late)
    assert all(math.isnan(s.process) and math.isnan(s.completion) for s in late)
    assert model.seen == [2, 19], "steps of the videos that were computed"


def test_one_busy_asker_does_not_starve_another() -> None:
    model = Gate()
    with serving(model, limits=Limits(batch=4, wait_ms=0.0, per_client=50)) as service:
        model.shut()
        greedy, modest = connect(service.address, window=64), connect(service.address)
        with ThreadPoolExecutor(2) as pool:
            many = pool.submit(
                greedy.score_batch, [(video(i, frames=2), "lift") for i in range(60)]
            )
            wait(lambda: health(service.address).models[0].asked == 60)
            one = pool.submit(modest.score, video(99, frames=9), "lift")
            wait(lambda: health(service.address).models[0].asked == 61)
            model.seen.clear()
            model.open.set()
            answers, alone = many.result(), one.result()
        for asker in (greedy, modest):
            asker.close()
    assert not alone.abstained and model.seen.index(8) < 8, "within the next two batches"
    overload = [s for s in answers if s.abstained.startswith("overload:")]
    assert 6 <= len(overload) <= 10 and not any(s.abstained for s in answers[:50])


class Odd(ConvReward):
    """Fails on videos of certain lengths, also when they come in a batch."""

    def score_batch(self, requests):
        if any(len(video) == 5 for video, _ in requests):
            raise RuntimeError("bad picture")
        found = super().score_batch(requests)
        for row, (shown, _) in enumerate(requests):
            if len(shown) == 6:
                found[row] = RewardSignal(int(shown.steps[-1]), model_id=self.model_id)
            if len(shown) == 7:
                found[row] = "a 3, I think"
        return found


def test_a_model_that_raises_or_talks_nonsense_abstains_for_that_video_alone() -> None:
    model = Odd("odd")
    model.contract = msgspec.structs.replace(RecurrentReward.contract, layout="append")
    with serving(model, limits=Limits(batch=8, wait_ms=50.0)) as service:
        asker = connect(service.address)
        found = asker.score_batch([(video(i, frames=i), "lift") for i in (3, 4, 5, 6, 7, 8)])
        state = health(service.address).models[0]
        asker.close()
    reasons = [s.abstained.partition(":")[0] for s in found]
    assert reasons == ["", "", "exception", "nan", "nan", ""]
    assert "RuntimeError: bad picture" in found[2].abstained
    assert all(math.isnan(found[i].completion) for i in (2, 3, 4))
    assert state.abstained == {"exception": 1, "nan": 2} and state.scored == 3


def test_a_model_that_answers_in_numpys_numbers_is_served_and_ends_nothing() -> None:
    model = Numbers("numbers")
    model.contract = msgspec.structs.replace(RecurrentReward.contract, rate_hz=np.float32(10))
    with serving(model, ConvReward()) as service:
        asker = connect(service.address, "numbers", deadline_s=5)
        found = asker.score_batch([(video(i, frames=i), "lift") for i in (4, 5, 6)])
        other = connect(service.address, "conv", deadline_s=5)
        assert not other.score(video(1), "lift").abstained
        for each in (asker, other):
            each.close()
    assert [s.completion for s in found[::2]] == [0.5, 0.5] and not found[0].abstained
    assert asker.completion_threshold == 0.25 and asker.completion_consecutive == 2
    assert "can't be sent" in found[1].abstained and "surrogates" in found[1].abstained


class Silent(ConvReward):
    """Can't say its threshold any more once it is served."""

    broken = False

    @property
    def completion_threshold(self):
        if self.broken:
            raise RuntimeError("no threshold")
        return 0.5


def test_a_model_that_cannot_tell_of_itself_is_said_and_ends_nothing() -> None:
    model = Silent()
    with serving(model) as service:
        asker = connect(service.address, deadline_s=5)
        model.broken = True
        with pytest.raises(ConfigError, match="no threshold"):
            health(service.address)
        assert not asker.score(video(1), "lift").abstained
        asker.close()


class Moody(ConvReward):
    def score_batch(self, requests):
        torn = super().score_batch(requests)
        return [msgspec.structs.replace(s, process=self.passes / 100) for s in torn]


def test_a_model_that_fails_its_self_test_is_refused_and_the_others_are_served() -> None:
    with serving(ConvReward(), Moody("moody")) as service:
        with pytest.raises(ConfigError, match="asked twice it answers differently"):
            connect(service.address, "moody")
        with pytest.raises(ConfigError, match=r"one model.*\['conv', 'moody'\]"):
            connect(service.address)
        asker = connect(service.address, "conv")
        assert isinstance(asker, BatchedRewardModel) and not isinstance(asker, GrowingRewardModel)
        assert not asker.score(video(1), "lift").abstained
        # Who asks the unwell one without looking gets a reason, not a value.
        sly = connect(service.address, "conv")
        sly._state = msgspec.structs.replace(sly._state, name="moody", model_id="moody")
        assert sly.score(video(1), "lift").abstained.startswith("unwell:")
        sly._state = msgspec.structs.replace(sly._state, name="nobody")
        assert "no model 'nobody'" in sly.score(video(1), "lift").abstained
        for each in (asker, sly):
            each.close()


def test_a_self_test_that_is_asked_for_is_not_answered_with_the_last_one() -> None:
    model = Gate()
    with serving(model) as service:
        assert health(service.address).models[0].busy_s == 0
        model.shut()
        # `robot-reward serve --check` waits while this is above 0.
        assert health(service.address, selftest=True).models[0].busy_s > 0
        model.open.set()
        wait(lambda: health(service.address).models[0].busy_s == 0)


def test_staleness_is_the_age_when_the_answer_is_here() -> None:
    model = Gate()
    with serving(model) as service:
        asker = connect(service.address)
        model.shut()
        threading.Timer(0.2, model.open.set).start()
        started = time.monotonic()
        found = asker.score_live(video(1), "lift", age_s=1.0)
        took_s = time.monotonic() - started
        asker.close()
    assert 0.19 < found.staleness_s - 1.0 <= took_s


def test_a_silent_or_changed_server_abstains_and_never_raises() -> None:
    with serving(ConvReward()) as service:
        address = service.address
        asker = connect(address, deadline_s=2.0, window=4)
    started = time.monotonic()
    found = asker.score_batch([(video(i), "lift") for i in range(40)])
    assert time.monotonic() - started < 16.0, "not a deadline for each of ten windows"
    assert len(found) == 40 and all(s.abstained.startswith("timeout:") for s in found)
    other = ConvReward()
    with serving(other, address=address):
        other.model_id = "conv, fine-tuned"
        asker._deadline_s = 10.0
        assert "now serves model conv, fine-tuned" in asker.score(video(1), "lift").abstained
        asker.close()


def test_damaged_messages_are_counted_and_hurt_nobody() -> None:
    ask = wire.Ask(1, "s", "conv", "lift", (b"x" * 16,), (0.0,), (0,), 1.0, math.nan)
    good = wire.pack(wire.Frames("s", (b"x" * 16,)), {"front": np.zeros((1, 8, 8, 3), np.uint8)})
    damaged = [
        [b""],
        [b"\x93\x01"],
        [msgspec.msgpack.encode([2, {"kind": "ask"}, []])],
        good[:1],
        [good[0], good[1][:-1]],
        [good[0], good[1], b"more"],
        wire.pack(wire.Frames("s", (b"short",)), {"front": np.zeros((1, 8, 8, 3), np.uint8)}),
        wire.pack(wire.Frames("s", (b"x" * 16,)), {"front": np.zeros((1, 8, 8, 3), np.float32)}),
        wire.pack(msgspec.structs.replace(ask, times_s=(0.0, 1.0))),
        wire.pack(msgspec.structs.replace(ask, instruction="x" * 3000)),
        wire.pack(msgspec.structs.replace(ask, steps=(2**63,))),
        wire.pack(msgspec.structs.replace(ask, steps=(-1,))),
        wire.pack(msgspec.structs.replace(ask, times_s=(math.nan,))),
        wire.pack(wire.Refused(1, "I am the server now")),
    ]
    with serving(ConvReward()) as service:
        connection = Connection(service.address)
        for parts in damaged:
            connection._socket.send_multipart(parts)
            answer = connection._receive(5.0)
            assert isinstance(answer, wire.Refused) and answer.request == -1, parts
        backwards = wire.pack(
            msgspec.structs.replace(ask, frames=(b"x" * 16,) * 2, times_s=(1.0, 0.0), steps=(0, 1))
        )
        connection._socket.send_multipart(good)
        connection._socket.send_multipart(backwards)
        answer = connection._receive(5.0)
        assert isinstance(answer, wire.Refused) and "increasing" in answer.reason
        connection.close()
        asker: VideoRewardModel = connect(service.address)
        assert not asker.score(video(1), "lift").abstained
        assert health(service.address).malformed == len(damaged)
        asker.close()


def test_an_address_that_is_not_loopback_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match="every network of this machine"),
        serving(ConvReward(), address="tcp://0.0.0.0:0"),
    ):
        pass
    with pytest.raises(ConfigError, match="not loopback"):
        connect("tcp://192.0.2.1:5710")


def test_nobody_there_is_one_clear_sentence() -> None:
    with pytest.raises(ConfigError, match="start it with `robot-reward serve`"):
        health("tcp://127.0.0.1:1", timeout_s=0.1)
