"""`cope inspect`: pictures, a page or a table of what a cache holds of a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, JsonOption
from cope_cli.config import parse_fusion

if TYPE_CHECKING:
    from cope_cli.inspect.report import InspectRecord
    from cope_cli.inspect.slots import SlotRow

DEFAULT_OUT = Path("cope_inspect")


def inspect(
    video: Annotated[str, typer.Argument(help="Video file, or the name of a cache entry.")],
    slot: Annotated[int | None, typer.Option(help="Slot of the pictures; the one in which most moves if none.")] = None,
    out: Annotated[
        Path, typer.Option(help="Where files go, in a folder named after the entry.", file_okay=False)
    ] = DEFAULT_OUT,
    fusion: Annotated[
        str | None,
        typer.Option(help="Fusion window s, 1 for single frames, or auto as in extract; if none, the cache's, or 30."),
    ] = None,
    page: Annotated[bool, typer.Option("--html", help="Write a self-contained page instead of PNG files.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Print a table of the slots instead of PNG files.")] = False,
    from_seconds: Annotated[float, typer.Option("--from", help="Leave out slots before this time, seconds.")] = 0.0,
    to_seconds: Annotated[
        float | None, typer.Option("--to", help="Leave out slots from this time on; the end, or 240 slots, if none.")
    ] = None,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """See what the model is given: frames, motion vectors, residuals; stages that are missing are run first."""
    from cope_cli.cache.store import Cache
    from cope_cli.inspect.report import InspectConfig, inspect_video
    from cope_cli.stages.batch import default_workers

    fusion_frames, adaptive = (None, False) if fusion is None else parse_fusion(fusion)
    config = InspectConfig(
        slot=slot,
        fusion_frames=fusion_frames,
        adaptive=adaptive,
        from_seconds=from_seconds,
        to_seconds=to_seconds,
        has_pictures=not (page or text),
        has_page=page,
    )
    with show.batch_progress("inspect", 0) as progress:
        record = inspect_video(video, Cache(cache), out, config, workers=default_workers(), on_progress=progress.update)
    if json:
        show.print_json(record)
        return
    for note in record.notes:
        show.err.print(note, style="dim", markup=False, highlight=False, soft_wrap=True)
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
