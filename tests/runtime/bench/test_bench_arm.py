"""The arm's kinematics, and trajectories within the speed limits."""

import numpy as np
import pytest

from runtime.bench import arm, motion


def test_inverse_undoes_forward() -> None:
    rng = np.random.default_rng(0)
    tried = 0
    while tried < 300:
        radius, angle = rng.uniform(0.15, 0.28), rng.uniform(-1.0, 1.0)
        pose = arm.TipPose(
            radius * np.cos(angle),
            radius * np.sin(angle),
            rng.uniform(0.01, 0.12),
            rng.uniform(45.0, 90.0),
            rng.uniform(-90.0, 90.0),
        )
        try:
            joints = arm.inverse(pose, 50.0)
        except arm.Unreachable:
            continue
        back = arm.forward(joints)
        np.testing.assert_allclose(back.xyz, pose.xyz, atol=1e-9)
        assert back.pitch_deg == pytest.approx(pose.pitch_deg)
        turn = arm.wrap_half_turn(back.closing_yaw_deg - pose.closing_yaw_deg)
        assert turn == pytest.approx(0.0, abs=1e-6)
        tried += 1


def test_out_of_reach_is_said() -> None:
    with pytest.raises(arm.Unreachable, match="from the shoulder"):
        arm.inverse(arm.TipPose(0.6, 0.0, 0.1, 80.0, 90.0), 0.0)


def test_units_survive_the_round_trip() -> None:
    joints = np.array([10.0, -20.0, 30.0, 40.0, -50.0, 60.0])
    np.testing.assert_allclose(arm.from_sim(arm.to_sim(joints)), joints, rtol=1e-5)


def test_moves_keep_the_speed_limits() -> None:
    start, end = arm.HOME_DEG, arm.HOME_DEG + np.array([60.0, 30.0, -50.0, 5.0, 80.0, 40.0])
    rows = np.vstack([start, start, motion.joint_move(start, end, 1.0), end])
    np.testing.assert_allclose(rows[-2], end)
    speed = np.diff(rows, axis=0) / motion.TICK_S
    assert np.all(np.abs(speed).max(axis=0) <= motion.SPEED_LIMIT * 1.001)
    change = np.abs(np.diff(speed, axis=0)) / motion.TICK_S
    assert np.all(change.max(axis=0) <= motion.ACCELERATION_LIMIT * 1.001)


def test_the_limiter_bounds_a_wild_target() -> None:
    limiter = motion.SlewLimiter(arm.HOME_DEG)
    sent = [arm.HOME_DEG] + [limiter.limit(arm.UPPER) for _ in range(10)]
    speed = np.abs(np.diff(np.array(sent), axis=0)) / motion.TICK_S
    assert np.all(speed[:, :5] <= 90.0)
    assert np.all(speed[:, 5] <= 200.0)
