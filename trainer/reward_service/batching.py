"""One served model: questions of many askers in, few calls of the model, one answer each.

Owns the model's thread, who goes first, and when it is too late. No sockets, no frames of its own.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np

from contracts.frames import Video
from contracts.reward import RewardSignal, abstain
from trainer.interfaces import BatchedRewardModel, VideoRewardModel
from trainer.reward_service.calls import Growths, Said, score_all
from trainer.reward_service.selftest import selftest

MOST_FORGOTTEN = 1024
DUE_S = 1e-3
LATELY_S = 1.0
"""How long an asker that is not asking counts as one that may ask again."""


@dataclass(eq=False)
class Request:
    """One question. Times are of the server's clock; `growing`: names of the video's frames, where it is
    an episode that goes on, else empty."""

    client: bytes
    session: str
    number: int
    video: Video
    instruction: str
    received_s: float
    deadline_s: float
    age_s: float = float("nan")
    growing: tuple[bytes, ...] = ()
    answered: bool = False


@dataclass(frozen=True)
class Reply:
    """`waited_s` and `computed_s` as in `contracts.reward_service.Answer`."""

    request: Request
    signal: RewardSignal
    waited_s: float
    computed_s: float
    batch: int


@dataclass
class Counts:
    """What became of a model's questions."""

    asked: int = 0
    passes: int = 0
    scored: int = 0
    abstained: Counter[str] = field(default_factory=Counter)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=512))

    def latency_s(self, percent: float) -> float:
        kept = list(self.latencies_s)
        return float(np.percentile(kept, percent)) if kept else float("nan")


