"""The robot's configuration: what every key of hw_configs/*.yaml means.

Owns structs and loading. Checks that need a device or a package happen where these are opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from contracts.config import apply_overrides, convert, parse
from contracts.errors import ConfigError
from contracts.specs import CameraSpec
from runtime.config_checks import check
from runtime.gym.section import GymnasiumSection
from runtime.operator.section import OperatorSection
from runtime.weights.probation import Probation

DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "hw_configs" / "sim.yaml"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: a key that isn't declared here is an error."""


class RobotSection(_Section, frozen=True):
    """`id`: the robot's name on the wire. `nice`: scheduling priority of its processes (0 is normal)."""

    id: str = "bench-0"
    nice: int = 0


class LoopSection(_Section, frozen=True):
    """`rate_hz`: control ticks a second, an integer multiple of the policy's chunk rate.
    `inference_latency_ticks`: in `asap` pace, how late an inference is delivered.
    `watchdog_timeout_s`: wall seconds without a sign of life after which the watchdog takes the arm.
    `pause_allowance_s`: what it was itself kept from running is added to that, up to this.
    `lease_s`: how long one tick keeps the right to write to the arm.
    Asked of the system in `realtime` pace, and said in the run report whether it was granted: `fifo`
    priority, `lock_memory` (no page of control is ever swapped out), `cpus` for the loop's thread (empty:
    any), `freeze_gc`. Shares of the period from which on the loop is judged: `period_warn`/`period_error`
    (mean error or standard deviation of the period), `execution_warn`/`execution_error` (p99 of a tick's
    work)."""

    rate_hz: float = 10.0
    inference_latency_ticks: int = 1
    watchdog_timeout_s: float = 10.0
    pause_allowance_s: float = 0.015
    lease_s: float = 10.0
    fifo: bool = True
    lock_memory: bool = False
    cpus: tuple[int, ...] = ()
    freeze_gc: bool = True
    period_warn: float = 0.1
    period_error: float = 0.25
    execution_warn: float = 0.7
    execution_error: float = 1.0


class ArmSection(_Section, frozen=True):
    """`kind`: a name of the entry-point group `entracte.arms`; `options` go to its constructor. The rest is
    for arms with a process of their own (`runtime.arms.server`).
    `read_rate_hz`: how often it reads the bus. `fault_after_s`: readings failing for longer are a fault.
    `command_timeout_s`: without a command for so long, after one that moves, the arm is put in hold.
    `answer_timeout_s`: how long control waits for an answer; `start_timeout_s`: for the arm to open.
    `at_close`: "hold" leaves the motors powered; "release" cuts power if every joint is within
    `rest_tolerance` (the arm's units) of `rest_pose`, and holds otherwise.
    `state_latency_s`: from the joints standing so to the time that a reading carries; `action_latency_s`:
    from a command to its effect, both as calibration measured them. With any latency above 0, the cameras'
    too, an observation is put together as of one moment, and its chunk is carried out from that."""

    kind: str = "sim"
    options: dict[str, Any] = {}
    read_rate_hz: float = 100.0
    fault_after_s: float = 0.1
    command_timeout_s: float = 0.25
    answer_timeout_s: float = 0.25
    start_timeout_s: float = 60.0
    at_close: Literal["hold", "release"] = "hold"
    rest_pose: tuple[float, ...] = ()
    rest_tolerance: float = 5.0
    state_latency_s: float = 0.0
    action_latency_s: float = 0.0


