"""Pictures of episodes under way at the trainer: the newest few, decoded when somebody looks. No sockets."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import NamedTuple

import numpy as np

from contracts import images, live_video, wire
from contracts.messages import EpisodeStart, Step
from contracts.wire import Packet

LIVE_WAITING = 8
MAX_SPEAKERS = 1024
MAX_DECODERS = 32
"""Cameras whose video is followed; the one seen longest ago goes, and begins anew with its next group."""


class _Seen(NamedTuple):
    peer: bytes
    instruction: str
    step: int
    encoded: dict[str, tuple[wire.Buffer, bytes]]
    follows: bool
    """Some of it needs what came before."""


class LiveFrames:
    """Taken in by the I/O thread, looked at by the worker. Who looks seldom sees pictures that stand by
    themselves: of those that wait, one that others follow goes last."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._instructions: OrderedDict[bytes, str] = OrderedDict()
        self._waiting: deque[_Seen] = deque()
        self._lock = threading.Lock()
        self._decoders: OrderedDict[tuple[bytes, str], live_video.Decoder] = OrderedDict()
        self.frames = self.skipped = self.undecodable = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, peer: bytes, packet: Packet) -> None:
        message = packet.message
        if isinstance(message, EpisodeStart):
            self._instructions[peer] = message.instruction
            self._instructions.move_to_end(peer)
            if len(self._instructions) > MAX_SPEAKERS:
                self._instructions.popitem(last=False)
        elif isinstance(message, Step) and peer in self._instructions:
            self.frames += 1
            if not self._wanted:
                return
            encoded = {
                name.removesuffix(".colour"): (packet.descriptors[name], bytes(data))
                for name, data in packet.data.items()
                if name.endswith(".colour")
            }
            follows = any(
                descriptor.codec in live_video.CODECS and live_video.follows(data)
                for descriptor, data in encoded.values()
            )
            instruction = self._instructions[peer]
            with self._lock:
                if len(self._waiting) >= LIVE_WAITING:
                    self._skip()
                self._waiting.append(_Seen(peer, instruction, message.index, encoded, follows))

    def _skip(self) -> None:
        """The oldest goes; where others wait that follow it and nothing newer stands by itself, the first of
        those."""
        gone = 0
        oldest = self._waiting[0]
        if not oldest.follows:
            after = [n for n, seen in enumerate(self._waiting) if seen.peer == oldest.peer][1:]
            if after and all(self._waiting[n].follows for n in after):
                gone = after[0]
        del self._waiting[gone]
        self.skipped += 1

    def next(self) -> tuple[str, int, dict[str, np.ndarray]] | None:
        """(instruction, step, decoded pictures by camera); None where those that wait need some that were
        lost. Raises `EntracteError` if they are damaged."""
        while True:
            with self._lock:
                if not self._waiting:
                    return None
                seen = self._waiting.popleft()
            try:
                pictures = {
                    camera: self._decode(seen.peer, camera, *item)
                    for camera, item in seen.encoded.items()
                }
            except live_video.MissingPicture:
                self.undecodable += 1
                continue
            return seen.instruction, seen.step, pictures

    def _decode(self, peer: bytes, camera: str, descriptor: wire.Buffer, data: bytes) -> np.ndarray:
        if descriptor.codec == "raw":
            return np.frombuffer(data, descriptor.dtype).reshape(descriptor.shape)
        if descriptor.codec not in live_video.CODECS:
            return images.decode(descriptor.codec, data, descriptor.shape)
        decoder = self._decoders.setdefault((peer, camera), live_video.Decoder())
        self._decoders.move_to_end((peer, camera))
        if len(self._decoders) > MAX_DECODERS:
            self._decoders.popitem(last=False)
        return decoder.decode(descriptor.codec, data, descriptor.shape)
