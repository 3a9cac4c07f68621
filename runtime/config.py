"""The robot's configuration: what every key of hw_configs/*.yaml means, and the description of one run.

Owns structs, loading and the paths derived from them. Checks that need a device or a package happen
where these are opened.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from contracts.config import apply_overrides, convert, parse
from contracts.errors import ConfigError
from contracts.specs import CameraSpec

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
    `lease_s`: how long one tick keeps the right to write to the arm."""

    rate_hz: float = 10.0
    inference_latency_ticks: int = 1
    watchdog_timeout_s: float = 10.0
    pause_allowance_s: float = 0.015
    lease_s: float = 10.0


class ArmSection(_Section, frozen=True):
    """`kind`: a name of the entry-point group `entracte.arms`; `options` go to its constructor."""

    kind: str = "sim"
    options: dict[str, Any] = {}


class CameraSection(_Section, frozen=True):
    """`kind`: a name of the group `entracte.cameras`; `options` go to its constructor."""

    kind: str = "sim"
    width: int = 128
    height: int = 96
    rate_hz: float = 10.0
    depth: bool = True
    options: dict[str, Any] = {}


class BenchSection(_Section, frozen=True):
    """The simulated bench. `enabled: false` on a real robot. `split`: "train" or "eval" scenes.
    `truth_file`: where the bench process writes the outcome of every episode, relative to the run
    folder; nothing but reports reads it."""

    enabled: bool = True
    split: Literal["train", "eval"] = "eval"
    truth_file: str = "truth.jsonl"
    physics_rate_hz: float = 0.0  # 0: the bench's own
    options: dict[str, Any] = {}


MOST_EXPLORATION_DEG = 10.0


class PolicySection(_Section, frozen=True):
    """`package`: folder of the exported policy. `weights`: safetensors file with other values of its
    refinable tensors, empty for its own. `engine`: a name of the group `entracte.engines`.
    `provider`: where ONNX Runtime computes ("auto": CUDA if it can). `cache`: folder of TensorRT's plans, by
    default where `robot-export build` puts them.
    `execute_steps`: chunk actions executed before the next chunk is to take over. `samples`: candidate
    chunks per inference, 0 as the package (or the active release) says. `seed` seeds the noise.
    `explore_deg`: in episodes of refinement every joint in degrees is commanded off by a constant of its own,
    drawn for each chunk with this standard deviation: what is tried is what can be learned from."""

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
    base frame, z above the table. `max_state_age_s`/`max_frame_age_s`: older readings mean hold;
    holding longer than `stale_fault_s` for that reason is a fault."""

    velocity_scale: float = 1.0
    acceleration_scale: float = 1.0
    workspace_x_m: tuple[float, float] = (-0.10, 0.46)
    workspace_y_m: tuple[float, float] = (-0.40, 0.40)
    workspace_z_m: tuple[float, float] = (-0.005, 0.45)
    max_state_age_s: float = 0.25
    max_frame_age_s: float = 0.5
    stale_fault_s: float = 2.0


class LinkSection(_Section, frozen=True):
    """Addresses of the trainer (frames, episodes, weights) and where the robot publishes its health.
    `live`: stream frames while an episode runs. `trainer_key`: file with the trainer's Ed25519 public
    key (32 bytes, hex), relative to the run folder; releases are refused without it."""

    enabled: bool = True
    frames: str = "tcp://127.0.0.1:5701"
    episodes: str = "tcp://127.0.0.1:5702"
    weights: str = "tcp://127.0.0.1:5703"
    health: str = "tcp://127.0.0.1:5704"
    live: bool = True
    jpeg_quality: int = 95
    live_queue: int = 16
    release_poll_s: float = 0.05
    trainer_key: str = "trainer.pub"
    spool_max_mib: int = 4096
    options: dict[str, Any] = {}


class EpisodeSection(_Section, frozen=True):
    """`task`: a bench task by name; `instruction` replaces the scene's own words (and is required
    without a bench). `max_s`: time limit. `label`: who says whether an episode succeeded: "none" (the
    reward engine alone), "keys" (a person) or "truth" (the bench; comparison runs only: it also ends
    an episode once success has lasted `success_hold_s`)."""

    task: str = "open-drawer"
    instruction: str = ""
    max_s: float = 10.0
    label: Literal["none", "truth", "keys"] = "none"
    success_hold_s: float = 0.5
    seed_base: int = 0


class IterationSection(_Section, frozen=True):
    """`count` iterations (0: until stopped) of `episodes` each. With `wait_for_release` the robot stays
    in hold after an iteration until the link has staged the next release, or `release_timeout_s` of
    wall time went by."""

    count: int = 0
    episodes: int = 10
    wait_for_release: bool = True
    release_timeout_s: float = 300.0


class RecordingSection(_Section, frozen=True):
    """`ring_s`: how much of the stream fits between control and link, in seconds of full frames.
    `depth`: whether depth travels at all. `frames_every`: pictures with every n-th tick."""

    ring_s: float = 1.0
    depth: bool = True
    frames_every: int = 1


class RobotConfig(_Section, frozen=True):
    """The whole file. `pace`: "realtime" (wall clock) or "asap" (simulated clock in lockstep with the
    bench); one code path for both."""

    robot: RobotSection = RobotSection()
    pace: Literal["asap", "realtime"] = "asap"
    loop: LoopSection = LoopSection()
    arm: ArmSection = ArmSection()
    cameras: dict[str, CameraSection] = {}
    bench: BenchSection = BenchSection()
    policy: PolicySection = PolicySection()
    reward: RewardSection = RewardSection()
    gate: GateSection = GateSection()
    link: LinkSection = LinkSection()
    episode: EpisodeSection = EpisodeSection()
    iteration: IterationSection = IterationSection()
    recording: RecordingSection = RecordingSection()

    @property
    def config_hash(self) -> str:
        """First 16 hex digits over the canonical JSON of the resolved configuration."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


