"""The data card: what a data set holds, by source, origin, score and split, and how it was made. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from trainer.reward_data.formats import Part, Row
from trainer.reward_data.plan import Plan
from trainer.reward_data.recipe import SPLITS, Recipe
from trainer.reward_data.samples import ORIGINS
from trainer.reward_data.sources.bench import BenchSettings

SCORES = tuple("12345")
SOURCE_COLUMNS = ("name", "kind", "weight", "found", "used", "samples", "licence")


def figures(
    recipe: Recipe, plan: Plan, parts: Sequence[Part], identity: str, unreadable: Sequence[str]
) -> dict[str, Any]:
    """Everything the page says, as JSON. `unreadable`: which videos were left out for that, and why."""
    rows = [row for part in parts for row in part.rows]
    split_of = {part.video_id: part.split for part in parts}
    return {
        "identity": identity,
        "samples": len(rows),
        "source_videos": len(parts),
        "without_label": sum(not part.rows and not part.completion for part in parts),
        "unreadable": list(unreadable),
        "without_stills": [
            source.name
            for source in recipe.sources
            if isinstance(source, BenchSettings) and not source.arranged
        ],
        "sources": [
            {
                "name": source.name,
                "kind": source.kind,
                "weight": source.weight,
                "licence": source.licence,
                "found": plan.found[source.name],
                "used": sum(item.video.source == source.name for item in plan.items),
                "samples": sum(row.source == source.name for row in rows),
            }
            for source in recipe.sources
        ],
        "origins": {o: n for o in ORIGINS if (n := sum(row.origin == o for row in rows))},
        "label_origins": dict(sorted(Counter(row.label_origin for row in rows).items())),
        "counterfactual_changes": dict(
            sorted(Counter(r.how["change"] for r in rows if r.origin == "counterfactual").items())
        ),
        "scores": _histogram(rows),
        "scores_by_origin": {
            o: _histogram(r for r in rows if r.origin == o)
            for o in ORIGINS
            if any(r.origin == o for r in rows)
        },
        "scores_by_source": {
            s.name: _histogram(r for r in rows if r.source == s.name) for s in recipe.sources
        },
        "splits": {
            split: {
                "source_videos": sum(part.split == split for part in parts),
                "samples": sum(split_of[row.source_video] == split for row in rows),
                "scores": _histogram(r for r in rows if split_of[r.source_video] == split),
            }
            for split in SPLITS
        },
        "lrm": {
            name: sum(len(getattr(part, name)) for part in parts)
            for name in ("progress", "pairs", "completion")
        },
        "recipe": {
            "seed": recipe.seed,
            "derive": msgspec.to_builtins(recipe.derive),
            "fractions": msgspec.to_builtins(recipe.fractions),
            "counterfactual": {
                "proposer": recipe.counterfactual.proposer,
                "validator": recipe.counterfactual.validator,
            },
            "output": msgspec.to_builtins(recipe.output),
        },
    }


def _histogram(rows: Iterable[Row]) -> dict[str, int]:
    counts = Counter(str(row.reward) for row in rows)
    return {score: counts[score] for score in SCORES}


def page(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    lost = len(card["unreadable"])
    left_out = [f"{lost} more can't be read and are left out: see `card.json`.", ""] if lost else []
    if names := card["without_stills"]:
        said = "played clips alone; stills of arranged scenes are left out (`arranged: true` takes them)."
        left_out += [f"Found in {', '.join(names)}: {said}", ""]
    lines = [
        "# Data card",
        "",
        f"{card['samples']} samples of {card['source_videos']} source videos "
        f"({card['without_label']} of them without a label, so without samples). "
        "Each row of `<split>/metadata.jsonl` is a video, a command and a 1-5 score of how far the video's "
        "end fulfils it; `origin` and `how` say how it was made, `derived_from` of what, `label_origin` "
        "who says so. "
        "All samples of a recording (`group`) are in one split.",
        "",
        *left_out,
        "![contact sheet](contact_sheet.png)",
        "",
        *_tabled(
            SOURCE_COLUMNS,
            [[source[column] for column in SOURCE_COLUMNS] for source in card["sources"]],
        ),
        "",
        "## Scores",
        "",
        "```",
        *bars(card["scores"]),
        "```",
        "",
        *_tabled(
            ("", *SCORES, "all"),
            [
                [name, *(counts[s] for s in SCORES), sum(counts.values())]
                for group in ("scores_by_origin", "scores_by_source")
                for name, counts in card[group].items()
            ],
        ),
        "",
        "## Splits",
        "",
        *_tabled(
            ("split", "source videos", "samples", *SCORES),
            [
                [name, s["source_videos"], s["samples"], *(s["scores"][k] for k in SCORES)]
                for name, s in card["splits"].items()
            ],
        ),
        "",
        "## How",
        "",
        "Who gave the labels: " + _said(card["label_origins"]) + ".",
        "",
        "What counterfactual commands changed: " + (_said(card["counterfactual_changes"]) or "none") + ".",
        "",
        "LRM rows: " + _said(card["lrm"]) + ".",
        "",
        f"Seed {card['recipe']['seed']}. Kept fractions of a success and other declared numbers (ours: the "
        "papers' are unpublished):",
        "",
        *_tabled(("", "least", "most"), [[k, *v] for k, v in card["recipe"]["fractions"].items()]),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def bars(counts: dict[str, int]) -> list[str]:
    """One line a score: a bar, the count, the share."""
    most, total = max(1, *counts.values()), max(1, sum(counts.values()))
    return [
        f"{score}  {'█' * round(40 * n / most):<40} {n:>6}  {100 * n / total:4.1f} %"
        for score, n in counts.items()
    ]


def _tabled(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows),
    ]
