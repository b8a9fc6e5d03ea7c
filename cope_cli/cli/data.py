"""`cope encode`, `cope extract`, `cope scenes`: the data stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cope_cli.cli import show
from cope_cli.cli.options import (
    DEFAULT_CACHE,
    CacheOption,
    ForceOption,
    JsonOption,
    PathsArgument,
    WorkersOption,
    path_option,
    path_or_name,
)
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig, FramesConfig
from cope_cli.errors import UsageError
from cope_cli.options import Panel
from cope_cli.world.config import WorldConfig

if TYPE_CHECKING:
    from cope_cli.stages.batch import Outcome
    from cope_cli.stages.extract import ExtractRecord
    from cope_cli.world.write import WrittenRecord

ENCODE_EXAMPLES = [
    "cope encode videos/",
    "cope encode a.mp4 b.mkv --short-side 0 --quality 2",
    "cope encode videos/ --cache /data/cope_cache --workers 8",
]
EXTRACT_EXAMPLES = [
    "cope extract --fusion 30",
    "cope extract videos/ --store-frames all",
    "cope extract --direct videos/ --fusion 15",
]
SCENES_EXAMPLES = [
    "cope scenes --out clips",
    "cope scenes --out world --num 1000 --split train",
    "cope scenes --out world --num 100 --objects 1 --sheet sheet.png",
]


def encode(
    paths: PathsArgument,
    config: EncodeConfig,
    workers: WorkersOption = 0,
    cache: CacheOption = DEFAULT_CACHE,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Stage 1: re-encode videos to MPEG-4 Part 2 with I- and P-frames at a constant rate."""
    show.settings("encode", vars(config))
    from cope_cli.stages.encode import encode_batch

    outcomes = show.run_batch("encode", encode_batch(paths, cache, config, workers=workers, force=force))
    rows = [
        (
            r.name,
            f"{r.width_px}x{r.height_px}",
            str(r.num_frames),
            f"{r.seconds:.1f} s",
            show.as_bytes(r.size_bytes),
            "encoded" if r.is_new else "was done",
        )
        for outcome in outcomes
        if (r := outcome.result) is not None
    ]
    columns = ["entry", "size", "frames", "length", "on disk", ""]
    show.finish("Encoded", columns, rows, outcomes, as_json=json, drop_first=["frames", "size"])
    if not json:
        show.next_step("cope extract")


