"""A flow-matching action-chunk policy: `Trunk` -> features -> `FlowHead` -> candidate chunks and a choice.

Flow matching after Lipman et al. 2023 (straight paths from noise to data); chunks after Zhao et al. 2023.
The head is all that refinement changes and all that a release carries: flow net and chunk critics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from contracts.errors import PackageError
from contracts.files import atomic, outputs
from contracts.files.packages import (
    MANIFEST_FILE,
    Package,
    load_package,
    read_safetensors,
    safetensors_bytes,
)
from contracts.package import Provenance, float_weights
from contracts.specs import ActionSpec, ObservationSpec
from trainer.policies.chance import Chance
from trainer.policies.vision import Trunk, unmixed

CONFIG_FILE = "policy.json"
WEIGHTS_FILE = "policy.safetensors"
EXAMPLES_FILE = "examples.safetensors"
REMEDY = "copy the trained folder again, or train it again with robot-trainer imitate"
TIME_SIZE = 64


class FlowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a flow policy is made of. `relative[j]`: action j is learned relative to state j; critics judge
    the first `critic_actions` of a chunk: the others are seldom executed."""

    observation: ObservationSpec
    action: ActionSpec
    cameras: tuple[str, ...]
    image_height: int
    image_width: int
    vocabulary: tuple[str, ...]
    relative: tuple[bool, ...]
    instruction_length: int = 16
    chunk_length: int = 16
    features: int = 256
    hidden: int = 256
    blocks: int = 3
    flow_steps: int = 8
    critics: int = 4
    critic_hidden: int = 96
    critic_actions: int = 9
    pessimism: float = 0.5
    samples: int = 1
    provenance: Provenance | None = None

    @property
    def state_size(self) -> int:
        return len(self.observation.state_names)

    @property
    def action_size(self) -> int:
        return len(self.action.names)

    @property
    def unmixed(self) -> int:
        """How many of the last features are where things are and the state, see `Trunk`."""
        return unmixed(len(self.cameras), self.state_size)


