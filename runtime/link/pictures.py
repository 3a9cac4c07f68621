"""Pictures through the link: each encoded by itself for the log, colour as video for the live stream.

Owns the video encoders; sends nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from contracts import images, live_video, wire

Buffers: TypeAlias = list[tuple[wire.Buffer, bytes | np.ndarray]]
COLOUR = ".colour"


def encoded_buffers(packet: wire.Packet, quality: int) -> Buffers:
    """A step's buffers, raw colour as JPEG and raw depth packed losslessly; copies out of the ring."""
    buffers: Buffers = []
    for name, descriptor in packet.descriptors.items():
        if descriptor.codec == "raw" and name.endswith(".colour"):
            array = packet.array(name)
            data = images.encode_jpeg(array, quality)
            buffers.append(wire.encoded(name, images.JPEG, data, array.shape, "uint8"))
        elif descriptor.codec == "raw" and name.endswith(".depth"):
            array = packet.array(name)
            data = images.encode_depth(array)
            buffers.append(wire.encoded(name, images.DEPTH_VZS_ZSTD, data, array.shape, "uint16"))
        else:
            buffers.append((descriptor, bytes(packet.data[name])))
    return buffers


def encode_step(packet: wire.Packet, quality: int) -> list[bytes | memoryview]:
    """The same step with `encoded_buffers`."""
    return wire.pack(packet.message, encoded_buffers(packet, quality))


class LiveColour:
    """`wanted()`: whether the trainer reads that codec, as far as it has greeted. One thread at a time."""

    def __init__(self, codec: str, crf: int, wanted: Callable[[], bool]) -> None:
        self._codec, self._crf, self._wanted = codec, crf, wanted
        self._encoders: dict[str, live_video.Encoder] = {}
        self._due: set[str] = set()
        """Cameras whose next picture must stand by itself."""
        self._never: set[str] = set()
        """Cameras whose pictures stay JPEG."""

    def begin(self) -> None:
        """An episode starts, or what was sent last is lost: every camera's next picture stands by itself."""
        self._due.update(self._encoders)

    def instead(self, packet: wire.Packet, buffers: Buffers) -> tuple[Buffers, bool | None]:
        """(`buffers` with video for the raw colour in `packet`, whether any of it needs what was sent before;
        None: no colour). The same list where colour stays as it is."""
        names = [name for name in packet.descriptors if name.endswith(COLOUR)]
        if not names:
            return buffers, None
        if not self._wanted():
            self.begin()
            return buffers, False
        shown, follows = list(buffers), False
        for at, (descriptor, _) in enumerate(buffers):
            name = descriptor.name
            if name in names and packet.descriptors[name].codec == "raw":
                data = self._encoded(name, packet.array(name))
                if data is not None:
                    shown[at] = wire.encoded(name, self._codec, data, descriptor.shape, "uint8")
                    follows = follows or live_video.follows(data)
        return shown, follows

    def _encoded(self, name: str, rgb: np.ndarray) -> bytes | None:
        """None where that camera's pictures can't be video; why is said once."""
        if name in self._never:
            return None
        try:
            encoder = self._encoders.get(name)
            if encoder is None or encoder.shape != rgb.shape:
                encoder = live_video.Encoder(self._codec, rgb.shape, self._crf)
                self._encoders[name] = encoder
            data = encoder.encode(rgb, alone=name in self._due)
        except images.ImageCodecError as error:
            self._never.add(name)
            print(
                f"link: {name} of the live stream stays JPEG: {error}", file=sys.stderr, flush=True
            )
            return None
        self._due.discard(name)
        return data
