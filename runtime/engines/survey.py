"""What this machine has for engines, what a configured one will use and why, and what it lacks.

Opens no engine and makes no TensorRT runtime, so it answers on any machine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contracts.errors import EntracteError
from contracts.files.packages import Package
from runtime.engines import EngineOptions, cuda, plans, tensorrt
from runtime.engines.binding import require_onnxruntime
from runtime.engines.onnxruntime import provider_for

TEGRA_RELEASE = Path("/etc/nv_tegra_release")
_JETPACKS = {"35": "JetPack 5", "36": "JetPack 6", "38": "JetPack 7", "39": "JetPack 7"}


def found_here(
    caches: Sequence[str] = ("",), release: Path = TEGRA_RELEASE
) -> list[tuple[str, str]]:
    """(what, found) of everything that engines are made of; absence is a finding, not an error. `caches`:
    the configured folders of plans, "" for the default one."""
    folders = dict.fromkeys(cache_of(cache) for cache in caches)
    return [
        ("jetpack", jetpack(release)),
        ("cuda", _cuda()),
        ("tensorrt", _tensorrt()),
        ("onnxruntime", _onnxruntime()),
        ("numpy", _version("numpy")),
        ("opencv", _version("cv2")),
        ("plans", "; ".join(map(_plans, folders))),
    ]


def require(options: EngineOptions) -> None:
    """Raise `MissingDependency` for what would keep an engine of these options from opening; a plug-in's
    own engine is not judged."""
    if options.kind == "tensorrt":
        tensorrt.require_tensorrt()
        tensorrt.require_cuda()
    elif options.kind == "onnxruntime":
        require_onnxruntime()
        provider_for(options)


def use(options: EngineOptions) -> str:
    """What an engine of these options runs on, and why. Raises as `require` does."""
    require(options)
    if options.kind == "tensorrt":
        device = tensorrt.require_cuda()
        name, version = _name_of(tensorrt.require_tensorrt())
        where = cache_of(options.cache)
        return f"{name} {version} on {device.device_name}, plans in {where}: it is configured"
    if options.kind != "onnxruntime":
        return f"'{options.kind}', of a plug-in"
    provider = provider_for(options)
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}, spinning off"
    why = {
        "cpu": "provider cpu is configured",
        "cuda": "provider cuda is configured",
        "auto": "provider auto found CUDA; if its libraries do not load, the start says so and takes the CPU"
        if provider.startswith("CUDA")
        else f"provider auto found no CUDA ({why_no_cuda()})",
    }[options.provider]
    return f"ONNX Runtime {_version('onnxruntime')} with {provider}, {threads}: {why}"


def missing_plans(package: Package, options: EngineOptions) -> list[str]:
    """Graphs whose TensorRT plan a start would have to build first, each with the reason."""
    trt, device = tensorrt.require_tensorrt(), tensorrt.require_cuda()
    cache = cache_of(options.cache)
    lacking = []
    for graph in package.manifest.graphs:
        identity = tensorrt.identity_here(trt, device, package, graph.name)
        found = plans.load(cache, identity)
        if isinstance(found, str):
            lacking.append(f"{graph.name}: {found}")
    return lacking


def cache_of(configured: str) -> Path:
    """The folder of plans: the configured one, or the default where that is empty."""
    return Path(configured) if configured else plans.default_cache()


def why_no_cuda() -> str:
    """In a few words, why ONNX Runtime can't use CUDA here."""
    found = cuda.look()
    return found if isinstance(found, str) else "this ONNX Runtime is not a GPU build"


def jetpack(release: Path = TEGRA_RELEASE) -> str:
    """What the board's support package says: "L4T 36.4.3 (JetPack 6)"."""
    try:
        words = release.read_text().replace(",", " ").split()
    except (OSError, UnicodeDecodeError):
        return "no Jetson"
    major = next((word[1:] for word in words if word[:1] == "R" and word[1:].isdigit()), "")
    after = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "REVISION:"]
    if not major or not after:
        return f"a Jetson whose {release} can't be read"
    return f"L4T {major}.{after[0]} ({_JETPACKS.get(major, 'an unknown JetPack')})"


def _cuda() -> str:
    found = cuda.look()
    if isinstance(found, str):
        return f"none: {found}"
    return (
        f"{found.device_name}, compute capability {found.capability}, driver for CUDA "
        f"{found.driver_version}"
    )


def _tensorrt() -> str:
    found = tensorrt.look()
    return f"none: {found}" if isinstance(found, str) else " ".join(_name_of(found))


def _onnxruntime() -> str:
    def describe() -> str:
        ort = require_onnxruntime()
        return f"{ort.__version__}, providers {', '.join(ort.get_available_providers())}"

    return _or_none(describe)


def _plans(cache: Path) -> str:
    count = len(list(cache.glob("*.plan"))) if cache.is_dir() else 0
    return f"{count} in {cache}"


def _version(module: str) -> str:
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        return "none"


def _name_of(trt: Any) -> tuple[str, str]:
    return trt.__name__, trt.__version__


def _or_none(describe: Callable[[], str]) -> str:
    try:
        return describe()
    except EntracteError as error:
        return f"none: {error}"
