"""Picture codecs: exact depth, faithful colour, and typed refusal of anything else."""

import struct

import cv2
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import images
from contracts.images import ImageCodecError


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


def depth_scene(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    depth = (500 + 3 * x + 2 * y).astype(np.uint16)
    depth[10:20, 10:30] = 0
    depth[30, 30] = 65535
    return depth


def test_jpeg_keeps_size_channels_and_colours():
    rgb = scene()
    decoded = images.decode_jpeg(images.encode_jpeg(rgb, quality=95), rgb.shape)
    assert decoded.shape == rgb.shape and decoded.dtype == np.uint8
    # Swapped channels would differ by tens of levels in the mean.
    assert np.abs(decoded.astype(int) - rgb).mean() < 4


def test_jpeg_quality_trades_size():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert len(images.encode_jpeg(noise, 50)) < len(images.encode_jpeg(noise, 95))


def test_shrinking_takes_the_mean_of_what_a_pixel_covers():
    rgb = scene(48, 64)
    small = images.shrink_to(rgb, 16, 12)
    mean = rgb.reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))
    assert small.shape == (12, 16, 3) and small.dtype == np.uint8
    assert np.abs(small - mean).max() <= 0.5
    assert images.shrink_to(rgb, 64, 48) is rgb


@pytest.mark.parametrize("quality", [0, 101])
def test_jpeg_refuses_bad_quality(quality):
    with pytest.raises(ImageCodecError, match="1 to 100"):
        images.encode_jpeg(scene(), quality)


@pytest.mark.parametrize(
    "picture",
    [
        scene().astype(np.float32),
        scene()[..., 0],
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_jpeg_refuses_other_arrays(picture):
    with pytest.raises(ImageCodecError):
        images.encode_jpeg(picture)


def test_jpeg_size_is_read_without_decoding():
    assert images.jpeg_size(images.encode_jpeg(scene(33, 77))) == (33, 77)


def test_jpeg_of_another_size_than_declared_is_refused():
    with pytest.raises(ImageCodecError, match="another size"):
        images.decode_jpeg(images.encode_jpeg(scene()), (48, 65, 3))


def test_jpeg_bomb_is_refused_before_decoding(monkeypatch):
    data = bytearray(images.encode_jpeg(scene()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65535, 65535)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded a bomb"))
    with pytest.raises(ImageCodecError, match="picture size"):
        images.decode_jpeg(bytes(data))


def test_truncated_jpeg_is_refused_at_every_length():
    data = images.encode_jpeg(scene())
    for end in [*range(0, len(data) - 1, 17), len(data) - 1]:
        with pytest.raises(ImageCodecError):
            images.decode_jpeg(data[:end])


def test_other_formats_are_refused():
    rgb = scene()
    for data in (
        cv2.imencode(".png", rgb)[1].tobytes(),
        cv2.imencode(".jpg", rgb[..., 0])[1].tobytes(),
        cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    ):
        with pytest.raises(ImageCodecError):
            images.decode_jpeg(data)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_never_do_more_than_raise(data, with_magic):
    with pytest.raises(ImageCodecError):
        images.decode_jpeg((b"\xff\xd8\xff" if with_magic else b"") + data)
    with pytest.raises(ImageCodecError):
        images.decode_depth(data, (4, 4))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_depth_is_bit_equal_for_any_values(seed, height, width):
    depth = np.random.default_rng(seed).integers(0, 65536, (height, width), dtype=np.uint16)
    assert np.array_equal(images.decode_depth(images.encode_depth(depth), depth.shape), depth)


def test_depth_scene_is_bit_equal_smaller_and_input_is_untouched():
    depth = depth_scene()
    before = depth.copy()
    data = images.encode_depth(depth)
    assert np.array_equal(depth, before)
    assert len(data) < depth.nbytes / 4
    assert np.array_equal(images.decode_depth(memoryview(data), depth.shape), depth)


def test_depth_accepts_views():
    depth = depth_scene()[::2, ::-1]
    assert np.array_equal(images.decode_depth(images.encode_depth(depth), depth.shape), depth)


@pytest.mark.parametrize("shape", [(48, 63), (48, 64, 1), (0, 64), (-48, -64), (1 << 20, 1 << 20)])
def test_depth_of_another_shape_is_refused(shape):
    with pytest.raises(ImageCodecError):
        images.decode_depth(images.encode_depth(depth_scene()), shape)


def test_depth_bomb_is_refused_before_decompression(monkeypatch):
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    monkeypatch.setattr(
        zstandard, "ZstdDecompressor", lambda *_: pytest.fail("decompressed a bomb")
    )
    with pytest.raises(ImageCodecError, match="another size"):
        images.decode_depth(bomb, (48, 64))


def test_truncated_or_padded_depth_is_refused():
    data = images.encode_depth(depth_scene())
    for broken in (b"", data[:3], data[: len(data) // 2], data[:-1], data + b"x"):
        with pytest.raises(ImageCodecError):
            images.decode_depth(broken, (48, 64))


def test_depth_refuses_other_arrays():
    for picture in (depth_scene().astype(np.int32), scene()):
        with pytest.raises(ImageCodecError):
            images.encode_depth(picture)


def test_decode_dispatches_by_codec_id():
    depth, rgb = depth_scene(), scene()
    assert np.array_equal(
        images.decode(images.DEPTH_VZS_ZSTD, images.encode_depth(depth), depth.shape), depth
    )
    assert images.decode(images.JPEG, images.encode_jpeg(rgb), rgb.shape).shape == rgb.shape
    with pytest.raises(ImageCodecError, match="unknown picture codec"):
        images.decode("exr", b"", (1, 1))
