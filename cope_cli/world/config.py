"""Which clips of the rendered world: every field changes them, so every field is in the settings file beside them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cope_cli.errors import UsageError
from cope_cli.files import canonical_json
from cope_cli.options import Check, Panel, at_least, between, check_options, option

if TYPE_CHECKING:
    import numpy as np

#: Goes up when the same settings give other clips or other questions.
WORLD_VERSION = 2
MAX_OBJECTS = 4


class Split(StrEnum):
    """Streams of their own, so that no clip of one split is in another."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


#: In the order that decides the random streams.
SPLITS = tuple(Split)


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Which clips to render."""

    seed: int = option(
        0, help="Seed of clips and questions, together with --split.", check=at_least(0), panel=Panel.DATA
    )
    split: Split = option(Split.TRAIN, help="Split to render; no clip is in two of them.", panel=Panel.DATA)
    size_px: int = option(
        128,
        flag="--size",
        help="Side of the pictures in pixels.",
        check=Check(lambda value: 64 <= value <= 512 and value % 16 == 0, "a multiple of 16 from 64 to 512 pixels"),
        panel=Panel.DATA,
    )
    objects: str = option(
        "1-4",
        help="Number of objects at the start of a clip: n, or n-m. With 1, the camera stands still and nothing is cut.",
        panel=Panel.DATA,
    )
    two_gops: float = option(
        0.1,
        help="Share of clips of two GOPs (16 seconds); the others have one (8 seconds).",
        check=between(0, 1),
        panel=Panel.DATA,
    )

    def __post_init__(self) -> None:
        check_options(self)
        low, high = self.objects_range
        if not 1 <= low <= high <= MAX_OBJECTS:
            raise UsageError(f"--objects {self.objects}: expected numbers from 1 to {MAX_OBJECTS}, such as 1 or 1-4")

    @property
    def objects_range(self) -> tuple[int, int]:
        """The fewest and the most objects at the start of a clip."""
        low, _, high = self.objects.partition("-")
        if not low.isdigit() or not (high or low).isdigit():
            raise UsageError(f"--objects {self.objects}: expected a number or a range, such as 1 or 1-4")
        return int(low), int(high or low)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "split": str(self.split)}

    @property
    def key(self) -> str:
        """Six hex digits that stand for all the fields."""
        fields = canonical_json({"world": WORLD_VERSION, **self.to_dict()})
        return hashlib.sha256(fields.encode()).hexdigest()[:6]

    def stream(self, group: int, use: int) -> np.random.Generator:
        """Return the random stream of a group for one use."""
        import numpy as np

        key = np.random.SeedSequence([WORLD_VERSION, SPLITS.index(Split(self.split)), self.seed, group, use])
        return np.random.Generator(np.random.PCG64(key))

    def clip_name(self, index: int) -> str:
        """Return the name of a clip's file, without ending: no other world has one of this name."""
        return f"{self.split}-{self.key}-{index:06d}"
