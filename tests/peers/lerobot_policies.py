"""Runs in LeRobot's own environment (never imports Entracte): ACT and Diffusion policies of the real classes
with weights drawn by name, saved by LeRobot itself, and what they answer.

`write OUT [NAME...]`: each policy into OUT/NAME; `fixtures OUT`: those that are committed, without
model.safetensors: names.json holds names and shapes to draw it again, kept.safetensors what is not drawn.
"""

import json
import sys
import warnings
from pathlib import Path

import drawn
import numpy as np
import torch
from safetensors.torch import load_file, save_file

warnings.filterwarnings("ignore")

STATE, ACTION = "observation.state", "action"
HEIGHT, WIDTH, JOINTS = 96, 128, 6
SPREAD = 60.0
MEAN_STD = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
BOUNDED = {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}
SMALL_ACT = {"dim_model": 64, "n_heads": 4, "dim_feedforward": 128, "n_encoder_layers": 2}
SMALL_UNET = {"down_dims": (32, 64), "diffusion_step_embed_dim": 32, "n_groups": 8}

POLICIES = {
    "act": (
        "act",
        ("front", "wrist"),
        {"chunk_size": 12, "n_action_steps": 8, "n_vae_encoder_layers": 1, **SMALL_ACT},
        MEAN_STD,
    ),
    "act-other": (
        "act",
        ("front",),
        {
            "chunk_size": 6,
            "n_action_steps": 6,
            "pre_norm": True,
            "feedforward_activation": "gelu",
            "use_vae": False,
            "n_decoder_layers": 2,
            "vision_backbone": "resnet50",
            "replace_final_stride_with_dilation": True,
            **SMALL_ACT,
        },
        {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"},
    ),
    "diffusion-ddim": (
        "diffusion",
        ("front", "wrist"),
        {
            "horizon": 16,
            "n_action_steps": 8,
            "crop_shape": (84, 111),
            "noise_scheduler_type": "DDIM",
            "num_inference_steps": 5,
            "spatial_softmax_num_keypoints": 16,
            **SMALL_UNET,
        },
        BOUNDED,
    ),
    "diffusion-ddpm": (
        "diffusion",
        ("front", "wrist"),
        {
            "horizon": 8,
            "n_obs_steps": 3,
            "n_action_steps": 4,
            "resize_shape": (80, 100),
            "crop_ratio": 0.9,
            "use_group_norm": False,
            "use_separate_rgb_encoder_per_camera": True,
            "use_film_scale_modulation": False,
            "prediction_type": "sample",
            "beta_schedule": "linear",
            "num_inference_steps": 6,
            "spatial_softmax_num_keypoints": 8,
            **SMALL_UNET,
        },
        MEAN_STD,
    ),
    "act-full": ("act", ("front", "wrist"), {}, MEAN_STD),
    "diffusion-half": (
        "diffusion",
        ("front", "wrist"),
        {
            "noise_scheduler_type": "DDIM",
            "num_inference_steps": 10,
            "crop_shape": (84, 84),
            "down_dims": (256, 512, 1024),
        },
        BOUNDED,
    ),
}
"""name -> LeRobot's type, cameras, config, normalisation. The last two have LeRobot's own sizes, but for the
UNet, which would weigh a gigabyte."""
FIXTURES = ("act", "act-other", "diffusion-ddim", "diffusion-ddpm")


def make(name):
    """(policy, preprocessor, postprocessor) of the real classes."""
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    kind, cameras, fields, modes = POLICIES[name]
    images = [f"observation.images.{camera}" for camera in cameras]
    shape = (3, HEIGHT, WIDTH)
    configs = {"act": (ACTConfig, ACTPolicy), "diffusion": (DiffusionConfig, DiffusionPolicy)}
    make_config, make_policy = configs[kind]
    config = make_config(
        input_features={
            **{image: PolicyFeature(FeatureType.VISUAL, shape) for image in images},
            STATE: PolicyFeature(FeatureType.STATE, (JOINTS,)),
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (JOINTS,))},
        normalization_mapping={key: NormalizationMode(mode) for key, mode in modes.items()},
        pretrained_backbone_weights=None,
        device="cpu",
        push_to_hub=False,
        **fields,
    )
    policy = make_policy(config).eval()
    state = policy.state_dict()
    for key, tensor in state.items():
        if tensor.is_floating_point() and not key.endswith(drawn.KEPT):
            tensor.copy_(torch.from_numpy(drawn.weight(key, tuple(tensor.shape))))
    stats = {
        **{image: drawn.picture_statistics(image) for image in images},
        STATE: drawn.statistics(STATE, JOINTS, SPREAD),
        ACTION: drawn.statistics(ACTION, JOINTS, SPREAD),
    }
    stats = {
        feature: {key: torch.from_numpy(value) for key, value in values.items()}
        for feature, values in stats.items()
    }
    before, after = make_pre_post_processors(config, dataset_stats=stats)
    return policy, before, after


