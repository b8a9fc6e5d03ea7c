"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CacheOption = Annotated[
    Path, typer.Option("--cache", envvar="COPE_CACHE", help="Cache folder.", file_okay=False, show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Do it again even if it is done.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", "-j", min=0, help="Videos at a time, each in a process; 0 means one per core.")
]

RunsOption = Annotated[
    Path, typer.Option("--runs", envvar="COPE_RUNS", help="Folder of training runs.", file_okay=False)
]

DEFAULT_CACHE = Path("cope_cache")
DEFAULT_RUNS = Path("runs")