class FlowNet(nn.Module):
    """Velocity of a normalised chunk: x float32[B, T*A], condition float32[B, hidden] -> float32[B, T*A]."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        size, hidden = config.chunk_length * config.action_size, config.hidden
        self.features_in = nn.Linear(config.features, hidden)
        self.time_in = nn.Linear(TIME_SIZE, hidden)
        self.chunk_in = nn.Linear(size, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(config.blocks))
        self.widen = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(config.blocks))
        self.narrow = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(config.blocks))
        self.norm_out = nn.LayerNorm(hidden)
        self.chunk_out = nn.Linear(hidden, size)

    def condition(self, features: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """features [B, F], time embedding [B or 1, TIME_SIZE] -> [B, hidden]."""
        condition: torch.Tensor = self.features_in(features) + self.time_in(time)
        return condition

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        x = self.chunk_in(x) + condition
        for norm, widen, narrow in zip(self.norms, self.widen, self.narrow, strict=True):
            x = x + narrow(F.silu(widen(norm(x) + condition)))
        velocity: torch.Tensor = self.chunk_out(self.norm_out(x))
        return velocity


class Critic(nn.Module):
    """How good a chunk is here: features [B, F] and normalised chunk [B, T*A] -> logit [B].

    Of the features it sees the unmixed ones alone: from all of them it learns the scenes by heart. The last
    layer starts at zero, so that an untrained critic prefers nothing.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        hidden = config.critic_hidden
        size = min(config.critic_actions, config.chunk_length) * config.action_size
        self.unmixed, self.size = config.unmixed, size
        self.features_in = nn.Linear(config.unmixed, hidden)
        self.chunk_in = nn.Linear(size, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        features = features[:, features.shape[1] - self.unmixed :]
        x = F.silu(self.features_in(features) + self.chunk_in(chunk[:, : self.size]))
        logit: torch.Tensor = self.out(F.silu(self.middle(x)))
        return logit.squeeze(1)


class FlowHead(nn.Module):
    """features float32[1, F], noise float32[N, T, A] -> chunks float32[N, T, A] in arm units,
    values float32[N] (pessimistic, in [0, 1] less the pessimism) and choice int64[1], the best of N.

    Real-time chunking (Black, Galliker, Levine 2025, arXiv 2506.07339): `prefix` float32[1, T, A] in arm
    units is what the robot will execute while this runs, `prefix_weight` float32[1, T] in [0, 1] how much of
    each entry is settled. The paper guides the flow by gradients; here every flow step starts with the
    settled part put where the straight path from the noise to it leads (inpainting after Lugmayr et al. 2022,
    arXiv 2201.09865), which needs none. Weights of 0 change no bit.
    """

    chunk_mean: torch.Tensor
    chunk_std: torch.Tensor
    origin_scale: torch.Tensor
    origin_shift: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        length, size = config.chunk_length, config.action_size
        self.flow = FlowNet(config)
        self.critics = nn.ModuleList(Critic(config) for _ in range(config.critics))
        self.register_buffer("chunk_mean", torch.zeros(length, size))
        self.register_buffer("chunk_std", torch.ones(length, size))
        # State as the trunk normalised it -> what a chunk is relative to, in arm units.
        self.register_buffer("origin_scale", torch.zeros(size))
        self.register_buffer("origin_shift", torch.zeros(size))
        self.register_buffer("low", torch.tensor(config.action.low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(config.action.high, dtype=torch.float32))

    def forward(
        self,
        features: torch.Tensor,
        noise: torch.Tensor,
        prefix: torch.Tensor | None = None,
        prefix_weight: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        settled = share = None
        if prefix is not None and prefix_weight is not None:
            settled = self.normalise(features, prefix)
            share = prefix_weight.unsqueeze(2).expand(-1, -1, prefix.shape[2])
        flat = None if share is None else share.flatten(1)
        x = self.integrate(features, noise.flatten(1), settled, flat)
        values = self.value(features, x)
        # Over a matrix: TensorRT has no argmax of a vector.
        choice = values.unsqueeze(0).argmax(1)
        chunks = self.denormalise(features, x)
        if share is not None and prefix is not None:
            chunks = share * prefix + (1.0 - share) * chunks  # to the bit, where all is settled
        return chunks, values, choice

    def integrate(
        self,
        features: torch.Tensor,
        noise: torch.Tensor,
        settled: torch.Tensor | None = None,
        share: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noise [B, T*A] to a normalised chunk [B, T*A]; features [B or 1, F]. `settled` [1, T*A]: a chunk of
        which `share` [1, T*A] is kept."""
        steps, x = self.config.flow_steps, noise
        for step in range(steps + 1):
            at = step / steps
            if settled is not None and share is not None and step:
                x = share * ((1.0 - at) * noise + at * settled) + (1.0 - share) * x
            if step < steps:
                time = torch.full((1,), at, dtype=x.dtype, device=x.device)
                condition = self.flow.condition(features, time_embedding(time))
                x = x + self.flow(x, condition) * (1.0 / steps)
        return x

    def value(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """Value [B] of the normalised chunks [B, T*A] of one observation, pessimistic about what sets them
        apart: a critic's opinion of the situation, on which critics differ most, is taken off first."""
        values = torch.sigmoid(self.critic_logits(features, chunk))
        level = values.mean(1, keepdim=True)
        gains = values - level
        gain = gains.mean(0)
        spread = ((gains - gain) ** 2).mean(0).sqrt()
        value: torch.Tensor = level.mean() + gain - self.config.pessimism * spread
        return value

    def critic_logits(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """[K, B]: every critic's logit."""
        return torch.stack([critic(features, chunk) for critic in self.critics])

    def normalise(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """Chunk [B, T, A] in arm units -> [B, T*A], as the flow net and the critics see it."""
        relative = chunk - self._origin(features)
        return ((relative - self.chunk_mean) / self.chunk_std).flatten(1)

    def denormalise(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """[B, T*A] -> [B, T, A] in arm units, inside the action limits."""
        shape = (-1, self.config.chunk_length, self.config.action_size)
        relative = chunk.reshape(shape) * self.chunk_std + self.chunk_mean
        return torch.minimum(torch.maximum(relative + self._origin(features), self.low), self.high)

    def flow_loss(
        self, features: torch.Tensor, chunk: torch.Tensor, chance: Chance
    ) -> torch.Tensor:
        """Flow-matching loss [B] of chunks [B, T, A] in arm units: imitate these."""
        x, at, direction = self._on_the_way(features, chunk, chance)
        error: torch.Tensor = self.flow(x, self.flow.condition(features, at)) - direction
        return (error**2).mean(1)

    def drift(
        self,
        other: FlowHead,
        features: torch.Tensor,
        chunk: torch.Tensor,
        chance: Chance,
    ) -> torch.Tensor:
        """How far this flow is from another's [B]: mean square of what sets their velocities apart, on the
        way from noise to chunks [B, T, A] in arm units."""
        x, at, _ = self._on_the_way(features, chunk, chance)
        own = self.flow(x, self.flow.condition(features, at))
        with torch.no_grad():
            wanted = other.flow(x, other.flow.condition(features, at))
        apart: torch.Tensor = own - wanted
        return (apart**2).mean(1)

    def _on_the_way(
        self, features: torch.Tensor, chunk: torch.Tensor, chance: Chance
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Somewhere between noise and the normalised chunk: x [B, T*A], its time's embedding, and the
        direction that leads from the noise to the chunk."""
        x1 = self.normalise(features, chunk)
        x0 = chance.normal(x1.shape)
        # More of the early times, where the direction is decided (Black et al. 2024).
        time = chance.uniform((len(x1),)) ** 1.5
        return x0 + time[:, None] * (x1 - x0), time_embedding(time), x1 - x0

    def _origin(self, features: torch.Tensor) -> torch.Tensor:
        state = features[:, features.shape[1] - self.config.state_size :]
        return (state * self.origin_scale + self.origin_shift).unsqueeze(1)


def time_embedding(time: torch.Tensor) -> torch.Tensor:
    """Times in [0, 1], [B] -> [B, TIME_SIZE] of sines and cosines."""
    half = TIME_SIZE // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    rates = torch.exp(steps * (-math.log(1000.0) / (half - 1)))
    angles = time[:, None] * 100.0 * rates
    return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


class FlowPolicy(nn.Module):
    """Trunk and head. Kept on disk as JSON and safetensors; a package holds the same weights."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(
            cameras=config.cameras,
            height=config.image_height,
            width=config.image_width,
            state_size=config.state_size,
            vocabulary_size=len(config.vocabulary) + 2,
            features=config.features,
        )
        self.head = FlowHead(config)

    def set_statistics(self, states: np.ndarray, chunks: np.ndarray) -> None:
        """Normalisers from float32[N, S] states and the float32[N, T, A] chunks that follow them."""
        mean, std = states.mean(0), np.maximum(states.std(0), 1.0)
        relative = np.array(self.config.relative)
        size = self.config.action_size
        deltas = chunks - np.where(relative, states[:, :size], 0.0)[:, None]
        with torch.no_grad():
            self.trunk.state_mean.copy_(torch.from_numpy(mean))
            self.trunk.state_std.copy_(torch.from_numpy(std))
            self.head.origin_scale.copy_(torch.from_numpy(np.where(relative, std[:size], 0.0)))
            self.head.origin_shift.copy_(torch.from_numpy(np.where(relative, mean[:size], 0.0)))
            self.head.chunk_mean.copy_(torch.from_numpy(deltas.mean(0)))
            self.head.chunk_std.copy_(torch.from_numpy(np.maximum(deltas.std(0), 0.5)))

    def renew_head(self) -> None:
        """A head of fresh random weights; its normalisers stay."""
        head = FlowHead(self.config)
        head.load_state_dict({**head.state_dict(), **dict(self.head.named_buffers())})
        self.head = head

    @staticmethod
    def require_folder(folder: Path) -> None:
        """Raise `ConfigError` unless `save` may write there."""
        names = (CONFIG_FILE, WEIGHTS_FILE, EXAMPLES_FILE)
        outputs.require_folder(folder, "a trained policy", outputs.only(*names))

    def save(
        self, folder: Path, examples: Mapping[str, np.ndarray], provenance: Provenance
    ) -> None:
        """Config, weights and a few recorded trunk inputs (the golden vectors of an export)."""
        config = msgspec.structs.replace(self.config, provenance=provenance)
        state = {name: tensor.numpy() for name, tensor in self.state_dict().items()}
        atomic.write_bytes(folder / EXAMPLES_FILE, safetensors_bytes(examples))
        atomic.write_bytes(folder / WEIGHTS_FILE, safetensors_bytes(state))
        text = msgspec.json.format(msgspec.json.encode(config), indent=1)
        atomic.write_bytes(folder / CONFIG_FILE, text)

    @staticmethod
    def load(folder: Path) -> FlowPolicy:
        """What `save` wrote, or the twin of a package that was exported from it. Raises `PackageError` if the
        folder holds neither."""
        path = folder / CONFIG_FILE
        if not path.exists() and (folder / MANIFEST_FILE).exists():
            return FlowPolicy.from_package(load_package(folder))
        try:
            config = msgspec.json.decode(atomic.read_bytes(path, 1 << 22), type=FlowConfig)
            data = atomic.read_bytes(folder / WEIGHTS_FILE, 1 << 30)
        except (atomic.FileError, msgspec.MsgspecError, ValueError) as error:
            raise PackageError(
                f"{folder} holds no trained policy",
                found=str(error),
                remedy="train one with robot-trainer imitate",
            ) from error
        policy = FlowPolicy(config)
        weights = read_safetensors(data, str(folder / WEIGHTS_FILE), REMEDY)
        policy.take(weights, folder)
        return policy.eval()

    @staticmethod
    def from_package(package: Package) -> FlowPolicy:
        """The torch twin of a package made from a flow policy, of a quantised one with the values that its
        weights were rounded to. Raises `PackageError`."""
        config = config_of_package(package)
        policy = FlowPolicy(config)
        tensors = float_weights(package.manifest, package.weights)
        weights = {name.replace("/", ".", 1): value for name, value in tensors.items()}
        policy.take(weights, package.folder)
        return policy.eval()

    def take(self, weights: Mapping[str, np.ndarray], what: object) -> None:
        """All weights by their name in the state dict. Raises `PackageError` naming `what` they are of."""
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            first, *others = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
            raise PackageError(
                f"weights of {what} are not this policy's",
                found=f"{first[:200]}{f' and {len(others)} more' if others else ''}",
                remedy="export or train it again with this version",
            ) from error


def head_tensors(head: FlowHead) -> dict[str, np.ndarray]:
    """What training moves, as a release carries it: "head/<name>". Units and limits (the buffers) are the
    package's for good: a release that could move them could turn degrees into something else."""
    return {
        f"head/{name}": tensor.detach().cpu().numpy().copy()
        for name, tensor in head.named_parameters()
    }


ARCHITECTURE = "flow"
_SETTINGS = (
    *("features", "hidden", "blocks", "flow_steps"),
    *("critics", "critic_hidden", "critic_actions", "pessimism"),
)


def settings_of(config: FlowConfig) -> dict[str, float]:
    """What a package's manifest must say so that `config_of_package` can make the config again."""
    found = {name: float(getattr(config, name)) for name in _SETTINGS}
    found["relative_bits"] = float(sum(bit << i for i, bit in enumerate(config.relative)))
    return found


def config_of_package(package: Package) -> FlowConfig:
    """The config behind a package. Raises `PackageError` for other architectures."""
    manifest = package.manifest
    if manifest.architecture != ARCHITECTURE or manifest.action is None or manifest.chunk is None:
        raise PackageError(
            f"package {package.folder}", expected="a flow policy", found=manifest.architecture
        )
    settings = manifest.settings
    missing = [name for name in (*_SETTINGS, "relative_bits") if name not in settings]
    if missing:
        raise PackageError(f"package {package.folder} lacks settings", expected=missing)
    whole = {name: int(settings[name]) for name in _SETTINGS if name != "pessimism"}
    bits = int(settings["relative_bits"])
    return FlowConfig(
        observation=manifest.observation,
        action=manifest.action,
        cameras=manifest.cameras,
        image_height=manifest.image_height,
        image_width=manifest.image_width,
        vocabulary=manifest.vocabulary,
        relative=tuple(bool(bits >> i & 1) for i in range(len(manifest.action.names))),
        instruction_length=manifest.instruction_length,
        chunk_length=manifest.chunk.length,
        samples=manifest.chunk.samples,
        pessimism=settings["pessimism"],
        provenance=manifest.provenance,
        **whole,
    )