class Batcher:
    """`submit` from one thread, answers come from any: `reply` must be thread-safe and never wait.

    A batch is what has gathered `wait_s` after its first question, or `size` of them, or one of every asker
    that was here lately: a lone asker never waits for company. Askers take turns, each in the order of its
    own questions, and have at most `per_client` waiting.
    """

    def __init__(
        self,
        model: VideoRewardModel,
        reply: Callable[[Reply], None],
        *,
        size: int = 16,
        wait_s: float = 0.01,
        per_client: int = 128,
        clock: Callable[[], float] = time.monotonic,
        selftest_instruction: str = "",
    ) -> None:
        self.model, self._reply, self._clock = model, reply, clock
        self._size = size if isinstance(model, BatchedRewardModel) else 1
        self._wait_s, self._per_client = wait_s, per_client
        self._waiting: OrderedDict[bytes, deque[Request]] = OrderedDict()
        self._asked_s: dict[bytes, float] = {}
        self._running: list[Request] = []
        self._busy_since_s = 0.0
        self._changed = threading.Condition()
        self._growths = Growths(model)
        # Of a model that nobody asks the oldest are dropped: what it keeps is bounded anyway.
        self._forgotten: deque[tuple[bytes, str]] = deque(maxlen=MOST_FORGOTTEN)
        self._instruction, self._test_asked = selftest_instruction, True
        self._stopping = False
        self.selftest = "not run yet"
        self.counts = Counts()
        self._thread = threading.Thread(target=self._serve, name="reward model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        with self._changed:
            return sum(len(queue) for queue in self._waiting.values())

    @property
    def waiting_bytes(self) -> int:
        """Pictures of the questions that wait, and of those that the model has."""
        with self._changed:
            queued = [request for queue in self._waiting.values() for request in queue]
            return sum(request.video.nbytes for request in [*queued, *self._running])

    @property
    def busy_s(self) -> float:
        """How long the model's present call has been running; above 0 also while a self-test is due."""
        since = self._busy_since_s
        return self._clock() - since if since else DUE_S * self._test_asked

    def submit(self, request: Request) -> None:
        """Queue it; an asker with too many waiting is told so at once."""
        with self._changed:
            self.counts.asked += 1
            self._asked_s[request.client] = request.received_s
            queue = self._waiting.setdefault(request.client, deque())
            full = len(queue) >= self._per_client
            if not full:
                queue.append(request)
                self._changed.notify_all()
        if full:
            self._abstain(request, "overload", f"{self._per_client} questions wait already")

    def expire(self) -> None:
        """Answer what is late, also what the model has been busy with for too long."""
        now_s = self._clock()
        with self._changed:
            late = [r for r in self._running if r.deadline_s <= now_s and not r.answered]
            for client, queue in list(self._waiting.items()):
                late += [r for r in queue if r.deadline_s <= now_s]
                kept = deque(r for r in queue if r.deadline_s > now_s)
                self._waiting[client] = kept
                if not kept:
                    del self._waiting[client]
        for request in late:
            waited_s = now_s - request.received_s
            self._abstain(request, "late", f"no answer within {waited_s:.3f} s of its arrival")

    def forget(self, client: bytes, session: str) -> None:
        """That episode is over: what the model kept of it may go."""
        with self._changed:
            self._forgotten.append((client, session))

    def test_again(self) -> None:
        with self._changed:
            self._test_asked = True
            self._changed.notify_all()

    def wait_for_selftest(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._test_asked, timeout_s)

    def stop(self) -> None:
        """The thread ends after its present call; what waits is not answered."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping or self._test_asked or any(self._waiting.values())
                )
                if self._stopping:
                    return
                testing = self._test_asked
            if testing:
                self._test()
                continue
            batch = self._gather()
            if batch:
                self._answer(batch)

    def _test(self) -> None:
        self._busy_since_s = self._clock()
        self.selftest = selftest(self.model, self._instruction)
        self._busy_since_s = 0.0
        with self._changed:
            self._test_asked = False
            self._changed.notify_all()

    def _gather(self) -> list[Request]:
        """The next batch: full, or its oldest question has waited long enough."""
        with self._changed:
            while not self._stopping:
                count = sum(len(queue) for queue in self._waiting.values())
                if not count:
                    return []
                oldest_s = min(queue[0].received_s for queue in self._waiting.values() if queue)
                left_s = oldest_s + self._wait_s - self._clock()
                if count >= self._size or left_s <= 0 or self._all_here():
                    break
                self._changed.wait(left_s)
            batch = self._take()
            self._running = batch
            return batch

    def _all_here(self) -> bool:
        """Every asker of the last `LATELY_S` has a question waiting."""
        since_s = self._clock() - LATELY_S
        for client in [c for c, asked_s in self._asked_s.items() if asked_s < since_s]:
            del self._asked_s[client]
        return len(self._waiting) >= len(self._asked_s)

    def _take(self) -> list[Request]:
        """One of each asker in turn; who was served goes to the end. Late ones stay for `expire`."""
        batch: list[Request] = []
        now_s = self._clock()
        passed: list[tuple[bytes, deque[Request]]] = []
        while self._waiting and len(batch) < self._size:
            client, queue = self._waiting.popitem(last=False)
            fit = next((r for r in queue if r.deadline_s > now_s), None)
            if fit is None:
                passed.append((client, queue))
                continue
            queue.remove(fit)
            batch.append(fit)
            if queue:
                self._waiting[client] = queue
        for client, queue in passed:
            self._waiting[client] = queue
        return batch

    def _answer(self, batch: list[Request]) -> None:
        if self.selftest != "passed":
            for request in batch:
                self._abstain(request, "unwell", f"the model failed its self-test: {self.selftest}")
            self._running = []
            return
        with self._changed:
            forgotten = list(self._forgotten)
            self._forgotten.clear()
        for key in forgotten:
            self._growths.forget(*key)
        grown = [r for r in batch if r.growing and self._growths.possible]
        for request in grown:
            self._run([request], partial(self._growths.see, request))
        alone = [r for r in batch if r not in grown]
        if alone:
            questions = [(r.video, r.instruction) for r in alone]
            self._run(alone, partial(score_all, self.model, questions))
        self._running = []

    def _run(self, batch: list[Request], call: Callable[[], Said]) -> None:
        started_s = self._busy_since_s = self._clock()
        said = call()
        self._busy_since_s = 0.0
        ended_s = self._clock()
        with self._changed:
            self.counts.passes += said.passes
        for request, signal, kind in zip(batch, said.signals, said.kinds, strict=True):
            if ended_s > request.deadline_s:
                waited_s = ended_s - request.received_s
                self._abstain(request, "late", f"the answer took {waited_s:.3f} s")
                continue
            waited_s = started_s - request.received_s
            aged = msgspec.structs.replace(
                signal, staleness_s=request.age_s + ended_s - request.received_s
            )
            self._send(Reply(request, aged, waited_s, ended_s - started_s, len(batch)), kind)

    def _abstain(self, request: Request, kind: str, reason: str) -> None:
        signal = abstain(int(request.video.steps[-1]), f"{kind}: {reason}", self.model.model_id)
        waited_s = self._clock() - request.received_s
        self._send(Reply(request, signal, waited_s, 0.0, 0), kind)

    def _send(self, reply: Reply, kind: str) -> None:
        """Exactly one answer a question, whichever thread was first."""
        with self._changed:
            if reply.request.answered:
                return
            reply.request.answered = True
            self.counts.latencies_s.append(self._clock() - reply.request.received_s)
            if kind:
                self.counts.abstained[kind] += 1
            else:
                self.counts.scored += 1
        self._reply(reply)
