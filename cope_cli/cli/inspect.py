"""`cope inspect`: pictures, a page or a table of what a cache holds of a video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, JsonOption, path_option, path_or_name
from cope_cli.inspect.config import InspectConfig
from cope_cli.options import Panel

if TYPE_CHECKING:
    from cope_cli.inspect.report import InspectRecord
    from cope_cli.inspect.slots import SlotRow

DEFAULT_OUT = Path("cope_inspect")


EXAMPLES = [
    "cope inspect video.mp4",
    "cope inspect video.mp4 --html",
    "cope inspect video.mp4 --text --from 10 --to 20",
]


def inspect(
    config: InspectConfig,
    video: Annotated[
        str, typer.Argument(help="Video file, or the name of a cache entry.", parser=path_or_name, metavar="VIDEO")
    ],
    page: Annotated[
        bool,
        typer.Option("--html", help="Write a self-contained page instead of PNG files.", rich_help_panel=Panel.OUTPUT),
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Print a table of the slots instead.", rich_help_panel=Panel.OUTPUT)
    ] = False,
    out: Annotated[
        Path, path_option("--out", help="Folder for the files, in a folder named after the entry.", metavar="FOLDER")
    ] = DEFAULT_OUT,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Look at what the model sees: frames, motion vectors, residuals; missing stages are run first."""
    from cope_cli.cache.store import Cache
    from cope_cli.inspect.report import inspect_video
    from cope_cli.stages.batch import default_workers

    config = replace(config, has_pictures=not (page or text), has_page=page)
    show.settings("inspect", vars(config))
    with show.batch_progress("inspect", 0) as progress:
        record = inspect_video(video, Cache(cache), out, config, workers=default_workers(), on_progress=progress.update)
    if json:
        show.print_json(record)
        return
    for note in record.notes:
        show.note(note)
    if text:
        _print_table(record)
    for file in record.files:
        size = show.as_bytes(file.stat().st_size)
        show.out.print(f"{file}  {size}", markup=False, highlight=False, soft_wrap=True)


def _print_table(record: InspectRecord) -> None:
    """Print a row per slot, then the token plans."""
    has_windows = any(row.window_frames is not None for row in record.rows)
    columns = ["slot", "time", "GOP", "", *(["window, frames"] if has_windows else []), "tokens, K = 1"]
    columns += ["motion", "longest", "moved", "residual", "rms"]
    show.print_table(
        f"{record.entry}: motion in pixels of the stream, residual in levels of 0..255",
        columns,
        [_row(row, has_window=has_windows) for row in record.rows],
    )
    for plan in record.plans:
        show.out.print(
            f"K = {plan.keyframes_per_gop}: {plan.num_tokens} tokens, {plan.num_rgb_slots} RGB and "
            f"{plan.num_p_slots} P slots of {plan.num_gops_used} of {plan.num_gops_total} GOPs",
            highlight=False,
        )


def _row(row: SlotRow, *, has_window: bool) -> tuple[str, ...]:
    window = [str(row.window_frames or "-")] if has_window else []
    kind = "I" if row.is_iframe else "P"
    head = (str(row.slot), f"{row.seconds:.2f} s", str(row.gop), kind, *window, str(row.tokens[0]))
    if row.energy is None:
        return (*head, *"-----")
    energy = row.energy
    return (
        *head,
        f"{energy.motion_mean_px:.1f} px",
        f"{energy.motion_max_px:.1f} px",
        f"{100 * energy.moved_share:.0f} %",
        f"{energy.residual_mean_levels:.1f}",
        f"{energy.residual_rms_levels:.1f}",
    )
