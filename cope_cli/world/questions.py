"""Questions about a group of twins, such that an I-frame does not answer those about motion.

A motion question is put to its twins in the same words, and each of its answers is true in as many of them as every
other. Whoever sees only the I-frames, which the twins share, can therefore be right no more often than once in so many
times as there are answers: an item's `chance`. Where that cannot be had for a question, it is not asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from cope_cli.world import facts
from cope_cli.world.records import COLOURS, GOP_FRAMES, Clip, Shot
from cope_cli.world.themes import SHAPES
from cope_cli.world.words import CELLS, LETTERS, NONE, NONE_REPLY, NUMBERS, OPTION_LINE, PLACED, WHICH, WORDINGS

DATA_SOURCE = "cope_scenes"
#: Motion kind -> so many different answers it needs among the twins: all there are, where that is a closed set.
_LEAST_ANSWERS = {
    "direction": 4,
    "first direction": 4,
    "last direction": 4,
    "state": 4,
    "changes": 4,
    "faster": 2,
    "order": 2,
    "what": 2,
    "camera": 4,
    "end": 3,
    "meeting": 4,
    "count at the end": 3,
    "caption": 3,
}
#: Kinds about one thing whose replies say first where it is when the shot begins: that is how it is found again.
_FOUND_BY_PLACE = ("direction", "first direction", "last direction", "state", "changes", "what", "meeting")
_MOST_MOTION = 5  # questions to a group
_MOST_STATIC = 2  # questions to a clip
_CHOICE_SHARE = 0.25  # a choice takes twice the tokens of an open question, and teaches one
#: Kinds whose question says what there is to choose from, or has no options.
_ALWAYS_OPEN = ("caption",)
_STATIC_OPTIONS = {
    "count": NUMBERS[1:5],
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "start": CELLS,
    "there": tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A motion question that could be put to the twins of a group.

    Attributes:
        kind: key of `WORDINGS`.
        a: what stands for `{a}` in its words.
        b: what stands for `{b}`.
        answers: the true answer in each twin; None where there is none.
        least_answers: so many different answers it needs.
        said: what replies say in each twin, where that is more than the answer.
        leads: what replies say in each twin before that, as sentences.
        where: what replies say first, such as "at the left".
        about: words of replies that are not judged, where those are not `where`.
    """

    kind: str
    a: str = ""
    b: str = ""
    answers: tuple[str | None, ...]
    least_answers: int
    said: tuple[str, ...] = ()
    leads: tuple[str, ...] = ()
    where: str = ""
    about: str = ""

    def reply(self, twin: int, wording: str) -> str:
        """Return what is said in answer, in one wording; to a choice as to an open question."""
        said = self.said[twin] if self.said else str(self.answers[twin])
        text = NONE_REPLY if self.answers[twin] == NONE else wording.format(a=self.a, b=self.b, x=said)
        text = f"{self.leads[twin]} {text[0].upper()}{text[1:]}" if self.leads and self.leads[twin] else text
        return f"{self.where[0].upper()}{self.where[1:]}, {text[0].lower()}{text[1:]}" if self.where else text

    def asked_twins(self, rng: np.random.Generator) -> list[int]:
        """Draw which twins it is put to: as many for each answer as for every other; none if that is too few."""
        counts = Counter(answer for answer in self.answers if answer is not None)
        if len(counts) < self.least_answers:
            return []
        each = min(counts.values())
        chosen: list[int] = []
        for answer in sorted(counts):
            twins = [twin for twin, found in enumerate(self.answers) if found == answer]
            chosen += [twins[index] for index in rng.permutation(len(twins))[:each]]
        return sorted(chosen)


def questions_of(clips: Sequence[Clip], rng: np.random.Generator, *, rounds: int = 1) -> list[dict[str, Any]]:
    """Return the items about the twins of one group, clip by clip.

    Args:
        clips: the twins.
        rng: draws what is asked, in which words and form.
        rounds: how often questions are drawn; what was asked before in the same words is not asked again.
    """
    items: list[list[dict[str, Any]]] = [[] for _ in clips]
    asked: set[str] = set()
    for _ in range(rounds):
        for candidate, twins in _chosen(clips, rng):
            found = _asked(candidate, twins, rng)
            if found[0]["conversations"][0]["value"] not in asked:
                asked.add(found[0]["conversations"][0]["value"])
                for twin, item in zip(twins, found, strict=True):
                    items[twin].append(item)
        for twin, clip in enumerate(clips):
            texts = {item["conversations"][0]["value"] for item in items[twin]}
            items[twin] += [item for item in _static(clip, rng) if item["conversations"][0]["value"] not in texts]
    return [
        {
            "id": f"{clip.name}-{number}",
            "video": video_of(clip),
            "data_source": DATA_SOURCE,
            **item,
            "objects": clip.num_objects,
            "twin": clip.group,
        }
        for clip, own in zip(clips, items, strict=True)
        for number, item in enumerate(own)
    ]


