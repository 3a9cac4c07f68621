"""The reward server's loop: one socket, the frames that askers sent, one batcher a model.

Owns the socket and nothing of how a model is asked. No call in it waits for a model.
"""

from __future__ import annotations

import math
import operator
import queue
import socket as sockets
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import zmq

from contracts import reward_service as wire
from contracts.errors import EntracteError, WireError
from contracts.reward import abstain
from contracts.reward_service import Answer, Ask, Forget, Frames, Health, HealthQuery, ModelState
from contracts.sockets import open_socket
from trainer.interfaces import BatchedRewardModel, GrowingRewardModel, VideoRewardModel
from trainer.reward_service.batching import Batcher, Reply, Request
from trainer.reward_service.sessions import Sessions

TURN_MS = 10
"""How long the loop sleeps when nothing comes: late questions are told so at most this much later."""
MESSAGES_PER_TURN = 64
MAX_BUDGET_S = 3600.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`batch`: questions a call of a model at most; `wait_ms`: how long a question waits for those of other
    askers; `frames_mib`: pictures kept for all, and as much again in questions that wait; `per_client`:
    waiting questions of one asker and model."""

    batch: int = 16
    wait_ms: float = 10.0
    frames_mib: int = 1024
    per_client: int = 128

    def __post_init__(self) -> None:
        good = self.batch >= 1 and self.wait_ms >= 0 and self.frames_mib >= 1
        if not (good and self.per_client >= 1):
            raise ValueError("batch, frames_mib and per_client must be >= 1, wait_ms >= 0")


class RewardService:
    """Serves `models` by name at `address` (port 0 takes a free one, see `address`). Raises `ConfigError`
    on an address that is not loopback. `turn` does a slice of work; `run` repeats it until `stop`."""

    def __init__(
        self,
        models: Mapping[str, VideoRewardModel],
        address: str,
        limits: Limits | None = None,
        *,
        selftest_instruction: str = "",
    ) -> None:
        limits = limits or Limits()
        self._context: zmq.Context[Any] = zmq.Context(io_threads=1)
        try:
            self._socket = open_socket(
                self._context, zmq.ROUTER, bind=address, high_water_mark=1024
            )
        except EntracteError:
            self._context.term()
            raise
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._woken, self._wake = sockets.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._woken, zmq.POLLIN)
        self._max_bytes = limits.frames_mib << 20
        self._sessions = Sessions(self._max_bytes)
        self._started_s = time.monotonic()
        self._stopping = False
        self.malformed = 0
        self.batchers = {
            name: Batcher(
                model,
                self._reply_from_any_thread,
                size=limits.batch,
                wait_s=limits.wait_ms / 1000.0,
                per_client=limits.per_client,
                selftest_instruction=selftest_instruction,
            )
            for name, model in models.items()
        }

    def run(self) -> None:
        while not self._stopping:
            self.turn()

    def stop(self) -> None:
        """`run` returns soon; from any thread or signal handler."""
        self._stopping = True
        self._ring()

    def close(self) -> None:
        for batcher in self.batchers.values():
            batcher.stop()
        self._socket.close(linger=200)
        self._context.term()
        self._woken.close()
        self._wake.close()

    def turn(self) -> None:
        ready = dict(self._poller.poll(TURN_MS))
        if self._woken.fileno() in ready:
            self._quiet()
        if self._socket in ready:
            for _ in range(MESSAGES_PER_TURN):
                try:
                    client, *parts = self._socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                self._take(client, parts)
        for batcher in self.batchers.values():
            batcher.expire()
        self._send_replies()

    def _take(self, client: bytes, parts: list[bytes]) -> None:
        received_s = time.monotonic()
        try:
            received = wire.unpack(parts)
            message = received.message
            if isinstance(message, Frames):
                self._sessions.put((client, message.session), message.ids, received.pictures)
            elif isinstance(message, Ask):
                self._ask(client, message, received_s)
            elif isinstance(message, HealthQuery):
                self._send(client, self._health(message))
            elif isinstance(message, Forget):
                self._sessions.forget((client, message.session))
                for batcher in self.batchers.values():
                    batcher.forget(client, message.session)
            else:
                raise WireError(f"{type(message).__name__} is for the asker, not for the server")
        except WireError as error:
            self.malformed += 1
            self._send(client, wire.Refused(-1, str(error)[:500]))

    def _ask(self, client: bytes, ask: Ask, received_s: float) -> None:
        batcher = self.batchers.get(ask.model)
        if batcher is None:
            known = ", ".join(sorted(self.batchers))
            reason = f"no model '{ask.model[:80]}' here, there are: {known}"
            self._send(client, wire.Refused(ask.request, reason))
            return
        if not 0 < ask.budget_s <= MAX_BUDGET_S:
            signal = abstain(ask.steps[-1], "late: no time was left", batcher.model.model_id)
            self._send(client, Answer(ask.request, signal))
            return
        try:
            video = self._sessions.video((client, ask.session), ask)
        except EntracteError as error:
            self._send(client, wire.Refused(ask.request, str(error)[:500]))
            return
        if isinstance(video, tuple):
            self._send(client, wire.Missing(ask.request, video))
            return
        waiting = sum(batcher.waiting_bytes for batcher in self.batchers.values())
        if waiting + video.nbytes > self._max_bytes:
            reason = f"overload: {waiting >> 20} MiB of pictures wait already"
            self._send(
                client, Answer(ask.request, abstain(ask.steps[-1], reason, batcher.model.model_id))
            )
            return
        batcher.submit(
            Request(
                client,
                ask.session,
                ask.request,
                video,
                ask.instruction,
                received_s,
                received_s + ask.budget_s,
                ask.age_s,
                ask.frames if ask.growing else (),
            )
        )

    def _health(self, query: HealthQuery) -> Health | wire.Refused:
        if query.selftest:
            for batcher in self.batchers.values():
                batcher.test_again()
        try:
            models = tuple(_state(name, batcher) for name, batcher in self.batchers.items())
        except Exception as error:  # whatever a model says of itself
            return _unsendable(query.request, error)
        return Health(
            query.request,
            time.monotonic() - self._started_s,
            models,
            len(self._sessions),
            self._sessions.nbytes,
            self.malformed,
        )

    def _reply_from_any_thread(self, reply: Reply) -> None:
        self._replies.put(reply)
        self._ring()

    def _ring(self) -> None:
        try:
            self._wake.send(b"!")
        except OSError:  # full: the loop is going to wake anyway; closed: nobody listens any more
            return

    def _quiet(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            return

    def _send_replies(self) -> None:
        while True:
            try:
                reply = self._replies.get_nowait()
            except queue.Empty:
                return
            request = reply.request
            answer = Answer(
                request.number, reply.signal, reply.waited_s, reply.computed_s, reply.batch
            )
            self._send(request.client, answer)

    def _send(self, client: bytes, message: wire.ServiceMessage) -> None:
        try:
            parts = wire.pack(message)
        except Exception as error:  # whatever a model put into it: no other answer is lost with it
            parts = wire.pack(_unsendable(getattr(message, "request", -1), error))
        try:
            self._socket.send_multipart([client, *parts], zmq.DONTWAIT)
        except zmq.ZMQError:  # an asker that doesn't read its answers: its own deadline tells it
            return


def _unsendable(request: int, error: Exception) -> wire.Refused:
    """In place of a message that holds what can't be sent: its asker abstains."""
    return wire.Refused(request, f"the answer can't be sent: {ascii(error)[:300]}")


def _state(name: str, batcher: Batcher) -> ModelState:
    """In Python's own numbers: a plugin's may be numpy's."""
    model, counts = batcher.model, batcher.counts
    return ModelState(
        name,
        str(model.model_id),
        msgspec.json.encode(model.contract, enc_hook=operator.methodcaller("item")),
        _finite(model.completion_threshold),
        int(model.completion_consecutive),
        isinstance(model, BatchedRewardModel),
        isinstance(model, GrowingRewardModel),
        batcher.selftest,
        batcher.waiting,
        counts.asked,
        counts.passes,
        counts.scored,
        dict(counts.abstained),
        batcher.busy_s,
        counts.latency_s(50),
        counts.latency_s(99),
    )


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else 1.0
