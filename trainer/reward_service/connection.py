"""The asker's end of the reward server's socket: questions out, answers by number, each frame once.

Owns the socket, the asker's clock and what the server is believed to hold. What is late or lost becomes a
reason, never an exception.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import zmq

from contracts import reward_service as wire
from contracts.errors import ConfigError, WireError
from contracts.frames import Video
from contracts.reward import RewardSignal
from contracts.reward_service import Answer, Ask, Frames, Health, HealthQuery, Missing, Refused
from contracts.sockets import open_socket

GRACE_S = 0.25
"""How much longer than its deadline an answer is waited for: the server's own "late" says more."""
RESENDS = 3
"""Times that one question's frames are sent again before it abstains."""
UNDER_WAY_BYTES = 128 << 20
"""Pictures of one asker's questions that wait at the same time: eight such fill a server's default."""
KNOWN_FRAMES = 20_000
"""Frames that are remembered as sent. Forgetting one costs sending it again."""


@dataclass
class Question:
    """One moment to score. `ids`: content names of the frames; `sent_s`, `resent`: the connection's notes."""

    video: Video
    ids: tuple[bytes, ...]
    instruction: str
    session: str
    growing: bool
    age_s: float
    sent_s: float = 0.0
    resent: int = 0


def frame_ids(video: Video) -> tuple[bytes, ...]:
    """Content names of a video's frames: cameras, sizes and pixels."""
    names = []
    for row in range(len(video)):
        digest = hashlib.blake2b(digest_size=wire.FRAME_ID_BYTES)
        for camera in sorted(video.views):
            picture = video.views[camera][row]
            digest.update(f"{camera} {picture.shape};".encode())
            digest.update(np.ascontiguousarray(picture).data)
        names.append(digest.digest())
    return tuple(names)


