"""DESIGN section 3, by reading every import in the tree: who may know whom, and nobody pickles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("contracts", "export", "runtime", "trainer", "calibration", "benchmarks")
MAY = {
    "contracts": set(),
    "runtime": {"contracts"},
    "trainer": {"contracts"},
    "export": {"contracts", "trainer", "runtime", "calibration"},
    "calibration": {"contracts", "runtime"},
    "benchmarks": set(ROOMS),
}
# Of these rooms only these parts.
ONLY = {
    ("export", "trainer"): ("trainer.policies", "trainer.rewards", "trainer.config"),
    ("export", "runtime"): ("runtime.engines",),
    ("export", "calibration"): ("calibration.quantization",),
    # The last two serve a page, whosever it is: docs/decisions/0019.
    ("calibration", "runtime"): (
        *("runtime.cameras", "runtime.arms", "runtime.gate"),
        *("runtime.operator.pages", "runtime.operator.section"),
    ),
}
HEAVY_ON_THE_ROBOT = {"torch", "transformers", "optimum", "onnx", "matplotlib", "jinja2"}
NETWORK = {"zmq", "socket", "http", "urllib.request", "requests"}
CODE_IN_DATA = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
PEERS = {"benchmarks/pickle_over_grpc.py", "benchmarks/lerobot_push.py"}
"""Run in processes of their own for comparison with stacks that pickle; nothing imports them."""
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, int]]:
    """(module, line) of every import, those inside functions too; relative ones made absolute."""
    found = []
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) + "." if node.level else ""
            module = f"{base}{node.module or ''}".strip(".")
            found.append((module, node.lineno))
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def within(module: str, parents: tuple[str, ...] | set[str]) -> bool:
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_whom_it_may(room: str) -> None:
    wrong = []
    for path in (ROOT / room).rglob("*.py"):
        for module, line in imports(path):
            other = module.partition(".")[0]
            if other not in ROOMS or other == room:
                continue
            parts = ONLY.get((room, other))
            # "from runtime import engines" yields "runtime" too: the names that follow decide.
            inside = parts is None or within(module, parts) or module == other
            if other not in MAY[room] or not inside:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_contracts_and_runtime_never_see_torch_or_its_like() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for room in ("contracts", "runtime")
        for path in (ROOT / room).rglob("*.py")
        for module, line in imports(path)
        if within(module, HEAVY_ON_THE_ROBOT)
    ]
    assert not wrong, "\n".join(wrong)


def test_contracts_have_two_doors() -> None:
    """Only contracts.files touches the disk, only contracts.sockets the network."""
    wrong = []
    for path in (ROOT / "contracts").rglob("*.py"):
        where = path.relative_to(ROOT)
        for module, line in imports(path):
            if within(module, NETWORK) and "sockets" not in where.parts:
                wrong.append(f"{where}:{line} imports {module}")
            on_disk = within(module, {"os", "pathlib", "io", "shutil", "tempfile"})
            if on_disk and "files" not in where.parts:
                wrong.append(f"{where}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_the_benchmarks() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if "benchmarks" not in path.relative_to(ROOT).parts
        for module, line in imports(path)
        if within(module, {"benchmarks"})
    ]
    assert not wrong


def test_nothing_is_pickled() -> None:
    """No module that runs code of a file's or a sender's; no torch.load, no np.load that may."""
    wrong = []
    for path in FILES:
        where = path.relative_to(ROOT)
        if where.as_posix() in PEERS:
            continue
        wrong += [f"{where}:{n} imports {m}" for m, n in imports(path) if within(m, CODE_IN_DATA)]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name = f"{ast.unparse(node.func.value)}.{node.func.attr}"
            if name in ("np.load", "numpy.load"):
                pickle = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("allow_pickle")
                if pickle != "False":
                    wrong.append(f"{where}:{node.lineno} np.load without allow_pickle=False")
            if name == "torch.load":
                wrong.append(f"{where}:{node.lineno} torch.load")
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_a_peer_that_pickles() -> None:
    names = {peer.removesuffix(".py").replace("/", ".") for peer in PEERS}
    assert all((ROOT / peer).exists() for peer in PEERS)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in FILES
        for module, line in imports(path)
        if within(module, names)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_owns() -> None:
    without = [str(p.relative_to(ROOT)) for p in FILES if not ast.get_docstring(_tree(p))]
    assert not without, without


def test_a_refiner_can_be_read_in_one_sitting() -> None:
    lines = {
        p.name: len(p.read_text().splitlines()) for p in (ROOT / "trainer/refiners").glob("*.py")
    }
    methods = ("awr", "bestofn", "demonstrations", "dsrl", "ppo", "residual")
    assert {name: lines[f"{name}.py"] for name in methods if lines[f"{name}.py"] > 300} == {}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())