def extract(
    frames: FramesConfig,
    config: ExtractConfig,
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, files, their names, or entry names. Default: all encoded videos of the cache.",
            parser=path_or_name,
            metavar="VIDEOS",
        ),
    ] = None,
    direct: Annotated[
        bool,
        typer.Option(
            "--direct",
            help="Read vectors from the files' own streams, without `cope encode`.",
            rich_help_panel=Panel.DATA,
        ),
    ] = False,
    stream: Annotated[
        int,
        typer.Option(help="With --direct: number of the video stream, counted from 0.", rich_help_panel=Panel.DATA),
    ] = 0,
    workers: WorkersOption = 0,
    cache: CacheOption = DEFAULT_CACHE,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Stage 2: fuse motion vectors and residuals of encoded videos, or of any file with --direct, into slots."""
    if direct and not videos:
        raise UsageError("--direct: expected videos, or folders to search")
    if stream and not direct:
        raise UsageError(f"--stream {stream}: only --direct uses it; `cope encode --stream` chooses the stream")
    show.settings("extract", {**vars(config), **vars(frames)})
    from cope_cli.stages.direct import extract_direct_batch
    from cope_cli.stages.extract import extract_batch
    from cope_cli.stages.frames import FramesRequest

    wanted = FramesRequest.of(frames)
    if direct:
        paths, way = [Path(video) for video in videos or []], DirectConfig(extract=config, stream=stream)
        batch = extract_direct_batch(paths, cache, way, frames=wanted, workers=workers, force=force)
    else:
        batch = extract_batch(videos or [], cache, config, frames=wanted, workers=workers, force=force)
    outcomes = show.run_batch("extract", batch)
    columns = ["entry", "way", "slots", "I-frame slots", "on disk", "RGB slots added", ""]
    drop_first = ["way", "I-frame slots", "RGB slots added"]
    show.finish("Extracted", columns, _extracted(outcomes), outcomes, as_json=json, drop_first=drop_first)
    if not json:
        show.next_step("cope train pretrain")


def _extracted(outcomes: list[Outcome[ExtractRecord]]) -> list[tuple[str, ...]]:
    """Return a table row for each extracted video."""
    return [
        (
            r.name,
            r.way,
            str(r.num_slots),
            str(r.num_iframe_slots),
            show.as_bytes(r.size_bytes),
            str(r.num_frames_added),
            "extracted" if r.is_new else "was done",
        )
        for outcome in outcomes
        if (r := outcome.result) is not None
    ]


def scenes(
    config: WorldConfig,
    out: Annotated[Path, path_option("--out", help="Folder for clips and questions.", metavar="FOLDER")],
    num: Annotated[
        int | None,
        typer.Option(
            help="Number of clips. Default: render the sample clips instead.", min=1, rich_help_panel=Panel.DATA
        ),
    ] = None,
    twins: Annotated[
        int,
        typer.Option(
            help="Clips of each group of four twins; fewer twins show more different pictures.",
            rich_help_panel=Panel.DATA,
        ),
    ] = 4,
    rounds: Annotated[
        int, typer.Option(help="Times to draw questions for each group of twins.", rich_help_panel=Panel.DATA)
    ] = 1,
    sheet: Annotated[
        Path | None,
        path_option("--sheet", help="Draw the first clips slot by slot into this PNG. Default: no picture."),
    ] = None,
    workers: WorkersOption = 0,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Render clips of coloured shapes with questions and exact answers; without --num the sample clips."""
    show.settings("scenes", vars(config))
    if num is None:
        _sample_scenes(out, as_json=json)
        return
    from cope_cli.world.write import draw_world, world_batch

    clips, items = draw_world(config, num, rounds=rounds, twins=twins)
    if sheet:
        from cope_cli.world.sheet import NUM_ON_SHEET, write_sheet

        write_sheet(sheet, clips[:NUM_ON_SHEET], items)
    batch = world_batch(config, clips, items, out, workers=workers, force=force)
    _show_world(out, show.run_batch("render clips", batch), items, as_json=json)


def _show_world(
    out: Path, outcomes: list[Outcome[WrittenRecord]], items: list[dict[str, Any]], *, as_json: bool
) -> None:
    """Print the clips, and for each kind of question the share of right answers without seeing motion."""
    from cope_cli.world.chance import chance

    if not as_json:
        rows = [
            (
                f"{row.kind} ({row.form})",
                row.needs,
                str(row.num_items),
                f"{row.best_constant:.1%}",
                "all" if row.best_from_iframes is None else f"{row.best_from_iframes:.1%}",
            )
            for row in chance(items)
        ]
        show.print_table("Questions", ["kind", "needs", "items", "best constant", "from I-frames"], rows)
    done = [outcome.result for outcome in outcomes if outcome.result is not None]
    counts = (sum(record.num_new for record in done), sum(record.num_kept for record in done))
    size = show.as_bytes(sum(record.size_bytes for record in done))
    cost = f"{sum(record.cpu_seconds for record in done) / counts[0]:.3f}" if counts[0] else ""
    columns = ["folder", "new clips", "were done", "on disk", "CPU s a new clip"]
    show.finish("Rendered", columns, [(str(out), *map(str, counts), size, cost)], outcomes, as_json=as_json)


def _sample_scenes(out: Path, *, as_json: bool) -> None:
    from cope_cli.world.sample_scenes import write_sample_videos
    from cope_cli.world.samples import write_world_samples

    with show.batch_progress("render frames", 0) as progress:
        paths = write_sample_videos(out, lambda done, total: progress.update("frames", done, total))
    paths += write_world_samples(out)
    if as_json:
        show.print_json(paths)
    else:
        show.print_table("Rendered", ["file", "size"], [(str(p), show.as_bytes(p.stat().st_size)) for p in paths])