class Connection:
    """One DEALER socket: questions out, answers by number, frames only where the server lacks them."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._context: zmq.Context[Any] = zmq.Context.instance()
        # A question waits for a server that is still starting; its deadline bounds that.
        self._socket = open_socket(
            self._context, zmq.DEALER, connect=address, high_water_mark=1024, immediate=False
        )
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._number = 0
        self._over: deque[str] = deque()

    def close(self) -> None:
        with self._lock:
            self._tell_over()
            self._socket.close(linger=100)

    def forget(self, session: str) -> None:
        """Said with the next question. Takes no lock: a garbage collector may call it at any time."""
        self._over.append(session)

    def _tell_over(self) -> None:
        while self._over:
            session = self._over.popleft()
            self._send(wire.Forget(session))
            for key in [key for key in self._known if key[0] == session]:
                del self._known[key]

    def health(self, timeout_s: float, selftest: bool = False) -> Health:
        with self._lock:
            self._number += 1
            self._send(HealthQuery(self._number, selftest))
            give_up_s = time.monotonic() + timeout_s
            while (left_s := give_up_s - time.monotonic()) > 0:
                message = self._receive(left_s)
                if isinstance(message, Health) and message.request == self._number:
                    return message
                if isinstance(message, Refused):
                    raise ConfigError(f"reward server {self._address}", found=message.reason)
        raise ConfigError(
            f"reward server {self._address}",
            expected=f"an answer within {timeout_s:g} s",
            found="none",
            remedy="start it with `robot-reward serve`, or mend the address",
        )

    def ask(
        self, model: str, questions: Sequence[Question], deadline_s: float, window: int
    ) -> list[RewardSignal | str]:
        """In order: a signal, or why there is none."""
        found: list[RewardSignal | str] = [""] * len(questions)
        waiting: dict[int, int] = {}
        following, heard, last_refusal = 0, False, ""
        with self._lock:
            self._tell_over()
            while following < len(questions) or waiting:
                while following < len(questions) and self._room(
                    [questions[i] for i in waiting.values()], questions[following], window
                ):
                    self._number += 1
                    waiting[self._number] = following
                    self._put(model, self._number, questions[following], deadline_s)
                    following += 1
                oldest_s = min(questions[i].sent_s for i in waiting.values())
                message = self._receive(oldest_s + deadline_s + GRACE_S - time.monotonic())
                heard = heard or message is not None
                if isinstance(message, Refused) and message.request == -1:
                    last_refusal = f"; the server refused a message: {message.reason}"
                number = getattr(message, "request", -1)
                if number in waiting and message is not None:
                    question = questions[waiting[number]]
                    said = self._said(message, model, question, deadline_s)
                    if said is not None:
                        found[waiting.pop(number)] = said
                now_s = time.monotonic()
                for number, index in list(waiting.items()):
                    if now_s - questions[index].sent_s >= deadline_s + GRACE_S:
                        why = f"timeout: no answer within {deadline_s:g} s{last_refusal}"
                        found[waiting.pop(number)] = why
                if not heard and not waiting:
                    # Nobody answered a whole window: the rest would only wait as long again.
                    for index in range(following, len(questions)):
                        found[index] = f"timeout: the reward server {self._address} is silent"
                    break
        return found

    @staticmethod
    def _room(under_way: Sequence[Question], following: Question, window: int) -> bool:
        """Whether one more may be asked; one always may."""
        nbytes = sum(question.video.nbytes for question in [*under_way, following])
        return not under_way or (len(under_way) < window and nbytes <= UNDER_WAY_BYTES)

    def _said(
        self, message: wire.ServiceMessage, model: str, question: Question, deadline_s: float
    ) -> RewardSignal | str | None:
        """None: it was asked again."""
        if isinstance(message, Answer):
            journey_s = time.monotonic() - question.sent_s
            return msgspec.structs.replace(message.signal, staleness_s=question.age_s + journey_s)
        if isinstance(message, Refused):
            return f"refused: {message.reason}"
        if not isinstance(message, Missing):
            return f"remote: the server answered with {type(message).__name__}"
        question.resent += 1
        if question.resent > RESENDS:
            return (
                "remote: the server can't keep the frames of this video (frames_mib is too small)"
            )
        for name in message.frames:
            self._known.pop((question.session, name), None)
        self._put(model, message.request, question, deadline_s)
        return None

    def _put(self, model: str, number: int, question: Question, deadline_s: float) -> None:
        question.sent_s = question.sent_s or time.monotonic()
        passed_s = time.monotonic() - question.sent_s
        self._send_frames(question)
        video = question.video
        self._send(
            Ask(
                number,
                question.session,
                model,
                question.instruction,
                question.ids,
                tuple(video.times_s.tolist()),
                tuple(video.steps.tolist()),
                deadline_s - passed_s,
                question.age_s + passed_s,
                question.growing,
            )
        )

    def _send_frames(self, question: Question) -> None:
        rows: dict[bytes, int] = {}
        for row, name in enumerate(question.ids):
            if (question.session, name) not in self._known:
                rows[name] = row
        views = question.video.views
        frame_bytes = sum(images[0].nbytes for images in views.values())
        block = max(1, wire.MAX_BLOCK_BYTES // frame_bytes)
        names = list(rows)
        for start in range(0, len(names), block):
            part = names[start : start + block]
            index = [rows[name] for name in part]
            pictures = {camera: images[index] for camera, images in views.items()}
            self._send(Frames(question.session, tuple(part)), pictures)
        for name in question.ids:
            self._known[(question.session, name)] = None
            self._known.move_to_end((question.session, name))
        while len(self._known) > KNOWN_FRAMES:
            self._known.popitem(last=False)

    def _send(
        self, message: wire.ServiceMessage, pictures: dict[str, np.ndarray] | None = None
    ) -> None:
        try:
            self._socket.send_multipart(wire.pack(message, pictures), zmq.DONTWAIT)
        except zmq.Again:  # the server is away and the queue full: the deadline says so
            return

    def _receive(self, timeout_s: float) -> wire.ServiceMessage | None:
        if not self._socket.poll(max(0, math.ceil(timeout_s * 1000))):
            return None
        try:
            return wire.unpack(self._socket.recv_multipart()).message
        except WireError as error:
            return Refused(-1, f"answer can't be read: {error}")
