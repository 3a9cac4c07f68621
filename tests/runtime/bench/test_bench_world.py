"""The world as a robot sees it: determinism, units, cameras, depth, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from runtime.bench import (
    CAMERAS,
    EVAL,
    TRAIN,
    BadCommand,
    NotReset,
    RandomisationConfig,
    UnknownTask,
    World,
    WorldConfig,
    make_expert,
)
from runtime.bench.backend import SimulationUnavailable, load_mujoco

pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def play(world: World, ticks: int) -> list[np.ndarray]:
    world.reset("put_on", 3, EVAL)
    expert = make_expert(world, 3)
    seen = []
    for _ in range(ticks):
        world.command(expert.act())
        world.step(0.1)
    for camera in CAMERAS:
        seen += list(world.render(camera))
    seen += [world.positions(), world.velocities()]
    seen += [thing.position_m for thing in world.state().objects]
    return seen


def test_equal_seeds_and_commands_give_equal_states_and_images(world: World) -> None:
    first = play(world, 25)
    world.reset("open_drawer", 1, TRAIN)
    world.step(0.5)
    again = play(world, 25)
    fresh = play(World(), 25)
    for a, b, c in zip(first, again, fresh, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_seeds_and_splits_differ(world: World) -> None:
    pictures = {}
    for key in ((0, EVAL), (1, EVAL), (0, TRAIN)):
        world.reset("put_on", *key)
        pictures[key] = world.render("front")[0].tobytes()
    assert len(set(pictures.values())) == 3


def test_a_step_may_be_cut_into_pieces(world: World) -> None:
    ends = []
    for cuts in (1, 7):
        world.reset("open_drawer", 2)
        world.command(world.positions() + np.array([10, 5, 0, 0, 0, 0]))
        for _ in range(cuts):
            world.step(0.35 / cuts)
        ends.append(world.positions())
        assert world.time_s == pytest.approx(0.35, abs=0.005)
    np.testing.assert_allclose(ends[0], ends[1], atol=0.05)


def test_the_arm_goes_where_it_is_told_in_lerobot_units(world: World) -> None:
    world.reset("lift", 0, TRAIN)
    target = world.positions() + np.array([15.0, 5.0, -5.0, -5.0, 20.0, -20.0])
    world.command(target)
    world.step(1.5)
    np.testing.assert_allclose(world.positions(), target, atol=0.5)
    assert np.abs(world.velocities()).max() < 1.0
    world.command(target + 20.0)
    world.step(0.15)
    world.hold()
    held = world.positions()
    world.step(1.0)
    assert np.abs(world.positions() - held).max() < 8.0


def test_renders_have_declared_shapes_and_types(world: World) -> None:
    world.reset("put_on", 0)
    for camera in CAMERAS:
        rgb, depth = world.render(camera)
        assert rgb.shape == (96, 128, 3) and rgb.dtype == np.uint8
        assert depth.shape == (96, 128) and depth.dtype == np.uint16
        assert rgb.std() > 10 and (depth > 0).mean() > 0.5
    view = world.intrinsics("front")
    assert 2 * np.degrees(np.arctan(view.width / 2 / view.fx)) == pytest.approx(69.0)


def test_depth_intrinsics_and_extrinsics_agree_with_the_scene() -> None:
    world = World(WorldConfig(320, 240, depth_noise=False))
    for seed in range(4):
        world.reset("put_on", seed)
        view, pose = world.intrinsics("front"), world.extrinsics("front")
        _, depth = world.render("front")
        for place in world.scene.containers:
            point = np.array([place.x_m, place.y_m, place.type.floor_m, 1.0])
            x, y, z, _ = np.linalg.inv(pose) @ point
            u, v = round(view.fx * x / z + view.cx), round(view.fy * y / z + view.cy)
            if not (2 < u < 317 and 2 < v < 237) or abs(depth[v, u] - 1000 * z) > 30:
                continue  # outside the image, or something stands before it
            assert depth[v, u] == pytest.approx(1000 * z, abs=4)
            break
        else:
            pytest.fail("no container was seen where the calibration puts it")


def test_the_table_is_flat_through_the_declared_lens() -> None:
    """Colour and depth number their pixels by their middles, as OpenCV does: half a pixel lifts the table by
    a third of a millimetre under a camera that looks at it aslant."""
    world = World(WorldConfig(640, 480, depth_noise=False))
    try:
        world.reset("put_on", 0)
        view, pose = world.intrinsics("front"), world.extrinsics("front")
        _, depth = world.render("front")
    finally:
        world.close()
    assert (view.cx, view.cy) == ((640 - 1) / 2, (480 - 1) / 2)
    rows, columns = np.indices(depth.shape)
    z = depth / 1e3
    seen = np.stack([(columns - view.cx) / view.fx * z, (rows - view.cy) / view.fy * z, z], axis=-1)
    height = (seen @ pose[:3, :3].T + pose[:3, 3])[..., 2]
    table = height[(depth > 0) & (np.abs(height) < 0.002)]
    assert len(table) > 50_000
    assert abs(table.mean()) < 1e-4


def test_depth_noise_grows_with_distance_and_leaves_holes() -> None:
    clean, noisy = World(WorldConfig(depth_noise=False)), World()
    for one in (clean, noisy):
        one.reset("open_drawer", 5)
    truth, seen = (one.render("front")[1].astype(float) for one in (clean, noisy))
    assert 0.005 < (seen == 0).mean() < 0.25
    both = (seen > 0) & (truth > 0)
    error = np.abs(seen - truth)
    near, far = both & (truth < 450), both & (truth > 600)
    assert error[near].mean() < error[far].mean() < 15


def test_randomisation_can_be_turned_off() -> None:
    world = World(WorldConfig(randomise=RandomisationConfig.off()))
    scenes = [world.reset("open_drawer", seed) for seed in range(3)]
    assert len({scene.front_camera for scene in scenes}) == 1
    assert len({scene.appearance.table for scene in scenes}) == 1
    assert not any(scene.objects for scene in scenes)


def test_an_unsteady_arm_is_pushed_the_same_way_for_one_seed_and_comes_back() -> None:
    steady, shaken = World(), World(WorldConfig(unsteady_deg=5.0))

    def off(world: World, seed: int) -> np.ndarray:
        """float[40, 6]: where the joints are, less where they were told to be."""
        world.reset("put_on", seed, EVAL)
        there = world.positions().astype(float)
        seen = []
        for _ in range(40):
            world.command(there)
            world.step(0.1)
            seen.append(world.positions() - there)
        return np.array(seen)

    still, first = off(steady, 3), off(shaken, 3)
    assert np.abs(still).max() < 1.0
    assert np.abs(first[:, :5]).max() > 1.5 and np.abs(first[:, 5]).max() < 1.0, "never the jaw"
    assert np.abs(first).max() < 40.0
    assert np.array_equal(first, off(shaken, 3))
    assert not np.array_equal(first, off(shaken, 4))
    both = np.concatenate([off(shaken, seed)[:, 0] for seed in range(8)])
    assert abs(both.mean()) < both.std(), "it is no constant offset"
    steady.close()
    shaken.close()


def test_the_device_clock_never_goes_back(world: World) -> None:
    world.reset("lift", 1, TRAIN)
    world.step(0.3)
    before = world.device_time_us
    world.reset("lift", 2, TRAIN)
    assert world.time_s == 0.0
    assert world.device_time_us >= before > 0


def test_wrong_use_is_refused(world: World) -> None:
    with pytest.raises(NotReset):
        World().step(0.1)
    world.reset("lift", 0, TRAIN)
    for wrong in (np.full(6, np.nan), np.zeros(5), np.array([0, 0, 0, 0, 0, np.inf])):
        with pytest.raises(BadCommand):
            world.command(wrong)
    with pytest.raises(ValueError, match="front"):
        world.render("top")
    with pytest.raises(UnknownTask, match="open_drawer"):
        world.reset("juggle", 0)


def test_importing_the_bench_does_not_import_mujoco_or_torch() -> None:
    code = "import sys, runtime.bench; print({'mujoco', 'torch', 'trainer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_missing_mujoco_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(SimulationUnavailable, match=r"entracte\[sim\]"):
        load_mujoco()