Purpose = Literal["refine", "evaluate", "record"]


class RunPlan(_Section, frozen=True):
    """What this start of `robot-run` does, beside the hardware configuration.

    `driver`: "policy", or "expert" for the bench's scripted teleoperator in `style`. `episodes`: 0 until
    stopped (or `iteration.count` iterations). `sink`: who consumes the ring: "link", "dataset" (the
    recorder writes `output`) or "none".
    """

    purpose: Purpose = "refine"
    driver: Literal["policy", "expert"] = "policy"
    style: str = ""
    episodes: int = 0
    sink: Literal["link", "dataset", "none"] = "link"
    output: str = ""
    label_steps: bool = False
    """Record the bench's progress and success with every step (data for reward models)."""
    keep: Literal["all", "success"] = "all"
    """Which recorded episodes the data set takes."""


class Run(_Section, frozen=True):
    """`config.json` of a run folder: everything that the processes of one start need to know."""

    config: RobotConfig
    plan: RunPlan
    run_dir: str
    shm_dir: str
    session_id: str

    @property
    def board_path(self) -> Path:
        return Path(self.shm_dir) / "board"

    @property
    def ring_path(self) -> Path:
        return Path(self.shm_dir) / "ring"

    @property
    def bench_address(self) -> Path:
        """Unix socket of the bench process."""
        return Path(self.shm_dir) / "bench"

    @property
    def stage_path(self) -> Path:
        """What the bench's cameras look at (`runtime.bench.stage`)."""
        return Path(self.shm_dir) / "stage"

    @property
    def spool_dir(self) -> Path:
        return Path(self.run_dir) / "spool"

    @property
    def slots_dir(self) -> Path:
        return Path(self.run_dir) / "slots"

    @property
    def truth_path(self) -> Path:
        return Path(self.run_dir) / self.config.bench.truth_file

    def frames_path(self, camera: str) -> Path:
        return Path(self.shm_dir) / f"frames-{camera}"

    def ring_bytes(self) -> int:
        """Room for `recording.ring_s` seconds of raw pictures of all cameras at the loop's rate."""
        config = self.config
        frame = sum(
            camera.width * camera.height * (5 if camera.depth and config.recording.depth else 3)
            for camera in config.cameras.values()
        )
        rate = config.loop.rate_hz / config.recording.frames_every
        return max(4 << 20, int(frame * rate * config.recording.ring_s) + (1 << 20))

    def save(self) -> None:
        path = Path(self.run_dir) / "config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))

    @classmethod
    def load(cls, run_dir: Path) -> Run:
        path = run_dir / "config.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ConfigError(f"no run at {run_dir}", found=error.strerror) from error
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{path}: {error}") from error


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> RobotConfig:
    """The YAML file (default: the embedded bench) with dotted overrides, checked. Raises `ConfigError`."""
    path = path or DEFAULT_CONFIG
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(
            f"can't read {path}",
            found=error.strerror,
            remedy="give --config hw_configs/<yours>.yaml",
        ) from error
    config = convert(apply_overrides(parse(text, str(path)), overrides), RobotConfig, str(path))
    check(config, str(path))
    return config


