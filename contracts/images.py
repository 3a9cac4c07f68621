"""Picture codecs of the wire and of episodes on disk (JPEG for colour, a lossless one for depth), and the one
way in which a picture is shrunk for a policy.

Pure: bytes in, arrays out. Every decoder learns the size from the data and compares it with what
the caller declared and with the caps before it allocates a picture.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import zstandard

from contracts.errors import EntracteError

JPEG = "jpeg"
# v: difference to the row above; z: zigzag; s: low and high bytes split. Chosen by `robot-bench codecs` on a
# frame of a D435's: docs/results/link.md has it beside PNG, RVL, JPEG XL and Blosc.
DEPTH_VZS_ZSTD = "depth16-vzs-zstd"

MAX_SIDE_PX = 8192
MAX_PIXELS = 16 * 1024 * 1024
MAX_ENCODED_BYTES = 64 * 1024 * 1024

Data: TypeAlias = bytes | bytearray | memoryview
Rgb: TypeAlias = npt.NDArray[np.uint8]
Depth: TypeAlias = npt.NDArray[np.uint16]


class ImageCodecError(EntracteError):
    """A picture that can't be encoded, or data that isn't the picture it was declared to be."""


def encode_jpeg(rgb: Rgb, quality: int = 90) -> bytes:
    """Baseline JPEG of uint8[H, W, 3] RGB. `quality` 1 to 100. Raises `ImageCodecError`."""
    _check_array("colour picture", rgb, np.dtype(np.uint8), rank=3)
    if rgb.shape[2] != 3:
        raise ImageCodecError("colour picture", expected="shape (H, W, 3)", found=rgb.shape)
    if not 1 <= quality <= 100:
        raise ImageCodecError("JPEG quality", expected="1 to 100", found=quality)
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise ImageCodecError("OpenCV could not encode a picture as JPEG", found=rgb.shape)
    return data.tobytes()


def decode_jpeg(data: Data, shape: tuple[int, ...] | None = None) -> Rgb:
    """uint8[H, W, 3] RGB from a baseline JPEG; `shape` is what the sender declared, if it did.

    Raises `ImageCodecError` on other formats, other sizes and truncated data. JPEG has no checksum:
    bytes flipped inside the entropy-coded part give a wrong picture, not an error.
    """
    height, width = jpeg_size(data)
    if shape is not None and tuple(shape) != (height, width, 3):
        raise ImageCodecError(
            "JPEG of another size than declared", expected=tuple(shape), found=(height, width, 3)
        )
    # The decoder fills what is missing with grey and only prints a warning: look for the end here.
    if bytes(data[-2:]) != b"\xff\xd9":
        raise ImageCodecError("truncated JPEG", expected="end-of-image marker", found="none")
    # A picture is pixels here: an orientation tag must not turn it against its intrinsics.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageCodecError("corrupt JPEG", found=str(error)) from error
    if bgr is None or bgr.shape != (height, width, 3):
        raise ImageCodecError("corrupt JPEG", expected=(height, width, 3))
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def use_one_thread() -> None:
    """Of this process: a picture of our sizes is done sooner than other threads are woken for it."""
    cv2.setNumThreads(1)


def shrink_to(picture: Rgb, width: int, height: int) -> Rgb:
    """uint8[height, width, 3] of uint8[H, W, 3] by the mean of what each pixel covers (OpenCV's INTER_AREA),
    as policies and reward heads are trained and run; the picture itself where it has that size."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def jpeg_size(data: Data) -> tuple[int, int]:
    """(height, width) in pixels from a JPEG's frame header; nothing is decoded.

    Raises `ImageCodecError` if the data is no 8-bit three-component baseline JPEG or breaks a cap.
    """
    if len(data) > MAX_ENCODED_BYTES:
        raise ImageCodecError(
            "JPEG too large", expected=f"<= {MAX_ENCODED_BYTES} bytes", found=len(data)
        )
    if bytes(data[:3]) != b"\xff\xd8\xff":
        raise ImageCodecError("not a JPEG", expected="ff d8 ff", found=bytes(data[:3]).hex(" "))
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ImageCodecError("corrupt JPEG header", found=f"no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        length = data[at + 2] << 8 | data[at + 3]
        # Progressive files (c2 and others) can ask for unbounded work a byte; we never write them.
        if marker in (0xC0, 0xC1):
            return _frame_header(bytes(data[at + 4 : at + 10]))
        if (0xC2 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker in (0xD9, 0xDA):
            break
        if length < 2:
            break
        at += 2 + length
    raise ImageCodecError("unusable JPEG", expected="a baseline frame header", found="none")


def _frame_header(header: bytes) -> tuple[int, int]:
    if len(header) < 6:
        raise ImageCodecError("truncated JPEG", expected="a whole frame header")
    bits, height, width, components = struct.unpack(">BHHB", header)
    if bits != 8 or components != 3:
        raise ImageCodecError(
            "unusable JPEG", expected="3 components of 8 bits", found=f"{components} of {bits} bits"
        )
    _check_size(height, width)
    return height, width


def encode_depth(depth: Depth) -> bytes:
    """Lossless compression of uint16[H, W] depth (any unit). Raises `ImageCodecError`."""
    _check_array("depth picture", depth, np.dtype(np.uint16), rank=2)
    step = np.empty(depth.shape, np.uint16)
    step[0] = depth[0]
    np.subtract(depth[1:], depth[:-1], out=step[1:])
    sign = (step.view(np.int16) >> 15).view(np.uint16)
    step <<= 1
    step ^= sign
    # Filled plane by plane: a transpose of the bytes takes longer than all the rest together.
    planes = np.empty((2, *depth.shape), np.uint8)
    np.copyto(planes[0], step, casting="unsafe")
    step >>= 8
    np.copyto(planes[1], step, casting="unsafe")
    return _compressor().compress(planes.data)


_threads = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    """One a thread: making one costs as much as using it, and none may be used by two at once."""
    if not hasattr(_threads, "compressor"):
        _threads.compressor = zstandard.ZstdCompressor(level=1)
    return _threads.compressor  # type: ignore[no-any-return]


def decode_depth(data: Data, shape: tuple[int, ...]) -> Depth:
    """uint16[H, W] of the declared `shape` from `encode_depth`'s bytes, bit-equal.

    Raises `ImageCodecError` when the size written in the data is not that of `shape`, or the data
    is corrupt or cut off.
    """
    if len(shape) != 2:
        raise ImageCodecError("depth shape", expected="(H, W)", found=tuple(shape))
    height, width = (int(side) for side in shape)
    _check_size(height, width)
    size = height * width * 2
    try:
        found = zstandard.frame_content_size(data)
        if found != size:
            raise ImageCodecError(
                "depth data of another size than declared",
                expected=f"{size} bytes for {(height, width)}",
                found=f"{found} bytes",
            )
        raw = zstandard.ZstdDecompressor().decompress(
            data, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ImageCodecError("corrupt depth data", found=str(error)) from error
    if len(raw) != size:
        raise ImageCodecError("corrupt depth data", expected=f"{size} bytes", found=len(raw))
    low, high = np.frombuffer(raw, np.uint8).reshape(2, height, width)
    depth = high.astype(np.uint16)
    depth <<= 8
    depth |= low
    sign = depth & 1
    np.negative(sign, out=sign)
    depth >>= 1
    depth ^= sign
    for row in range(1, height):  # a cumulative sum down the columns jumps a row for every number
        depth[row] += depth[row - 1]
    return depth


_DECODERS: dict[
    str, Callable[[Data, tuple[int, ...]], npt.NDArray[np.uint8] | npt.NDArray[np.uint16]]
] = {
    JPEG: decode_jpeg,
    DEPTH_VZS_ZSTD: decode_depth,
}
CODECS = frozenset(_DECODERS)


def decode(
    codec: str, data: Data, shape: tuple[int, ...]
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Decode `data` by codec id into the declared `shape`. Raises `ImageCodecError`."""
    decoder = _DECODERS.get(codec)
    if decoder is None:
        raise ImageCodecError("unknown picture codec", expected=sorted(CODECS), found=repr(codec))
    return decoder(data, shape)


def _check_array(what: str, array: np.ndarray, dtype: np.dtype, rank: int) -> None:
    if array.dtype != dtype or array.ndim != rank:
        raise ImageCodecError(
            what, expected=f"{dtype} of rank {rank}", found=f"{array.dtype} of shape {array.shape}"
        )
    _check_size(array.shape[0], array.shape[1])


def _check_size(height: int, width: int) -> None:
    if not (
        0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX and height * width <= MAX_PIXELS
    ):
        raise ImageCodecError(
            "picture size",
            expected=f"1 to {MAX_SIDE_PX} px a side and at most {MAX_PIXELS} pixels",
            found=f"{height}x{width}",
        )
