"""One scene's MuJoCo model and data: stepping, servo targets, and reading the state out."""

from __future__ import annotations

import numpy as np

from runtime.bench import arm
from runtime.bench.backend import load_mujoco
from runtime.bench.catalog import COLOURS, ContainerType, FixtureType, ObjectType
from runtime.bench.scene import Scene
from runtime.bench.state import BenchState, ObjectState

_LEFT, _RIGHT, _HAND = 1, 2, 3
_OBJECT = 10
_SETTLE_S = 0.12
# A button's lamp changes over when the cap passes this share of its travel, once per stroke.
_PRESSED, _RELEASED = 0.7, 0.4


class PhysicsDiverged(RuntimeError):
    """The simulation became unstable; the episode is worthless. Reset to go on."""


class Physics:
    """Compiled anew for each scene: a model of primitives compiles in a few milliseconds, and a
    fresh model leaves nothing over from the scene before."""

    def __init__(self, scene: Scene, xml: str, arm_start_deg: np.ndarray, dt_s: float) -> None:
        self._mujoco = load_mujoco()
        self._scene = scene
        self.xml = xml
        self._dt_s = dt_s
        self.model = self._mujoco.MjModel.from_xml_string(xml)
        self.data = self._mujoco.MjData(self.model)
        self._owed_s = 0.0
        self._lit = False
        self._armed = True
        self._repainted = False
        warn = self._mujoco.mjtWarning
        self._bad = [int(warn.mjWARN_BADQPOS), int(warn.mjWARN_BADQVEL), int(warn.mjWARN_BADQACC)]
        self._index()
        self._settle(arm_start_deg)

    @property
    def time_s(self) -> float:
        return float(self.data.time) - self._origin_s

    def advance(self, dt_s: float) -> None:
        """Step physics by dt_s; the part that is less than one physics step stays owed."""
        self._owed_s += dt_s
        steps = int(self._owed_s / self._dt_s + 1e-6)
        if steps > 0:
            self._mujoco.mj_step(self.model, self.data, steps)
            self._owed_s -= steps * self._dt_s
            if self.data.warning.number[self._bad].any():
                raise PhysicsDiverged(
                    f"{self._scene.task} seed {self._scene.seed} ({self._scene.split}) after "
                    f"{self.time_s:.2f} s: drop this episode and reset"
                )
        self._watch_button()

    def command(self, target_deg: np.ndarray) -> None:
        self.data.ctrl[:] = arm.to_sim(target_deg)

    def sight(self) -> tuple[np.ndarray, np.ndarray]:
        """What can be seen of the state: joint positions float64[nq], colours float32[ngeom, 4]."""
        return self.data.qpos.copy(), self.model.geom_rgba.copy()

    def positions(self) -> np.ndarray:
        return arm.from_sim(self.data.qpos[self._arm_qpos])

    def targets(self) -> np.ndarray:
        return arm.from_sim(self.data.ctrl)

    def velocities(self) -> np.ndarray:
        return arm.from_sim(self.data.qvel[self._arm_dof])

    def state(self) -> BenchState:
        """Read everything that goals and experts need; arrays are copies."""
        data = self.data
        classes = self._held_classes()
        objects = tuple(
            ObjectState(
                kind,
                data.xpos[body].copy(),
                data.xmat[body].reshape(3, 3).copy(),
                float(np.linalg.norm(data.qvel[dof : dof + 3]))
                + 0.015 * float(np.linalg.norm(data.qvel[dof + 3 : dof + 6])),
                {_LEFT, _RIGHT} <= classes[k],
                bool(classes[k]),
            )
            for k, (kind, body, dof) in enumerate(self._objects)
        )
        handle = np.zeros(3) if self._handle < 0 else data.site_xpos[self._handle].copy()
        velocity = data.qvel[self._arm_dof[:5]]
        return BenchState(
            self.time_s,
            data.site_xpos[self._tip].copy(),
            float(data.qpos[self._arm_qpos[5]]) / arm.FINGER_TRAVEL_M * 100.0,
            objects,
            self._opened(),
            self._lit,
            handle,
            float(np.abs(velocity).max()) * 0.25,
        )

    def camera_to_world(self, camera: str) -> np.ndarray:
        """float64[4, 4], OpenCV camera axes to world."""
        index = self.model.camera(camera).id
        pose = np.eye(4)
        # MuJoCo's cameras look along -z with y up; OpenCV's along +z with y down.
        pose[:3, :3] = self.data.cam_xmat[index].reshape(3, 3) * np.array([1.0, -1.0, -1.0])
        pose[:3, 3] = self.data.cam_xpos[index]
        return pose

    def pop_repainted(self) -> bool:
        """Whether a colour changed since the last call."""
        changed, self._repainted = self._repainted, False
        return changed

    def _index(self) -> None:
        model = self.model
        names = (*arm.JOINT_NAMES[:5], "finger_left")
        self._arm_qpos = np.array([model.joint(n).qposadr[0] for n in names])
        self._arm_dof = np.array([model.joint(n).dofadr[0] for n in names])
        self._right_qpos = model.joint("finger_right").qposadr[0]
        self._tip = model.site("tip").id
        self._gripper = model.body("gripper").id
        self._objects: list[tuple[ObjectType, int, int]] = []
        body_class = np.zeros(model.nbody, dtype=np.int64)
        body_class[model.body("finger_left").id] = _LEFT
        body_class[model.body("finger_right").id] = _RIGHT
        body_class[model.body("gripper").id] = _HAND
        for k, spot in enumerate(self._scene.objects):
            assert isinstance(spot.type, ObjectType)
            body = model.body(f"object_{k}").id
            self._objects.append((spot.type, body, int(model.body_dofadr[body])))
            body_class[body] = _OBJECT + k
        self._geom_class = body_class[model.geom_bodyid]
        fixture = self._scene.fixture
        self._handle = model.site("handle").id if fixture is not None else -1
        self._fixture_qpos = model.joint("fixture").qposadr[0] if fixture is not None else -1

    def _settle(self, arm_start_deg: np.ndarray) -> None:
        """Place what does not start on the table, put the arm at its start, let things rest."""
        model, data, scene = self.model, self.data, self._scene
        sim = arm.to_sim(arm_start_deg)
        data.qpos[self._arm_qpos] = sim
        data.qpos[self._right_qpos] = sim[5]
        data.ctrl[:] = sim
        if scene.fixture is not None:
            data.qpos[self._fixture_qpos] = self._joint_at(scene.fixture_start)
        for k, (kind, body, _) in enumerate(self._objects):
            spot = scene.objects[k]
            for place in scene.containers:
                apart = np.hypot(spot.x_m - place.x_m, spot.y_m - place.y_m)
                assert isinstance(place.type, ContainerType)
                if apart < place.type.half_m * 0.5:
                    address = model.jnt_qposadr[model.body_jntadr[body]]
                    data.qpos[address + 2] = place.type.floor_m + kind.half_m[2] + 0.0005
        self._mujoco.mj_step(model, data, int(_SETTLE_S / self._dt_s))
        self._mujoco.mj_forward(model, data)
        self._origin_s = float(data.time)

    def _fixture_kind(self) -> FixtureType:
        assert self._scene.fixture is not None
        kind = self._scene.fixture.type
        assert isinstance(kind, FixtureType)
        return kind

    def _joint_at(self, opened: float) -> float:
        kind = self._fixture_kind()
        offset = -0.5 if kind.kind == "lever" else 0.0
        return (opened + offset) * kind.travel

    def _opened(self) -> float:
        if self._fixture_qpos < 0:
            return 0.0
        kind = self._fixture_kind()
        offset = 0.5 if kind.kind == "lever" else 0.0
        return float(self.data.qpos[self._fixture_qpos]) / kind.travel + offset

    def _held_classes(self) -> list[set[int]]:
        """For each object, which parts of the hand touch it. A finger counts as a finger where its
        pad presses along the jaw's closing line, as in a grasp, and as the hand elsewhere."""
        touching: list[set[int]] = [set() for _ in self._objects]
        if self.data.ncon == 0:
            return touching
        pairs = self._geom_class[self.data.contact.geom]
        low, high = pairs.min(axis=1), pairs.max(axis=1)
        closing = self.data.xmat[self._gripper].reshape(3, 3)[:, 1]
        pressing = np.abs(self.data.contact.frame[:, :3] @ closing) > 0.7
        for part, thing, is_pad in zip(low.tolist(), high.tolist(), pressing.tolist(), strict=True):
            if 0 < part <= _HAND and thing >= _OBJECT:
                touching[thing - _OBJECT].add(part if is_pad else _HAND)
        return touching

    def _watch_button(self) -> None:
        if self._scene.fixture is None or self._fixture_kind().kind != "button":
            return
        pressed = self._opened()
        if self._armed and pressed > _PRESSED:
            self._armed, self._lit = False, not self._lit
            self._paint()
        elif pressed < _RELEASED:
            self._armed = True

    def _paint(self) -> None:
        colour = np.array(COLOURS[self._fixture_kind().accent])
        lamp, cap = (colour, colour) if self._lit else (colour * 0.25, colour * 0.55)
        for name, shown in (("lamp", lamp), ("cap", cap)):
            self.model.geom(name).rgba[:3] = shown
        self._repainted = True
