"""The trainer's work: score in order of arrival, refine every N episodes, publish. Owns iterations, resume.

`state/state.json` is the commit point of an iteration: written after the refiner's state and the release
are on disk and before the release is offered. Killed before it, the iteration is run again with the
same episodes; killed after it, the release is offered at the next start. No sockets here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from contracts.errors import EntracteError, some_of
from contracts.messages import ReleaseOffer
from contracts.package import check_tensors
from trainer.config import TrainerConfig
from trainer.encoder import encodings_of
from trainer.interfaces import EpisodeKey, ReadingRefiner, Refiner, ScoredEpisode, Update
from trainer.metrics import Metrics
from trainer.monitors.watch import Monitors
from trainer.other_packages import OtherPackages
from trainer.plain import plain_update
from trainer.publisher import Publisher
from trainer.refined_package import open_refiner, own_update
from trainer.scoring import Scorer, open_model
from trainer.store import IndexEntry, Store
from trainer.work_state import FRESH, KeptState, WorkState, refiner_folder

if TYPE_CHECKING:
    from trainer.reward_heads import RewardHeads

REFINE = "refine"
RENEW_S = 600.0
"""How often it is looked whether a release has expired."""
_NO_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Work:
    """Everything between a stored episode and an offered release."""

    def __init__(
        self,
        root: Path,
        config: TrainerConfig,
        store: Store,
        metrics: Metrics,
        on_offer: Callable[[int, ReleaseOffer], None],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Loads models and resumes. `stopping`: asked between two episodes that a pause had held. Raises
        `EntracteError` (config, package, missing extra)."""
        self._root, self._config, self._store = root, config, store
        self._metrics, self._on_offer, self._stopping = metrics, on_offer, stopping
        self._kept = KeptState(root / "state")
        self.state = self._kept.load()
        metrics.add_missing_iteration(self.state.iteration, self.state.record)
        reward = config.reward
        model = open_model(config, reward.model, reward.package, reward.options)
        self.scorer = Scorer(model, reward.timeout_s)
        self._monitors = None
        if config.monitors.enabled:
            self._monitors = Monitors(root, config, model.model_id, metrics)
        self.refiner: Refiner | None = None
        self.publisher: Publisher | None = None
        self._others: OtherPackages | None = None
        if config.refiner.kind:
            self._open_refiner()
        self._heads = self._open_heads() if config.adaptation.package else None
        self._pending: list[ScoredEpisode | None] = []
        self._held: list[IndexEntry] = []
        """Stored and scored while refinement is paused."""
        self._arrived, self._renew_s = -1, -math.inf
        self.note = "waiting for episodes"
        """What is going on, for `ReleaseNone` and the live view."""

    def publisher_of(self, target: str) -> Publisher | None:
        """Who releases for that target ("policy" or "reward"); None where nobody does."""
        if target == "reward":
            return self._heads.publisher if self._heads else None
        return self.publisher

    @property
    def iteration(self) -> int:
        """Iterations finished."""
        return self.state.iteration

    @property
    def done(self) -> bool:
        return 0 < self._config.iteration.count <= self.state.iteration

    @property
    def paused(self) -> str:
        """Why nothing is refined, "" while it is."""
        return self._monitors.paused if self._monitors else ""

    def take(self, entry: IndexEntry) -> None:
        """One stored episode, in order of arrival: score it and, when enough are there, refine, unless a
        monitor has paused that."""
        if entry.arrival <= self._arrived:
            return
        self._arrived = entry.arrival
        if self._heads and entry.purpose in (REFINE, "") and not entry.problem:
            self._heads.note(entry.key)
        if entry.arrival <= self.state.consumed_arrival:
            return
        scored = self._scored(entry)
        if entry.purpose == REFINE and self._others and self._others.hold(entry):
            self._others.count(entry)
            return
        if self._monitors and scored is not None and entry.purpose == REFINE:
            self._monitors.see(scored)
        if not self.learns_from(entry) or self.done:
            return
        self.look(now=True)
        if self.paused or self._held:
            self._held.append(entry)
        else:
            self._go_on(entry, scored)

    def learns_from(self, entry: IndexEntry) -> bool:
        """Whether it counts for an iteration. One that can't be read does, whoever acted."""
        if self._others is None or entry.purpose not in (REFINE, ""):
            return False
        return not self._others.hold(entry)

    def look(self, *, now: bool = False) -> None:
        """Between episodes: what people said meanwhile. What came during a pause is gone on with first, as by
        a trainer that starts now, until it is paused again."""
        if self._monitors is None:
            return
        stood = self.paused
        self._monitors.look(now=now)
        if stood and not self.paused:
            self.note = self._resting()
        while self._held and not self.paused and not self._stopping():
            entry = self._held.pop(0)
            self._go_on(entry, self._scored(entry))
            self._monitors.look(now=True)
        if self.paused:
            self.note = f"refinement is paused by {self.paused}"

    def _scored(self, entry: IndexEntry) -> ScoredEpisode | None:
        wanted = entry.purpose in self._config.reward.purposes or entry.problem
        return self._score(entry) if wanted else None

    def _go_on(self, entry: IndexEntry, scored: ScoredEpisode | None) -> None:
        if self.done:
            return
        scored = self._labelled(scored) if scored else None
        # An unreadable episode counts (as None): the robot counts it too, and waits for the release.
        self._pending.append(scored)
        if len(self._pending) >= self._config.iteration.episodes:
            self._iterate(entry.arrival)
        else:
            self._read_ahead(scored)
            self.note = self._resting()

    def _labelled(self, scored: ScoredEpisode) -> ScoredEpisode:
        """By whose word `reward.labels` says."""
        whose, told = self._config.reward.labels, scored.episode.end.operator_success
        label = scored.success if "model" in whose else None
        if told is not None and "operator" in whose:
            label = told
        return dataclasses.replace(scored, success=label)

    def _read_ahead(self, scored: ScoredEpisode | None) -> None:
        """While the robot acts, so that it waits for less at the iteration's end."""
        if scored is None or not isinstance(self.refiner, ReadingRefiner):
            return
        with contextlib.suppress(Exception):  # the update will meet it again, and say so
            self.refiner.read(scored, self.iteration + 1)

    def _resting(self) -> str:
        """The note while the next episode is waited for."""
        if self.done or not self._pending:
            return "finished" if self.done else "waiting for episodes"
        count = f"{len(self._pending)} of {self._config.iteration.episodes}"
        return f"iteration {self.iteration + 1}: {count} episodes scored"

    def _score(self, entry: IndexEntry) -> ScoredEpisode | None:
        started = time.monotonic()
        try:
            if entry.problem:
                raise EntracteError(entry.problem)
            episode = self._store.load(entry)
        except (EntracteError, OSError) as error:
            self._metrics.add("unreadable", key=str(entry.key), problem=str(error))
            return None
        known = self._store.load_scores(entry.key, self.scorer.model.model_id)
        if known is not None and not known[1].failure:  # what was down may be up
            signals, scores = known
            return self.scorer.judged(episode, signals, scoring_s=scores.scoring_s)
        scored = self.scorer.score(episode)
        last = scored.signals[-1]
        self._metrics.add(
            "episode",
            arrival=entry.arrival,
            robot_id=entry.robot_id,
            session_id=entry.session_id,
            episode_seq=entry.episode_seq,
            purpose=entry.purpose,
            task=episode.start.task,
            instruction=episode.instruction,
            scene_seed=episode.start.scene_seed,
            policy_version=entry.policy_version,
            steps=episode.steps,
            end_reason=episode.end.reason,
            success=scored.success,
            process=last.process,
            completion=last.completion,
            contrastive=last.contrastive,
            signals=len(scored.signals),
            abstained=sum(bool(signal.abstained) for signal in scored.signals),
            failure=scored.failure,
            scoring_s=scored.scoring_s,
            work_s=time.monotonic() - started,
            reward_model=scored.model_id,
        )
        self._store.save_scores(scored)  # after its record, which nobody would write again
        return scored

    def _iterate(self, arrival: int) -> None:
        """One update, published. The order of writes is the contract of this module."""
        assert self.refiner is not None and self.publisher is not None
        iteration = self.state.iteration + 1
        self.note = f"iteration {iteration}: refining"
        episodes = [scored for scored in self._pending if scored is not None]
        started = time.monotonic()
        update, refiner, failure = self._update(episodes, iteration)
        updated = time.monotonic()
        manifest = self.publisher.prepare(update, iteration)
        record = {
            "iteration": iteration,
            "last_arrival": arrival,
            "episodes": len(self._pending),
            "unreadable": len(self._pending) - len(episodes),
            "of_other_packages": self._others.episodes if self._others else 0,
            "successes": sum(scored.success is True for scored in episodes),
            "failures": sum(scored.success is False for scored in episodes),
            "abstained": sum(one.success is None and not one.stopped for one in episodes),
            "stopped": sum(scored.stopped for scored in episodes),
            "scoring_s": sum(scored.scoring_s for scored in episodes),
            "update_s": updated - started,
            "publish_s": time.monotonic() - updated,
            "publish_seq": manifest.publish_seq,
            "parent": manifest.parent,
            "nbytes": manifest.nbytes,
            "samples": manifest.samples,
            "weights_id": manifest.weights_id,
            "refiner_failure": failure,
            "reward_failures": dict(self.scorer.failures),
            "policy_versions": sorted({_version(scored) for scored in episodes}),
            "metrics": {name: float(value) for name, value in update.metrics.items()},
        }
        record = msgspec.json.decode(msgspec.json.encode(record))  # NaN becomes null
        seq = manifest.publish_seq
        self._commit(
            msgspec.structs.replace(
                self.state,
                iteration=iteration,
                consumed_arrival=arrival,
                published_seq=seq,
                refiner=refiner,
                record=record,
            )
        )
        self._pending = []
        if self._others:
            self._others.episodes = 0
        self._offer(self.publisher, seq)
        self._metrics.add("iteration", **record)
        if self._monitors:
            self._metrics.add("monitors", iteration=iteration, **self._monitors.figures())
        self._kept.drop_old_refiners(keep=2, in_use=refiner)
        self._adapt(iteration)
        self.note = self._resting()

    def renew(self) -> None:
        """Between episodes: what was released last and has expired is released anew, or a robot that comes
        late would get nothing. Not in a pause: a monitor doubts what it was learned from."""
        if self.paused or time.monotonic() < self._renew_s:
            return
        self._renew_s = time.monotonic() + RENEW_S
        if self.publisher and self.publisher.lapsed:
            self._release_anew(self.publisher, "published_seq")
        if self._heads and self._heads.publisher.lapsed:
            self._release_anew(self._heads.publisher, "reward_seq")

    def _release_anew(self, publisher: Publisher, number: str) -> None:
        """The same weights under the next number, which the state's field `number` gets before it is offered.
        One that robots have rolled back they know by its contents."""
        old = publisher.newest
        assert old is not None
        told = {"target": old.target, "parent": old.publish_seq}
        try:
            seq = publisher.prepare(publisher.update_of(old.publish_seq), old.iteration).publish_seq
            self._commit(msgspec.structs.replace(self.state, **{number: seq}))
            self._offer(publisher, seq)
        except (EntracteError, OSError) as error:  # refined is on, and this tried again
            self._metrics.add("renewal_failed", **told, problem=str(error))
            return
        self._metrics.add("renewed", **told, publish_seq=seq)

    def _commit(self, state: WorkState) -> None:
        self.state = state
        self._kept.commit(state)

    def _adapt(self, iteration: int) -> None:
        """The robot's reward head learns what came since; a failure costs its release, never the daemon."""
        if self._heads is None:
            return
        self.note = f"iteration {iteration}: adapting the reward head"
        try:
            update, record = self._heads.learn(self._judged, iteration)
            if update:
                manifest = self._heads.publisher.prepare(update, iteration)
                self._commit(msgspec.structs.replace(self.state, reward_seq=manifest.publish_seq))
                self._offer(self._heads.publisher, manifest.publish_seq)
                record["publish_seq"] = manifest.publish_seq
        except Exception as error:  # as with a refiner: the robot goes on with the head it has
            record = {"failure": f"{type(error).__name__}: {error}"}
        self._metrics.add("reward_head", iteration=iteration, **record)

    def _judged(self, key: EpisodeKey) -> ScoredEpisode:
        """A stored episode with what the trainer's model said of it, if it was asked."""
        known = self._store.load_scores(key, self.scorer.model.model_id)
        episode = self._store.load(self._store.entry(key))
        return self.scorer.judged(episode, known[0] if known else ())

    def _update(self, episodes: list[ScoredEpisode], iteration: int) -> tuple[Update, str, str]:
        """The refiner's update, its state's folder and ""; or, if that failed or can't be kept, the last of
        both and why: the robot must not wait for a release that never comes. A failure leaves no trace."""
        assert self.refiner is not None
        last, now = self.state.refiner or FRESH, refiner_folder(iteration)
        try:
            update = plain_update(self.refiner.update(episodes, iteration))
            problems = check_tensors(self._refinable, update.tensors)
            failure = f"the update can't be released: {some_of(problems, 3)}" if problems else ""
        except Exception as error:  # whatever a user's refiner raises, the daemon goes on
            failure = f"{type(error).__name__}: {error}"
        if not failure:
            try:
                self._kept.save_folder(now, self.refiner.save)
                return update, now, ""
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _NO_DISK:
                    raise  # our disk, no refiner's failure: the next start makes the iteration again
                failure = f"{type(error).__name__}: {error}"
        self.note = f"iteration {iteration}: refiner failed"
        # What it had done when it failed must not be what the next update goes on from.
        self.refiner.load(self._kept.folder / last)
        return self._last_weights(), last, failure

    def _last_weights(self) -> Update:
        assert self.publisher is not None
        return self.publisher.last_update() or own_update(Path(self._config.refiner.package))

    def _offer(self, publisher: Publisher, publish_seq: int) -> None:
        self._on_offer(publish_seq, publisher.commit(publish_seq))

    def _offer_again(self, publisher: Publisher, publish_seq: int) -> None:
        """At a start: what was offered last. Where a person removed it, robots keep what they have until the
        next, whose number is above."""
        if publish_seq and publisher.holds(publish_seq):
            self._offer(publisher, publish_seq)
        elif publish_seq:
            self._metrics.add("release_gone", target=publisher.target, publish_seq=publish_seq)

    def _open_refiner(self) -> None:
        config = self._config
        self.refiner, manifest = open_refiner(config)
        self._refinable = manifest.refinable
        self._others = OtherPackages(self.refiner.package_id, self._metrics)
        self.publisher = Publisher(
            self._root / "releases",
            manifest,
            robot_ids=config.release.robot_ids,
            valid_s=config.release.valid_s,
            keep=config.release.keep,
            keep_mib=config.release.keep_mib,
            above=max(config.release.above, self.state.published_seq),
            own=Path(config.refiner.package),
            encodings=encodings_of(config.release),
        )
        state = self.state
        if state.refiner:
            self.refiner.load(self._kept.folder / state.refiner)
        else:
            self._save_fresh(self.refiner)
        self._offer_again(self.publisher, state.published_seq)

    def _save_fresh(self, refiner: Refiner) -> None:
        """Raises `EntracteError`: a first update that fails could not be undone."""
        try:
            self._kept.save_folder(FRESH, refiner.save)
        except Exception as error:  # whatever a user's refiner raises
            raise EntracteError(
                f"refiner '{self._config.refiner.kind}' can't save its state",
                found=f"{type(error).__name__}: {error}",
                remedy="mend its save, or make room on the disk",
            ) from error

    def _open_heads(self) -> RewardHeads:
        from trainer.reward_heads import (
            open_heads,
        )  # torch, which storing and scoring may do without

        model_id, above = self.scorer.model.model_id, self.state.reward_seq
        heads = open_heads(self._root, self._config, model_id, above)
        self._offer_again(heads.publisher, above)
        return heads


def _version(scored: ScoredEpisode) -> int:
    return scored.episode.start.policy_version
