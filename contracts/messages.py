"""Every message that crosses between robot and trainer, live or through the episode log. Data only.

A message is a msgspec struct with a tag; pictures and weights travel beside it as raw buffers
(see `contracts.wire`). Times are monotonic seconds of the robot's clock unless the name says otherwise.
"""

from __future__ import annotations

import math
import re

import msgspec

from contracts.reward import RewardSignal
from contracts.specs import ActionSpec, ObservationSpec

ROBOT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
"""What a robot may be called on the wire; a session is named by the same letters. Names of files are made
of both, parted by '_'."""


class Message(msgspec.Struct, frozen=True, tag_field="kind"):
    """Base of all messages."""


class CameraPose(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a camera is: carrier_T_camera, 4x4 row by row, metres. `mount`: "world" (carried by the arm's
    base) or "hand". The camera looks along +z, +x to the right of its picture, +y down."""

    mount: str
    pose: tuple[float, ...]


class SessionStart(Message, frozen=True, tag="session_start"):
    """First record of every episode log and of a live stream: who speaks, and about what.

    `session_id` is new at every start of `robot-run`; `config_hash` is the hash of the resolved config.
    `loop_rate_hz`: ticks (and so steps) a second; 0: unknown, take it from the steps' times.
    `frames_every`: pictures travel with every n-th step. Intrinsics, depth scales and the calibration's id
    are in `observation`, `extrinsics` are the cameras' poses as far as they are known; the two hashes are
    those of the specs (`contracts.specs.spec_hash`).
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
    frames_every: int = 1
    extrinsics: dict[str, CameraPose] = {}
    observation_hash: str = ""
    action_hash: str = ""


class EpisodeStart(Message, frozen=True, tag="episode_start"):
    """`episode_seq` increases by one per episode of a robot, across restarts. `purpose`: "refine",
    "evaluate" or "record". `scene_seed` is the bench's layout seed (-1 on a real robot). `policy_seed` is
    `policy.seed` (-1: unknown) and `explore_deg` the standard deviation of what is tried (0: nothing is, or
    unknown): from them and the scene's seed `contracts.draws` makes again what every chunk was drawn with."""

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
    policy_seed: int = -1
    explore_deg: float = 0.0


class Step(Message, frozen=True, tag="step"):
    """One tick of the control loop.

    `state`, `action` (what the gate let through) and `requested` (what the policy asked for) are in the
    specs' units. `state_s`: the moment of `state`: when it was read, or with latencies configured the one
    that pictures and joints were put together for. `inference_started_s`: of the inference that this action
    came from, NaN without one. `actuated_s`: when the gate had given the arm its command (in hold: the pose
    to keep). `gate` is a bit set (`contracts.messages.GateBit`), `chunk` the number of the inference
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


ABORTED = "aborted"
"""How an episode ends that the robot's program, its disk or its power did not let go on."""


class EpisodeEnd(Message, frozen=True, tag="episode_end"):
    """`reason`: "completed" (reward engine was sure), "time_limit", "operator", "fault", `ABORTED`,
    "rerecord" (the operator wants it again: no data set takes it).

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
    """Sent at 10 Hz by the robot's link while the control loop's tick counter advances.

    `sent_s`: by the robot's clock. Add `clock_offset_s` to a time of the robot's to have the trainer's, right
    to `clock_error_s` (infinite while unknown).
    """

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
    sent_s: float = 0.0
    clock_offset_s: float = 0.0
    clock_error_s: float = math.inf


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
    """Trainer -> robot: the log with that SHA-256 (hex) is on the trainer's disk, synced; the spool may drop
    it if that is the one it has."""

    session_id: str
    episode_seq: int
    sha256: str = ""


class EpisodeWait(Message, frozen=True, tag="episode_wait"):
    """Trainer -> robot: that episode can't be taken in now; offer it again later. `reason` is for people.
    `never`: not later either; the next one may be."""

    session_id: str
    episode_seq: int
    reason: str
    never: bool = False


class ReleaseQuery(Message, frozen=True, tag="release_query"):
    """Robot -> trainer: is there a release of `target` newer than `have_seq` for this package?

    `target`: "policy" or "reward". Answered by `ReleaseOffer` or `ReleaseNone`. `have`: SHA-256 (hex) of the
    safetensors files that the robot holds: what a delta may be made against; empty: as it said before.
    """

    robot_id: str
    target: str
    package_id: str
    have_seq: int
    have: tuple[str, ...] = ()


class ReleaseNone(Message, frozen=True, tag="release_none"):
    """Trainer -> robot: nothing newer. `iteration` is the one being worked on, `note` says what on."""

    target: str
    iteration: int
    note: str = ""


class ReleaseEncoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way in which the signed safetensors bytes can travel. `base`: SHA-256 (hex) of the file that a
    delta is against, empty for none; `nbytes` and `sha256` are those of the encoded bytes."""

    id: str
    base: str
    nbytes: int
    sha256: str


class ReleaseOffer(Message, frozen=True, tag="release_offer"):
    """Trainer -> robot: canonical JSON of a `ReleaseManifest` and its Ed25519 signature. `encodings`: ways to
    have its weights besides as they are; not signed, since what is decoded must have the signed hash."""

    target: str
    manifest: bytes
    signature: bytes
    encodings: tuple[ReleaseEncoding, ...] = ()


class ReleaseWant(Message, frozen=True, tag="release_want"):
    """Robot -> trainer: send bytes [offset, offset + length) of the weights of that release, encoded as
    `encoding` of its offer says (empty: the safetensors bytes as they are)."""

    robot_id: str
    target: str
    publish_seq: int
    offset: int
    length: int
    encoding: str = ""


class ReleaseChunk(Message, frozen=True, tag="release_chunk"):
    """Trainer -> robot: one buffer "data" at `offset` of release `publish_seq` in that encoding."""

    target: str
    publish_seq: int
    offset: int
    encoding: str = ""


class ReleaseOutcome(Message, frozen=True, tag="release_outcome"):
    """Robot -> trainer: what became of a release, and when it took effect.

    `outcome`: "swapped" (in effect from `episode_seq` on, on probation), "committed", "rejected",
    "rolled_back" or "superseded" (a newer one took its place on probation). Times are seconds since the
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


class EpisodeRerecord(Message, frozen=True, tag="episode_rerecord"):
    """Control -> recorder: that episode is to be recorded again: forget it, whether it is still being
    recorded or was the last one stored. One that was stored earlier stays."""

    episode_seq: int


class Hello(Message, frozen=True, tag="hello"):
    """Robot -> trainer, first on `episodes` and `weights` and again after silence: who speaks and how.

    `versions`: the lowest and the highest wire version it can use. `features`: what it can do beyond the
    version's own (`contracts.wire`); unknown ones are passed over. Answered by `Welcome` or `Goodbye`; until
    the first nothing else is sent.
    """

    robot_id: str
    session_id: str
    versions: tuple[int, int]
    features: tuple[str, ...] = ()
    software_version: str = ""


class Welcome(Message, frozen=True, tag="welcome"):
    """Trainer -> robot: speak `version`; `features` are those that both ends have."""

    trainer_id: str
    version: int
    features: tuple[str, ...] = ()
    software_version: str = ""


class Goodbye(Message, frozen=True, tag="goodbye"):
    """Trainer -> robot: refused. `reason`: "version", "unknown" (say hello first), "identity" (another robot
    than the key's) or "full"; `detail` is a sentence for people. `versions`: what this end can use."""

    reason: str
    detail: str = ""
    versions: tuple[int, int] = (0, 0)


class HeartbeatEcho(Message, frozen=True, tag="heartbeat_echo"):
    """Trainer -> robot: answers the `Heartbeat` with that `sent_s` (the robot's clock). It was received at
    `received_s` and answered at `answered_s` by the trainer's monotonic clock."""

    robot_id: str
    sent_s: float
    received_s: float
    answered_s: float


class KeyStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new signing key of the trainer's: JSON of a `contracts.key_rotation.NewKey`, and its Ed25519
    signatures by the key before it and by the new one."""

    statement: bytes
    by_old: bytes
    by_new: bytes


class TrainerKeys(Message, frozen=True, tag="trainer_keys"):
    """Trainer -> robot, after `Welcome` on `weights` where its signing key was ever changed: the whole chain,
    oldest first. The robot follows it from the key that it has."""

    statements: tuple[KeyStatement, ...]


class RobotKey(Message, frozen=True, tag="robot_key"):
    """Robot -> trainer, on a connection made with its old key: from now on let `key` (a CURVE public key,
    Z85) in for this robot, too. The old one ends when the new one is first used."""

    robot_id: str
    key: str


class RobotKeyStored(Message, frozen=True, tag="robot_key_stored"):
    """Trainer -> robot: that key is on the allow-list, on disk."""

    key: str


class NextKey(Message, frozen=True, tag="next_key"):
    """Trainer -> robot whose greeting named the feature, after `Welcome` on `weights` and again until it is
    in use: the CURVE key that is to follow the trainer's present one. JSON of a
    `contracts.key_rotation.NextServerKey`, and its Ed25519 signature by the key that signs releases."""

    statement: bytes
    signature: bytes


class NextKeyStored(Message, frozen=True, tag="next_key_stored"):
    """Robot -> trainer: that next CURVE key of the trainer's (Z85) is on the robot's disk, synced: the robot
    will know the trainer by it."""

    robot_id: str
    key: str


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
    | EpisodeWait
    | ReleaseQuery
    | ReleaseNone
    | ReleaseOffer
    | ReleaseWant
    | ReleaseChunk
    | ReleaseOutcome
    | OutcomeStored
    | EpisodeRerecord
    | Hello
    | Welcome
    | Goodbye
    | HeartbeatEcho
    | TrainerKeys
    | RobotKey
    | RobotKeyStored
    | NextKey
    | NextKeyStored
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
    FOREIGN = 256
    """An action of another episode, of weights that are no longer active, out of order, or too old."""
    JERK = 512
    MARGIN = 1024
    """Slowed near an end of a joint's range."""
