"""Runs a target in a process of its own: its memory bounded, its progress watched, its death survived.

The child writes every input into shared memory before its decoder sees it, so that the parent has it when the
child is killed by the decoder (a crash in native code), by the system, or here because it no longer advances.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

import msgspec

from tests.faults.fuzz.driver import Found, Tally, feed_mutated, watch_time
from tests.faults.fuzz.mutation import MAX_INPUT_BYTES
from tests.faults.fuzz.target import Target, memory_folder

STUCK_S = 60.0
"""Wall time without a new input: far above `CPU_LIMIT_S`, since the machine may be busy with other work."""
SPARE_MIB = 192
"""Address space that the interpreter, its allocator's arenas and threads' stacks may still take."""
MOST_DEATHS = 20
M_ARENA_MAX = -8
OWN_FAULT = 70
"""Exit status where the fuzzer itself is wrong."""
_HEAD = struct.Struct("<qq")


def run_apart(target: Target, *, seed: int, messages: int) -> Tally:
    """`messages` inputs, in as many processes as it takes to survive what they find."""
    total = Tally(target.name, seed)
    deaths = 0
    while total.messages < messages and deaths < MOST_DEATHS:
        part, why = _one_process(target, seed, total.messages, messages - total.messages)
        _add(total, part)
        if why is not None:
            deaths += 1
            total.found.append(why)
    total.found = list({found.where + found.what: found for found in total.found}.values())
    return total


def _one_process(target: Target, seed: int, begin: int, count: int) -> tuple[Tally, Found | None]:
    shared = mmap.mmap(-1, _HEAD.size + 2 * MAX_INPUT_BYTES)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        result = Path(folder) / "result.msgpack"
        began_s = time.monotonic()
        child = os.fork()
        if child == 0:
            code = OWN_FAULT
            try:
                _quiet(Path(folder))
                _in_child(target, seed, begin, count, shared, Path(folder), result)
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        status = _watch(child, shared)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == OWN_FAULT:
            raise RuntimeError((Path(folder) / "said").read_text()[-4000:])
        number, size = _HEAD.unpack(shared[: _HEAD.size])
        if status == 0:
            return msgspec.msgpack.decode(result.read_bytes(), type=Tally), None
        data = shared[_HEAD.size : _HEAD.size + size]
        part = Tally(target.name, seed, messages=max(0, number + 1 - begin))
        part.seconds = time.monotonic() - began_s
        what = "no longer advances" if status < 0 else f"process died: {_name(status)}"
        return part, Found(
            what, f"message {number}", data, (Path(folder) / "said").read_text()[-1500:]
        )


def _quiet(folder: Path) -> None:
    """Native decoders complain on file descriptor 2, about every other input; the parent tells of a death."""
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(said, 2)
    os.close(said)
    faulthandler.disable()


def _in_child(
    target: Target, seed: int, begin: int, count: int, shared: mmap.mmap, folder: Path, result: Path
) -> None:
    watch_time()
    # One arena a thread would be 64 MiB of address space each, whatever is in it.
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
    bound = target.grows_mib + SPARE_MIB << 20
    limit = _address_space() + bound
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    scratch = folder / "scratch"
    scratch.mkdir()

    def before(number: int, data: bytes) -> None:
        shared[_HEAD.size : _HEAD.size + len(data)] = data
        shared[: _HEAD.size] = _HEAD.pack(number, len(data))

    tally = feed_mutated(target, scratch, seed=seed, messages=count, begin=begin, before=before)
    result.write_bytes(msgspec.msgpack.encode(tally))


def _watch(child: int, shared: mmap.mmap) -> int:
    """Exit status of the child; -1 after it had to be killed."""
    last, moved_s = b"", time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        now = shared[: _HEAD.size]
        if now != last:
            last, moved_s = now, time.monotonic()
        if time.monotonic() - moved_s > STUCK_S:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -1
        time.sleep(0.05)


def _add(total: Tally, part: Tally) -> None:
    total.messages += part.messages
    total.accepted += part.accepted
    for kind, count in part.refused.items():
        total.refused[kind] = total.refused.get(kind, 0) + count
    total.answers = max(total.answers, part.answers)
    total.found += part.found
    total.seconds += part.seconds
    total.slowest_s = max(total.slowest_s, part.slowest_s)
    total.grown_mib = max(total.grown_mib, part.grown_mib)


def _name(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.WEXITSTATUS(status)}"


def _address_space() -> int:
    """Bytes of address space that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