class CameraSection(_Section, frozen=True):
    """`kind`: a name of the group `entracte.cameras`; `options` go to its constructor. `width` and `height`
    as the policy sees them, after `rotation` (degrees clockwise, as in LeRobot). `latency_s`: from the middle
    of the exposure to the earliest arrival here, as calibration measured it. `start_timeout_s`: how long a
    start waits for the first picture. `warmup_s`: pictures of so long after opening are passed over, while
    the exposure settles (LeRobot's key). `pose`: 4x4, row by row, metres, of the camera on what `mount` names
    (the arm's base or its hand), as calibration measured it; empty: not known. It goes into every session's
    header."""

    kind: str = "sim"
    width: int = 128
    height: int = 96
    rate_hz: float = 10.0
    depth: bool = True
    rotation: Literal[-90, 0, 90, 180] = 0
    latency_s: float = 0.0
    start_timeout_s: float = 10.0
    warmup_s: float = 0.0
    mount: Literal["world", "hand"] = "world"
    pose: tuple[float, ...] = ()
    options: dict[str, Any] = {}


class CalibrationSection(_Section, frozen=True):
    """`file`: the calibration.json that `robot-calibrate` wrote, empty for none; `key`: hex of the public key
    that must have signed it. A model that is bound to another calibration is refused before motion.
    `drift_cameras`: at each start these have to see the board of their calibration where it was, within
    `drift_px` and `drift_mm`, or nothing moves; empty: nobody looks. `chain`: the arm's kinematics for that
    (docs/calibration.md), empty where they are known."""

    file: str = ""
    key: str = ""
    # Cameras are named, and by nobody else than the robot's owner: few robots have a board in sight at work,
    # and to look only where one happens to be seen would pass in silence a camera that was turned away.
    drift_cameras: tuple[str, ...] = ()
    drift_px: float = 8.0
    drift_mm: float = 5.0
    chain: str = ""


class BenchSection(_Section, frozen=True):
    """The simulated bench. `enabled: false` on a real robot. `split`: "train" or "eval" scenes.
    `truth_file`: where the bench process writes the outcome of every episode, relative to the run
    folder; nothing but reports reads it. `gymnasium`: an environment in the bench's place."""

    enabled: bool = True
    split: Literal["train", "eval"] = "eval"
    truth_file: str = "truth.jsonl"
    physics_rate_hz: float = 0.0  # 0: the bench's own
    options: dict[str, Any] = {}
    gymnasium: GymnasiumSection | None = None


class PolicySection(_Section, frozen=True):
    """`package`: folder of the exported policy. `weights`: safetensors file with other values of its
    refinable tensors, empty for its own. `engine`: a name of the group `entracte.engines`.
    `provider`: where ONNX Runtime computes ("auto": CUDA if it can). `cache`: folder of TensorRT's plans, by
    default where `robot-export build` puts them.
    `execute_steps`: chunk actions executed before the next chunk is to take over. `samples`: candidate
    chunks per inference, 0 as the package (or the active release) says. `seed` seeds the noise.
    `explore_deg`: in episodes of refinement every joint in degrees is commanded off by a constant of its own,
    drawn for each chunk with this standard deviation: what is tried is what can be learned from.
    `chunks`: how one goes over into the next. "splice": at the step at which it is there. "realtime": it is
    made to begin with the actions that are executed meanwhile, and to lean on `fade_steps` further ones of
    the chunk under way (a package that can). "ensemble": the mean of all that reach a step, older ones
    weighted as ACT does with `ensemble_decay`."""

    package: str = ""
    weights: str = ""
    engine: str = "onnxruntime"
    threads: int = 1
    provider: Literal["cpu", "cuda", "auto"] = "cpu"
    cache: str = ""
    execute_steps: int = 8
    samples: int = 0
    seed: int = 0
    explore_deg: float = 0.0
    chunks: Literal["splice", "realtime", "ensemble"] = "splice"
    fade_steps: int = 0
    ensemble_decay: float = 0.01


class RewardSection(_Section, frozen=True):
    """`package`: folder of the exported reward model, empty for none. `rate_hz`: 0 as the package says.
    `end_episode`: whether a sure completion ends a "refine" episode early, `end_after_s` after it became
    sure: a hand that is stopped at the first sign of success never learns to finish."""

    package: str = ""
    engine: str = "onnxruntime"
    threads: int = 1
    provider: Literal["cpu", "cuda", "auto"] = "cpu"
    cache: str = ""
    rate_hz: float = 0.0
    end_episode: bool = True
    end_after_s: float = 1.0


