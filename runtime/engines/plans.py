"""Plans: engines that TensorRT built for this very device, kept on disk so that a start takes seconds.

Owns where they lie and which may be loaded. Beside each plan lies a card that says what it was built from and
for; a plan whose card says anything else, or whose bytes are not the card's, is built again and never loaded:
TensorRT does not check that a plan came from this package, and a plan of another GPU can run wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.files.packages import Package
from runtime.engines.building import RECIPE

CACHE_VARIABLE = "ENTRACTE_CACHE"
FORMAT_VERSION = 1
MAX_PLAN_BYTES = 1 << 32
MAX_CARD_BYTES = 1 << 16


class PlanIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that decides what a plan is. `library` and `version`: TensorRT's ("tensorrt", "10.3.0"); `gpu`:
    name and number of multiprocessors (every Orin module is called "Orin"); `capability`: its compute
    capability ("8.7"); `precision`: of the graph ("fp32", "fp16", "int8")."""

    package_id: str
    graph: str
    graph_sha256: str
    library: str
    version: str
    gpu: str
    capability: str
    precision: str

    @property
    def key(self) -> str:
        """16 hex digits over all fields."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class PlanCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sidecar: whose plan this is, its bytes' hash, what building it took, and how it was built: the
    most that a kernel may use (0: the device's memory) and the recipe. Earlier cards say neither."""

    format_version: int
    identity: PlanIdentity
    sha256: str
    nbytes: int
    build_s: float
    built_unix_s: float
    workspace_mib: int = 0
    recipe: int = 1


@dataclass(frozen=True)
class Obtained:
    """A plan that may be loaded. `rebuilt`: "" if it came from the cache, else why it was built."""

    plan: bytes
    path: Path
    card: PlanCard
    rebuilt: str


def default_cache() -> Path:
    """Where plans are kept unless said otherwise: $ENTRACTE_CACHE, or the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "entracte" / "plans"


def identity_of(
    package: Package,
    graph: str,
    *,
    library: str,
    version: str,
    gpu: str,
    capability: str,
) -> PlanIdentity:
    """What a plan of this graph must be on this device."""
    return PlanIdentity(
        package_id=package.package_id,
        graph=graph,
        graph_sha256=package.manifest.graph(graph).sha256,
        library=library,
        version=version,
        gpu=gpu,
        capability=capability,
        precision=package.manifest.precision.get(graph, "fp32"),
    )


def plan_path(cache: Path, identity: PlanIdentity) -> Path:
    return cache / f"{identity.graph}-{identity.key}.plan"


def timing_path(cache: Path, identity: PlanIdentity) -> Path:
    """TensorRT's timings of kernels, shared by all plans of one library version and device."""
    text = "|".join((identity.library, identity.version, identity.gpu, identity.capability))
    return cache / f"timing-{hashlib.sha256(text.encode()).hexdigest()[:16]}.cache"


def load(
    cache: Path, identity: PlanIdentity, workspace_mib: int = 0
) -> tuple[bytes, PlanCard] | str:
    """The cached plan with its card, or why there is none that may be loaded. `workspace_mib`: only one that
    was built with this cap; 0: with any."""
    path = plan_path(cache, identity)
    try:
        data = atomic.read_bytes(path.with_suffix(".json"), MAX_CARD_BYTES)
        card = msgspec.json.decode(data, type=PlanCard)
        plan = atomic.read_bytes(path, MAX_PLAN_BYTES)
    except atomic.FileError:
        return "none was built yet"
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        return f"its card can't be read ({error})"
    why = _unfit(card, identity, workspace_mib)
    if why:
        return why
    if len(plan) != card.nbytes or hashlib.sha256(plan).hexdigest() != card.sha256:
        return "the cached one is truncated or changed"
    return plan, card


def _unfit(card: PlanCard, identity: PlanIdentity, workspace_mib: int) -> str:
    """Why the plan of this card is not to be loaded; "" if it is."""
    if card.format_version != FORMAT_VERSION:
        return f"its card is of format {card.format_version}"
    differing = [
        f"{name} {getattr(card.identity, name)} instead of {getattr(identity, name)}"
        for name in PlanIdentity.__struct_fields__
        if getattr(card.identity, name) != getattr(identity, name)
    ]
    if differing:
        return f"the cached one is another's: {', '.join(differing)}"
    if card.recipe != RECIPE:
        return "the cached one was built as another release builds"
    if workspace_mib and card.workspace_mib != workspace_mib:
        cap = f"{card.workspace_mib} MiB" if card.workspace_mib else "all memory"
        return f"the cached one was built with {cap} of workspace instead of {workspace_mib} MiB"
    return ""


def obtain(
    cache: Path,
    identity: PlanIdentity,
    build: Callable[[], bytes],
    *,
    workspace_mib: int = 0,
    anew: bool = False,
) -> Obtained:
    """The cached plan, or one that `build` makes now and that is cached. Of several processes one builds
    and the others wait for it. `workspace_mib`: the cap that `build` keeps to, and for which a plan of
    another is built again; with 0 any serves. `anew`: build even if there is one."""
    path = plan_path(cache, identity)
    atomic.make_directory(cache)
    with _locked(path.with_suffix(".lock")):
        found = "asked for" if anew else load(cache, identity, workspace_mib)
        if not isinstance(found, str):
            plan, card = found
            return Obtained(plan, path, card, "")
        begin_s = time.monotonic()
        plan = build()
        card = PlanCard(
            format_version=FORMAT_VERSION,
            identity=identity,
            sha256=hashlib.sha256(plan).hexdigest(),
            nbytes=len(plan),
            build_s=round(time.monotonic() - begin_s, 3),
            built_unix_s=time.time(),
            workspace_mib=workspace_mib,
            recipe=RECIPE,
        )
        # The card last: a plan without its own card is not loaded.
        card_path = path.with_suffix(".json")
        card_path.unlink(missing_ok=True)
        atomic.write_bytes(path, plan)
        atomic.write_bytes(card_path, msgspec.json.format(msgspec.json.encode(card), indent=1))
    return Obtained(plan, path, card, found)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise EntracteError(
            f"can't keep plans in {path.parent}",
            found=error.strerror,
            remedy=f"name another folder (--cache, policy.cache or ${CACHE_VARIABLE})",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
