"""The arm: SO-101's joints and link lengths, its forward and inverse kinematics, and its MJCF.

Pure functions, no simulator. Angles at the interface are LeRobot's: degrees, gripper 0..100 %.
World frame: x forward from the base, y to the arm's left, z up, metres; the pan axis is at x = y = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

JOINT_NAMES = (
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
)
# SO-101's mechanical ranges about the middle of each joint's travel, degrees (gripper: percent).
LOWER = np.array([-110.0, -100.0, -97.0, -95.0, -157.0, 0.0])
UPPER = np.array([110.0, 100.0, 97.0, 95.0, 163.0, 100.0])

# Link lengths of the SO-101, metres.
SHOULDER_X_M = 0.0304
SHOULDER_Z_M = 0.1166
UPPER_ARM_M = (0.0280, 0.1126)  # elbow as seen from the shoulder at zero: forward, up
FOREARM_M = 0.1350
WRIST_TO_ROLL_M = 0.0611
ROLL_TO_TIP_M = 0.0981
HAND_M = WRIST_TO_ROLL_M + ROLL_TO_TIP_M
FINGER_TRAVEL_M = 0.037  # one finger, closed to open: the jaw opens 74 mm

HOME_DEG = np.array([0.0, -40.0, 24.0, 84.0, 0.0, 60.0])

_L1 = math.hypot(*UPPER_ARM_M)
_A1_ZERO = math.atan2(UPPER_ARM_M[1], UPPER_ARM_M[0])


class Unreachable(ValueError):
    """No joint configuration puts the fingertips there at that pitch."""


@dataclass(frozen=True)
class TipPose:
    """Where the point between the fingertips is, and how the hand stands.

    x_m, y_m, z_m in the world; pitch_deg: how far the hand points below the horizontal
    (90 = straight down); closing_yaw_deg: world heading of the line along which the jaw closes.
    """

    x_m: float
    y_m: float
    z_m: float
    pitch_deg: float
    closing_yaw_deg: float

    @property
    def xyz(self) -> np.ndarray:
        return np.array([self.x_m, self.y_m, self.z_m])


def wrap_half_turn(angle_deg: float) -> float:
    """The equal heading of an undirected line, in [-90, 90)."""
    return (angle_deg + 90.0) % 180.0 - 90.0


def inverse(pose: TipPose, gripper_pct: float, roll_near_deg: float = 0.0) -> np.ndarray:
    """Joint positions, float64[6] deg and %, elbow up.

    The jaw is the same after half a turn of the wrist: the roll nearest to roll_near_deg is taken.

    Raises:
        Unreachable: out of reach or outside a joint's range.
    """
    heading = math.atan2(pose.y_m, pose.x_m)
    pitch = math.radians(pose.pitch_deg)
    dx = math.hypot(pose.x_m, pose.y_m) - HAND_M * math.cos(pitch) - SHOULDER_X_M
    dz = pose.z_m + HAND_M * math.sin(pitch) - SHOULDER_Z_M
    reach = math.hypot(dx, dz)
    if not abs(_L1 - FOREARM_M) + 1e-6 < reach < _L1 + FOREARM_M - 1e-4:
        raise Unreachable(f"{pose}: wrist {reach:.3f} m from the shoulder")
    bend = math.acos((_L1**2 + reach**2 - FOREARM_M**2) / (2 * _L1 * reach))
    a1 = math.atan2(dz, dx) + bend
    a2 = math.atan2(dz - _L1 * math.sin(a1), dx - _L1 * math.cos(a1))
    lift = _A1_ZERO - a1
    elbow = -a2 - lift
    wrist = pitch - lift - elbow
    roll = math.degrees(heading) + 90.0 - pose.closing_yaw_deg
    roll = roll_near_deg + wrap_half_turn(roll - roll_near_deg)
    joints = np.array(
        [
            -math.degrees(heading),
            math.degrees(lift),
            math.degrees(elbow),
            math.degrees(wrist),
            roll,
            gripper_pct,
        ]
    )
    if np.any(joints < LOWER) or np.any(joints > UPPER):
        raise Unreachable(f"{pose}: joints {np.round(joints, 1)} outside their range")
    return joints


def forward(joints_deg: np.ndarray) -> TipPose:
    """The fingertips' pose for joint positions float[6] deg and %."""
    pan, lift, elbow, wrist, roll = np.radians(np.asarray(joints_deg, dtype=float)[:5])
    a1 = _A1_ZERO - lift
    a2 = -(lift + elbow)
    pitch = lift + elbow + wrist
    r = SHOULDER_X_M + _L1 * math.cos(a1) + FOREARM_M * math.cos(a2) + HAND_M * math.cos(pitch)
    z = SHOULDER_Z_M + _L1 * math.sin(a1) + FOREARM_M * math.sin(a2) - HAND_M * math.sin(pitch)
    closing = wrap_half_turn(math.degrees(-pan) + 90.0 - math.degrees(roll))
    return TipPose(r * math.cos(-pan), r * math.sin(-pan), z, math.degrees(pitch), closing)


def to_sim(joints_deg: np.ndarray) -> np.ndarray:
    """LeRobot units (deg, %) -> radians and metres of one finger; float64[6]."""
    out: np.ndarray = np.radians(np.asarray(joints_deg, dtype=float))
    out[5] = float(joints_deg[5]) / 100.0 * FINGER_TRAVEL_M
    return out


