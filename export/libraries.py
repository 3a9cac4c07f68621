"""Which optional libraries a verb of `robot-export` can't do without. Imports none of them."""

from __future__ import annotations

from importlib.util import find_spec

from contracts.errors import MissingDependency


def require(verb: str, *names: str) -> None:
    """Raise `MissingDependency` naming the extra `export` unless all of `names` are installed."""
    absent = [name for name in names if find_spec(name) is None]
    if absent:
        raise MissingDependency(
            f"{verb} needs {' and '.join(names)}",
            found=f"no {' and no '.join(absent)}",
            remedy="pip install 'entracte[export]'",
        )
