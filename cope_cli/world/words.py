"""How the world speaks: the wordings of every kind of question, of every answer, and all words they are made of.

`{a}` and `{b}` are names of things, `{x}` is the answer. A reply belongs to its question, so that a question in these
words has one true reply, word for word.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cope_cli.world.acts import ACTS
from cope_cli.world.records import COLOURS, DIRECTIONS
from cope_cli.world.themes import SHAPES

LETTERS = "ABCD"
#: What follows options: an answer with their words is wanted. Letters took more steps to learn than there were.
OPTION_LINE = "Which one?"
NONE, NONE_REPLY = "none of them", "None of them."
CELLS = (
    *("top left", "top", "top right"),
    *("left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)
"""Names of the nine cells of the picture, row by row."""
#: How a question says a thing by where it is when the scene begins.
PLACED = "object at the {}"
STATES = ("stops", "starts", "keeps moving", "stays still")
MEETINGS = {
    "behind": "passes behind",
    "in front": "passes in front",
    "hits": "hits it",
    "stops short": "stops before it",
}
CAMERA = {
    "left": "pans left",
    "right": "pans right",
    "up": "pans up",
    "down": "pans down",
    "still": "stays still",
    "cut": "cuts to another scene",
}
#: How a question asks which thing does something, by what the thing does.
WHICH = {
    "move": "moves",
    "hop": "moves",
    "start": "starts moving",
    "stop": "stops moving",
    "spin": "spins",
    "grow": "grows",
    "shrink": "shrinks",
    "vanish": "vanishes",
    "appear": "appears",
}
NUMBERS = tuple(str(number) for number in range(7))


class Wording(NamedTuple):
    """One way to ask, and the reply that goes with it."""

    question: str
    reply: str


WORDINGS: dict[str, tuple[Wording, ...]] = {
    "direction": (
        Wording("Which way does the {a} move?", "It moves {x}."),
        Wording("In which direction does the {a} go?", "The {a} goes {x}."),
        Wording("Where is the {a} going?", "It is going {x}."),
    ),
    "first direction": (
        Wording("Which way does the {a} move first?", "First it moves {x}."),
        Wording("In which direction does the {a} go at first?", "At first the {a} goes {x}."),
    ),
    "last direction": (
        Wording("Which way does the {a} move last?", "Last it moves {x}."),
        Wording("In which direction does the {a} go in the end?", "In the end the {a} goes {x}."),
    ),
    "state": (
        Wording("Does the {a} stop, start, keep moving or stay still?", "It {x}."),
        Wording("Does the {a} start or stop?", "The {a} {x}."),
    ),
    "changes": (
        Wording("How many times does the {a} change direction?", "{x}."),
        Wording("How often does the {a} turn?", "The number of turns is {x}."),
    ),
    "faster": (
        Wording("Which is faster, the {a} or the {b}?", "The {x}."),
        Wording("Which moves faster, the {a} or the {b}?", "The {x} is faster."),
    ),
    "order": (
        Wording("What happens first: the {a} or the {b}?", "The {x}."),
        Wording("What comes first: the {a} or the {b}?", "First the {x}."),
    ),
    "what": (
        Wording("What happens to the {a}?", "It {x}."),
        Wording("What does the {a} do?", "The {a} {x}."),
    ),
    "which": (
        Wording("Which object {a}?", "The {x}."),
        Wording("Which one {a}?", "It is the {x}."),
    ),
    "camera": (
        Wording("What does the camera do?", "It {x}."),
        Wording("How does the camera move?", "The camera {x}."),
    ),
    "end": (
        Wording("Where is the {a} at the end?", "At the {x}."),
        Wording("Where does the {a} end up?", "It ends up at the {x}."),
    ),
    "meeting": (
        Wording("Does the {a} pass behind the {b}, pass in front, hit it or stop before it?", "It {x}."),
        Wording("What does the {a} do when it meets the {b}?", "The {a} {x}."),
    ),
    "count at the end": (
        Wording("How many objects are there at the end?", "{x}."),
        Wording("How many objects are left at the end?", "There are {x} objects at the end."),
    ),
    "caption": (
        Wording("What happened?", "{x}"),
        Wording("What happens in the video?", "{x}"),
        Wording("Describe the video.", "{x}"),
    ),
    "count": (
        Wording("How many objects are there at the start?", "{x}."),
        Wording("How many shapes are there at first?", "There are {x} at first."),
    ),
    "colour": (
        Wording("What colour is the {a}?", "It is {x}."),
        Wording("Which colour does the {a} have?", "The {a} is {x}."),
    ),
    "shape": (
        Wording("What shape is the {a} object?", "It is a {x}."),
        Wording("Which shape does the {a} object have?", "The {a} object is a {x}."),
    ),
    "start": (
        Wording("Where is the {a} at the start?", "At the {x}."),
        Wording("Where does the {a} start?", "It starts at the {x}."),
    ),
    "there": (
        Wording("What is at the {a} at the start?", "The {x}."),
        Wording("Which object starts at the {a}?", "It is the {x}."),
    ),
}
"""Kind of question -> its wordings."""

STATIC_KINDS = ("count", "colour", "shape", "start", "there")
"""Kinds that the first I-frame answers."""

#: What captions are made of, besides names and what things do.
CAPTION_PARTS = (
    *("At the {x}, the {a} moves left, then right.", "The {a} moves up and speeds up."),
    "The {a} moves down and slows down.",
    *("The {a} moves left and stops.", "The {a} starts moving left.", "The {a} keeps moving left."),
    *("The {a} starts moving left and stops.", "The {a} moves left, bounces and moves right."),
    *("The {a} passes behind the {b}.", "The {a} passes in front of the {b}."),
    *("The {a} hits the {b}.", "The {a} moves to the {b} and stops before it."),
    *("Nothing happens.", "The camera pans left.", "Then there is a cut.", "There is a cut."),
)

_TOKEN = re.compile(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]")


def tokens_of(text: str) -> list[str]:
    """Split a text into words, single digits and single marks; the marker `<image>` is left out."""
    return _TOKEN.findall(text.replace("<image>", ""))


def vocabulary() -> list[str]:
    """Return every word, digit and mark that questions, options and answers can hold, sorted."""
    texts = [part for wordings in WORDINGS.values() for wording in wordings for part in wording]
    texts += [*CAPTION_PARTS, *ACTS.values(), *MEETINGS.values(), *CAMERA.values(), *WHICH.values()]
    texts += [*STATES, *CELLS, *NUMBERS, *LETTERS, *COLOURS, *SHAPES, *DIRECTIONS]
    texts += [NONE, NONE_REPLY, OPTION_LINE, PLACED, "A."]
    return sorted({token for text in texts for token in tokens_of(re.sub(r"\{.?\}", " ", text))})
