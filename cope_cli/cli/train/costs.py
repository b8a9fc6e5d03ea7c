"""`cope train costs`: what the paper's training, or a smaller one, takes of disk, GPU memory and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, JsonOption

if TYPE_CHECKING:
    from cope_cli.train.scale import ScaleReport

StageOption = Annotated[
    str, typer.Option(metavar="GPUSxBATCH:GLOBAL:STEPS", help="GPUs, samples of each, global batch, steps.")
]


def costs(
    videos: Annotated[int, typer.Option(help="Videos of the data set.")],
    seconds: Annotated[float, typer.Option(help="Their mean length.")],
    geometry: Annotated[str, typer.Option(help="Whose numbers: tiny, 0.5b, 7b or 72b.")] = "7b",
    pretrain: StageOption = "16x16:1024:113000",
    finetune: StageOption = "64x1:128:10900",
    keyframes: Annotated[int, typer.Option(help="K, of finetuning.")] = 4,
    fusion: Annotated[int, typer.Option(help="Fusion window s.")] = 30,
    grid: Annotated[int, typer.Option(help="Grid side.")] = 224,
    text_tokens: Annotated[int, typer.Option(help="Text of a sample: prompt, question, answer.")] = 300,
    answer_tokens: Annotated[int, typer.Option(help="Of these, learned.")] = 60,
    lora: Annotated[int, typer.Option(min=1, help="Rank of the adapters in the rows with LoRA.")] = 64,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="What one GPU reaches in training, 10^12 operations a second.")
    ] = None,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Compute what both training stages cost at a scale; the paper's by default. Sizes on disk are this cache's."""
    from cope_cli.cache.store import Cache
    from cope_cli.train.scale import Scale, StageScale, scale_report

    scale = Scale(
        geometry=geometry,
        num_videos=videos,
        video_seconds=seconds,
        fusion_frames=fusion,
        grid_px=grid,
        keyframes=keyframes,
        num_text_tokens=text_tokens,
        num_answer_tokens=answer_tokens,
        pretrain=StageScale.parse("--pretrain", pretrain),
        finetune=StageScale.parse("--finetune", finetune),
        lora=lora,
        tflops=tflops,
    )
    report = scale_report(scale, Cache(cache))
    if json:
        show.print_json(report.to_dict())
    else:
        _show(report)


def _show(report: ScaleReport) -> None:
    scale, sample = report.scale, report.sample
    show.print_table(
        f"Disk for {scale.num_videos:,} videos of {scale.video_seconds:g} s, s = {scale.fusion_frames}, "
        f"grid {scale.grid_px}",
        ["", "read by", "per video", "each", "all", ""],
        [
            (
                row.part,
                row.needed_by,
                f"{row.num:g} {row.unit}s",
                show.as_bytes(row.unit_bytes),
                show.as_bytes(row.total_bytes),
                "mean of this cache" if row.is_measured else "before compression",
            )
            for row in report.disk
        ],
    )
    times = scale.tflops is not None
    columns = ["stage", "how", "GPUs", "micro-batches", "memory of one", "of it fixed", "TFLOP a step"]
    show.print_table(
        f"{scale.geometry}, computed, not measured; a sample is {sample.num_rgb} RGB and {sample.num_p} P slots, "
        f"{sample.num_tokens:,} tokens",
        [*columns, *(["s a step", "hours", "GPU hours"] if times else [])],
        [
            (
                row.stage,
                row.how,
                str(row.num_devices),
                str(row.accumulate),
                show.as_bytes(row.memory_bytes),
                show.as_bytes(row.fixed_bytes),
                f"{row.step_flops / 1e12:,.0f}",
                *(f"{value:,.1f}" for value in (row.step_seconds, row.hours, row.device_hours) if value is not None),
            )
            for row in report.stages
        ],
    )
    if not times:
        show.out.print("times: name a GPU's speed with --tflops", highlight=False)
