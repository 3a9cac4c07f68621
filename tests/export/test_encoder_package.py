"""CLIP and SigLIP packages on engines and numpy against transformers' own processor and model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, __version__
from tiny_encoders import SIDE, TEXTS, build_encoder

from contracts.errors import PackageError
from contracts.files.packages import load_package
from contracts.pictures import scaled
from export.encoders import export_encoder
from export.pictures import recorded
from export.preprocessors import picture_rule
from export.provenance import NO_LICENCE, licence_of
from export.vlm import VlmOptions, export_vlm
from runtime.engines import EngineOptions
from runtime.models.encoder import Encoder


def test_scaling_is_pillows_to_the_last_bit() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (47, 83, 3), np.uint8)
    # Lower and wider: the order of the passes is that of Pillow 13.
    newer = [(160, 20)] if int(__version__.partition(".")[0]) >= 13 else []
    for size in ((32, 32), (160, 90), (40, 94), (83, 64), *newer):
        for name in ("bicubic", "lanczos", "bilinear"):
            wanted = Image.fromarray(picture).resize(size, Image.Resampling[name.upper()])
            assert np.array_equal(scaled(picture, size, name), np.asarray(wanted)), (size, name)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pictures_and_texts_match_as_in_transformers(
    kind: str, recorded_pictures: Path, tmp_path: Path
) -> None:
    checkpoint = build_encoder(tmp_path / "checkpoint", kind)
    package = export_encoder(checkpoint, recorded_pictures, tmp_path / "package", TEXTS)
    assert package.manifest.exporter == "optimum"
    made_by = package.manifest.provenance
    assert made_by.licence == NO_LICENCE and made_by.notes.startswith("checkpoint ")
    encoder = Encoder(load_package(package.folder), EngineOptions())
    picture = recorded(recorded_pictures, 1)[0]
    wanted = _transformers(kind, checkpoint, picture)
    assert encoder.match(picture, TEXTS) == pytest.approx(wanted, abs=1e-4)
    assert np.ptp(wanted) > 1e-3, "the reference tells texts apart"


def test_a_checkpoint_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    with pytest.raises(PackageError, match="no folder or video"):
        recorded(pictures, 1)
    pictures.mkdir()
    Image.new("RGB", (64, 48)).save(pictures / "0.png")
    for kind, other in (("qwen3_vl", "robot-export vlm"), ("clip", "robot-export encoder")):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(PackageError, match=f"found '{kind}'; {other}") as raised:
            if kind == "clip":
                options = VlmOptions(("open the drawer",))
                export_vlm(str(folder), pictures, tmp_path / "package", options)
            else:
                export_encoder(folder, pictures, tmp_path / "package", TEXTS)
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("# No front matter\n\nlicense: mit\n", NO_LICENCE),
        ("---\nlicense: [unclosed\n---\n", NO_LICENCE),
    ],
)
def test_the_licence_is_what_the_card_says(card: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


@pytest.mark.parametrize("step", ["do_resize", "do_rescale", "do_normalize"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_processor_that_leaves_a_step_out_is_refused(
    kind: str, step: str, recorded_pictures: Path, tmp_path: Path
) -> None:
    checkpoint = build_encoder(tmp_path / "checkpoint", kind)
    path = checkpoint / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    assert picture_rule({**settings, step: True}, SIDE) == picture_rule(settings, SIDE)
    path.write_text(json.dumps({**settings, step: False}))
    with pytest.raises(PackageError, match=f"leaves out.*found {step} off"):
        export_encoder(checkpoint, recorded_pictures, tmp_path / "package", TEXTS)
    assert not (tmp_path / "package").exists()


def _transformers(kind: str, checkpoint: Path, picture: np.ndarray) -> np.ndarray:
    name = "CLIP" if kind == "clip" else "Siglip"
    processor = getattr(transformers, f"{name}ImageProcessor").from_pretrained(checkpoint)
    model: Any = getattr(transformers, f"{name}Model").from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    length = model.config.text_config.max_position_embeddings
    told = tokenizer(list(TEXTS), padding="max_length", max_length=length, return_tensors="pt")
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    mask = {"attention_mask": told["attention_mask"]} if kind == "clip" else {}
    with torch.no_grad():
        logits = model(input_ids=told["input_ids"], pixel_values=pixels, **mask).logits_per_image[0]
    found = logits.softmax(0) if kind == "clip" else logits.sigmoid()
    return found.double().numpy()
