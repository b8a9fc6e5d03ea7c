"""Running stages for the reliability tests: the public batches, the command line, and what they leave."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_batch
from cope_cli.stages.extract import extract_batch
from cope_cli.stages.verify import verify_batch

ENCODE = EncodeConfig(gop_frames=30)
EXTRACT = ExtractConfig(fusion_frames=10, grid_px=32)
#: The same settings as words of a command.
ENCODE_WORDS = ("--gop", "30")
EXTRACT_WORDS = ("--fusion", "10", "--grid", "32", "--store-frames", "none")

Errors = dict[str, Exception | None]


def encode(videos: Iterable[Path], root: Path, *, workers: int = 1, force: bool = False) -> Errors:
    """Encode; returns each video's error, by file name."""
    outcomes = encode_batch(videos, root, ENCODE, workers=workers, force=force).run()
    return {Path(outcome.item).name: outcome.error for outcome in outcomes}


def extract(root: Path, videos: Iterable[Path] = (), *, workers: int = 1, force: bool = False) -> Errors:
    """Extract these videos, or everything; returns each entry's error."""
    outcomes = extract_batch([str(video) for video in videos], root, EXTRACT, workers=workers, force=force).run()
    return {outcome.item: outcome.error for outcome in outcomes}


def verify(root: Path) -> Errors:
    """Verify everything, in this process; returns each entry's error."""
    names = [path.stem for path in (*(root / "encoded").glob("*.json"), *(root / "primitives").glob("*.zarr"))]
    outcomes = [outcome for name in names for outcome in verify_batch([name], root, workers=1).run()]
    return {outcome.item: outcome.error for outcome in outcomes}


def all_fine(errors: Errors, num: int) -> bool:
    """Whether there are so many outcomes and none is an error."""
    return len(errors) == num and not any(errors.values())


def cope(*words: str | Path) -> subprocess.Popen[str]:
    """Start a command that prints JSON."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "cope_cli", *map(str, words), "--json"]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def answers(processes: Sequence[subprocess.Popen[str]], seconds: float = 120) -> list[tuple[int, Any]]:
    """Wait for commands; returns exit code and JSON of each."""
    said = [process.communicate(timeout=seconds)[0] for process in processes]
    return [(process.returncode, json.loads(text)) for process, text in zip(processes, said, strict=True)]


def leftovers(root: Path) -> list[str]:
    """What is in the cache's tmp/."""
    return sorted(path.name for path in (root / "tmp").glob("*"))
