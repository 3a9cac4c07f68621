"""The stands of a capture: each judged, kept in memory for the guidance and on disk for the other verbs.

What is rejected is counted by its reason. Owns the folder of the capture; its format is that of
`calibration.shots`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from calibration import rigid, shots
from calibration.boards import Finder
from calibration.capture.looking import Rejected, Seen, look, look_twice
from calibration.chain import Chain
from calibration.handeye.samples import Camera, Sample
from calibration.rigid import Array
from calibration.shots import Shot, ShotCamera, Shots
from contracts.files import atomic

ALIKE_DEG, ALIKE_MM = 2.0, 8.0
"""A hand nearer than both to one of an earlier stand shows nothing new; of a lens, a board in the picture."""


@dataclass(frozen=True)
class Picture:
    """What is kept of one camera: files' bytes. `depth` empty: there is none."""

    colour: bytes
    depth: bytes = b""


@dataclass
class Capture:
    """Of these cameras, into `folder`. `lens_only`: the board may be moved about, and nobody may take the
    stands for those of an arm. `joints`: names of what the stands' joints are, `chain`: what makes poses of
    them; where a robot is asked."""

    folder: Path
    cameras: dict[str, ShotCamera]
    arm: str = ""
    lens_only: bool = False
    samples: list[Sample] = field(default_factory=list)
    rejections: Counter[str] = field(default_factory=Counter)
    """By "camera: kind", or kind alone for what is nobody's but the stand's."""
    joints: tuple[str, ...] = ()
    chain: Chain | None = None

    def __post_init__(self) -> None:
        self._finders: dict[str, Finder] = {}
        self._shots: list[Shot] = []
        self._seen: list[dict[str, Seen]] = []

    def seen(self, camera: str) -> list[Seen]:
        """By that camera, stand by stand."""
        return [one[camera] for one in self._seen if camera in one]

    @property
    def pinholes(self) -> tuple[Camera, ...]:
        """As the estimate takes them."""
        return tuple(one.lens.pinhole(name, one.mount) for name, one in self.cameras.items())

    def look(self, name: str, picture: npt.NDArray[np.uint8]) -> Seen | Rejected:
        """What one camera's picture is worth."""
        return look(self.cameras[name], self._finder(name), picture, lens_only=self.lens_only)

    def _finder(self, name: str) -> Finder:
        if name not in self._finders:
            self._finders[name] = Finder(self.cameras[name].board)
        return self._finders[name]

    def look_twice(
        self, name: str, earlier: npt.NDArray[np.uint8], later: npt.NDArray[np.uint8]
    ) -> Seen | Rejected:
        """The same of the later of two pictures, between which nothing may have moved."""
        return look_twice(
            self.cameras[name], self._finder(name), earlier, later, lens_only=self.lens_only
        )

    def alike(self, base_T_hand: Array, seen: Mapping[str, Seen]) -> str:
        """The name of an earlier stand that showed the same; empty if there is none."""
        for at, sample in enumerate(self.samples):
            pairs = [(sample.base_T_hand, base_T_hand)]
            if self.lens_only:
                before = self._seen[at]
                pairs = [(before[n].pose, seen[n].pose) for n in seen if n in before]
            if pairs and all(_near(*pair) for pair in pairs):
                return sample.name
        return ""

    def reject(self, rejected: Rejected, camera: str = "") -> None:
        """Counted."""
        self.rejections[f"{camera}: {rejected.kind}" if camera else rejected.kind] += 1

    def take(
        self,
        base_T_hand: Array,
        seen: Mapping[str, Seen],
        pictures: Mapping[str, Picture],
        joints: tuple[float, ...] = (),
    ) -> str:
        """Keep a stand, in the folder at once; `seen` and `pictures` of the same cameras. Returns its name.
        Raises `ShotsError` for a pose that is no number: nobody could read the capture any more."""
        if not np.isfinite(base_T_hand).all():
            raise shots.ShotsError(
                "the hand's pose is no number",
                expected="finite numbers",
                found=base_T_hand[:3, 3].tolist(),
                remedy="see what the arm's joints read, and its --chain",
            )
        name = f"{len(self.samples):03d}"
        files, depths = {}, {}
        for camera, picture in pictures.items():
            files[camera] = f"{name}-{camera}.png"
            atomic.write_bytes(self.folder / files[camera], picture.colour)
            if picture.depth:
                depths[camera] = f"{name}-{camera}-depth.png"
                atomic.write_bytes(self.folder / depths[camera], picture.depth)
        x, y, z = base_T_hand[:3, 3].tolist()
        turn = rigid.to_quaternion(base_T_hand[:3, :3])
        self._shots.append(
            Shot(
                name=name,
                position_m=(x, y, z),
                quaternion_xyzw=turn,
                pictures=files,
                depths=depths,
                joints=joints if self.joints else (),
            )
        )
        views = {camera: one.view for camera, one in seen.items()}
        self.samples.append(Sample(name, base_T_hand, views, joints))
        self._seen.append(dict(seen))
        shots.write(
            self.folder,
            Shots(
                version=shots.VERSION,
                cameras=self.cameras,
                shots=(*self._shots,),
                arm=self.arm,
                joints=self.joints,
                chain=self.chain,
            ),
        )
        return name


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What a capture came to, for `--json`. `rejected`: how often, by reason; `missing`: what a calibration
    of these would warn of; `coverage`: by camera, the share of its picture's cells with corners; `doubts`: of
    lenses that nobody measured (`calibration.shots.ShotCamera`)."""

    folder: str
    stands: int
    rejected: dict[str, int]
    missing: tuple[str, ...]
    coverage: dict[str, float]
    doubts: tuple[str, ...] = ()


def again(source: Path, taken: Shots, capture: Capture) -> list[str]:
    """Judge a capture that is on disk, stand by stand, into `capture`. Returns what was rejected, in words.
    Whether anything moved can't be seen any more. Raises `ShotsError`."""
    said = []
    for shot in taken.shots:
        pose = rigid.from_quaternion(shot.quaternion_xyzw, shot.position_m)
        found: dict[str, Seen] = {}
        for camera, file in shot.pictures.items():
            seen = capture.look(camera, shots.picture_of(source, file, taken.cameras[camera]))
            if isinstance(seen, Rejected):
                capture.reject(seen, camera)
                said.append(f"{shot.name}/{camera}: {seen.why}")
            else:
                found[camera] = seen
        if found and (twin := capture.alike(pose, found)):
            capture.reject(Rejected("alike", ""))
            said.append(f"{shot.name}: it shows what {twin} does")
            continue
        if found:
            kept = {}
            for camera in found:
                depth = shot.depths.get(camera)
                kept[camera] = Picture(
                    shots.read_bytes(source / shot.pictures[camera]),
                    shots.read_bytes(source / depth) if depth else b"",
                )
            capture.take(pose, found, kept, shot.joints)
    return said


def _near(one: Array, other: Array) -> bool:
    return rigid.distance_mm(one, other) < ALIKE_MM and rigid.angle_deg(one, other) < ALIKE_DEG


def encoded(colour: npt.NDArray[np.uint8], depth: npt.NDArray[np.uint16] | None) -> Picture:
    """Lossless, of uint8[H,W,3] RGB and uint16[H,W]."""
    return Picture(
        _png(cv2.cvtColor(colour, cv2.COLOR_RGB2BGR)), b"" if depth is None else _png(depth)
    )


def _png(picture: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | cv2.typing.MatLike) -> bytes:
    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done
    return data.tobytes()
