"""The torch reference of a package, made again from the package's own weights, by architecture.

The one place where a running package meets torch: runtime never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from contracts.files.packages import Package

if TYPE_CHECKING:
    from export.onnx import GraphSource
    from trainer.policies.flow import FlowPolicy

REFERENCES = {
    "flow": "export.parity.torch_side:flow",
    "flow-noise-actor": "export.parity.torch_side:steered",
    "flow-residual": "export.parity.torch_side:residual",
    "edge": "export.parity.torch_side:edge",
    "edge-demo": "export.parity.torch_side:edge",
    "lerobot-act": "export.lerobot.package:reference",
    "lerobot-diffusion": "export.lerobot.package:reference",
}
"""Architecture -> "module:function", where the function takes a `Package` and gives the `GraphSource` of
every graph in the manifest's order. Add a line for an architecture of your own."""


def reference(package: Package) -> tuple[dict[str, GraphSource], str]:
    """Torch's side of each graph, or nothing and the reason why."""
    architecture = package.manifest.architecture
    if architecture not in REFERENCES:
        return {}, (
            f"there is no torch reference for the architecture '{architecture}'; the golden vectors are what "
            "torch answered at export"
        )
    if find_spec("torch") is None or find_spec("onnx") is None:
        return {}, "torch and ONNX are not installed here (extra 'export')"
    module, _, function = REFERENCES[architecture].partition(":")
    make: Callable[[Package], tuple[GraphSource, ...]] = getattr(import_module(module), function)
    return {source.name: source for source in make(package)}, ""


def use_one_thread() -> None:
    """Where torch is: on a busy machine its threads wait for each other far longer than they compute."""
    if find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)


def run(source: GraphSource, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One answer of torch."""
    from export.package import torch_outputs

    return torch_outputs(source, source.module, inputs)


def flow(package: Package) -> tuple[GraphSource, ...]:
    """A flow policy of `robot-trainer imitate`."""
    from trainer.policies.flow import FlowPolicy

    return _graphs(package, FlowPolicy.from_package(package))


def steered(package: Package) -> tuple[GraphSource, ...]:
    """A flow policy whose noise comes from a noise actor."""
    from trainer.policies.actors import policy_of_package
    from trainer.policies.noise_actor import SteeredHead

    return _graphs(package, policy_of_package(package, SteeredHead))


def residual(package: Package) -> tuple[GraphSource, ...]:
    """A flow policy whose chunks are shifted by a residual actor."""
    from trainer.policies.actors import policy_of_package
    from trainer.policies.residual import ResidualHead

    return _graphs(package, policy_of_package(package, ResidualHead))


def _graphs(package: Package, policy: FlowPolicy) -> tuple[GraphSource, ...]:
    from export.policy import graph_sources, takes_prefix

    seen = dict(package.golden["trunk"][0].inputs)
    return graph_sources(policy, seen, prefixed=takes_prefix(package))


def edge(package: Package) -> tuple[GraphSource, ...]:
    """An edge reward model of `robot-reward train` or `adapt`."""
    from export.reward import graph_sources
    from trainer.rewards.edge_twin import head_of_package, trunk_of_package

    trunk, head = trunk_of_package(package), head_of_package(package)
    pictures = [case.inputs for case in package.golden["trunk"]]
    asked = [case.inputs for case in package.golden["head"]]
    return graph_sources(trunk, head, pictures, asked)