def from_sim(values: np.ndarray) -> np.ndarray:
    """Radians and metres of one finger -> LeRobot units (deg, %); float32[6]."""
    out: np.ndarray = np.degrees(values)
    out[5] = float(values[5]) / FINGER_TRAVEL_M * 100.0
    return np.asarray(out, dtype=np.float32)


def _joint_range(index: int) -> str:
    low, high = math.radians(LOWER[index]), math.radians(UPPER[index])
    return f'range="{low:.4f} {high:.4f}"'


def arm_xml(link_rgba: str, dark_rgba: str, wrist_camera_xml: str) -> str:
    """MJCF of the arm's bodies. Only hand and fingers collide: the rest cannot reach the table.

    The wrist camera is mounted on the gripper body, so that it turns with the roll joint.
    """
    link = f'rgba="{link_rgba}" contype="0" conaffinity="0" mass="0.06"'
    dark = f'rgba="{dark_rgba}" contype="0" conaffinity="0" mass="0.04"'
    touch = 'contype="1" conaffinity="0"'
    pad = f'rgba="{dark_rgba}" {touch} mass="0.015" friction="1.6 0.02 0.0005" condim="4"'
    ex, ez = UPPER_ARM_M
    tip = ROLL_TO_TIP_M
    finger = f'<geom type="box" size="0.026 0.004 0.0075" pos="{tip - 0.026:.4f} {{side}}0.004 0" {pad}/>'
    left, right = finger.format(side=""), finger.format(side="-")
    return f"""
<body name="arm_base" gravcomp="1">
  <geom type="box" size="0.045 0.038 0.028" pos="-0.005 0 0.028" {dark}/>
  <geom type="cylinder" size="0.026 0.018" pos="0 0 0.073" {link}/>
  <body name="shoulder" pos="0 0 {SHOULDER_Z_M}" gravcomp="1">
    <joint name="shoulder_pan" axis="0 0 -1" {_joint_range(0)}/>
    <geom type="box" size="0.024 0.026 0.022" pos="0.012 0 -0.008" {link}/>
    <body name="upper_arm" pos="{SHOULDER_X_M} 0 0" gravcomp="1">
      <joint name="shoulder_lift" axis="0 1 0" {_joint_range(1)}/>
      <geom type="cylinder" size="0.017 0.03" zaxis="0 1 0" {dark}/>
      <geom type="capsule" size="0.015" fromto="0 0 0 {ex} 0 {ez}" {link}/>
      <body name="forearm" pos="{ex} 0 {ez}" gravcomp="1">
        <joint name="elbow_flex" axis="0 1 0" {_joint_range(2)}/>
        <geom type="cylinder" size="0.016 0.028" zaxis="0 1 0" {dark}/>
        <geom type="capsule" size="0.0135" fromto="0 0 0 {FOREARM_M} 0 0" {link}/>
        <body name="wrist" pos="{FOREARM_M} 0 0" gravcomp="1">
          <joint name="wrist_flex" axis="0 1 0" {_joint_range(3)}/>
          <geom type="cylinder" size="0.015 0.025" zaxis="0 1 0" {dark}/>
          <geom type="box" size="0.022 0.015 0.013" pos="0.032 0 0" {link}/>
          <body name="gripper" pos="{WRIST_TO_ROLL_M} 0 0" gravcomp="1">
            <joint name="wrist_roll" axis="1 0 0" {_joint_range(4)} armature="0.01"/>
            <geom name="palm" type="box" size="0.018 0.042 0.014" pos="0.022 0 0"
                  rgba="{link_rgba}" {touch} mass="0.06" condim="3"/>
            <site name="tip" pos="{tip} 0 0" size="0.002" rgba="0 0 0 0"/>
            {wrist_camera_xml}
            <body name="finger_left" gravcomp="1">
              <joint name="finger_left" type="slide" axis="0 1 0" range="0 {FINGER_TRAVEL_M}"
                     armature="0.05" damping="2"/>
              {left}
            </body>
            <body name="finger_right" gravcomp="1">
              <joint name="finger_right" type="slide" axis="0 -1 0" range="0 {FINGER_TRAVEL_M}"
                     armature="0.05" damping="2"/>
              {right}
            </body>
          </body>
        </body>
      </body>
    </body>
  </body>
</body>"""


def actuator_xml() -> str:
    """Position servos with the torque limit of the STS3215 at 12 V (about 3 N m)."""
    lines = []
    for index, name in enumerate(JOINT_NAMES[:5]):
        gain, damping = (18.0, 1.7) if index < 3 else (6.0, 0.5)
        low, high = math.radians(LOWER[index]), math.radians(UPPER[index])
        lines.append(
            f'<position name="{name}" joint="{name}" kp="{gain}" kv="{damping}" '
            f'ctrlrange="{low:.4f} {high:.4f}" forcerange="-3 3"/>'
        )
    lines.append(
        f'<position name="gripper" joint="finger_left" kp="900" kv="16" '
        f'ctrlrange="0 {FINGER_TRAVEL_M}" forcerange="-14 14"/>'
    )
    return "\n".join(lines)


# The right finger follows the left, as a rack and pinion would make it.
EQUALITY_XML = (
    '<joint joint1="finger_right" joint2="finger_left" polycoef="0 1 0 0 0" '
    'solref="0.008 1" solimp="0.95 0.99 0.001"/>'
)
