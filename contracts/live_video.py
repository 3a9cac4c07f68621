"""Colour of the live stream as H.264 or H.265: pictures that say only what changed since the one before.

Owns the chain: each picture carries its group and its number in it, so that whoever missed one knows that the
next can't be decoded, and waits for number 0 of another group, which stands by itself. PyAV does the coding;
without it (or without the codec in it) `encodes` and `decodes` are False, and colour is JPEG.
"""

from __future__ import annotations

import contextlib
import random
import struct
import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from contracts import nal_units
from contracts.images import Data, ImageCodecError, Rgb

H264, HEVC = "h264", "hevc"
CODECS = (H264, HEVC)
"""Ids in `Buffer.codec` and names of the features in a greeting."""
KEY_EVERY = 30
"""Pictures of a group: a second at 30 Hz is the longest that a picture lost on the way can cost."""
MAX_PIXELS = 1920 * 1088
"""More is not sent as video: a decoder holds several pictures."""
MIN_SIDE_PX = 16
_HEAD = struct.Struct("<IIH")
"""CRC-32 of what follows it, group, number. A wrong bit would be carried from picture to picture."""
_ENCODERS = {H264: "libx264", HEVC: "libx265"}
_ONE_THREAD = "pools=none:frame-threads=1:no-wpp=1:log-level=none"
# One picture in, one out, without B-frames or look-ahead; which one stands by itself is ours to say.
_OPTIONS: dict[str, dict[str, str]] = {
    H264: {"preset": "ultrafast", "tune": "zerolatency", "profile": "main", "forced-idr": "1"}
    | {"g": "100000", "bf": "0", "refs": "1", "sc_threshold": "0"},
    HEVC: {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}
    | {
        "x265-params": f"open-gop=0:keyint=-1:scenecut=0:bframes=0:ref=1:repeat-headers=1:{_ONE_THREAD}"
    },
}


class MissingPicture(ImageCodecError):
    """This picture is said in changes to one that never came. The next that stands by itself will do."""


def encodes(codec: str) -> bool:
    """Whether this end can write that codec."""
    return _has(_ENCODERS.get(codec, ""), "w")


def decodes(codec: str) -> bool:
    """Whether this end can read that codec."""
    return codec in CODECS and _has(codec, "r")


def fits(shape: tuple[int, ...]) -> bool:
    """Whether pictures of shape (H, W, 3) can travel as video: even sides (4:2:0), neither tiny nor huge."""
    if len(shape) != 3 or shape[2] != 3:
        return False
    height, width = shape[:2]
    even = not (height % 2 or width % 2)
    return even and min(height, width) >= MIN_SIDE_PX and height * width <= MAX_PIXELS


def follows(data: Data) -> bool:
    """Whether that encoded picture needs the one before it."""
    return len(data) >= _HEAD.size and _HEAD.unpack_from(data)[2] > 0


class Encoder:
    """Pictures of one camera, in order. One thread at a time."""

    def __init__(self, codec: str, shape: tuple[int, ...], crf: int) -> None:
        """`crf`: 0 (best) to 51, what the codec's library makes of it. Raises `ImageCodecError`."""
        if not encodes(codec) or not fits(shape):
            raise ImageCodecError(
                f"can't write {codec} of {tuple(shape)}",
                expected=f"{' or '.join(c for c in CODECS if encodes(c)) or 'PyAV'}, even sides, "
                f"{MIN_SIDE_PX} px or more, at most {MAX_PIXELS} pixels",
                remedy="set link.colour_codec: jpeg",
            )
        import av
        from av.video.reformatter import VideoReformatter

        self.codec, self.shape = codec, tuple(shape)
        context: Any = av.codec.CodecContext.create(_ENCODERS[codec], "w")
        context.height, context.width = self.shape[:2]
        context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 30), 30
        context.thread_count = 1  # the other cores are the loop's
        context.options = {**_OPTIONS[codec], "crf": str(crf)}
        self._context, self._reformatter = context, VideoReformatter()
        # No two encoders' groups are the same: what one lost must not seem to be another's.
        self._group, self._number, self._count = random.getrandbits(32), KEY_EVERY, 0

    def encode(self, rgb: Rgb, *, alone: bool = False) -> bytes:
        """The next picture, uint8[H, W, 3] RGB; `alone`: it begins a group. Raises `ImageCodecError`."""
        import av
        from av.video.frame import PictureType

        if rgb.dtype != np.uint8 or rgb.shape != self.shape:
            raise ImageCodecError(
                "colour picture",
                expected=f"uint8 {self.shape}",
                found=f"{rgb.dtype} {rgb.shape}",
            )
        if alone or self._number + 1 >= KEY_EVERY:
            self._group, self._number = (self._group + 1) % 2**32, 0
        else:
            self._number += 1
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = self._reformatter.reformat(picture, format="yuv420p")
        frame.pts = self._count
        frame.pict_type = PictureType.NONE if self._number else PictureType.I
        self._count += 1
        try:
            body = b"".join(bytes(packet) for packet in self._context.encode(frame))
        except av.error.FFmpegError as error:
            raise ImageCodecError(
                f"{self.codec} encoder took no picture", found=str(error)
            ) from error
        found, told = nal_units.units(self.codec, body), nal_units.LAYOUTS[self.codec].told
        body = b"".join(b"\x00\x00\x00\x01" + unit for kind, unit in found if kind not in told)
        rest = _HEAD.pack(0, self._group, self._number)[4:] + body
        return struct.pack("<I", zlib.crc32(rest)) + rest


