"""The TFRecord reader believes nothing that a checksum, the file's size or a cap speaks against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trainer.reward_data.layouts import SHARED, example, tfrecord
from trainer.reward_data.tfrecord import (
    LANES,
    TfrecordError,
    crc32c,
    parse_example,
    read_record,
    record_offsets,
)

# RFC 3720, appendix B.4, and the check value of the CRC catalogue.
PUBLISHED = {
    b"123456789": 0xE3069283,
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
}


@pytest.mark.parametrize("data", PUBLISHED)
def test_crc32c_gives_the_published_values(data: bytes) -> None:
    assert crc32c(data) == PUBLISHED[data]


def test_crc32c_of_long_data_is_that_of_one_byte_after_another() -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * LANES + 77).astype(np.uint8).tobytes()
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF


def test_an_example_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    features = {"b": [b"one", b""], "f": [0.5, -2.0], "i": [3, -1, 1 << 40]}
    path.write_bytes(tfrecord([example({"i": [1]}), example(features)]))
    found = parse_example(read_record(path, record_offsets(path)[1]))
    assert found["b"] == [b"one", b""]
    assert np.asarray(found["f"]).tolist() == [0.5, -2.0]
    assert np.asarray(found["i"]).tolist() == [3, -1, 1 << 40]


def test_a_flipped_bit_a_cut_and_a_wild_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    whole = tfrecord([example({"b": [bytes(2000)]})])
    for wrong in (
        whole[:1000] + bytes([whole[1000] ^ 4]) + whole[1001:],
        whole[:-3],
        b"\xff" + whole[1:],
        whole[:7],
    ):
        path.write_bytes(wrong)
        with pytest.raises(TfrecordError):
            [read_record(path, offset) for offset in record_offsets(path)]


def test_no_bytes_whatever_make_the_parser_do_more_than_refuse() -> None:
    whole = example({"b": [b"x" * 40], "f": [1.0] * 9, "i": [7] * 9})
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(256)
        try:
            parse_example(bytes(data[: rng.integers(1, len(data) + 1)]))
        except TfrecordError:
            refused += 1
    assert refused > 100


@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared/data here")
def test_the_real_bridge_file_has_25_episodes_of_10_steps() -> None:
    path = SHARED / "bridge_debug" / "bridge_dataset-train.tfrecord"
    examples = [parse_example(read_record(path, offset)) for offset in record_offsets(path)]
    assert [len(e["steps/observation/image_0"]) for e in examples] == [10] * 25
    assert {e["steps/language_instruction"][0] for e in examples} == {
        b"put cup from counter or drying rack into sink",
        b"flip pot upright which is in sink",
        b"turn lever vertical to front",
        b"put carrot on plate",
    }
