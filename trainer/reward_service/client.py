"""A reward model that lives in a reward server: what the trainer, evaluation and pictures use by name.

Owns what a remote model looks like from here; what is late, lost or refused abstains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from contracts import reward_service as wire
from contracts.errors import ConfigError, EntracteError, WireError
from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal, abstain
from contracts.reward_service import Health
from trainer.reward_service.connection import Connection, Question, frame_ids
from trainer.rewards.episodes import OnEpisodes

STANDING = "standing"
"""Session of questions that stand alone."""


def health(address: str, *, timeout_s: float = 5.0, selftest: bool = False) -> Health:
    """What a server says of itself. Raises `ConfigError` where nobody answers."""
    connection = Connection(address)
    try:
        return connection.health(timeout_s, selftest)
    finally:
        connection.close()


def connect(
    address: str, model: str = "", *, deadline_s: float = 20.0, window: int = 32
) -> RemoteReward:
    """The model of that name ("": the only one). It grows where the server's model grows.

    `deadline_s`: seconds a question may take; `window`: questions under way at once. Raises
    `ConfigError` where nobody answers, the model is not served, or failed its self-test.
    """
    if not (deadline_s > 0 and window >= 1):
        raise ConfigError(
            "remote reward model",
            expected="deadline_s > 0, window >= 1",
            found=(deadline_s, window),
        )
    connection = Connection(address)
    try:
        state = _choose(connection.health(5.0), model, address)
        contract = msgspec.json.decode(state.contract, type=FrameContract)
    except msgspec.MsgspecError as error:
        connection.close()
        raise WireError("frame contract of a served model", found=str(error)) from error
    except EntracteError:
        connection.close()
        raise
    kind = GrowingRemoteReward if state.grows else RemoteReward
    return kind(connection, state, contract, deadline_s, window)


def _choose(found: Health, model: str, address: str) -> wire.ModelState:
    names = [state.name for state in found.models]
    chosen = [
        state for state in found.models if state.name == model or (not model and len(names) == 1)
    ]
    if not chosen:
        raise ConfigError(
            f"reward server {address}",
            expected=f"model '{model}'" if model else "one model",
            found=names,
        )
    if chosen[0].selftest != "passed":
        raise ConfigError(
            f"reward model '{chosen[0].name}' of {address} failed its self-test",
            found=chosen[0].selftest,
            remedy="see the server's output",
        )
    return chosen[0]


def remote(
    *,
    package: Path | None = None,
    demonstrations: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> OnEpisodes:
    """`RewardModelFactory`. `options`: `address`, `model` ("": the only one there), `deadline_s` (20),
    `window` (32), `scores_per_s` (1). Raises `ConfigError`."""
    del demonstrations, seed
    given = dict(options or {})
    address = str(given.pop("address", ""))
    scores_per_s = float(given.pop("scores_per_s", 1.0))
    known = {"model", "deadline_s", "window"}
    if package is not None or not address or set(given) - known:
        raise ConfigError(
            "reward model 'remote'",
            expected=f"no package, option address, and of scores_per_s, {', '.join(sorted(known))}",
            found=f"package {package}, options {sorted(options or {})}",
        )
    return OnEpisodes(connect(address, **given), scores_per_s)


class RemoteReward:
    """`VideoRewardModel` and `BatchedRewardModel` of a served model. Safe to use from several threads, which
    then take turns; for questions at the same time, connect once a thread."""

    def __init__(
        self,
        connection: Connection,
        state: wire.ModelState,
        contract: FrameContract,
        deadline_s: float,
        window: int,
    ) -> None:
        self._connection, self._state, self._contract = connection, state, contract
        self._deadline_s, self._window = deadline_s, window

    @property
    def model_id(self) -> str:
        """The served model's own: where it runs doesn't change what it says."""
        return self._state.model_id

    @property
    def contract(self) -> FrameContract:
        return self._contract

    @property
    def completion_threshold(self) -> float:
        return self._state.completion_threshold

    @property
    def completion_consecutive(self) -> int:
        return self._state.completion_consecutive

    def score(self, video: Video, instruction: str) -> RewardSignal:
        """Abstains where the server is away, late, or refuses."""
        return self.score_batch([(video, instruction)])[0]

    def score_live(self, video: Video, instruction: str, age_s: float) -> RewardSignal:
        """`score` of a frame that is `age_s` old now; the signal's `staleness_s` says how old it was when
        the answer was here."""
        return self._ask([self._question(video, instruction, age_s)])[0]

    def score_batch(self, requests: Sequence[tuple[Video, str]]) -> list[RewardSignal]:
        """All under way at once, up to `window` of them."""
        return self._ask([self._question(*request, math.nan) for request in requests])

    def close(self) -> None:
        self._connection.close()

    def _question(self, video: Video, instruction: str, age_s: float) -> Question:
        shown = self._contract.shown(video)
        return Question(shown, frame_ids(shown), instruction, STANDING, False, age_s)

    def _ask(self, questions: Sequence[Question]) -> list[RewardSignal]:
        found = self._connection.ask(self._state.name, questions, self._deadline_s, self._window)
        return [self._own(q, said) for q, said in zip(questions, found, strict=True)]

    def _own(self, question: Question, said: RewardSignal | str) -> RewardSignal:
        step = int(question.video.steps[-1])
        if isinstance(said, str):
            return abstain(step, said, self.model_id)
        if said.model_id != self.model_id:
            reason = f"remote: the server now serves model {said.model_id[:80]}"
            return abstain(step, reason, self.model_id)
        return said


class GrowingRemoteReward(RemoteReward):
    """`GrowingRewardModel` too: the server keeps what its model computed of the episode so far."""

    _sessions = 0

    def grow(self, instruction: str) -> RemoteGrowing:
        GrowingRemoteReward._sessions += 1
        return RemoteGrowing(self, instruction, f"episode {GrowingRemoteReward._sessions}")


class RemoteGrowing:
    """`Growing` of a served model. `close` tells the server that the episode is over; a server that isn't
    told drops the longest unused."""

    def __init__(self, model: GrowingRemoteReward, instruction: str, session: str) -> None:
        self._model, self._instruction, self._session = model, instruction, session
        self._sent: dict[int, bytes] = {}

    def see(self, video: Video) -> RewardSignal:
        return self.see_live(video, math.nan)

    def see_live(self, video: Video, age_s: float) -> RewardSignal:
        """`see`, with `age_s` as in `score_live`."""
        model = self._model
        shown = model.contract.shown(video)
        new = [row for row, step in enumerate(shown.steps) if int(step) not in self._sent]
        if new:
            added = shown.take(new)
            self._sent.update(zip(added.steps.tolist(), frame_ids(added), strict=True))
        # All that was shown so far, also what the contract has dropped since: the model decides on that.
        rows = [row for row, step in enumerate(video.steps) if int(step) in self._sent]
        whole = video.take(rows)
        views = {camera: whole.views[camera] for camera in shown.views}
        ids = tuple(self._sent[int(step)] for step in whole.steps)
        question = Question(
            Video(views, whole.times_s, whole.steps),
            ids,
            self._instruction,
            self._session,
            True,
            age_s,
        )
        return model._ask([question])[0]

    def close(self) -> None:
        self._model._connection.forget(self._session)

    def __del__(self) -> None:
        # `score_moments` doesn't close what it grows.
        self.close()
