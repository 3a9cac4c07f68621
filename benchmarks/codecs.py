"""Which library makes JPEGs, how depth is packed, what video saves: `python -m benchmarks.codecs`.

On one thread, all candidates on the same pictures in turns. What is not installed is left out and said so;
what is lossless is checked to be.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import zstandard

from benchmarks import link_scene, rvl
from benchmarks.machine import in_words, machine
from contracts import images, live_video

QUALITY = 95
CRFS = (18, 23)


class Codec(NamedTuple):
    name: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray] | None
    """None: only the size and the time of packing are of interest."""


class Row(NamedTuple):
    name: str
    kb: float
    encode_ms: float
    decode_ms: float
    psnr_db: float


def measure(codecs: Sequence[Codec], pictures: Sequence[np.ndarray], rounds: int) -> list[Row]:
    """Medians of CPU milliseconds of this thread."""
    encode_s: dict[str, list[float]] = {codec.name: [] for codec in codecs}
    decode_s: dict[str, list[float]] = {codec.name: [] for codec in codecs}
    sizes: dict[str, list[int]] = {codec.name: [] for codec in codecs}
    errors: dict[str, list[float]] = {codec.name: [] for codec in codecs}
    for _ in range(rounds):
        for picture in pictures:
            for codec in codecs:
                began_s = time.thread_time()
                data = codec.encode(picture)
                encode_s[codec.name].append(time.thread_time() - began_s)
                sizes[codec.name].append(len(data))
                if codec.decode is None:
                    continue
                began_s = time.thread_time()
                back = codec.decode(data)
                decode_s[codec.name].append(time.thread_time() - began_s)
                errors[codec.name].append(float(np.square(back.astype(float) - picture).mean()))
    return [
        Row(
            codec.name,
            statistics.mean(sizes[codec.name]) / 1e3,
            1e3 * statistics.median(encode_s[codec.name]),
            1e3 * statistics.median(decode_s[codec.name] or [float("nan")]),
            _psnr(errors[codec.name]),
        )
        for codec in codecs
    ]


def colour_codecs() -> tuple[list[Codec], list[str]]:
    """(those that are there, what is missing)."""
    found = [
        Codec("OpenCV (ours)", lambda p: images.encode_jpeg(p, QUALITY), images.decode_jpeg),
    ]
    missing = []
    if (simple := _module("simplejpeg")) is not None:
        found.append(
            Codec(
                "simplejpeg",
                lambda p: simple.encode_jpeg(p, QUALITY, "RGB", "420", fastdct=False),
                lambda d: simple.decode_jpeg(d, "RGB"),
            )
        )
        found.append(
            Codec(
                "simplejpeg, fast DCT",
                lambda p: simple.encode_jpeg(p, QUALITY, "RGB", "420", fastdct=True),
                lambda d: simple.decode_jpeg(d, "RGB", fastdct=True, fastupsample=True),
            )
        )
    else:
        missing.append("simplejpeg")
    if (turbo := _turbojpeg()) is not None:
        found.append(turbo)
    else:
        missing.append("PyTurboJPEG (or the system's libturbojpeg)")
    return found, missing


class Film(NamedTuple):
    """A camera's pictures in order, through one codec: means over all and over those that stand by themselves
    (kB), medians of CPU milliseconds of all and the slowest encoding."""

    name: str
    kb: float
    key_kb: float
    encode_ms: float
    worst_ms: float
    decode_ms: float
    psnr_db: float


def films(moments: Sequence[np.ndarray], groups: int) -> tuple[list[Film], list[str]]:
    """The live stream's codecs on a camera that goes to and fro over `moments`, for so many groups; (rows,
    what is missing). Each picture goes through all of them before the next. x265 works in a thread of its own
    even when told to use one: the whole process's time counts."""
    there = [*moments, *moments[-2:0:-1]]
    lanes: dict[str, Callable[[], tuple[Callable[..., bytes], Callable[[bytes], np.ndarray]]]] = {
        f"JPEG, quality {QUALITY}": lambda: (
            lambda picture: images.encode_jpeg(picture, QUALITY),
            images.decode_jpeg,
        )
    }
    missing = [codec for codec in live_video.CODECS if not live_video.encodes(codec)]
    for codec in live_video.CODECS:
        for crf in CRFS if codec not in missing else ():
            lanes[f"{codec}, crf {crf}"] = lambda codec=codec, crf=crf: _film(  # type: ignore[misc]
                codec, crf, moments[0].shape
            )
    ends = {name: make() for name, make in lanes.items()}
    taken: dict[str, list[tuple[int, float, float, float]]] = {name: [] for name in lanes}
    for at in range(groups * live_video.KEY_EVERY):
        picture = there[at % len(there)]
        for name, (encode, decode) in ends.items():
            began_s = time.process_time()
            data = encode(picture)
            packed_s = time.process_time()
            back = decode(data)
            done_s = time.process_time()
            error = float(np.square(back.astype(float) - picture).mean())
            taken[name].append((len(data), packed_s - began_s, done_s - packed_s, error))
    rows = []
    for name, found in taken.items():
        sizes, encode_s, decode_s, errors = (
            np.array(column) for column in zip(*found, strict=True)
        )
        rows.append(
            Film(
                name,
                sizes.mean() / 1e3,
                sizes[:: live_video.KEY_EVERY].mean() / 1e3,
                1e3 * float(np.median(encode_s)),
                1e3 * float(encode_s.max()),
                1e3 * float(np.median(decode_s)),
                _psnr(errors.tolist()),
            )
        )
    return rows, missing


