"""How often one is right without seeing anything move: what every result on these questions has to be held against."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Chance:
    """Of all items of one kind and form.

    Attributes:
        needs: motion or static.
        kind: kind of question.
        form: open, choice or caption.
        num_items: how many there are.
        best_constant: share that the one most frequent answer gets right.
        best_from_iframes: of motion questions, the most that anyone can get right who sees the I-frames only: twins
            share them, and every answer is true in as many twins as every other. None for static ones: all.
    """

    needs: str
    kind: str
    form: str
    num_items: int
    best_constant: float
    best_from_iframes: float | None


def chance(items: Iterable[Mapping[str, Any]]) -> list[Chance]:
    """Return the shares for each kind and form, motion first.

    Args:
        items: of `questions.json`.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        groups[item["needs"], item["kind"], item["form"]].append(item)
    rows = []
    for (needs, kind, form), group in sorted(groups.items()):
        most = Counter(item["answer"] for item in group).most_common(1)[0][1]
        rows.append(
            Chance(
                needs=needs,
                kind=kind,
                form=form,
                num_items=len(group),
                best_constant=most / len(group),
                best_from_iframes=iframe_ceiling(group) if needs == "motion" else None,
            )
        )
    return rows


def iframe_ceiling(items: Iterable[Mapping[str, Any]]) -> float:
    """Return the most that anyone can get right who sees only the I-frames and the question, as a share.

    Twins that are asked the same in the same words look the same to such a reader, who gives them all one answer; the
    best is the one that is true most often.
    """
    asked: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for item in items:
        asked[item["twin"], item["conversations"][0]["value"]][item["answer"]] += 1
    best = sum(max(answers.values()) for answers in asked.values())
    return best / sum(answers.total() for answers in asked.values())
