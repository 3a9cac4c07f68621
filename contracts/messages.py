"""Every message that crosses between robot and trainer, live or through the episode log. Data only.

A message is a msgspec struct with a tag; pictures and weights travel beside it as raw buffers
(see `contracts.wire`). Times are monotonic seconds of the robot's clock unless the name says otherwise.
"""

from __future__ import annotations

import msgspec

from contracts.reward import RewardSignal
from contracts.specs import ActionSpec, ObservationSpec


class Message(msgspec.Struct, frozen=True, tag_field="kind"):
    """Base of all messages."""


class SessionStart(Message, frozen=True, tag="session_start"):
    """First record of every episode log and of a live stream: who speaks, and about what.

    `session_id` is new at every start of `robot-run`; `config_hash` is the hash of the resolved config.
    `loop_rate_hz`: ticks (and so steps) a second; 0: unknown, take it from the steps' times.
    """

    robot_id: str
    session_id: str
    observation: ObservationSpec
    action: ActionSpec
    colour_codec: str
    depth_codec: str
    config_hash: str
    software_version: str
    pace: str
    loop_rate_hz: float = 0.0


class EpisodeStart(Message, frozen=True, tag="episode_start"):
    """`episode_seq` increases by one per episode of a robot, across restarts. `purpose`: "refine",
    "evaluate" or "record". `scene_seed` is the bench's layout seed (-1 on a real robot)."""

    robot_id: str
    session_id: str
    episode_seq: int
    instruction: str
    task: str
    purpose: str
    policy_version: int
    policy_id: str
    reward_version: int
    reward_id: str
    scene_seed: int
    started_at_unix_s: float


class Step(Message, frozen=True, tag="step"):
    """One tick of the control loop.

    `state`, `action` (what the gate let through) and `requested` (what the policy asked for) are in the
    specs' units. `gate` is a bit set (`contracts.messages.GateBit`), `chunk` the number of the inference
    that the action came from and `chunk_index` its place in it (-1: held). Camera buffers beside this
    message are named "<camera>.colour" and "<camera>.depth".
    """

    index: int
    tick_s: float
    captured_s: dict[str, float]
    received_s: dict[str, float]
    state_s: float
    inference_started_s: float
    actuated_s: float
    lateness_s: float
    state: tuple[float, ...]
    action: tuple[float, ...]
    requested: tuple[float, ...]
    gate: int
    chunk: int
    chunk_index: int
    policy_version: int
    reward_version: int
    intervention: bool = False
    reward: RewardSignal | None = None


class EpisodeEnd(Message, frozen=True, tag="episode_end"):
    """`reason`: "completed" (reward engine was sure), "time_limit", "operator", "fault", "aborted".

    `operator_success` is a person's label or, where the config says `label: truth`, the simulator's;
    None where nobody labelled. `timings` holds the loop's percentiles in seconds.
    """

    episode_seq: int
    steps: int
    reason: str
    operator_success: bool | None = None
    detail: str = ""
    timings: dict[str, float] = {}


class Heartbeat(Message, frozen=True, tag="heartbeat"):
    """Published at 10 Hz by the robot's link while the control loop's tick counter advances."""

    robot_id: str
    session_id: str
    tick: int
    state: str
    episode_seq: int
    policy_version: int
    loop_rate_hz: float
    lateness_p99_s: float
    frames_sent: int
    frames_dropped: int
    spooled: int


class EpisodeOffer(Message, frozen=True, tag="episode_offer"):
    """Robot -> trainer: an episode log of `nbytes` with `sha256` is on disk and waits."""

    robot_id: str
    session_id: str
    episode_seq: int
    nbytes: int
    sha256: str


class EpisodeWant(Message, frozen=True, tag="episode_want"):
    """Trainer -> robot: send bytes [offset, offset + length) of that log (credit)."""

    session_id: str
    episode_seq: int
    offset: int
    length: int


class EpisodeChunk(Message, frozen=True, tag="episode_chunk"):
    """Robot -> trainer: one buffer "data" at `offset`."""

    robot_id: str
    session_id: str
    episode_seq: int
    offset: int


class EpisodeStored(Message, frozen=True, tag="episode_stored"):
    """Trainer -> robot: that log is on the trainer's disk, synced; the spool may drop it."""

    session_id: str
    episode_seq: int


class ReleaseQuery(Message, frozen=True, tag="release_query"):
    """Robot -> trainer: is there a release of `target` newer than `have_seq` for this package?

    `target`: "policy" or "reward". Answered by `ReleaseOffer` or `ReleaseNone`.
    """

    robot_id: str
    target: str
    package_id: str
    have_seq: int


class ReleaseNone(Message, frozen=True, tag="release_none"):
    """Trainer -> robot: nothing newer. `iteration` is the one being worked on, `note` says what on."""

    target: str
    iteration: int
    note: str = ""


class ReleaseOffer(Message, frozen=True, tag="release_offer"):
    """Trainer -> robot: canonical JSON of a `ReleaseManifest` and its Ed25519 signature."""

    target: str
    manifest: bytes
    signature: bytes


class ReleaseWant(Message, frozen=True, tag="release_want"):
    """Robot -> trainer: send bytes [offset, offset + length) of the weights of that release."""

    robot_id: str
    target: str
    publish_seq: int
    offset: int
    length: int


class ReleaseChunk(Message, frozen=True, tag="release_chunk"):
    """Trainer -> robot: one buffer "data" at `offset` of release `publish_seq`."""

    target: str
    publish_seq: int
    offset: int


class ReleaseOutcome(Message, frozen=True, tag="release_outcome"):
    """Robot -> trainer: what became of a release, and when it took effect.

    `outcome`: "swapped" (in effect from `episode_seq` on, on probation), "committed", "rejected",
    "rolled_back" or "superseded" (a newer one came before it took effect). Times are seconds since the
    offer was received, NaN where that was not reached. `report_id` names this report: told again after
    a restart it has the same one. It is told until `OutcomeStored` answers it; empty: told once.
    """

    robot_id: str
    target: str
    publish_seq: int
    outcome: str
    reason: str
    episode_seq: int
    bytes_on_wire: int
    verified_s: float
    staged_s: float
    swapped_s: float
    report_id: str = ""


class OutcomeStored(Message, frozen=True, tag="outcome_stored"):
    """Trainer -> robot: that `ReleaseOutcome` is on the trainer's disk, synced; the robot may forget it."""

    report_id: str


AnyMessage = (
    SessionStart
    | EpisodeStart
    | Step
    | EpisodeEnd
    | Heartbeat
    | EpisodeOffer
    | EpisodeWant
    | EpisodeChunk
    | EpisodeStored
    | ReleaseQuery
    | ReleaseNone
    | ReleaseOffer
    | ReleaseWant
    | ReleaseChunk
    | ReleaseOutcome
    | OutcomeStored
)


class GateBit:
    """Bits of `Step.gate`: what the gate did to a command. 0: passed unchanged."""

    POSITION = 1
    VELOCITY = 2
    ACCELERATION = 4
    WORKSPACE = 8
    STALE = 16
    NON_FINITE = 32
    ARITY = 64
    HELD = 128