def _film(
    codec: str, crf: int, shape: tuple[int, ...]
) -> tuple[Callable[..., bytes], Callable[[bytes], np.ndarray]]:
    encoder, decoder = live_video.Encoder(codec, shape, crf), live_video.Decoder()
    return encoder.encode, lambda data: decoder.decode(codec, data, shape)


def film_table(rows: Sequence[Film], missing: Sequence[str]) -> str:
    lines = [
        "| colour of the live stream | kB a picture | kB, by itself | of JPEG's bytes | pack, ms (slowest) | "
        "unpack, ms | PSNR dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.kb:.1f} | {row.key_kb:.1f} | {row.kb / rows[0].kb:.2f} | "
            f"{row.encode_ms:.2f} ({row.worst_ms:.1f}) | {row.decode_ms:.2f} | {row.psnr_db:.1f} |"
        )
    if missing:
        lines.append(f"\nNot in this PyAV: {', '.join(missing)}.")
    return "\n".join(lines)


def depth_codecs() -> tuple[list[Codec], list[str]]:
    """(those that are there, what is missing)."""
    shape = (link_scene.HEIGHT, link_scene.WIDTH)
    plain = zstandard.ZstdCompressor(level=1)
    found = [
        Codec(
            "rows' differences, bytes split, zstd 1 (ours)",
            images.encode_depth,
            lambda d: images.decode_depth(d, shape),
        ),
        Codec("zstd 1 alone", lambda p: plain.compress(p.tobytes()), None),
        Codec("PNG, level 1", lambda p: cv2.imencode(".png", p, _PNG_1)[1].tobytes(), _png),
        Codec("RVL (in numpy: its size counts)", rvl.encode, None),
    ]
    missing = []
    if (blosc := _module("blosc2")) is not None:
        for name, codec in (("lz4", "LZ4"), ("zstd 1", "ZSTD")):
            found.append(Codec(f"Blosc 2, bytes split, {name}", _blosc(blosc, codec), None))
    else:
        missing.append("blosc2")
    if (more := _module("imagecodecs")) is not None:
        found.append(
            Codec(
                "JPEG XL, effort 1, lossless",
                lambda p: more.jpegxl_encode(p, lossless=True, effort=1),
                more.jpegxl_decode,
            )
        )
        found.append(Codec("JPEG-LS", more.jpegls_encode, more.jpegls_decode))
    else:
        missing.append("imagecodecs")
    return found, missing


_PNG_1 = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def _png(data: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return found


def _blosc(blosc: Any, codec: str) -> Callable[[np.ndarray], bytes]:
    blosc.set_nthreads(1)
    settings = {
        "codec": getattr(blosc.Codec, codec),
        "clevel": 1,
        "filters": [blosc.Filter.SHUFFLE],
        "filters_meta": [0],
        "typesize": 2,
        "nthreads": 1,
    }
    return lambda picture: bytes(blosc.compress2(picture, **settings))


def _turbojpeg() -> Codec | None:
    module = _module("turbojpeg")
    try:
        turbo = module.TurboJPEG() if module else None
    except (RuntimeError, OSError):  # the package is there, the system's library is not
        return None
    if turbo is None or module is None:
        return None
    rgb = {"pixel_format": module.TJPF_RGB}
    more = {"quality": QUALITY, "jpeg_subsample": module.TJSAMP_420}
    return Codec(
        "PyTurboJPEG",
        lambda p: turbo.encode(p, **more, **rgb),
        lambda d: turbo.decode(d, **rgb),
    )


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


def _psnr(errors: Sequence[float]) -> float:
    mean = statistics.mean(errors) if errors else float("nan")
    return float("inf") if mean == 0.0 else float(10 * np.log10(255**2 / mean))


def table(rows: Sequence[Row], missing: Sequence[str], quality: str) -> str:
    lines = [f"| codec | kB | pack, ms | unpack, ms | {quality} |", "|---|---|---|---|---|"]
    for row in rows:
        exact = "exact" if row.psnr_db == float("inf") else f"{row.psnr_db:.1f}"
        lines.append(
            f"| {row.name} | {row.kb:.1f} | {row.encode_ms:.2f} | {row.decode_ms:.2f} | {exact} |"
        )
    if missing:
        lines.append(f"\nNot installed: {', '.join(missing)}.")
    return "\n".join(lines).replace("nan", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--groups", type=int, default=3, help="of video, 30 pictures each")
    parser.add_argument("--frame", type=Path, help=".npz with a camera's `rgb` and `depth`")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    if given.frame:
        with np.load(given.frame, allow_pickle=False) as file:
            colour, depth = [file["rgb"]], [file["depth"]]
    else:
        pairs = [pair for moment in link_scene.views(4) for pair in moment.values()]
        colour, depth = [rgb for rgb, _ in pairs], [depth for _, depth in pairs]
    for codecs, pictures, quality in (
        (colour_codecs, colour, "PSNR dB"),
        (depth_codecs, depth, "error"),
    ):
        found, missing = codecs()
        print(table(measure(found, pictures, given.rounds), missing, quality) + "\n")
    film = [moment["front"][0] for moment in link_scene.views()]
    print(film_table(*films(film, given.groups)) + "\n")
    print(f"CPU time of one thread. Machine: {in_words(machine())}.")


if __name__ == "__main__":
    main()