def save(name, folder):
    """The checkpoint as `lerobot-train` leaves it, and the lists from which its weights are drawn again."""
    policy, before, after = make(name)
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    weights = load_file(folder / "model.safetensors")
    shapes = {k: list(v.shape) for k, v in weights.items() if not k.endswith(drawn.KEPT)}
    (folder / "names.json").write_text(json.dumps(shapes, separators=(",", ":")))
    save_file({k: v for k, v in weights.items() if k not in shapes}, folder / "kept.safetensors")
    # What was saved is what answers below: LeRobot reads its own files.
    return type(policy).from_pretrained(folder, local_files_only=True).eval(), before, after


def observation(policy, step):
    """One observation as a robot gives it, through LeRobot's own preparation."""
    from lerobot.policies.utils import prepare_observation_for_inference

    raw = {
        image: drawn.picture(image, step, HEIGHT, WIDTH) for image in policy.config.image_features
    }
    raw[STATE] = drawn.state(STATE, step, JOINTS, SPREAD)
    return prepare_observation_for_inference(raw, torch.device("cpu"))


def act(policy, before, after, count, draws):
    """`count` actions one after another, a new observation at each; `draws(chunk, index)` is the noise."""
    from diffusers.schedulers import scheduling_ddpm

    policy.reset()
    asked = {"chunk": -1, "index": 0}

    def randn(shape, **_):
        asked["index"] += 1
        return torch.from_numpy(draws(asked["chunk"], asked["index"])).reshape(shape)

    scheduling_ddpm.randn_tensor = randn
    actions = []
    for step in range(count):
        batch = before(observation(policy, step))
        keywords = {}
        if policy.name == "diffusion":
            if step % policy.config.n_action_steps == 0:
                asked["chunk"] += 1
                asked["index"] = 0
            keywords["noise"] = torch.from_numpy(draws(asked["chunk"], 0))[None]
        actions.append(after(policy.select_action(batch, **keywords))[0].numpy())
    return np.stack(actions)


def answer(policy, before, after):
    """`actions`: two chunks as LeRobot executes them; `chunk`: all of the first chunk."""
    config = policy.config
    size = (getattr(config, "horizon", 0), JOINTS)

    def draws(chunk, index):
        return (3**0.5 * drawn.uniform(f"noise/{chunk}/{index}", size)).astype(np.float32)

    executed = config.n_action_steps
    found = {"actions": act(policy, before, after, 2 * executed, draws)}
    if policy.name == "act":
        config.n_action_steps = length = config.chunk_size
    else:
        config.n_action_steps = length = config.horizon - config.n_obs_steps + 1
    found["chunk"] = act(policy, before, after, length, draws)
    config.n_action_steps = executed
    return found


def write(out, names):
    for name in names:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            np.savez(folder / "answers.npz", **answer(*save(name, folder)))
        print(f"{name}: {folder}")


def fixtures(out, names):
    write(out, names)
    for name in names:
        (out / name / "model.safetensors").unlink()


if __name__ == "__main__":
    verb = {"write": write, "fixtures": fixtures}[sys.argv[1]]
    verb(Path(sys.argv[2]), sys.argv[3:] or FIXTURES)