class GateSection(_Section, frozen=True):
    """What the gate adds to the arm's own limits. `workspace_*_m`: box for the fingertips in the arm's
    base frame, z above the table. `max_state_age_s`/`max_frame_age_s`: older readings mean hold, and so do
    actions from an observation older than `max_action_age_s`; holding longer than `stale_fault_s` for such a
    reason is a fault. `jerk_time_s`: time in which acceleration may rise from none to its limit, 0 for no
    limit. `soft_margin`: so far (deg, percent) before an end of its range a joint is slowed when it moves
    towards it, `soft_margins` by joint; 0 for none. `quiet_s`: before the start the arm is watched for so
    long, and nothing may move it by more than `quiet_units`. `standstill_s`: within which a stopped arm must
    stand."""

    velocity_scale: float = 1.0
    acceleration_scale: float = 1.0
    workspace_x_m: tuple[float, float] = (-0.10, 0.46)
    workspace_y_m: tuple[float, float] = (-0.40, 0.40)
    workspace_z_m: tuple[float, float] = (-0.005, 0.45)
    max_state_age_s: float = 0.25
    max_frame_age_s: float = 0.5
    stale_fault_s: float = 2.0
    max_action_age_s: float = 5.0
    jerk_time_s: float = 0.0
    soft_margin: float = 0.0
    soft_margins: dict[str, float] = {}
    quiet_s: float = 0.3
    quiet_units: float = 1.0
    standstill_s: float = 1.0


class LinkSection(_Section, frozen=True):
    """Addresses of the trainer (frames, episodes, weights) and where the robot publishes its health. `keys`:
    folder of the robot's keys, relative to the run folder. `curve`: "auto" asks for keys off loopback,
    "always" there, too.
    `live`: stream frames while an episode runs. `colour_codec`: how their colour travels, as JPEG of
    `jpeg_quality` or, where both ends can, as video of `colour_crf` (0 is best, 51 worst); what is recorded
    stays JPEG. `trainer_key`: file with the trainer's Ed25519 public
    key (32 bytes, hex), relative to the run folder; releases are refused without it. `spool_max_mib`: what
    may wait for the trainer on this disk, `spool_min_free_mib`: what stays free of it. `on_full`: without
    room for another episode the arm is in hold before it ("hold"), or it goes on unrecorded ("continue")."""

    enabled: bool = True
    frames: str = "tcp://127.0.0.1:5701"
    episodes: str = "tcp://127.0.0.1:5702"
    weights: str = "tcp://127.0.0.1:5703"
    health: str = "tcp://127.0.0.1:5704"
    live: bool = True
    jpeg_quality: int = 95
    colour_codec: Literal["jpeg", "h264", "hevc"] = "jpeg"
    colour_crf: int = 18
    live_queue: int = 16
    release_poll_s: float = 0.05
    trainer_key: str = "trainer.pub"
    keys: str = "keys"
    curve: Literal["auto", "always"] = "auto"
    spool_max_mib: int = 4096
    spool_min_free_mib: int = 256
    on_full: Literal["hold", "continue"] = "hold"
    options: dict[str, Any] = {}


ResetStrategy = Literal["home", "scripted", "operator"]


class EpisodeSection(_Section, frozen=True):
    """`task`: a bench task by name; `instruction` replaces the scene's own words (and is required
    without a bench). `max_s`: time limit. `label`: who says whether an episode succeeded: "none" (the
    reward engine alone), "keys" (a person) or "truth" (the bench; comparison runs only: it also ends
    an episode once success has lasted `success_hold_s`). `reset`: what happens before every episode, in this
    order, of "home" (the arm moves to `home`), "scripted" (through the poses of `reset_file`) and "operator"
    (waits until somebody says that the scene is set); both moves go through the gate at `reset_speed` (units
    a second)."""

    task: str = "open-drawer"
    instruction: str = ""
    max_s: float = 10.0
    label: Literal["none", "truth", "keys"] = "none"
    success_hold_s: float = 0.5
    seed_base: int = 0
    reset: Literal["none"] | ResetStrategy | tuple[ResetStrategy, ...] = "none"
    home: tuple[float, ...] = ()
    reset_file: str = ""
    reset_speed: float = 20.0

    @property
    def resets(self) -> tuple[str, ...]:
        """The strategies in order."""
        if isinstance(self.reset, tuple):
            return self.reset
        return () if self.reset == "none" else (self.reset,)


