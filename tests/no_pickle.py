"""Runs a program with everything that runs code out of data made to raise: `python no_pickle.py module args`.

Patched before the program starts: pickle, marshal (but for Python's own import of modules), torch.load and
numpy's pickled arrays. Libraries may import them; nobody may use them.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import runpy
import sys

IMPORTERS = {"importlib._bootstrap_external", "_frozen_importlib_external", "zipimport", "pkgutil"}


def refuse(*_arguments, **_keywords):
    raise RuntimeError("code out of data: pickle, marshal or torch.load was used")


class Refuse:
    __init__ = refuse


class TorchWithoutLoad(importlib.abc.MetaPathFinder):
    """Takes `load` and `save` from torch once somebody imports it: importing it here would cost seconds."""

    def find_spec(self, name, path, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_take(module):
                execute(module)
                module.load = module.save = refuse

            spec.loader.exec_module = execute_and_take
        return spec


def patch() -> None:
    import marshal
    import pickle

    import numpy as np

    pickle.loads = pickle.dumps = pickle.load = pickle.dump = refuse
    pickle.Pickler = pickle.Unpickler = Refuse
    loads, load = marshal.loads, np.load

    def loads_of_imports(data, *rest, **keywords):
        if sys._getframe(1).f_globals.get("__name__") in IMPORTERS:
            return loads(data, *rest, **keywords)
        return refuse()

    def load_plain(*arguments, **keywords):
        return refuse() if keywords.get("allow_pickle") else load(*arguments, **keywords)

    marshal.loads, np.load = loads_of_imports, load_plain
    marshal.load = marshal.dump = marshal.dumps = refuse
    sys.meta_path.insert(0, TorchWithoutLoad())


if __name__ == "__main__":
    patch()
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "-c":
        exec(sys.argv[1])
    else:
        sys.path[0] = os.getcwd()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
