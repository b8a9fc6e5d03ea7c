"""`python -m recipes.cope_tiny --data SCENES`: the vision stage of cope-tiny, which only this recipe needs."""

from __future__ import annotations

from functools import partial

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, DEFAULT_RUNS, CacheOption, JsonOption, RunsOption, command
from cope_cli.cli.train.commands import ResumeOption, RunOption
from cope_cli.cli.train.run import run_stage
from recipes.cope_tiny.config import VisionConfig

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@command(app, "vision", examples=["python -m recipes.cope_tiny --data world --steps 1200"])
def vision(
    config: VisionConfig,
    run: RunOption = "",
    resume: ResumeOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Train cope-tiny's vision tower on pictures of the rendered world."""
    from recipes.cope_tiny.vision import train_vision

    run_stage("vision", partial(train_vision, on_note=show.note), config, cache, runs, run, resume, json)


if __name__ == "__main__":
    from cope_cli.cli.main import run_app

    run_app(app)