def video_of(clip: Clip) -> str:
    """Return a clip's path below its world's folder."""
    return f"clips/{clip.name}.mp4"


def _asked(candidate: Candidate, twins: Sequence[int], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Put a motion question to some twins, in the same words and with the same options."""
    wording = WORDINGS[candidate.kind][rng.integers(len(WORDINGS[candidate.kind]))]
    found = sorted({str(candidate.answers[twin]) for twin in twins})
    is_choice = candidate.kind not in _ALWAYS_OPEN and rng.random() < _CHOICE_SHARE
    options = [found[index] for index in rng.permutation(len(found))] if is_choice else None
    kind = {"first direction": "direction", "last direction": "direction"}.get(candidate.kind, candidate.kind)
    marks = {"kind": kind, "needs": "motion", "chance": 1 / len(found)}
    form = {"form": "caption"} if kind == "caption" else {}
    if about := candidate.about or candidate.where:
        marks["about"] = about  # "left" in it is no answer
    question = wording[0].format(a=candidate.a, b=candidate.b)
    return [
        {**_item(question, candidate.reply(twin, wording[1]), str(candidate.answers[twin]), options), **marks, **form}
        for twin in twins
    ]


def _item(question: str, reply: str, answer: str, options: Sequence[str] | None) -> dict[str, Any]:
    """Return what is said, and the short answer: the letter where there are options."""
    if options is not None:
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
        question = "\n".join([question, *lines, OPTION_LINE])
        answer = LETTERS[options.index(answer)]
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": reply}]
    form = "open" if options is None else "choice"
    return {"conversations": turns, "form": form, "answer": answer, "options": None if options is None else [*options]}


def _chosen(clips: Sequence[Clip], rng: np.random.Generator) -> Iterator[tuple[Candidate, list[int]]]:
    """Draw motion questions that work, one of each kind before a second of any."""
    able: dict[str, list[tuple[Candidate, list[int]]]] = {}
    for candidate in _candidates(clips, rng):
        twins = candidate.asked_twins(rng)
        if twins:
            able.setdefault(candidate.kind, []).append((candidate, twins))
    first, second = [], []
    for kind in [list(able)[index] for index in rng.permutation(len(able))]:
        order = rng.permutation(len(able[kind]))
        first.append(able[kind][order[0]])
        second += [able[kind][index] for index in order[1:2]]
    yield from (first + second)[:_MOST_MOTION]


def _candidates(clips: Sequence[Clip], rng: np.random.Generator) -> Iterator[Candidate]:
    """Yield every question that some theme could be about; most have no answer, or the same one in all twins."""
    size_px, num_shots = clips[0].size_px, {len(clip.shots) for clip in clips}

    def about_clip(kind: str, answer: Callable[[Clip], str | None], a: str = "", **said: Any) -> Candidate:
        answers = tuple(answer(clip) for clip in clips)
        return Candidate(kind=kind, a=a, answers=answers, least_answers=_LEAST_ANSWERS[kind], **said)

    yield about_clip("caption", facts.caption)
    if clips[0].num_frames == GOP_FRAMES:
        yield about_clip("camera", facts.camera)
        told = tuple(facts.caption(clip) or "" for clip in clips)
        yield about_clip("count at the end", facts.count_at_end, leads=told)
    if len(num_shots) == 1:
        *shots_before, last = zip(*(clip.shots for clip in clips), strict=True)
        places = {} if shots_before else _places(last, size_px)
        for said, name in _said_names(last[0], places):
            end = partial(facts.end, name=name)
            if said == name:
                start = f"it starts at the {facts.place(last[0], size_px, name)}"
                yield about_clip("end", end, said, leads=(f"{start.capitalize()}.",) * len(clips), about=start)
            else:
                yield about_clip("end", end, said, about=said)
        for shots in (*shots_before, last):
            yield from _about_shots(shots, size_px, places, rng)
        if not shots_before:
            yield from _which(last, size_px)


def _names(shot: Shot) -> list[str]:
    """Name the things that show when a shot begins."""
    return [thing.name for thing in shot.things if thing.is_there]


def _places(shots: Sequence[Shot], size_px: int) -> dict[str, str]:
    """Map each thing that shows when the shots begin, alone in its cell in all of them, to that cell's name."""
    things = {thing.name: thing for shot in shots for thing in shot.things}
    taken = Counter(facts.nearest_cell(thing.x_px, thing.y_px, size_px) for thing in things.values())
    cells = {name: facts.cell(things[name].x_px, things[name].y_px, size_px) for name in _names(shots[0])}
    return {name: cell for name, cell in cells.items() if cell and taken[cell] == 1}


def _said_names(shot: Shot, places: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield how a question may say each thing, by its name or by its place, and the thing's name."""
    for name in _names(shot):
        yield name, name
        if name in places:
            yield PLACED.format(places[name]), name


def _about_shots(
    shots: Sequence[Shot], size_px: int, places: dict[str, str], rng: np.random.Generator
) -> Iterator[Candidate]:
    """Yield the questions about one shot of each twin."""

    def ask(kind: str, answer: Callable[[Shot], str | None], a: str, b: str = "", **said: Any) -> Candidate:
        answers = tuple(answer(shot) for shot in shots)
        if a.startswith(PLACED.format("")):
            said["about"] = a
        elif kind in _FOUND_BY_PLACE:
            said["where"] = f"at the {facts.place(shots[0], size_px, a)}"
        return Candidate(kind=kind, a=a, b=b, answers=answers, least_answers=_LEAST_ANSWERS[kind], **said)

    def found(names: Iterable[str | None]) -> tuple[str, ...]:
        return tuple(_found(shot, size_px, name or "") for shot, name in zip(shots, names, strict=True))

    for said, name in _said_names(shots[0], places):
        yield ask("direction", partial(facts.direction, name=name), said)
        yield ask("first direction", partial(facts.first_direction, name=name), said)
        yield ask("last direction", partial(facts.last_direction, name=name), said)
        yield ask("changes", partial(facts.changes, name=name), said, leads=tuple(_ways(shot, name) for shot in shots))
        yield ask("state", partial(facts.state, size_px=size_px, name=name), said)
        yield ask("what", partial(facts.what, size_px=size_px, name=name), said)
    for pair in combinations(_names(shots[0]), 2):
        a, b = (pair[index] for index in rng.permutation(2))
        faster = partial(facts.faster, name=a, other_name=b)
        yield ask("faster", faster, a, b, said=found(map(faster, shots)))
    told = {text for shot in shots for _, text in facts.moments(shot, [thing.name for thing in shot.things])}
    for pair in combinations(sorted(told), 2):
        a, b = (pair[index] for index in rng.permutation(2))
        order = partial(facts.order, moment=a, other_moment=b)
        yield ask("order", order, a, b, said=found(map(order, shots)))
    met = shots[0].meeting
    if met:
        yield ask("meeting", facts.meeting, met.mover, met.other)


def _found(shot: Shot, size_px: int, said: str) -> str:
    """Return a thing's name, or what begins with it, with the place before it where the thing is when a shot begins."""
    for thing in shot.things:
        if said.startswith(thing.name) and (place := facts.place(shot, size_px, thing.name)):
            return f"one at the {place}, the {said}"
    return said


def _ways(shot: Shot, name: str) -> str:
    """Say which ways a thing moves, one after the other; nothing if it does not."""
    thing = shot.thing(name)
    ways = facts.ways(thing) if thing else []
    return f"It moves {', then '.join(ways)}." if ways else ""


def _which(shots: Sequence[Shot], size_px: int) -> Iterator[Candidate]:
    """Yield the questions which thing does something; each thing that is there must be the answer in a twin."""
    num_things = len(_names(shots[0]))
    for verb in sorted(set(WHICH.values())):
        if num_things < 2 and verb != WHICH["appear"]:
            continue
        answers = tuple(facts.which(shot, size_px, verb) for shot in shots)
        least = 4 if verb == WHICH["appear"] or num_things > 2 else 2
        said = tuple(_found(shot, size_px, str(answer)) for shot, answer in zip(shots, answers, strict=True))
        yield Candidate(kind="which", a=verb, answers=answers, least_answers=least, said=said)


def _static(clip: Clip, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Draw questions that the first frame answers."""
    everything = [thing for shot in clip.shots for thing in shot.things]
    there = [thing for thing in clip.shots[0].things if thing.is_there]
    shapes = Counter(thing.shape for thing in everything)
    able = [("count", "", str(len(there)))]
    for thing in there:
        able.append(("shape", thing.colour, thing.shape))
        if shapes[thing.shape] == 1:
            able.append(("colour", thing.shape, thing.colour))
        place = facts.start(clip, thing.name)
        if place:
            able.append(("start", thing.name, place))
            if facts.there(clip, place):
                able.append(("there", place, thing.name))
    names = [thing.name for thing in there]
    items = []
    kinds = sorted({kind for kind, _, _ in able})
    for kind in [kinds[index] for index in rng.permutation(len(kinds))][:_MOST_STATIC]:
        among = [found for found in able if found[0] == kind]
        _, about, answer = among[rng.integers(len(among))]
        wording = WORDINGS[kind][rng.integers(len(WORDINGS[kind]))]
        options = _static_options(kind, answer, names, rng) if rng.random() < _CHOICE_SHARE else None
        marks = {"kind": kind, "needs": "static", "chance": None}
        question, reply = (text.format(a=about, x=answer) for text in wording)
        items.append({**_item(question, reply, answer, options), **marks})
    return items


def _static_options(kind: str, answer: str, names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Draw four options, the true one among them; of names, those of things that are there first."""
    others = [option for option in _STATIC_OPTIONS[kind] if option != answer]
    others = [others[index] for index in rng.permutation(len(others))]
    options = [answer, *sorted(others, key=lambda other: other not in names)[:3]]
    return [options[index] for index in rng.permutation(len(options))]
