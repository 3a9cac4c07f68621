"""Crash points of what writes under a folder: its file operations recorded, and what a crash at each leaves.

`Watch` sees every create, write, fsync, rename, unlink and mkdir below a folder, from outside: it replaces
what `os` and `open` are for the time being. `killed_at` ends the process before one of them (a write is torn
in half first). `crashes` gives every disk that a kill or a power cut may leave: what was not synced is there,
gone, torn or full of zeros, and names whose folder was not synced are there or not, each independently of
the others. That is weaker than journaling file systems promise, so what survives it survives them.
"""

from __future__ import annotations

import builtins
import io
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_PENDING = 8
"""Name changes that may wait for a folder's sync at once: more would be too many disks, and poor code."""


@dataclass(frozen=True)
class Op:
    """`kind`: create, write, truncate, fsync, sync_folder, rename (to `target`), unlink, mkdir, or mark.
    Paths are relative to the folder. `data`: what a write appends."""

    kind: str
    path: str = ""
    target: str = ""
    data: bytes = b""
    note: Any = None


class Watch:
    """`with Watch(folder, see):` calls `see(op)` before each operation is carried out."""

    def __init__(self, folder: Path, see: Callable[[Op], None]) -> None:
        self.folder, self._see = str(folder.resolve()), see
        self._real: dict[str, Any] = {}

    def __enter__(self) -> Watch:
        names = ("open", "fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir")
        self._real = {name: getattr(os, name) for name in names} | {"file": io.open}
        os.open, os.fsync, os.mkdir = self._os_open, self._fsync, self._mkdir  # type: ignore[assignment]
        os.replace = os.rename = self._rename  # type: ignore[assignment]
        os.unlink = os.remove = self._unlink  # type: ignore[assignment]
        io.open = builtins.open = self._open  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        io.open = builtins.open = self._real.pop("file")
        for name, function in self._real.items():
            setattr(os, name, function)

    def _inside(self, path: Any) -> str | None:
        if isinstance(path, int):
            return None
        full = os.path.abspath(os.fspath(path))
        return full[len(self.folder) + 1 :] if full.startswith(f"{self.folder}/") else None

    def _open(self, path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        inside = self._inside(path)
        if inside is None or not set(mode) & set("wax+"):
            return self._real["file"](path, mode, *rest, **more)
        assert "b" in mode and "+" not in mode, f"a way of writing that is not watched: {mode}"
        if not os.path.exists(path):
            self._see(Op("create", inside))
        elif "w" in mode:
            self._see(Op("truncate", inside))
        return _File(self._real["file"](path, mode, 0), inside, self._see)

    def _os_open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        inside = self._inside(path)
        if inside is not None and flags & os.O_CREAT and not os.path.exists(path):
            self._see(Op("create", inside))
        return self._real["open"](path, flags, *rest, **more)  # type: ignore[no-any-return]

    def _fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        inside = "" if path == self.folder else self._inside(path)
        if inside is not None:
            self._see(Op("sync_folder" if os.path.isdir(path) else "fsync", inside))
        self._real["fsync"](descriptor)

    def _rename(self, source: Any, target: Any) -> None:
        inside, to = self._inside(source), self._inside(target)
        if inside is not None and to is not None:
            self._see(Op("rename", inside, to))
        self._real["replace"](source, target)

    def _unlink(self, path: Any, *rest: Any, **more: Any) -> None:
        inside = self._inside(path)
        if inside is not None and os.path.exists(path):
            self._see(Op("unlink", inside))
        self._real["unlink"](path, *rest, **more)

    def _mkdir(self, path: Any, *rest: Any, **more: Any) -> None:
        inside = self._inside(path)
        if inside is not None and not os.path.exists(path):
            self._see(Op("mkdir", inside))
        self._real["mkdir"](path, *rest, **more)


class _File:
    """An unbuffered file whose writes are seen."""

    def __init__(self, file: Any, path: str, see: Callable[[Op], None]) -> None:
        self._file, self._path, self._see = file, path, see

    def write(self, data: Any) -> int:
        copy = bytes(memoryview(data).cast("B"))
        self._see(Op("write", self._path, data=copy))
        self._file.write(copy)
        return len(copy)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def recorded(folder: Path, story: Callable[[Callable[[Any], None]], None]) -> list[Op]:
    """The operations of `story(mark)`, which tells with `mark(note)` how far it has come."""
    ops: list[Op] = []
    with Watch(folder, ops.append):
        story(lambda note: ops.append(Op("mark", note=note)))
    return ops


def killed_at(
    number: int,
    folder: Path,
    story: Callable[[Callable[[Any], None]], None],
    mark: Callable[[Any], None],
) -> None:
    """Run `story` and kill this process before its operation `number`; a write is half done by then."""
    left = number

    def see(op: Op) -> None:
        nonlocal left
        if left == 0:
            if op.kind == "write":
                with os.fdopen(
                    os.open(f"{folder}/{op.path}", os.O_WRONLY | os.O_APPEND), "wb", 0
                ) as file:
                    file.write(op.data[: len(op.data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    with Watch(folder, see):
        story(mark)


@dataclass
class _Folder:
    """Names on disk and in memory; `pending` are the changes in between, in order: (name, inode or None)s."""

    disk: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[tuple[str, int | None], ...]] = field(default_factory=list)

    def change(self, *each: tuple[str, int | None]) -> None:
        self.pending.append(each)
        _apply(self.names, each)


class Disk:
    """The folder as a file system holds it: what is synced, and what only memory knows."""

    def __init__(self) -> None:
        self._folders: dict[str, _Folder] = {"": _Folder()}
        self._data: dict[int, bytes] = {}
        self._synced: dict[int, bytes] = {}
        self._numbers = itertools.count()

    def do(self, op: Op) -> None:
        """Carry out one operation of a recording."""
        if op.kind in ("mark",):
            return
        if op.kind == "sync_folder":
            folder = self._folders[op.path]
            folder.disk, folder.pending = dict(folder.names), []
            return
        folder, name = self._place(op.path)
        if op.kind in ("create", "mkdir"):
            inode = next(self._numbers)
            folder.change((name, inode))
            if op.kind == "mkdir":
                self._folders[op.path] = _Folder()
                return
            self._data[inode] = self._synced[inode] = b""
            return
        inode = folder.names[name]
        if op.kind == "write":
            self._data[inode] += op.data
        elif op.kind == "truncate":
            self._data[inode] = b""
        elif op.kind == "fsync":
            self._synced[inode] = self._data[inode]
        elif op.kind == "unlink":
            folder.change((name, None))
        elif op.kind == "rename":
            other, to = self._place(op.target)
            assert other is folder, "a rename into another folder is not modelled"
            folder.change((name, None), (to, inode))
        else:
            raise AssertionError(op.kind)

    def after_a_kill(self, torn: Op | None = None) -> dict[str, bytes | None]:
        """{path: content, None for a folder}: all that was done, and half of the write that was under way."""
        data = dict(self._data)
        if torn is not None:
            folder, name = self._place(torn.path)
            data[folder.names[name]] += torn.data[: len(torn.data) // 2]
        return self._image({path: f.names for path, f in self._folders.items()}, data)

    def after_power_cuts(self) -> Iterator[dict[str, bytes | None]]:
        """Every disk that may be found."""
        choices = []
        for path, folder in self._folders.items():
            assert len(folder.pending) <= MOST_PENDING, f"{path}: {folder.pending}"
            choices.append([(path, names) for names in _subsets(folder)])
        named = {n for path in choices for _, names in path for n in names.values()}
        dirty = [n for n, data in self._data.items() if n in named and data != self._synced[n]]
        contents = [[(n, found) for found in _torn(self._synced[n], self._data[n])] for n in dirty]
        for names in itertools.product(*choices):
            for found in itertools.product(*contents):
                yield self._image(dict(names), {**self._data, **dict(found)})

    def _place(self, path: str) -> tuple[_Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._folders[parent], name

    def _image(
        self, folders: dict[str, dict[str, int]], data: dict[int, bytes]
    ) -> dict[str, bytes | None]:
        image: dict[str, bytes | None] = {}

        def walk(path: str) -> None:
            for name, inode in folders[path].items():
                full = f"{path}/{name}" if path else name
                image[full] = data.get(inode)
                if full in folders and inode not in data:
                    walk(full)

        walk("")
        return image


def _apply(names: dict[str, int], each: tuple[tuple[str, int | None], ...]) -> None:
    for name, inode in each:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _subsets(folder: _Folder) -> Iterator[dict[str, int]]:
    for kept in itertools.product((False, True), repeat=len(folder.pending)):
        names = dict(folder.disk)
        for keep, change in zip(kept, folder.pending, strict=True):
            if keep:
                _apply(names, change)
        yield names


def _torn(synced: bytes, written: bytes) -> list[bytes]:
    """What may be found of a file: as synced, as written, torn, or long enough and empty."""
    half = written[: (len(synced) + len(written)) // 2]
    zeros = synced + bytes(max(0, len(written) - len(synced)))
    return list(dict.fromkeys((synced, written, half, zeros[: len(written)])))


def lay_out(image: dict[str, bytes | None], folder: Path) -> None:
    """Make the image's files below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in image.items():
        if content is None:
            (folder / path).mkdir(exist_ok=True)
        else:
            (folder / path).write_bytes(content)


def crashes(ops: list[Op]) -> Iterator[tuple[int, Any, Any, bool, dict[str, bytes | None]]]:
    """(operation, mark before, mark after, whether the power was cut, disk) of every crash of a recording;
    equal disks between the same marks once. `mark after`: of what was under way."""
    disk, seen = Disk(), set()
    marks = [op.note for op in ops if op.kind == "mark"]
    passed = -1
    for number, op in enumerate([*ops, Op("mark")]):
        if op.kind == "mark":
            passed += 1
            continue
        before, after = marks[passed] if passed >= 0 else None, marks[passed + 1]
        found = [(False, disk.after_a_kill())]
        if op.kind == "write":
            found.append((False, disk.after_a_kill(op)))
        found += [(True, image) for image in disk.after_power_cuts()]
        disk.do(op)
        for power, image in found:
            key = (passed, power, hash(frozenset(image.items())))
            if key not in seen:
                seen.add(key)
                yield number, before, after, power, image
