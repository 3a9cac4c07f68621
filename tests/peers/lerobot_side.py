"""Runs in LeRobot's own environment (never imports Entracte): reads our data set, writes one for us.

`read ROOT OUT`: all steps through LeRobotDataset into OUT (npz) and a summary into OUT.json.
`open FOLDER OUT`: opens every data set in FOLDER and reads its first, middle and last step; what each has
into OUT. `write ROOT`: a data set made by LeRobot alone, two episodes in one file.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")


def read(root: Path, out: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/entracte", root=root, video_backend="pyav")
    columns: dict[str, list[np.ndarray]] = {}
    tasks = []
    for index in range(len(dataset)):
        item = dataset[index]
        tasks.append(item.pop("task"))
        for key, value in item.items():
            array = value.numpy()
            if key in dataset.meta.video_keys:
                array = np.rint(array * 255).astype(np.uint8).transpose(1, 2, 0)
            columns.setdefault(key, []).append(array)
    np.savez(out, **{key: np.stack(values) for key, values in columns.items()})

    last = LeRobotDataset("local/entracte", root=root, video_backend="pyav", episodes=[1])
    window = {"action": [0.0, 1 / dataset.fps], dataset.meta.video_keys[0]: [-1 / dataset.fps, 0.0]}
    chunks = LeRobotDataset(
        "local/entracte", root=root, video_backend="pyav", delta_timestamps=window
    )
    summary = {
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "fps": dataset.fps,
        "tasks": tasks,
        "features": sorted(dataset.features),
        "stats_keys": sorted(dataset.meta.stats["action"]),
        "state_mean": dataset.meta.stats["observation.state"]["mean"].tolist(),
        "picture_mean_shape": list(dataset.meta.stats[dataset.meta.video_keys[0]]["mean"].shape),
        "second_episode": last.num_frames,
        "window_shapes": {key: list(chunks[3][key].shape) for key in window},
    }
    Path(f"{out}.json").write_text(json.dumps(summary))


def open_all(folder: Path, out: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    found = {}
    for root in sorted(folder.iterdir()):
        dataset = LeRobotDataset(f"local/{root.name}", root=root, video_backend="pyav")
        for index in {0, len(dataset) // 2, len(dataset) - 1}:
            item = dataset[index]
            for key in dataset.meta.video_keys:
                assert item[key].shape[0] == 3
        found[root.name] = [dataset.num_episodes, dataset.num_frames]
    out.write_text(json.dumps(found))


def write(root: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]},
        "observation.images.front": {
            "dtype": "video",
            "shape": (32, 48, 3),
            "names": ["height", "width", "channels"],
        },
    }
    dataset = LeRobotDataset.create(
        "local/peer", 10, features, root=root, robot_type="so101", vcodec="h264"
    )
    for episode, length in enumerate((6, 9)):
        for step in range(length):
            value = 100 * episode + step
            picture = np.full((32, 48, 3), 10 * step + 60 * episode, np.uint8)
            dataset.add_frame(
                {
                    "observation.state": np.array([value, -value], np.float32),
                    "action": np.array([value, value / 3], np.float32),
                    "observation.images.front": picture,
                    "task": f"task {episode}",
                }
            )
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


if __name__ == "__main__":
    {"read": read, "open": open_all, "write": write}[sys.argv[1]](*map(Path, sys.argv[2:]))
