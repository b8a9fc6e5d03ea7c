"""What all benchmarks share: options, the videos to measure, progress, and the exit code.

A benchmark is a script: `python -m benchmarks.extract VIDEO...` measures and prints tables; `--json` prints the
records.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cope_cli.cli import show
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError, UsageError
from cope_cli.stages.sources import find_videos
from cope_cli.types import OnProgress

Result = TypeVar("Result")


def _path(text: str) -> Path:
    return Path(text).expanduser()


#: Options that more than one benchmark has; a script may change the defaults.
_OPTIONS: dict[str, dict[str, Any]] = {
    "fusion": {"type": int, "default": 30, "help": "fusion window s, in frames"},
    "grid": {"type": int, "default": 224, "help": "side of the primitives' grid"},
    "short-side": {"type": int, "default": 384, "help": "shorter side to encode at, in pixels; 0 keeps the source's"},
    "rounds": {"type": int, "default": 5, "help": "runs of each variant; tables show medians"},
    "device": {"default": "auto", "help": "cpu, cuda or cuda:1; auto takes a GPU if there is one"},
    "max-new-tokens": {"type": int, "default": 64, "help": "longest answer, in tokens"},
    "cache": {"type": _path, "default": _path(os.environ.get("COPE_CACHE", "cope_cache")), "help": "cache folder"},
    "runs": {"type": _path, "default": _path(os.environ.get("COPE_RUNS", "runs")), "help": "folder of training runs"},
}


def new_parser(name: str, description: str, *options: str, has_videos: bool = True) -> argparse.ArgumentParser:
    """Make the parser of a benchmark; every benchmark has `--json`.

    Args:
        name: the script's module name, such as `extract`.
        description: what it measures, one sentence.
        options: names of shared options, such as `fusion`.
        has_videos: whether it takes videos, at least one.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    if has_videos:
        parser.add_argument("videos", nargs="+", help="video files or folders", metavar="VIDEO")
    for option in options:
        settings = _OPTIONS[option]
        parser.add_argument(f"--{option}", **settings | {"help": settings["help"] + " (default: %(default)s)"})
    parser.add_argument("--json", action="store_true", help="print records as JSON instead of tables")
    return parser


def videos_in(paths: Sequence[str]) -> list[Path]:
    """Return the video files that paths name.

    Args:
        paths: files, and folders to search.

    Raises:
        CopeError: a path cannot be used.
    """
    found, errors = find_videos([_path(path) for path in paths])
    for error in errors.values():
        raise error
    return found


def stage_settings(options: argparse.Namespace) -> tuple[list[Path], EncodeConfig, ExtractConfig]:
    """Return the videos, and the settings of both data stages, that the shared options name."""
    return (
        videos_in(options.videos),
        EncodeConfig(short_side_px=options.short_side),
        ExtractConfig(fusion_frames=options.fusion, grid_px=options.grid),
    )


def measured(title: str, measure: Callable[[OnProgress], Result]) -> Result:
    """Run a measurement and show its progress on stderr.

    Args:
        title: what is counted, such as `rounds`.
        measure: called with what it reports its progress to: (done, total).
    """
    with show.batch_progress(title, 0) as progress:
        return measure(lambda done, total: progress.update("measure", done, total))


def run_script(main: Callable[[], None]) -> None:
    """Run a benchmark as a program: a failure prints one line and exits with 1, wrong usage with 2."""
    try:
        main()
    except CopeError as error:
        show.complain(error)
        sys.exit(2 if isinstance(error, UsageError) else 1)