class Decoder:
    """Pictures of one camera as far as they come. One thread at a time."""

    def __init__(self) -> None:
        self._codec = ""
        self._context: Any = None
        self._reformatter: Any = None
        self._shape: tuple[int, ...] = ()
        self._group, self._number = 0, -1

    def decode(self, codec: str, data: Data, shape: tuple[int, ...]) -> Rgb:
        """uint8[H, W, 3] RGB of the declared `shape`. Raises `MissingPicture` where it needs a picture that
        did not come, `ImageCodecError` for what is no picture of that codec and size; after either, only one
        that stands by itself is taken. Nothing is allocated before its size is known to be as declared."""
        head, body = self._opened(codec, bytes(data), shape)
        group, number = head
        expected = self._context is not None and (codec, shape) == (self._codec, self._shape)
        if number and not (expected and (group, number) == (self._group, self._number + 1)):
            self._context = None
            raise MissingPicture(
                "a picture without the one before it",
                expected=f"picture 0 of a group, or {self._number + 1} of {self._group} if that was read",
                found=f"{number} of {group}",
            )
        context, self._context = self._context, None  # kept again when all is well
        nal_units.check(codec, body, shape[0], shape[1], alone=number == 0)
        if not expected:
            context = _reader(codec)
        rgb = self._picture(context, body, shape)
        self._context, self._codec, self._shape = context, codec, shape
        self._group, self._number = group, number
        return rgb

    def _opened(
        self, codec: str, data: bytes, shape: tuple[int, ...]
    ) -> tuple[tuple[int, int], bytes]:
        """((group, number), the codec's bytes), of one length and checksum."""
        if not decodes(codec) or not fits(shape):
            raise ImageCodecError(
                "video that can't be read here",
                expected=f"{CODECS}, (H, W, 3) with even sides and at most {MAX_PIXELS} pixels",
                found=f"{codec!r} {tuple(shape)}",
            )
        # A picture that says more than its pixels would is none of an encoder's.
        if not _HEAD.size < len(data) <= 4096 + shape[0] * shape[1] * 3:
            raise ImageCodecError("video of another length than a picture's", found=len(data))
        crc, group, number = _HEAD.unpack_from(data)
        if zlib.crc32(data[4:]) != crc or number >= KEY_EVERY:
            self._context = None
            raise ImageCodecError("corrupt video", found=f"picture {number} of its group")
        return (group, number), data[_HEAD.size :]

    def _picture(self, context: Any, body: bytes, shape: tuple[int, ...]) -> Rgb:
        import av
        from av.video.reformatter import VideoReformatter

        self._reformatter = self._reformatter or VideoReformatter()
        try:
            frames = context.decode(av.Packet(body))
        except av.error.FFmpegError as error:
            raise ImageCodecError("corrupt video", found=str(error)) from error
        if len(frames) != 1 or frames[0].is_corrupt:
            raise ImageCodecError("corrupt video", expected="one whole picture", found=len(frames))
        frame = frames[0]
        if (frame.height, frame.width) != shape[:2] or frame.format.name != "yuv420p":
            found = f"{frame.height}x{frame.width} {frame.format.name}"
            raise ImageCodecError("corrupt video", expected=f"{shape[:2]} yuv420p", found=found)
        try:  # a frame may claim colours that nothing converts
            rgb: Rgb = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        except av.error.FFmpegError as error:
            raise ImageCodecError("corrupt video", found=str(error)) from error
        return rgb


def _reader(codec: str) -> Any:
    """A fresh decoder of one thread that shows every picture at once and hides no damage."""
    import av

    context: Any = av.codec.CodecContext.create(codec, "r")
    context.thread_count = 1
    context.options = {"err_detect": "explode", "flags": "low_delay", "ec": "0"}
    return context


@lru_cache
def _has(name: str, mode: str) -> bool:
    with contextlib.suppress(ImportError, ValueError):
        import av

        return bool(av.codec.Codec(name, mode))  # type: ignore[arg-type]
    return False
