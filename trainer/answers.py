"""What a refined head answers to the golden inputs of its package, by the network that was trained: it goes
with the release, and the robot's engine must answer the same before it may act.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from contracts.answers import carried, pack
from contracts.errors import PackageError
from contracts.files.packages import Package

HEAD = "head"


def answers_of(package: Package, head: torch.nn.Module) -> bytes:
    """Of `head` as its weights are now; its `forward` takes the graph's inputs by name and gives the outputs
    in order. Wherever it learned, it answers on the CPU. Raises `PackageError` for answers that are not
    finite or of another shape than the package's."""
    if any(tensor.device.type != "cpu" for tensor in head.parameters()):
        head = copy.deepcopy(head).cpu()
    names = [spec.name for spec in package.manifest.graph(HEAD).outputs]
    cases = package.golden[HEAD]
    golden = [case.outputs for case in cases]
    found = []
    with torch.inference_mode():
        for case in cases[: carried(golden)]:
            given = {name: torch.from_numpy(np.array(a)) for name, a in case.inputs.items()}
            answer = head(**given)
            values = answer if isinstance(answer, (tuple, list)) else (answer,)
            if len(values) != len(names):
                raise PackageError(
                    f"the refined head of {package.folder}",
                    expected=f"outputs {names}",
                    found=f"{len(values)} of them",
                )
            found.append({n: value.numpy() for n, value in zip(names, values, strict=True)})
    return pack(found, golden)
