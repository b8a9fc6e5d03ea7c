"""How many keyframes per GOP a sample is shown with: one number, or a draw among several."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cope_cli.data.draws import DRAW_LIMIT, drawn_number
from cope_cli.errors import UsageError

_ENTRY = re.compile(r"(\d+)(?::(\d+))?")


@dataclass(frozen=True, kw_only=True)
class KeyframeMix:
    """Numbers of keyframes per GOP, K, and how often each is drawn.

    Attributes:
        weights: (K, weight) in ascending K; a weight is a whole number of at least 1.
    """

    weights: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: int | str) -> KeyframeMix:
        """Read `4`, or a list such as `1:2,2:1,4:1`; an entry without a weight has 1.

        Raises:
            UsageError: it is neither; names the flag.
        """
        matches = [_ENTRY.fullmatch(part.strip()) for part in str(text).split(",")]
        pairs = [(int(match[1]), int(match[2] or 1)) for match in matches if match is not None]
        counts = [keyframes for keyframes, _ in pairs]
        if len(pairs) < len(matches) or len(set(counts)) < len(counts) or any(min(pair) < 1 for pair in pairs):
            raise UsageError(
                f"--keyframes {text}: expected a number of at least 1, or different ones with weights: 1:2,2:1,4:1"
            )
        return cls(weights=tuple(sorted(pairs)))

    def __str__(self) -> str:
        if len(self.weights) == 1:
            return str(self.weights[0][0])
        return ",".join(f"{keyframes}:{weight}" for keyframes, weight in self.weights)

    @property
    def counts(self) -> tuple[int, ...]:
        """Every K that may be drawn, in ascending order."""
        return tuple(keyframes for keyframes, _ in self.weights)

    def share(self, keyframes: int) -> float:
        """Return how often a K is drawn, 0 to 1."""
        return dict(self.weights)[keyframes] / sum(weight for _, weight in self.weights)

    def draw(self, *, seed: int, epoch: int, sample: str) -> int:
        """Return the K of one sample in one epoch: a function of the three and of nothing else."""
        total = sum(weight for _, weight in self.weights)
        drawn = drawn_number("keyframes", seed, epoch, sample) * total // DRAW_LIMIT
        for keyframes, weight in self.weights:
            drawn -= weight
            if drawn < 0:
                return keyframes
        raise AssertionError("a number below the sum of the weights lies in one of them")
