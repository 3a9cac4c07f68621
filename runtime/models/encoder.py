"""A CLIP or SigLIP package on two engines: how well pictures match prepared texts. numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.pictures import prepare
from runtime.engines import Engine, EngineOptions, open_engine
from runtime.engines.golden import require_golden


class Encoder:
    """Embeddings and matches. One thread at a time."""

    def __init__(self, package: Package, options: EngineOptions) -> None:
        """Raises `PackageError` for a package of another kind."""
        spec = package.manifest.encoder
        if package.manifest.model != "encoder" or spec is None:
            raise PackageError(
                f"package {package.folder}",
                expected="an encoder (robot-export encoder)",
                found=package.manifest.model,
            )
        self.spec = spec
        with ExitStack() as opened:
            self._image: Engine = open_engine(package, "image", options)
            opened.callback(self._image.close)
            require_golden(self._image, package, "image")
            self._text: Engine = open_engine(package, "text", options)
            opened.callback(self._text.close)
            require_golden(self._text, package, "text")
            opened.pop_all()
        self._said: dict[str, np.ndarray] = {}

    def image(self, picture: np.ndarray) -> np.ndarray:
        """float32[D] of length one, of uint8[H, W, 3] RGB of any size."""
        shown = prepare(picture, self.spec.picture)[None]
        return np.array(self._image.run({"pixels": shown})["embedding"][0])

    def text(self, text: str) -> np.ndarray:
        """float32[D] of length one. Raises `PackageError` for a text that the package has no tokens of."""
        if text not in self.spec.texts:
            raise PackageError(
                f"the package has no tokens of {text!r}",
                expected=sorted(self.spec.texts),
                remedy="export it with --text",
            )
        if text not in self._said:  # once: there are as many as the package has texts
            tokens = np.array([self.spec.texts[text]], np.int64)
            self._said[text] = np.array(self._text.run({"tokens": tokens})["embedding"][0])
        return self._said[text].copy()

    def match(self, picture: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """float64[len(texts)] in [0, 1]: each on its own (SigLIP), or shares of one (CLIP)."""
        spec, seen = self.spec, self.image(picture).astype(np.float64)
        said = np.stack([self.text(text) for text in texts]).astype(np.float64)
        logits = spec.logit_scale * (said @ seen) + spec.logit_bias
        if spec.sigmoid:
            return np.asarray(1.0 / (1.0 + np.exp(-logits)))
        shares = np.exp(logits - logits.max())
        return np.asarray(shares / shares.sum())

    def close(self) -> None:
        self._image.close()
        self._text.close()
