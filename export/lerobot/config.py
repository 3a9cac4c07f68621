"""What config.json of a LeRobot policy says, as far as inference needs it. Field names are LeRobot's.

Defaults are those of LeRobot 0.4.4, whose files hold every field; older files lack some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from contracts.errors import PackageError
from export.lerobot.resnet import DEPTHS

FeatureType = Literal["STATE", "VISUAL", "ENV", "ACTION", "REWARD", "LANGUAGE"]
Mode = Literal["IDENTITY", "MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"]
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."


class PolicyFeature(msgspec.Struct, frozen=True):
    """`shape`: of one step; of a picture (channels, height, width)."""

    type: FeatureType
    shape: tuple[int, ...]


class _Config(msgspec.Struct, frozen=True, kw_only=True):
    input_features: dict[str, PolicyFeature] = {}
    output_features: dict[str, PolicyFeature] = {}
    normalization_mapping: dict[FeatureType, Mode] = {}
    n_obs_steps: int = 1
    n_action_steps: int = 1
    vision_backbone: str = "resnet18"

    @property
    def images(self) -> dict[str, PolicyFeature]:
        """The pictures in the order in which the policy takes them."""
        return {n: f for n, f in self.input_features.items() if f.type == "VISUAL"}

    @property
    def state_size(self) -> int:
        return self.input_features[STATE].shape[0]

    @property
    def action_size(self) -> int:
        return self.output_features[ACTION].shape[0]

    def check(self, what: str) -> None:
        """Raise `PackageError` for what a robot's policy package cannot hold."""
        others = [
            name
            for name, feature in self.input_features.items()
            if feature.type != "VISUAL" and name != STATE
        ]
        if others:
            raise PackageError(
                f"{what} looks at more than cameras and joints",
                expected=f"{STATE} and {IMAGES}*",
                found=others,
                remedy="train it without them",
            )
        for name, features in ((STATE, self.input_features), (ACTION, self.output_features)):
            if name not in features or len(features[name].shape) != 1:
                raise PackageError(f"{what} has no vector '{name}'", found=sorted(features))
        if not self.images:
            raise PackageError(f"{what} looks through no camera", expected=f"{IMAGES}*")
        for name, feature in self.images.items():
            if len(feature.shape) != 3 or feature.shape[0] != 3:
                raise PackageError(
                    f"{what}: shape of {name}", expected="(3, height, width)", found=feature.shape
                )
        if self.vision_backbone not in DEPTHS:
            raise PackageError(
                f"{what}: vision backbone",
                expected=f"one of {sorted(DEPTHS)}",
                found=self.vision_backbone,
            )


class ActConfig(_Config, frozen=True, kw_only=True):
    """Of `ACTConfig`."""

    chunk_size: int = 100
    n_action_steps: int = 100
    replace_final_stride_with_dilation: bool | int = False
    pre_norm: bool = False
    dim_model: int = 512
    n_heads: int = 8
    dim_feedforward: int = 3200
    feedforward_activation: str = "relu"
    n_encoder_layers: int = 4
    n_decoder_layers: int = 1
    latent_dim: int = 32
    temporal_ensemble_coeff: float | None = None

    prefix = "model."

    def check(self, what: str) -> None:
        super().check(what)
        if self.feedforward_activation not in ("relu", "gelu"):
            raise PackageError(
                f"{what}: feedforward_activation",
                expected="relu or gelu",
                found=self.feedforward_activation,
            )
        if self.n_obs_steps != 1:
            raise PackageError(f"{what}: n_obs_steps of ACT", expected=1, found=self.n_obs_steps)


class DiffusionConfig(_Config, frozen=True, kw_only=True):
    """Of `DiffusionConfig`."""

    n_obs_steps: int = 2
    horizon: int = 16
    n_action_steps: int = 8
    resize_shape: tuple[int, int] | None = None
    crop_ratio: float = 1.0
    crop_shape: tuple[int, int] | None = None
    use_group_norm: bool = True
    spatial_softmax_num_keypoints: int = 32
    use_separate_rgb_encoder_per_camera: bool = False
    down_dims: tuple[int, ...] = (512, 1024, 2048)
    kernel_size: int = 5
    n_groups: int = 8
    diffusion_step_embed_dim: int = 128
    use_film_scale_modulation: bool = True
    noise_scheduler_type: Literal["DDPM", "DDIM"] = "DDPM"
    num_train_timesteps: int = 100
    beta_schedule: str = "squaredcos_cap_v2"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    num_inference_steps: int | None = None

    prefix = "diffusion."

    @property
    def crop(self) -> tuple[int, int] | None:
        """(height, width) of the centre that is looked at; None for all of the picture."""
        if self.resize_shape is None:
            return self.crop_shape
        if self.crop_ratio >= 1.0:
            return None
        height, width = self.resize_shape
        return int(height * self.crop_ratio), int(width * self.crop_ratio)

    def check(self, what: str) -> None:
        super().check(what)
        shapes = {feature.shape for feature in self.images.values()}
        if len(shapes) != 1:
            raise PackageError(
                f"{what}: pictures of a Diffusion policy are of one size", found=shapes
            )
        _, *size = next(iter(shapes))
        inner: Sequence[int] = self.resize_shape or size
        if self.crop and (self.crop[0] > inner[0] or self.crop[1] > inner[1]):
            raise PackageError(f"{what}: crop", expected=f"inside {tuple(inner)}", found=self.crop)
        if self.horizon % 2 ** len(self.down_dims) or self.n_obs_steps >= self.horizon:
            raise PackageError(
                f"{what}: horizon",
                expected=f"a multiple of {2 ** len(self.down_dims)} above n_obs_steps",
                found=self.horizon,
            )