class IterationSection(_Section, frozen=True):
    """`count` iterations (0: until stopped) of `episodes` each. With `wait_for_release` the robot stays
    in hold after an iteration until the link has staged the next release, or `release_timeout_s` of
    wall time went by. `ahead`: make a release that arrives during an episode ready beside it, so that the
    robot stands only for taking it; "auto": where time is real, ONNX Runtime computes and there are
    processors to spare."""

    count: int = 0
    episodes: int = 10
    wait_for_release: bool = True
    release_timeout_s: float = 300.0
    ahead: Literal["auto", "always", "never"] = "auto"


class RecordingSection(_Section, frozen=True):
    """`ring_s`: how much of the stream fits between control and link, in seconds of full frames.
    `depth`: whether depth travels at all. `frames_every`: pictures with every n-th tick.
    `queue_frames`: pictures of one camera that may wait for its encoder in the recorder. `min_free_mib`:
    an episode is recorded only with so much free disk. `on_full`: what a full disk does to the run: "stop"
    (the arm holds, the run ends) or "continue" (without recording, until there is room again)."""

    ring_s: float = 1.0
    depth: bool = True
    frames_every: int = 1
    queue_frames: int = 8
    min_free_mib: int = 512
    on_full: Literal["stop", "continue"] = "stop"


class RobotConfig(_Section, frozen=True):
    """The whole file. `pace`: "realtime" (wall clock) or "asap" (simulated clock in lockstep with the
    bench); one code path for both."""

    robot: RobotSection = RobotSection()
    pace: Literal["asap", "realtime"] = "asap"
    loop: LoopSection = LoopSection()
    arm: ArmSection = ArmSection()
    cameras: dict[str, CameraSection] = {}
    calibration: CalibrationSection = CalibrationSection()
    bench: BenchSection = BenchSection()
    policy: PolicySection = PolicySection()
    reward: RewardSection = RewardSection()
    gate: GateSection = GateSection()
    link: LinkSection = LinkSection()
    episode: EpisodeSection = EpisodeSection()
    iteration: IterationSection = IterationSection()
    recording: RecordingSection = RecordingSection()
    operator: OperatorSection = OperatorSection()
    probation: Probation = Probation()

    @property
    def aligned(self) -> bool:
        """Whether any latency is known, so that observations are aligned."""
        arm_s = self.arm.state_latency_s + self.arm.action_latency_s
        return arm_s > 0.0 or any(camera.latency_s > 0.0 for camera in self.cameras.values())

    @property
    def config_hash(self) -> str:
        """First 16 hex digits over the canonical JSON of the resolved configuration."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> RobotConfig:
    """The YAML file (default: the embedded bench) with dotted overrides, checked. Raises `ConfigError`."""
    path = path or DEFAULT_CONFIG
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text", expected="UTF-8", found=str(error)) from error
    except OSError as error:
        raise ConfigError(
            f"can't read {path}",
            found=error.strerror,
            remedy="give --config hw_configs/<yours>.yaml",
        ) from error
    config = convert(apply_overrides(parse(text, str(path)), overrides), RobotConfig, str(path))
    check(config, str(path))
    return config


def camera_spec(name: str, camera: CameraSection) -> CameraSpec:
    """The configured part of a camera's spec; intrinsics come from the device or its calibration."""
    return CameraSpec(
        name=name,
        width=camera.width,
        height=camera.height,
        rate_hz=camera.rate_hz,
        depth=camera.depth,
    )
