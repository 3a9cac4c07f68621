"""An engine's answers to its package's golden inputs, by numbers: what was opened or built here is the graph
that was exported. Runs before anything moves, never in the loop.
"""

from __future__ import annotations

from contracts.answers import difference, tolerance_of
from contracts.errors import EntracteError, PackageError
from contracts.files.packages import Package
from runtime.engines import Engine

_REMEDY = (
    "robot-export check says where it diverges; export the package again, build plans again "
    "(robot-export build --anew), or choose another engine"
)


def require_golden(engine: Engine, package: Package, graph: str) -> None:
    """Raise `PackageError` unless `engine`, with the package's own weights, answers every golden input of
    `graph` as recorded, within the tolerance of its precision."""
    tolerance = tolerance_of(package.manifest, graph)
    for number, case in enumerate(package.golden[graph]):
        try:
            found = engine.run(case.inputs)
        except EntracteError:
            raise
        except Exception as error:  # an engine's own
            raise PackageError(
                f"graph '{graph}' of {package.folder} fails on its golden input {number}",
                found=f"{type(error).__name__}: {error}".replace("\n", " "),
                remedy=_REMEDY,
            ) from error
        apart = difference(case.outputs, found, tolerance)
        if apart is not None:
            raise PackageError(
                f"the engine of graph '{graph}' of {package.folder} does not answer as the package's golden "
                f"outputs say: '{apart.output}' on input {number}",
                expected=apart.expected,
                found=apart.found,
                remedy=_REMEDY,
            )
