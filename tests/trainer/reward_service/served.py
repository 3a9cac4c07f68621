"""Small real models to serve, and a server in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal
from trainer.reward_service.service import Limits, RewardService


class ConvReward:
    """A seeded convolutional net over the first and last frame; counts its forward passes."""

    completion_threshold, completion_consecutive = 0.5, 1

    def __init__(self, name: str = "conv", width: int = 8) -> None:
        torch.manual_seed(0)
        self.model_id = name
        self.contract = FrameContract("ends", cameras=("front",))
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(6, width, 5, stride=4),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, width, 3, stride=2),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * width, 2),
            torch.nn.Sigmoid(),
        ).eval()
        self.passes = 0
        self.seen: list[int] = []

    def score(self, video: Video, instruction: str) -> RewardSignal:
        return self.score_batch([(video, instruction)])[0]

    @torch.inference_mode()
    def score_batch(self, requests: Sequence[tuple[Video, str]]) -> list[RewardSignal]:
        self.passes += 1
        pairs = [self.contract.shown(video).views["front"][[0, -1]] for video, _ in requests]
        self.seen += [int(video.steps[-1]) for video, _ in requests]
        batch = torch.from_numpy(np.stack(pairs)).float().div(255).permute(0, 1, 4, 2, 3)
        values = self.net(batch.flatten(1, 2)).tolist()
        return [
            RewardSignal(int(v.steps[-1]), process=p, completion=c, model_id=self.model_id)
            for (v, _), (p, c) in zip(requests, values, strict=True)
        ]


class Numbers(ConvReward):
    """Answers in numpy's numbers, and with a reason that no message can hold where a video has 5 frames."""

    completion_threshold, completion_consecutive = np.float32(0.25), np.int64(2)

    def score_batch(self, requests):
        found = []
        for signal, (shown, _) in zip(super().score_batch(requests), requests, strict=True):
            values = {"process": np.float32(signal.process), "completion": np.float32(0.5)}
            said = RewardSignal(shown.steps[-1], model_id=np.str_(self.model_id), **values)
            bad = RewardSignal(signal.step, model_id=self.model_id, abstained="no file a\udcff")
            found.append(bad if len(shown) == 5 else said)
        return found


class RecurrentReward:
    """A GRU over all frames; growing, it computes the new ones alone."""

    completion_threshold, completion_consecutive = 0.5, 1
    model_id = "gru"
    contract = FrameContract("append", rate_hz=10.0, least=1, most=1000, cameras=("front",))

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.GRU(3 * 8 * 8, 16, batch_first=True).eval()
        self.frames = 0

    def score(self, video: Video, instruction: str) -> RewardSignal:
        return self.grow(instruction).see(video)

    def grow(self, instruction: str) -> _Growing:
        return _Growing(self)


class _Growing:
    def __init__(self, model: RecurrentReward) -> None:
        self.model, self.done, self.state = model, 0, None

    @torch.inference_mode()
    def see(self, video: Video) -> RewardSignal:
        new = video.views["front"][self.done :, :64:8, :64:8]
        self.model.frames += len(new)
        self.done = len(video)
        rows = torch.from_numpy(np.ascontiguousarray(new)).float().div(255).flatten(1)
        out, self.state = self.model.net(rows[None], self.state)
        value = float(torch.sigmoid(out[0, -1].sum()))
        return RewardSignal(int(video.steps[-1]), process=value, model_id=self.model.model_id)


def video(seed: int, frames: int = 4, side: int = 64) -> Video:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, side, side, 3), np.uint8)
    return Video({"front": pixels}, np.arange(frames) / 10.0, np.arange(frames))


@contextmanager
def serving(*models, limits: Limits | None = None, address: str = "tcp://127.0.0.1:0") -> Iterator:
    service = RewardService({m.model_id: m for m in models}, address, limits)
    thread = threading.Thread(target=service.run)
    thread.start()
    for batcher in service.batchers.values():
        assert batcher.wait_for_selftest(20)
    try:
        yield service
    finally:
        service.stop()
        thread.join(10)
        service.close()


def wait(condition, timeout_s: float = 10.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)
