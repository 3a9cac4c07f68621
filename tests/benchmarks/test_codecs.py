"""`benchmarks.codecs`: RVL is RVL (it can be unpacked), what is lossless is called so, tables are whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks import codecs, link_scene, rvl
from contracts import live_video


def unpacked(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    """As the paper's decoder does it, one value after another."""
    nibbles = iter(
        np.stack(
            [np.frombuffer(data, np.uint8) >> 4, np.frombuffer(data, np.uint8) & 15], 1
        ).ravel()
    )

    def number() -> int:
        value, shift = 0, 0
        while True:
            nibble = int(next(nibbles))
            value |= (nibble & 7) << shift
            shift += 3
            if not nibble & 8:
                return value

    found = np.zeros(shape[0] * shape[1], np.uint16)
    at = previous = 0
    while at < len(found):
        at += number()
        for _ in range(number()):
            zigzag = number()
            previous += (zigzag >> 1) ^ -(zigzag & 1)
            found[at], at = previous, at + 1
    return found.reshape(shape)


@settings(max_examples=150, deadline=None)
@given(arrays(np.uint16, (5, 7), elements=st.sampled_from([0, 0, 1, 2, 500, 501, 40000, 65535])))
def test_rvl_comes_back(depth: np.ndarray) -> None:
    assert np.array_equal(unpacked(rvl.encode(depth), depth.shape), depth)


@pytest.mark.parametrize("there", [codecs.colour_codecs, codecs.depth_codecs])
def test_every_codec_that_is_here_is_in_the_table(there) -> None:
    found, missing = there()
    depth = there is codecs.depth_codecs
    pictures = [moment["front"][depth] for moment in link_scene.views(1)]
    rows = codecs.measure(found, pictures, 1)
    assert [row.name for row in rows] == [codec.name for codec in found]
    ours = next(row for row in rows if "ours" in row.name)
    assert (ours.psnr_db == float("inf")) == depth and ours.psnr_db > 30
    text = codecs.table(rows, [*missing, "another"], "error")
    assert all(row.name in text for row in rows) and "another." in text


def test_what_video_saves_is_measured_against_jpeg_on_the_same_pictures() -> None:
    pictures = [moment["front"][0][:96, :128].copy() for moment in link_scene.views(4)]
    rows, missing = codecs.films(pictures, 2)
    assert rows[0].name.startswith("JPEG") and rows[0].kb == pytest.approx(rows[0].key_kb, rel=0.1)
    assert len(rows) + 2 * len(missing) == 1 + 2 * len(live_video.CODECS)
    for row in rows[1:]:
        assert row.kb < rows[0].kb and row.key_kb > row.kb and row.psnr_db > 30
    text = codecs.film_table(rows, [*missing, "another"])
    assert all(row.name in text for row in rows) and "another." in text
