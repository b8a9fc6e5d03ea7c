"""Do the codec's vectors follow what the rendered world does? Measures it on clips of `cope scenes`.

    python tools/scene_vectors.py DIR --num 40 [--grid 128] [--cache CACHE] [--json]

Takes the first clips of a folder of `cope scenes --num`, encodes and extracts them as `cope encode` and `cope extract
--fusion 30` do, and compares the fused motion on each moving thing (the inner part of its disc, at the slot's end) with
how far it went since the previous slot, as its record says; beside it the motion of the background, which stands still.

Covered: things that move straight over a whole slot, clips without pans. Not covered: spinning, growing, collisions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.world.records import FPS, Clip
from cope_cli.world.tracks import track_of
from cope_cli.world.write import read_scenes

#: Speed bins, in pixels a second (or a slot, which is a second long).
BINS = (1.5, 4, 8, 15, 30)
_INNER = 0.6  # share of the radius that every shape fills
_FAR = 2.2  # as many radii away is background


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One moving thing in one slot, in pixels of the stream.

    Attributes:
        went_px: how far it went, from its record.
        along_px: mean fused motion on it, along its way.
        error_px: mean length of the difference between the two.
        background_px: mean length of the fused motion far from all things.
    """

    went_px: float
    along_px: float
    error_px: float
    background_px: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """All things of one speed."""

    px_per_second: str
    num_slots: int
    went_px: float
    along_px: float
    error_px: float
    wrong_sign_share: float
    background_px: float


def measure(clip: Clip, primitives: Primitives) -> Iterator[Measured]:
    """Yield every thing and slot of a clip in which the thing moves straight."""
    (shot,) = clip.shots
    grid = primitives.grid_px
    centres = (np.arange(grid) + 0.5) * clip.size_px / grid - 0.5
    tracks = [(thing, track_of(thing, shot.num_frames)) for thing in shot.things]
    slots = [int(frame) for frame in primitives.slots.frame]
    for number, (before, frame) in enumerate(pairwise(slots), start=1):
        if primitives.slots.is_iframe[number]:
            continue
        motion_px = primitives.motion(number) / 2
        far = np.ones((grid, grid), bool)
        for thing, track in tracks:
            far &= (
                _distance(centres, track.x_px[frame], track.y_px[frame]) > _FAR * thing.radius_px * track.scale[frame]
            )
        background_px = float(np.hypot(*motion_px[:, far]).mean()) if far.any() else math.nan
        for thing, track in tracks:
            way = np.array([np.rint(track.x_px[[before, frame]]), np.rint(track.y_px[[before, frame]])])
            went = way[:, 1] - way[:, 0]
            whole = any(part.from_seconds <= before / FPS and part.until_seconds >= frame / FPS for part in thing.moves)
            length = float(np.hypot(*went))
            if not whole or length < BINS[0] or len(thing.parts) != len(thing.moves):
                continue
            on_it = motion_px[:, _distance(centres, way[0, 1], way[1, 1]) < _INNER * thing.radius_px]
            yield Measured(
                went_px=length,
                along_px=float((went @ on_it).mean() / length),
                error_px=float(np.hypot(*(on_it - went[:, None])).mean()),
                background_px=background_px,
            )


def _distance(centres: NDArray[np.float64], x_px: float, y_px: float) -> NDArray[np.float64]:
    return np.hypot(centres - x_px, (centres - y_px)[:, None])


def rows(found: Sequence[Measured]) -> list[Row]:
    """Average over speed bins, and over all."""
    bins: dict[str, list[Measured]] = defaultdict(list)
    edges = (*BINS, math.inf)
    for low, high in pairwise(edges):
        name = f"{low:g} to {high:g}" if high < math.inf else f"over {low:g}"
        bins[name] = [one for one in found if low <= one.went_px < high]
    bins["all"] = list(found)
    return [_row(name, group) for name, group in bins.items() if group]


def _row(name: str, group: Sequence[Measured]) -> Row:
    def mean(field: str) -> float:
        return float(np.nanmean([getattr(one, field) for one in group]))

    return Row(
        px_per_second=name,
        num_slots=len(group),
        went_px=mean("went_px"),
        along_px=mean("along_px"),
        error_px=mean("error_px"),
        wrong_sign_share=float(np.mean([one.along_px <= 0 for one in group])),
        background_px=mean("background_px"),
    )


def run(folder: Path, num: int, grid_px: int, cache: Cache) -> list[Row]:
    """Encode, extract and measure the first clips of a folder that have one shot and no pan."""
    clips = [clip for clip in read_scenes(folder / "scenes.jsonl") if len(clip.shots) == 1 and not clip.shots[0].pan]
    found: list[Measured] = []
    for clip in clips[:num]:
        encoded = encode_video(folder / "clips" / f"{clip.name}.mp4", cache, EncodeConfig())
        record = extract_video(encoded.name, cache, ExtractConfig(grid_px=grid_px))
        entry = cache.primitives_entry(record.name)
        if entry is None:
            raise RuntimeError(f"{clip.name}: extracted, and not in the cache")
        found += measure(clip, Primitives(entry))
    return rows(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=40)
    parser.add_argument("--grid", type=int, default=128)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        found = run(given.folder, given.num, given.grid, Cache(given.cache or Path(temporary)))
    if given.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return 0
    print("| px a second | slots | went, px | motion along it, px | error, px | wrong sign | background, px |")
    print("|---|---|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row.px_per_second} | {row.num_slots} | {row.went_px:.1f} | {row.along_px:.1f} | {row.error_px:.2f} "
            f"| {row.wrong_sign_share:.1%} | {row.background_px:.3f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
