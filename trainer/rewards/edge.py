"""The edge reward model as the trainer uses it: a reward package, run by ONNX Runtime on stored frames.

Owns when a score is refused: unknown words, pictures outside the model's ground, values that are not
finite, a graph that fails. None of these ever becomes a 0 or a 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from contracts.errors import EntracteError, MissingDependency, PackageError
from contracts.files.packages import Package, load_package
from contracts.frames import FrameContract, Video
from contracts.language import encode, unknown_words
from contracts.package import weights_id
from contracts.reward import RewardSignal, abstain
from trainer.interfaces import StoredEpisode

MODEL = "reward"
LONGEST = 100_000
"""Frames of the longest episode it is asked about; it looks at three of them."""


class EdgeReward:
    """`RewardModel` of a reward package. Scores at the package's `rate_hz`; the last step always."""

    def __init__(
        self,
        *,
        package: Path | None,
        demonstrations: Sequence[Path] = (),
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        """`options`: `threads` (1), `completion_threshold` (the package's). Demonstrations are inside a
        demo-conditioned package already. Raises `PackageError`."""
        del demonstrations, seed
        if package is None:
            raise PackageError(
                "the reward model 'edge' needs a package",
                remedy="name one with --package or in the config (pretrained/reward-zero-shot is shipped)",
            )
        options = dict(options or {})
        self._package = load_package(Path(package))
        manifest = self._package.manifest
        if manifest.model != MODEL:
            raise PackageError(f"{package} is no reward package", found=manifest.model)
        self._manifest = manifest
        self._threads = int(options.pop("threads", 1))
        settings = {**manifest.settings, **{k: float(v) for k, v in options.items()}}
        self._settings = settings
        self._trunk = _session(self._package, "trunk", self._threads)
        self._head = _session(self._package, "head", self._threads)
        self._model_id = _model_id(self._package, settings)

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def completion_threshold(self) -> float:
        return self._settings.get("completion_threshold", 0.5)

    @property
    def completion_consecutive(self) -> int:
        return int(self._settings.get("completion_consecutive", 1.0))

    @property
    def contract(self) -> FrameContract:
        """At the package's rate from the first frame on, both of its cameras, at the package's size."""
        m = self._manifest
        rate_hz = self._settings.get("rate_hz", 3.0)
        return FrameContract(
            "append", rate_hz, 1, LONGEST, m.cameras, m.image_width * m.image_height
        )

    def score(self, video: Video, instruction: str) -> RewardSignal:
        """The video's last frame (`VideoRewardModel`); "earlier" is the frame nearest to that time."""
        return self.score_batch([(video, instruction)])[0]

    def score_batch(self, requests: Sequence[tuple[Video, str]]) -> list[RewardSignal]:
        """`score` of each, all pictures through the trunk together and all moments through the head."""
        found: list[RewardSignal | None] = []
        seen, said, steps = [], [], []
        for video, instruction in requests:
            unknown = unknown_words(instruction, self._manifest.vocabulary)
            reason = f"unknown words: {', '.join(unknown)}" if unknown else ""
            found.append(abstain(int(video.steps[-1]), reason, self._model_id) if reason else None)
            if not reason:
                seen.append(self._three(video))
                said.append(instruction)
                steps.append(int(video.steps[-1]))
        asked = iter(self._score_moments(seen, said, steps) if seen else [])
        return [signal or next(asked) for signal in found]

    def _three(self, video: Video) -> dict[str, np.ndarray]:
        """The three pictures uint8[3, H, W, 3] a camera that the head compares: first, earlier, current."""
        shown = self.contract.shown(video)
        ago = shown.times_s[-1] - shown.times_s
        earlier = int(np.abs(ago - self._settings.get("earlier_s", 2.0)).argmin())
        rows = [0, earlier, len(shown) - 1]
        return {camera: shown.views[camera][rows] for camera in self._manifest.cameras}

    def _score_moments(
        self, seen: Sequence[Mapping[str, np.ndarray]], said: Sequence[str], steps: Sequence[int]
    ) -> list[RewardSignal]:
        size = (self._manifest.image_width, self._manifest.image_height)
        try:
            pictures = {
                camera: np.concatenate([_resized(views[camera], size) for views in seen])
                for camera in self._manifest.cameras
            }
            embeddings = self.embed(pictures).reshape(len(seen), 3, -1)
            values = self._run_head(said, *(embeddings[:, i] for i in range(3)))
        except Exception as error:  # whatever a runtime raises, the episode is not scored 0
            return self._all(steps, f"the model failed: {type(error).__name__}: {error}")
        return self._signals(steps, values)

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        """Signals at the package's rate, the last step always; every one abstains if the model can't."""
        rate = episode.session.action.rate_hz
        every = max(1, round(rate / self._settings.get("rate_hz", 3.0)))
        steps = sorted({*range(0, episode.steps, every), episode.steps - 1})
        unknown = unknown_words(episode.instruction, self._manifest.vocabulary)
        if unknown:
            return self._all(steps, f"unknown words: {', '.join(unknown)}")
        try:
            images = {camera: episode.frames(camera, steps) for camera in self._manifest.cameras}
        except EntracteError as error:
            return self._all(steps, f"no pictures: {error}")
        lag = max(1, round(self._settings.get("earlier_s", 2.0) * rate / every))
        return self.score_frames(episode.instruction, images, steps, lag)

    def score_frames(
        self,
        instruction: str,
        images: Mapping[str, np.ndarray],
        steps: Sequence[int],
        lag: int,
    ) -> list[RewardSignal]:
        """Signals of pictures uint8[N,H,W,3] per camera, one per entry of `steps`; row 0 is the
        episode's first. `lag`: how many rows back "earlier" lies."""
        try:
            embeddings = self.embed(images)
        except Exception as error:  # whatever a runtime raises, the episode is not scored 0
            return self._all(steps, f"the model failed: {type(error).__name__}: {error}")
        return self.score_embeddings(instruction, embeddings, steps, lag)

    def score_embeddings(
        self, instruction: str, embeddings: np.ndarray, steps: Sequence[int], lag: int
    ) -> list[RewardSignal]:
        """`score_frames` from embeddings float32[N, D] that `embed` gave."""
        count = len(embeddings)
        earlier = embeddings[np.maximum(np.arange(count) - lag, 0)]
        first = np.repeat(embeddings[:1], count, axis=0)
        try:
            values = self._run_head([instruction] * count, first, earlier, embeddings)
        except Exception as error:  # whatever a runtime raises, the episode is not scored 0
            return self._all(steps, f"the model failed: {type(error).__name__}: {error}")
        return self._signals(steps, values)

    def _signals(
        self, steps: Sequence[int], values: Mapping[str, np.ndarray]
    ) -> list[RewardSignal]:
        threshold = self._settings.get("ground_threshold", 0.5)
        return [self._signal(step, row, values, threshold) for row, step in enumerate(steps)]

    def _signal(
        self, step: int, row: int, values: Mapping[str, np.ndarray], threshold: float
    ) -> RewardSignal:
        found = {name: float(values[name][row]) for name in values}
        if not np.isfinite(list(found.values())).all():
            return abstain(step, "the model's output is not finite", self._model_id)
        if found["ground"] < threshold:
            return abstain(
                step,
                f"outside the model's ground ({found['ground']:.2f} < {threshold:.2f})",
                self._model_id,
            )
        return RewardSignal(
            step=step,
            process=min(max(found["process"], 0.0), 1.0),
            completion=min(max(found["completion"], 0.0), 1.0),
            contrastive=min(max(found["contrastive"], -1.0), 1.0),
            uncertainty=min(max(1.0 - found["ground"], 0.0), 1.0),
            model_id=self._model_id,
        )

    def _all(self, steps: Sequence[int], reason: str) -> list[RewardSignal]:
        return [abstain(step, reason, self._model_id) for step in steps]

    def embed(self, images: Mapping[str, np.ndarray], block: int = 16) -> np.ndarray:
        """Embeddings float32[N, D] of pictures uint8[N,H,W,3] per camera, scaled to the package's size."""
        size = (self._manifest.image_width, self._manifest.image_height)
        feeds = {f"images.{c}": _resized(images[c], size) for c in self._manifest.cameras}
        count = len(next(iter(feeds.values())))
        parts = [
            self._trunk.run(["embedding"], {k: v[i : i + block] for k, v in feeds.items()})[0]
            for i in range(0, count, block)
        ]
        return np.concatenate(parts)

    def _run_head(
        self, said: Sequence[str], first: np.ndarray, earlier: np.ndarray, current: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Each output float32[N] of moments float32[N, D]."""
        m = self._manifest
        tokens = [encode(text, m.vocabulary, m.instruction_length) for text in said]
        names = ["process", "completion", "contrastive", "ground"]
        feeds = {"first": first, "earlier": earlier, "current": current, "tokens": np.stack(tokens)}
        outputs = self._head.run(
            names, {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        )
        return {k: np.asarray(v).reshape(len(said)) for k, v in zip(names, outputs, strict=True)}


def _resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if images.shape[2] == size[0] and images.shape[1] == size[1]:
        return np.ascontiguousarray(images)
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])


def _session(package: Package, graph: str, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingDependency(
            "the reward model 'edge' needs ONNX Runtime",
            remedy="pip install 'entracte[trainer]'",
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    tensors = package.graph_weights(graph)
    names = sorted(tensors)
    values = [ort.OrtValue.ortvalue_from_numpy(np.array(tensors[n], order="C")) for n in names]
    options.add_external_initializers(names, values)
    try:
        session = ort.InferenceSession(
            package.graphs[graph], options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own types
        raise PackageError(
            f"graph '{graph}' of {package.folder} won't open", found=str(error)
        ) from error
    # The session may go on reading the values from our memory.
    return _Held(session, values)


class _Held:
    """A session and the memory that its weights live in."""

    def __init__(self, session: Any, values: list[Any]) -> None:
        self._session, self._values = session, values

    def run(self, names: list[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs: list[np.ndarray] = self._session.run(names, dict(feed))
        return outputs


def _model_id(package: Package, settings: Mapping[str, float]) -> str:
    digest = hashlib.sha256(package.package_id.encode())
    digest.update(weights_id(package.weights).encode())
    digest.update(repr(sorted(settings.items())).encode())
    return f"edge-{digest.hexdigest()[:12]}"
