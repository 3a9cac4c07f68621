"""Makes the next items of a sequence in threads while the present one is used, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def made_ahead(make: Callable[[K], V], keys: Iterable[K], threads: int) -> Iterator[V]:
    """`make(key)` of each key in order, with two a thread under way; with 0 threads when it is asked for.
    What `make` raises comes where its item would have."""
    if threads <= 0:
        yield from map(make, keys)
        return
    left = iter(keys)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[V]] = deque(pool.submit(make, k) for k in islice(left, 2 * threads))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(make, key) for key in islice(left, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
