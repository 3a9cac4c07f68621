"""The bench's cameras in `realtime` pace: a process that takes pictures of what physics shows.

`python -m runtime.bench.pictures --run-dir <dir>`, started by the bench server. Rendering keeps a processor
busy, so it asks for a larger share and not to run first: as a thread of the server it held the interpreter
that the arm's bus needs, and had to run ahead of everything else for that. Ends when the server does.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from contracts.errors import EntracteError
from contracts.files.stop_event import StopEvent
from runtime.bench import WorldConfig
from runtime.bench.backend import load_mujoco
from runtime.bench.render import Renderer, intrinsics
from runtime.bench.stage import Glimpse, Stage
from runtime.config import CameraSection
from runtime.frames import FrameSlots
from runtime.run import Run, run_of_process
from runtime.system.priority import take_more

START_S = 20.0
_IDLE_S = 0.01


class CameraProcess:
    """The server's end: starts the process and waits until every camera has seen the scene. When it dies
    later the bus goes on: whoever looks finds old pictures. Raises `EntracteError`."""

    def __init__(self, run: Run) -> None:
        slots = [FrameSlots.open(run.frames_path(name)) for name in _simulated(run)]
        command = [sys.executable, "-m", "runtime.bench.pictures", "--run-dir", run.run_dir]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._closing = False
        give_up_s = time.monotonic() + START_S
        while any(camera.newest(0.0) is None for camera in slots):
            if self._process.poll() is not None or time.monotonic() > give_up_s:
                self.close()
                raise EntracteError("the bench's cameras did not start", remedy="see bench.log")
            time.sleep(0.01)
        threading.Thread(target=self._report_death, name="cameras", daemon=True).start()

    def close(self) -> None:
        self._closing = True
        self._process.terminate()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _report_death(self) -> None:
        code = self._process.wait()
        if not self._closing:
            print(f"bench: the cameras ended with code {code}", file=sys.stderr, flush=True)


class Viewer:
    """Renders glimpses: a model for each scene, and a state with what was seen of it."""

    def __init__(self, config: WorldConfig) -> None:
        self._mujoco = load_mujoco()
        self._renderer = Renderer(intrinsics(config.width, config.height), config.depth_noise)
        self._scene = 0

    def look(self, glimpse: Glimpse) -> None:
        """The next pictures are of this."""
        mj = self._mujoco
        if glimpse.scene != self._scene:
            self._model = mj.MjModel.from_xml_string(glimpse.model_xml)
            self._data = mj.MjData(self._model)
            self._scene = glimpse.scene
        sight = glimpse.sight()
        self._data.qpos[:] = sight.qpos
        self._model.geom_rgba[:] = sight.colours
        mj.mj_kinematics(self._model, self._data)
        mj.mj_camlight(self._model, self._data)
        self._key = sight.key
        self._renderer.forget()

    def render(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """As `World.render`."""
        return self._renderer.render(self._model, self._data, camera, self._key)


def _simulated(run: Run) -> dict[str, CameraSection]:
    return {name: c for name, c in run.config.cameras.items() if c.kind == "sim"}


def take_pictures(run: Run, stop: threading.Event) -> None:
    """At each camera's rate, until `stop` or until the server is gone."""
    server = os.getppid()
    cameras = _simulated(run)
    slots = {name: FrameSlots.open(run.frames_path(name)) for name in cameras}
    size = next((s.width, s.height) for s in slots.values())
    viewer = Viewer(WorldConfig(width=size[0], height=size[1], **run.config.bench.options))
    stage = Stage.open(run.stage_path)
    due_s = dict.fromkeys(cameras, time.monotonic())
    while not stop.is_set() and os.getppid() == server:
        now_s = time.monotonic()
        ready = [name for name, at in due_s.items() if at <= now_s]
        glimpse = stage.newest() if ready else None
        if glimpse is None:
            time.sleep(min(_IDLE_S, max(0.0005, min(due_s.values()) - now_s)))
            continue
        viewer.look(glimpse)
        for name in ready:
            period_s = 1.0 / cameras[name].rate_hz
            due_s[name] += period_s * max(1, math.ceil((now_s - due_s[name]) / period_s))
            rgb, depth = viewer.render(name)
            slots[name].write(rgb, depth if slots[name].depth else None, glimpse.captured_s)


def main() -> None:
    run = run_of_process("runtime.bench.pictures")
    stop = StopEvent()
    take_more()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        take_pictures(run, stop)
    except (EntracteError, ImportError, OSError, ValueError) as error:
        print(f"bench cameras: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # OSMesa's teardown can crash, and nothing is left to save


if __name__ == "__main__":
    main()