def check(config: RobotConfig, source: str) -> None:
    """Values that contradict one another, each a `ConfigError` of one sentence."""
    if not config.cameras:
        raise ConfigError(f"{source}: no camera", remedy="add one under cameras:")
    if config.pace == "asap" and not config.bench.enabled:
        raise ConfigError(f"{source}: pace asap needs the bench", remedy="set pace: realtime")
    for name, value, low in (
        ("loop.rate_hz", config.loop.rate_hz, 0.1),
        ("loop.watchdog_timeout_s", config.loop.watchdog_timeout_s, 0.001),
        ("loop.lease_s", config.loop.lease_s, 0.001),
        ("loop.pause_allowance_s", config.loop.pause_allowance_s, 0.0),
        ("episode.max_s", config.episode.max_s, 0.1),
        ("policy.execute_steps", config.policy.execute_steps, 1),
        ("recording.frames_every", config.recording.frames_every, 1),
        ("iteration.episodes", config.iteration.episodes, 1),
        ("reward.end_after_s", config.reward.end_after_s, 0.0),
        ("loop.inference_latency_ticks", config.loop.inference_latency_ticks, 0),
    ):
        if not value >= low:
            raise ConfigError(f"{source}: {name}", expected=f">= {low:g}", found=value)
    if not 0 <= config.policy.explore_deg <= MOST_EXPLORATION_DEG:
        raise ConfigError(
            f"{source}: policy.explore_deg",
            expected=f"0 to {MOST_EXPLORATION_DEG:g}",
            found=config.policy.explore_deg,
        )
    if not (0 < config.gate.velocity_scale <= 1 and 0 < config.gate.acceleration_scale <= 1):
        raise ConfigError(f"{source}: gate scales may only tighten", expected="in (0, 1]")
    if config.bench.enabled and config.arm.kind == "sim" and not config.episode.task:
        raise ConfigError(f"{source}: episode.task is empty", remedy="name a task of the bench")
    for name, camera in config.cameras.items():
        if camera.width < 16 or camera.height < 16 or camera.rate_hz <= 0:
            raise ConfigError(f"{source}: cameras.{name} has no sensible size or rate")


def new_shm_dir(session_id: str) -> Path:
    """A fresh folder in memory where the machine has one (short: Unix socket paths end at 107 bytes)."""
    base = Path("/dev/shm")
    if not (base.is_dir() and os.access(base, os.W_OK)):
        base = Path(tempfile.gettempdir())
    path = base / f"entracte-{session_id}"
    path.mkdir(mode=0o700)
    return path


def camera_spec(name: str, camera: CameraSection) -> CameraSpec:
    """The configured part of a camera's spec; intrinsics come from the device or its calibration."""
    return CameraSpec(
        name=name,
        width=camera.width,
        height=camera.height,
        rate_hz=camera.rate_hz,
        depth=camera.depth,
    )
