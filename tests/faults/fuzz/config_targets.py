"""What people write and programs keep as text: YAML configurations, overrides, a run's own `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import yaml

from runtime.config import load_config as load_robot
from runtime.run import Run, RunPlan
from tests.faults.fuzz.mutation import of_tree
from tests.faults.fuzz.target import Feed, Target
from tests.faults.fuzz.wire_targets import each
from trainer.config import load_config as load_trainer

CONFIGS = Path(__file__).resolve().parents[3] / "hw_configs"
# Short ones, since YAML is slow to read; between them they hold every section.
ROBOT = (
    "robot: {id: arm-1}\nloop: {rate_hz: 30.0, cpus: [1]}\ncameras:\n  front: {width: 64, height: 48}\n",
    "pace: realtime\nbench: {enabled: false}\nloop: {lease_s: 0.07, watchdog_timeout_s: 0.07}\n"
    "arm: {kind: so101, rest_pose: [0.0, 1.5], at_close: release, options: {port: /dev/ttyACM0}}\n"
    "cameras: {wrist: {kind: realsense, latency_s: 0.02, rotation: 90}}\n"
    "gate: {workspace_x_m: [0.0, 0.4], soft_margins: {gripper.pos: 1.0}}\n",
    "cameras: {a: &cam {rate_hz: 5.0}, b: *cam}\nepisode: {reset: [home, operator], home: [1.0]}\n"
    "link: {frames: 'tcp://127.0.0.1:1'}\nrecording: {on_full: continue}\noperator: {}\n",
)
TRAINER = (
    "reward: {model: clock, options: {a: 1}}\nrefiner: {kind: bestofn}\nrelease: {robot_ids: [a-1]}\n",
    "listen: {frames: 'tcp://127.0.0.1:0'}\niteration: {episodes: 2}\nstore: {keep_logs: false}\n",
)


def _encode(tree: Any) -> bytes:
    text: str = yaml.dump(tree, Dumper=yaml.CSafeDumper, allow_unicode=True)
    return text.encode()


def _decode(data: bytes) -> Any:
    try:
        return yaml.load(data, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _override(
    load: Callable[..., msgspec.Struct],
) -> Callable[[Path], AbstractContextManager[Feed]]:
    @contextmanager
    def opened(folder: Path) -> Iterator[Feed]:
        path = folder / "config.yaml"

        def feed(data: bytes) -> None:
            """The bytes as a file; where they are text, its first line as an override as well."""
            path.write_bytes(data)
            line = data.split(b"\n", 1)[0].decode("utf-8", "replace").replace(": ", "=", 1)
            each(
                lambda: _use(load(path)), lambda: load(None, [line]) if len(data) % 8 == 0 else None
            )

        yield feed

    return opened


def _use(config: msgspec.Struct) -> None:
    """What every program does with a configuration that was taken."""
    msgspec.json.encode(config)
    getattr(config, "config_hash", None)
    getattr(config, "aligned", None)


def _run_seeds() -> list[bytes]:
    config = load_robot(CONFIGS / "sim.yaml")
    run = Run(config, RunPlan(), "/tmp/run", "/dev/shm/x", "s-1")
    return [msgspec.json.encode(run)]


@contextmanager
def _loading_runs(folder: Path) -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        Run.load(folder).ring_bytes()

    yield feed


def targets() -> list[Target]:
    text = of_tree(_decode, _encode, 0.6)
    json = of_tree(msgspec.json.decode, msgspec.json.encode)
    robot = [text.encode() for text in ROBOT]
    trainer = [text.encode() for text in TRAINER]
    return [
        Target("robot config", lambda: robot, text, _override(load_robot), 0.3),
        Target("trainer config", lambda: trainer, text, _override(load_trainer), 0.3),
        Target("run", _run_seeds, json, _loading_runs, 2),
    ]
