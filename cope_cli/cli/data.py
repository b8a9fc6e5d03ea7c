"""`cope encode`, `cope extract`, `cope scenes`: the data stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, ForceOption, JsonOption, WorkersOption
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig, parse_fusion
from cope_cli.errors import UsageError

if TYPE_CHECKING:
    from cope_cli.stages.batch import Outcome
    from cope_cli.world.write import WrittenRecord


def encode(
    paths: Annotated[list[Path], typer.Argument(help="Videos, and folders that are searched for them.")],
    fps: Annotated[int, typer.Option(help="Constant frame rate, frames per second.")] = 30,
    gop: Annotated[int, typer.Option(help="Frames from one I-frame to the next.")] = 240,
    short_side: Annotated[int, typer.Option(help="Scale the shorter side down to this many pixels; 0 keeps it.")] = 384,
    quality: Annotated[int, typer.Option(help="Constant quantiser, 2 (best) to 31 (smallest).")] = 4,
    stream: Annotated[int, typer.Option(help="Which video stream of the file, from 0.")] = 0,
    workers: WorkersOption = 0,
    cache: CacheOption = DEFAULT_CACHE,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Stage 1: re-encode videos to MPEG-4 Part 2 with I- and P-frames at a constant rate."""
    config = EncodeConfig(fps=fps, gop_frames=gop, short_side_px=short_side, quality=quality, stream=stream)
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
    show.finish("Encoded", ["entry", "size", "frames", "length", "on disk", ""], rows, outcomes, as_json=json)


def extract(
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            help="Encoded videos by name or source path; all of the cache if none. With --direct: files and folders."
        ),
    ] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Read vectors from the files' own streams: no `cope encode` before.")
    ] = False,
    fusion: Annotated[
        str,
        typer.Option(
            help="Fusion window s: P-frames fused into one slot, with --direct in 1/30 s; or auto: until as much has "
            "happened as in 30 average frames, auto:N in N."
        ),
    ] = "30",
    grid: Annotated[int, typer.Option(help="Side of the grid that motion and residual are stored on.")] = 224,
    keep_tail: Annotated[
        bool, typer.Option("--keep-tail", help="Make the last frame a slot too, of a shorter window.")
    ] = False,
    store_frames: Annotated[
        str, typer.Option(help="RGB slots to store: those of K keyframes per GOP, all, or none.")
    ] = "4",
    frame_size: Annotated[int, typer.Option(help="Their side in pixels: the vision encoder's input size.")] = 384,
    stream: Annotated[int, typer.Option(help="With --direct: which video stream of the file, from 0.")] = 0,
    workers: WorkersOption = 0,
    cache: CacheOption = DEFAULT_CACHE,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Stage 2: fuse motion vectors and residuals of encoded videos, slot by slot; or of any file, with --direct."""
    frames_fused, adaptive = parse_fusion(fusion)
    config = ExtractConfig(fusion_frames=frames_fused, grid_px=grid, keep_tail=keep_tail, adaptive=adaptive)
    if direct and not videos:
        raise UsageError("--direct: name the videos, or folders that are searched for them")
    from cope_cli.stages.direct import extract_direct_batch
    from cope_cli.stages.extract import extract_batch
    from cope_cli.stages.frames import FramesRequest

    frames = FramesRequest.parse(store_frames, frame_size)
    if direct:
        paths, way = [Path(video) for video in videos or []], DirectConfig(extract=config, stream=stream)
        batch = extract_direct_batch(paths, cache, way, frames=frames, workers=workers, force=force)
    else:
        batch = extract_batch(videos or [], cache, config, frames=frames, workers=workers, force=force)
    outcomes = show.run_batch("extract", batch)
    rows = [
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
    columns = ["entry", "way", "slots", "I-frame slots", "on disk", "RGB slots added", ""]
    show.finish("Extracted", columns, rows, outcomes, as_json=json)


def scenes(
    out: Annotated[Path, typer.Option(help="Folder for the clips and the questions.", file_okay=False)],
    num: Annotated[int | None, typer.Option(help="Render so many clips of the small world.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Decides every clip and question, together with --split.")] = 0,
    split: Annotated[str, typer.Option(help="train, val or test: clips of one are never in another.")] = "train",
    objects: Annotated[str, typer.Option(help="Things at the start of a clip: 1, or 1-4.")] = "1-4",
    two_gops: Annotated[float, typer.Option(help="Share of clips of two GOPs: 16 seconds instead of 8.")] = 0.1,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 128,
    twins: Annotated[
        int, typer.Option(help="Clips of each group of four twins; fewer show more different pictures.")
    ] = 4,
    rounds: Annotated[int, typer.Option(help="How often questions are drawn for each group of twins.")] = 1,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Draw the first clips slot by slot, with questions: a PNG.", dir_okay=False),
    ] = None,
    workers: WorkersOption = 0,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Render clips of a small world with questions and exact answers; without --num, the sample clips again."""
    if num is None:
        _sample_scenes(out, as_json=json)
        return
    from cope_cli.world.groups import WorldConfig
    from cope_cli.world.write import draw_world, world_batch

    config = WorldConfig(seed=seed, split=split, size_px=size, objects=objects, two_gops=two_gops)
    clips, items = draw_world(config, num, rounds=rounds, twins=twins)
    if sheet:
        from cope_cli.world.sheet import NUM_ON_SHEET, write_sheet

        write_sheet(sheet, clips[:NUM_ON_SHEET], items)
    batch = world_batch(config, clips, items, out, workers=workers, force=force)
    _show_world(out, show.run_batch("render clips", batch), items, as_json=json)


def _show_world(
    out: Path, outcomes: list[Outcome[WrittenRecord]], items: list[dict[str, Any]], *, as_json: bool
) -> None:
    """Print what was written, and for each kind of question what one gets right without seeing anything move."""
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
    from cope_cli.stages.samples import write_sample_videos
    from cope_cli.world.samples import write_world_samples

    with show.batch_progress("render frames", 0) as progress:
        paths = write_sample_videos(out, lambda done, total: progress.update("frames", done, total))
    paths += write_world_samples(out)
    if as_json:
        show.print_json(paths)
    else:
        show.print_table("Rendered", ["file", "size"], [(str(p), show.as_bytes(p.stat().st_size)) for p in paths])
