"""Requests to a chat-completions server: so many at once, tried again until a deadline, counted.

Owns the HTTP client and the thread of its event loop. Knows no prompt and no reward.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from contracts.errors import EntracteError, MissingDependency
from trainer.rewards.endpoint.key import Key, is_loopback
from trainer.rewards.endpoint.protocol import Completion, read_completion

MOST_REPLY_BYTES = 4 << 20
TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 20.0
REACHED_WITHIN_S = 10.0


@dataclass
class Spent:
    """What was asked so far. `failures`: by kind ("timeout", "refused", "unparsable", "budget").
    `cost` is in the currency of the prices that were given."""

    requests: int = 0
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Terms:
    """`deadline_s`: of one request with all its tries, from when its turn comes; `at_once`: requests under
    way; prices are a million tokens; `most_cost`: no request any more beyond it (0: no limit)."""

    deadline_s: float = 60.0
    at_once: int = 8
    prompt_price: float = 0.0
    completion_price: float = 0.0
    most_cost: float = 0.0


class Caller:
    """Used by any thread. `extra` fields go into every request's body."""

    def __init__(self, url: str, key: Key, terms: Terms, extra: Mapping[str, Any]) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingDependency(
                "the reward model 'endpoint' needs httpx", remedy="pip install 'entracte[trainer]'"
            ) from error
        self._httpx, self._base, self._key = httpx, url, key
        self._url = f"{url}/chat/completions"
        self._terms, self._extra = terms, dict(extra)
        self.spent = Spent()
        self._loop = asyncio.new_event_loop()
        # A proxy of the environment is for hosts out there, not for this machine.
        self._client = httpx.AsyncClient(trust_env=not is_loopback(url), timeout=None)
        self._turns = asyncio.Semaphore(terms.at_once)
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def ask(self, bodies: Sequence[Mapping[str, Any]]) -> list[Completion | str]:
        """In order: the reply, or why there is none ("timeout: ...", "refused: ...", ...). Never raises for
        what the network or the server did."""

        async def all_of_them() -> list[Completion | str]:
            return list(await asyncio.gather(*(self._one(body) for body in bodies)))

        return asyncio.run_coroutine_threadsafe(all_of_them(), self._loop).result()

    def require_reachable(self) -> None:
        """Asks once for the list of models, which costs nothing; any answer will do. Raises `EntracteError`
        where there is no connection."""

        async def once() -> None:
            headers = self._key.headers()
            async with self._client.stream(
                "GET", f"{self._base}/models", headers=headers, timeout=REACHED_WITHIN_S
            ):
                pass

        lost = (self._httpx.ConnectError, self._httpx.ConnectTimeout, self._httpx.ProxyError)
        try:
            asyncio.run_coroutine_threadsafe(once(), self._loop).result()
        except lost as error:
            raise EntracteError(
                f"no server at {self._base}",
                found=self._key.redact(f"{type(error).__name__}: {error}"),
                remedy="start it, or mend the option 'url'",
            ) from error
        except self._httpx.HTTPError:
            pass  # it is there; what it answers is for the questions to find out

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _one(self, body: Mapping[str, Any]) -> Completion | str:
        async with self._turns:
            if 0 < self._terms.most_cost <= self.spent.cost:
                found: Completion | str = f"budget: {self.spent.cost:.4f} is spent"
            else:
                self.spent.requests += 1
                found = await self._until_deadline(msgspec.json.encode({**body, **self._extra}))
        if isinstance(found, str):
            self.spent.failures[found.partition(":")[0].partition(" ")[0]] += 1
            return self._key.redact(found)
        return found

    async def _until_deadline(self, content: bytes) -> Completion | str:
        give_up_s = time.monotonic() + self._terms.deadline_s
        last, tries = "no answer", 0
        while (left_s := give_up_s - time.monotonic()) > 0:
            tries += 1
            self.spent.attempts += 1
            try:
                status, headers, data = await asyncio.wait_for(self._post(content), left_s)
            except (TimeoutError, asyncio.TimeoutError):
                last = "no answer"
                break
            except self._httpx.HTTPError as error:
                status, headers, data = 0, {}, b""
                last = f"{type(error).__name__}: {error}"
            if status == 200:
                return self._reply(data)
            if status:
                last = f"HTTP {status} {_excerpt(data)}"
                if status not in TRY_AGAIN:
                    return f"refused: {last}"
            wait_s = _wait_s(tries, headers.get("retry-after", ""))
            if wait_s >= give_up_s - time.monotonic():
                return f"timeout: {last}; {wait_s:.1f} s to the next try ({tries} tries)"
            await asyncio.sleep(wait_s)
        return f"timeout: {last} within {self._terms.deadline_s:g} s ({tries} tries)"

    async def _post(self, content: bytes) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Content-Type": "application/json", **self._key.headers()}
        stream = self._client.stream("POST", self._url, content=content, headers=headers)
        async with stream as response:
            data = bytearray()
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > MOST_REPLY_BYTES:
                    return 413, {}, b"a reply larger than any answer"
            return response.status_code, response.headers, bytes(data)

    def _reply(self, data: bytes) -> Completion | str:
        found = read_completion(data)
        if isinstance(found, Completion) and found.usage is None and self._terms.most_cost:
            return (
                "budget: the server doesn't say how many tokens it used, so most_cost can't be kept"
            )
        if isinstance(found, Completion) and found.usage is not None:
            terms, spent, used = self._terms, self.spent, found.usage
            spent.prompt_tokens += used.prompt_tokens
            spent.completion_tokens += used.completion_tokens
            spent.cost += used.prompt_tokens * terms.prompt_price / 1e6
            spent.cost += used.completion_tokens * terms.completion_price / 1e6
        return found


def _wait_s(tries: int, retry_after: str) -> float:
    """Twice as long each time, with up to half of it left to chance so that many askers don't come back
    together; as long as the server asks for where that is longer: one that says "now" every time must not
    be asked without end."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (tries - 1))
    return max(_asked_wait_s(retry_after), longest * random.uniform(0.5, 1.0))


def _asked_wait_s(retry_after: str) -> float:
    """Seconds or a date, RFC 9110 10.2.3; 0 where it is neither."""
    if not retry_after:
        return 0.0
    try:
        seconds = float(retry_after)
        return seconds if math.isfinite(seconds) else 0.0
    except ValueError:
        pass
    try:
        # A date is the server's wall clock: the one place where ours is right to compare.
        return email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
        return 0.0


def _excerpt(data: bytes) -> str:
    return " ".join(data[:400].decode("utf-8", "replace").split())[:200]
