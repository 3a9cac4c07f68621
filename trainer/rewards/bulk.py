"""Every stored episode of data sets scored by one reward model, each into a file of its own, as a trainer
keeps scores. Owns what is asked for and what is done already; where the work is done is the runner's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import ConfigError, EntracteError
from contracts.files import atomic, outputs
from contracts.files.dataset_reader import DatasetReader
from trainer.config import TrainerConfig
from trainer.dataset_episodes import key_at, stored_at
from trainer.interfaces import EpisodeKey
from trainer.rewards.opening import require_reachable
from trainer.scoring import Scorer, open_model
from trainer.store import MAX_SCORES_BYTES, read_scores, write_scores

SCORES = "*__*__*.json"


class _Whose(msgspec.Struct):
    """Of a file of scores, all that is asked here."""

    model_id: str


class Asked(msgspec.Struct, frozen=True):
    """What every episode is asked by. `reward`: a name of the entry-point group `entracte.reward_models`;
    paths are whole. `timeout_s`: of one episode; one that takes longer is not scored."""

    reward: str
    output: str
    package: str = ""
    options: dict[str, Any] = {}
    demonstrations: tuple[str, ...] = ()
    seed: int = 0
    threads: int = 1
    timeout_s: float = 600.0


class Item(msgspec.Struct, frozen=True):
    """The episode at `place` of the data set `data`."""

    data: str
    place: int
    key: EpisodeKey


class Said(msgspec.Struct, frozen=True):
    """What became of one episode. `failure`: why it has no scores; "" where it has (`kept`: from before).
    `label`: of a person or the bench, None where nobody labelled."""

    key: EpisodeKey
    success: bool | None
    label: bool | None
    failure: str = ""
    kept: bool = False
    scoring_s: float = 0.0


Runner = Callable[[Asked, Sequence[Item]], Iterator[Said]]


@dataclass
class Tally:
    """What a whole run comes to. `agree`: of those that are labelled and that the model could judge."""

    episodes: int = 0
    kept: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    agree: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    scoring_s: float = 0.0

    def add(self, said: Said) -> None:
        self.episodes += 1
        if said.failure:
            self.failed[str(said.key)] = said.failure
            return
        self.kept += said.kept
        self.scoring_s += said.scoring_s
        words = {True: "success", False: "failure", None: "abstained"}
        self.verdicts[words[said.success]] += 1
        if said.label is not None and said.success is not None:
            self.labelled += 1
            self.agree += said.label == said.success


class Scoring:
    """The model, opened once, and one episode after the other. Several at once may work into one folder."""

    def __init__(self, asked: Asked) -> None:
        """Raises `EntracteError` where the model can't be opened, or the scores there are another one's."""
        config = TrainerConfig(seed=asked.seed, demonstrations=list(asked.demonstrations))
        model = open_model(config, asked.reward, asked.package, asked.options)
        require_reachable(model)
        _require_own(Path(asked.output), model.model_id)
        self._scorer, self._output = Scorer(model, asked.timeout_s), Path(asked.output)
        self._readers: dict[str, DatasetReader] = {}

    def score(self, item: Item) -> Said:
        """Scores it unless this same model has. What fails leaves nothing: the next run tries it again."""
        try:
            if item.data not in self._readers:
                self._readers[item.data] = DatasetReader(item.data)
            episode = stored_at(self._readers[item.data], item.place)
            if episode.key != item.key:
                found = f"{episode.key} in the place of {item.key}"
                return Said(item.key, None, None, f"{item.data} was written to meanwhile: {found}")
            label = episode.end.operator_success
            known = read_scores(self._output, item.key, self._scorer.model.model_id)
            if known is not None:
                signals, scores = known
                scored = self._scorer.judged(episode, signals, scores.failure, scores.scoring_s)
                return Said(item.key, scored.success, label, kept=True)
            self._scorer.settle()  # one episode that takes too long is no other's failure
            scored = self._scorer.score(episode)
            if not scored.failure:
                write_scores(self._output, scored)
        except (EntracteError, OSError) as error:
            return Said(item.key, None, None, str(error))
        return Said(item.key, scored.success, label, scored.failure, scoring_s=scored.scoring_s)


def _require_own(folder: Path, model_id: str) -> None:
    """No file there holds what another model said, which would be lost. One that can't be read is nobody's.
    Raises `ConfigError`."""
    for path in sorted(folder.glob(SCORES)):
        try:
            data = atomic.read_bytes(path, MAX_SCORES_BYTES)
            found = msgspec.json.decode(data, type=_Whose).model_id
        except (atomic.FileError, msgspec.MsgspecError, ValueError):
            continue
        if found != model_id:
            raise ConfigError(
                f"{folder} holds another model's scores",
                expected=f"those of {model_id}",
                found=f"{found} in {path.name}",
                remedy="choose another --output, or empty it yourself",
            )


def here(asked: Asked, items: Sequence[Item]) -> Iterator[Said]:
    """In this process, one after the other."""
    scoring = Scoring(asked)
    yield from map(scoring.score, items)


def items_of(data: Sequence[Path]) -> list[Item]:
    """Every episode of these data sets, in their order. Raises `EntracteError` for one that can't be read,
    was recorded by other programs, or holds an episode that is in another, too."""
    found: dict[EpisodeKey, Item] = {}
    for folder in (path.resolve() for path in data):
        reader = DatasetReader(folder)
        for place in range(reader.num_episodes):
            key = key_at(reader, place)
            if key in found:
                raise ConfigError(
                    f"episode {key} is there twice",
                    found=f"in {found[key].data} and {folder}",
                    remedy="name one of them",
                )
            found[key] = Item(str(folder), place, key)
    return list(found.values())


def score_all(
    asked: Asked, data: Sequence[Path], run: Runner, done: Callable[[int, int], None]
) -> Tally:
    """Every episode of these data sets into `asked.output`; `done` is told how many of how many. Raises
    `EntracteError` for what can be known to be wrong before the model is asked."""
    output = Path(asked.output)
    outputs.require_folder(output, "scores", outputs.only(SCORES))
    items, tally = items_of(data), Tally()
    atomic.make_directory(output)
    for said in run(asked, items):
        tally.add(said)
        done(tally.episodes, len(items))
    return tally
