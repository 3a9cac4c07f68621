"""LoRA adapters on one base model: loaded whole or not at all, switched, and mixed within a batch.

Owns what peft is called for. A silently unloaded adapter is a known trap: peft warns and goes on with weights
that change nothing, so every tensor is compared with its file here, and `prove` looks at the output.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from contracts.errors import MissingDependency, PackageError

BASE = "__base__"
WEIGHTS = "adapter_model.safetensors"


class Adapters:
    """Adapters by name, loaded into `model` in place: the base model's own modules then answer for whichever
    is speaking, and without any when none is."""

    def __init__(self, model: Any, folders: Mapping[str, Path]) -> None:
        """`folders`: name -> a folder that peft wrote. Raises `PackageError` for one that is wrong."""
        self._folders = dict(folders)
        self._peft = _load(model, self._folders)
        from peft.tuners.lora import LoraLayer

        layers = {n: m for n, m in self._peft.named_modules() if isinstance(m, LoraLayer)}
        vision = [layer for name, layer in layers.items() if ".visual." in name]
        self._language = [layer for name, layer in layers.items() if ".visual." not in name]
        self._changes_sight = {n for layer in vision for n in layer.lora_A}
        for name in self._folders:
            self._compare(name)
        self._peft.eval()

    @property
    def names(self) -> list[str]:
        return list(self._folders)

    def sees(self, name: str) -> str:
        """Which adapter the vision tower is under when `name` speaks: "" where it leaves sight alone."""
        return name if name in self._changes_sight else ""

    @contextmanager
    def speaking(self, names: Sequence[str]) -> Iterator[None]:
        """Row i of a batch is answered by adapter `names[i]` ("": the base model)."""
        if len(set(names)) > 1:
            with self._mixed(names):
                yield
        elif names[0]:
            self._peft.set_adapter(names[0])
            yield
        else:
            with self._peft.disable_adapter():
                yield

    @contextmanager
    def _mixed(self, names: Sequence[str]) -> Iterator[None]:
        # peft's own way (`adapter_names`) goes through the model's whole forward; we call its parts.
        rows = [name or BASE for name in names]

        def hand_over(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "adapter_names": rows}

        layers: list[Any] = self._language
        hooks = [layer.register_forward_pre_hook(hand_over, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _compare(self, name: str) -> None:
        """Every tensor of the file is in the model as it is in the file, and the model has no other."""
        import peft

        state_of: Any = peft.get_peft_model_state_dict
        loaded = state_of(self._peft, adapter_name=name)
        stored = _tensors(self._folders[name])
        path = self._folders[name] / WEIGHTS
        odd = sorted(set(loaded) ^ set(stored))
        if odd:
            raise PackageError(
                f"adapter '{name}' was not loaded: {path}",
                expected="the tensors that its config and this base model have",
                found=f"{len(odd)} that only one side has, such as {odd[0]}",
                remedy="use the base model that it was trained on",
            )
        for key, tensor in stored.items():
            if not bool(torch.isfinite(tensor).all()):
                raise PackageError(f"adapter '{name}': {path}: {key} is not finite")
            if not torch.equal(loaded[key].cpu(), tensor.to(loaded[key].dtype)):
                raise PackageError(f"adapter '{name}' was not loaded: {key} differs from {path}")

    def prove(self, answer: Callable[[str], torch.Tensor]) -> None:
        """`answer(name)` float[V]: the model's logits for one fixed prompt under adapter `name` ("": none).
        Raises `PackageError` for an adapter under which they are those of the base model, or not finite."""
        plain = answer("")
        for name in self._folders:
            changed = answer(name)
            if not bool(torch.isfinite(changed).all()):
                raise PackageError(f"adapter '{name}': the model's output is not finite with it")
            if float((changed - plain).abs().max()) <= 1e-6 * float(plain.abs().max()):
                raise PackageError(
                    f"adapter '{name}' changes nothing",
                    expected="another output than the base model's",
                    found="the same",
                    remedy=f"check {self._folders[name]}: untrained, or for another base model",
                )


def _load(model: Any, folders: Mapping[str, Path]) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingDependency(
            "LoRA adapters need peft", remedy="pip install 'entracte[vlm]'"
        ) from error
    wrapped: Any = None
    for name, folder in folders.items():
        _tensors(folder)
        try:
            with warnings.catch_warnings():
                # peft says by warning what `_compare` says by error.
                warnings.simplefilter("ignore")
                if wrapped is None:
                    wrapped = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
                else:
                    wrapped.load_adapter(str(folder), adapter_name=name)
        except Exception as error:  # peft's, torch's and safetensors' own types
            raise PackageError(
                f"adapter '{name}' won't load from {folder}",
                found=f"{type(error).__name__}: {error}",
                remedy="use the base model that it was trained on",
            ) from error
    return wrapped


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise PackageError(
            f"adapter {folder}",
            expected=f"adapter_config.json and {WEIGHTS}",
            found=sorted(p.name for p in folder.iterdir()) if folder.is_dir() else "no folder",
            remedy="save it with safetensors; pickled weights are not read",
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PackageError(f"adapter weights {path} are corrupt", found=str(error)) from error
