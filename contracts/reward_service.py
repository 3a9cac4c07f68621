"""What a reward server and those who ask it say to each other: messages, caps, packing. Data only.

The wire format is `contracts.wire`'s (versioned msgpack header, raw buffers as separate parts) with a set
of messages of its own, so that a robot's sockets never decode these, nor a reward server theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from contracts.errors import WireError
from contracts.messages import Message
from contracts.reward import RewardSignal
from contracts.wire import (
    MAX_HEADER_BYTES,
    MAX_PARTS,
    VERSION,
    Buffer,
    check_buffer,
)

MAX_FRAMES = 4096
"""Moments of one video, and frames of one message."""
MAX_TEXT = 2000
"""Characters of an instruction."""
FRAME_ID_BYTES = 16
MAX_BLOCK_BYTES = 8 * 1024 * 1024
"""Pictures that an asker puts into one `Frames` message; a longer video goes in several."""


class Frames(Message, frozen=True, tag="frames"):
    """Asker -> server: pictures to keep for later questions. One buffer a camera, uint8[K, H, W, 3] RGB.

    `ids`: K content hashes (16 bytes each, over every camera's pixels and names), in the buffers' order.
    A `session` is the asker's name for one store of frames, as a rule one episode.
    """

    session: str
    ids: tuple[bytes, ...]


class Forget(Message, frozen=True, tag="forget"):
    """Asker -> server: that session is over; its frames may go."""

    session: str


class Ask(Message, frozen=True, tag="ask"):
    """Asker -> server: score the moment of the last of these frames. Answered by `Answer` or `Missing`.

    `frames`, `times_s` and `steps` are those of the video, one a moment. `budget_s`: seconds from its arrival
    in which the answer is of use, later the server abstains. `age_s`: how old the newest frame was when this
    was sent; NaN after the episode, where age has no meaning. `growing`: of earlier questions of this session
    with this instruction this video only adds frames.
    """

    request: int
    session: str
    model: str
    instruction: str
    frames: tuple[bytes, ...]
    times_s: tuple[float, ...]
    steps: tuple[int, ...]
    budget_s: float
    age_s: float
    growing: bool = False


class Answer(Message, frozen=True, tag="answer"):
    """Server -> asker. `waited_s`: from arrival to the start of the model; `computed_s`: in the model;
    `batch`: requests that were answered by the same call of it (0: the model was not asked)."""

    request: int
    signal: RewardSignal
    waited_s: float = 0.0
    computed_s: float = 0.0
    batch: int = 0


class Missing(Message, frozen=True, tag="missing"):
    """Server -> asker: send these frames again (forgotten, or the server was restarted), then ask again."""

    request: int
    frames: tuple[bytes, ...]


class Refused(Message, frozen=True, tag="refused"):
    """Server -> asker: what was sent can't be used. `request` is -1 where it couldn't be read."""

    request: int
    reason: str


class HealthQuery(Message, frozen=True, tag="health_query"):
    """Asker -> server. `selftest`: also test every model again before its next question."""

    request: int
    selftest: bool = False


class ModelState(msgspec.Struct, frozen=True):
    """One served model. `contract`: JSON of its frame contract. `selftest`: "passed", else what failed.

    `asked` counts questions that came, `passes` calls of the model (one batch is one), `scored`
    values given, `abstained` the rest by kind. `busy_s`: how long its present call has been running, 0
    when idle. Latencies are arrival to answer over the last questions, NaN before the first.
    """

    name: str
    model_id: str
    contract: bytes
    completion_threshold: float
    completion_consecutive: int
    batches: bool
    grows: bool
    selftest: str
    waiting: int
    asked: int
    passes: int
    scored: int
    abstained: dict[str, int]
    busy_s: float
    latency_p50_s: float
    latency_p99_s: float


class Health(Message, frozen=True, tag="health"):
    """Server -> asker."""

    request: int
    uptime_s: float
    models: tuple[ModelState, ...]
    sessions: int
    frame_bytes: int
    malformed: int


ServiceMessage = Frames | Forget | Ask | Answer | Missing | Refused | HealthQuery | Health


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    version: int
    message: ServiceMessage
    buffers: tuple[Buffer, ...] = ()


class _VersionOnly(msgspec.Struct, frozen=True, array_like=True):
    version: int


class Received(msgspec.Struct, frozen=True):
    """A decoded message and its checked pictures: camera -> uint8[K, H, W, 3], read-only views."""

    message: ServiceMessage
    pictures: dict[str, np.ndarray]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Envelope)
_version_decoder = msgspec.msgpack.Decoder(_VersionOnly)


def pack(
    message: ServiceMessage, pictures: dict[str, np.ndarray] | None = None
) -> list[bytes | memoryview]:
    """Parts ready for `send_multipart`. `pictures`: camera -> uint8[K, H, W, 3]."""
    arrays = {name: np.ascontiguousarray(array) for name, array in (pictures or {}).items()}
    buffers = tuple(
        Buffer(name, "raw", str(array.dtype), array.shape, array.nbytes)
        for name, array in arrays.items()
    )
    header = _encoder.encode(_Envelope(VERSION, message, buffers))
    return [header, *(array.data.cast("B") for array in arrays.values())]


def unpack(parts: Sequence[bytes | memoryview]) -> Received:
    """Typed message and pictures; `WireError` on anything unexpected, before any allocation."""
    if not 1 <= len(parts) <= MAX_PARTS:
        raise WireError("wrong number of parts", expected=f"1 to {MAX_PARTS}", found=len(parts))
    envelope = _header(parts[0])
    if len(envelope.buffers) != len(parts) - 1:
        raise WireError(
            "parts and buffer descriptors differ",
            expected=f"{len(envelope.buffers)} buffers",
            found=len(parts) - 1,
        )
    pictures: dict[str, np.ndarray] = {}
    for descriptor, part in zip(envelope.buffers, parts[1:], strict=True):
        check_buffer(descriptor, len(part))
        good = descriptor.codec == "raw" and descriptor.dtype == "uint8"
        if not good or len(descriptor.shape) != 4 or descriptor.shape[3] != 3:
            raise WireError(
                f"pictures of camera '{descriptor.name}'",
                expected="raw uint8[K, H, W, 3]",
                found=f"{descriptor.codec} {descriptor.dtype}{list(descriptor.shape)}",
            )
        if descriptor.name in pictures:
            raise WireError(f"camera '{descriptor.name}' appears twice")
        pictures[descriptor.name] = np.frombuffer(part, np.uint8).reshape(descriptor.shape)
    _check(envelope.message, pictures)
    return Received(envelope.message, pictures)


def _header(header: bytes | memoryview) -> _Envelope:
    if len(header) > MAX_HEADER_BYTES:
        raise WireError(
            "header too large", expected=f"<= {MAX_HEADER_BYTES} bytes", found=len(header)
        )
    try:
        # The version first: a header of another one may well not decode.
        version = _version_decoder.decode(header).version
        if version == VERSION:
            return _decoder.decode(header)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise WireError("malformed message", found=str(error)) from error
    raise WireError(
        "wire versions differ",
        expected=f"version {VERSION} (this end)",
        found=f"version {version} (other end)",
        remedy="install the same release of entracte on both ends",
    )


def _check(message: ServiceMessage, pictures: dict[str, np.ndarray]) -> None:
    """What the types can't say: counts that belong together, sizes."""
    if isinstance(message, Frames):
        counts = {len(array) for array in pictures.values()}
        if counts != {len(message.ids)} or not 0 < len(message.ids) <= MAX_FRAMES:
            raise WireError(
                "pictures of a message", expected=f"{len(message.ids)} a camera", found=counts
            )
        if any(0 in array.shape for array in pictures.values()):
            raise WireError("an empty picture")
    elif pictures:
        raise WireError(f"{type(message).__name__} carries no pictures", found=sorted(pictures))
    if isinstance(message, Ask):
        count = len(message.frames)
        if not 0 < count <= MAX_FRAMES or {len(message.times_s), len(message.steps)} != {count}:
            raise WireError(
                "frames of a question",
                expected=f"1 to {MAX_FRAMES}, a time and a step each",
                found=(count, len(message.times_s), len(message.steps)),
            )
        # Steps go into int64, times into arithmetic with them.
        if not all(0 <= step < 1 << 62 for step in message.steps):
            raise WireError("steps of a question", expected="0 to 2^62", found=message.steps[:3])
        if not all(map(math.isfinite, message.times_s)):
            raise WireError("times of a question", expected="finite", found=message.times_s[:3])
        if len(message.instruction) > MAX_TEXT:
            raise WireError(
                "instruction", expected=f"<= {MAX_TEXT} characters", found=len(message.instruction)
            )
    ids = message.ids if isinstance(message, Frames) else ()
    ids = message.frames if isinstance(message, Ask) else ids
    if any(len(each) != FRAME_ID_BYTES for each in ids):
        raise WireError("frame id", expected=f"{FRAME_ID_BYTES} bytes")
