"""A signal of pictures, and of joints what such a signal can be made of. Needs no board.

UMI follows a marker. Here the pictures are blurred until a movement of some degrees changes every pixel
smoothly, and the few ways in which they then differ are regressed on the joints and their products: an arm in
a standing camera's sight tells as much as a camera on the arm.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from calibration.latency.delay import Array, DelayError

WIDTH_PX = 8
"""Of a blurred picture: with more, the edges of things move by more than a pixel and the signal is no longer
smooth in the joints (measured on the bench: the interval of a wrist camera doubles at 16)."""
COMPONENTS = 8
_FINE_PX = 64


def blurred(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """float32[h, `WIDTH_PX`] of a picture uint8[H,W] or uint8[H,W,3]."""
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    # Shrunk first: this runs in the loop, and so wide a blur of a whole picture takes longer than a period.
    fine = (_FINE_PX, max(1, round(height * _FINE_PX / width)))
    small = cv2.resize(grey, fine, interpolation=cv2.INTER_AREA).astype(np.float32)
    soft = cv2.GaussianBlur(small, (0, 0), _FINE_PX / WIDTH_PX / 2)
    size = (WIDTH_PX, max(1, round(height * WIDTH_PX / width)))
    return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_AREA), np.float32)


def components(pictures: Sequence[npt.NDArray[np.float32]]) -> Array:
    """[M, `COMPONENTS`]: how M `blurred` pictures differ, along their principal components, the strongest
    first. Raises `DelayError`."""
    if len(pictures) <= COMPONENTS:
        raise DelayError("pictures", expected=f"more than {COMPONENTS}", found=len(pictures))
    rows = np.stack([picture.reshape(-1) for picture in pictures]).astype(np.float64)
    rows -= rows.mean(axis=0)
    left, strength, _ = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(left[:, :COMPONENTS] * strength[:COMPONENTS])


def products(joints: Array) -> Array:
    """Of joints [N,J]: themselves about their means in their deviations, and every product of two [N, J +
    J(J+1)/2]."""
    still = joints - joints.mean(axis=0)
    still = still / np.maximum(still.std(axis=0), 1e-9)
    one, other = np.triu_indices(joints.shape[1])
    return np.concatenate([still, still[:, one] * still[:, other]], axis=1)
