"""`cope train check`: what is wrong with the training data, and what training on it will cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, CacheOption, JsonOption

if TYPE_CHECKING:
    from cope_cli.train.check import CheckReport, StepCost

_MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "AdamW's averages",
    "bf16_copies": "weights in bfloat16",
    "language": "language model",
    "mask": "attention masks",
    "logits": "logits",
    "vision": "vision tower",
    "projector": "projector",
    "delta_encoder": "Delta-encoder",
}


def check(
    data: Annotated[Path, typer.Option(help="Items or recipe, as `finetune` takes them.", dir_okay=False)],
    video_root: Annotated[Path | None, typer.Option(help="Folder the items' paths are relative to.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder or Hub id; the small seeded model if none.")] = None,
    delta_preset: Annotated[str | None, typer.Option(help="Delta-encoder of a model that has none.")] = None,
    keyframes: Annotated[str, typer.Option(help="K, or several with weights: 1:2,2:1,4:1.")] = "4",
    max_gops: Annotated[int, typer.Option(help="Show longer videos by this many evenly spaced GOPs.")] = 64,
    fusion: Annotated[int, typer.Option(help="Fusion window s of the primitives.")] = 30,
    grid: Annotated[int, typer.Option(help="Their grid.")] = 224,
    freeze: Annotated[list[str] | None, typer.Option(help="Part that does not learn, repeatable.")] = None,
    lora: Annotated[int | None, typer.Option(help="Count with LoRA adapters of this rank.")] = None,
    train_vision: Annotated[bool, typer.Option("--train-vision", help="Count with a trained vision tower.")] = False,
    batch_size: Annotated[int, typer.Option(help="Samples per device and micro-batch.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Micro-batches per optimiser step.")] = 1,
    bf16: Annotated[bool, typer.Option("--bf16", help="Count with bfloat16.")] = False,
    seed: Annotated[int, typer.Option(help="Decides what a recipe draws.")] = 0,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="What one device reaches in training, 10^12 operations a second.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="PNG to draw the token lengths into.", dir_okay=False)] = None,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Read all training data beforehand: what is wrong with it, how long it is, what a step costs."""
    from cope_cli.cache.store import Cache
    from cope_cli.train.check import check_data
    from cope_cli.train.config import FinetuneConfig
    from cope_cli.train.loop.plot import draw_lengths

    config = FinetuneConfig(
        data=data,
        video_root=video_root,
        model=model,
        delta_preset=delta_preset,
        keyframes=keyframes,
        max_gops=max_gops,
        fusion_frames=fusion,
        grid_px=grid,
        freeze=tuple(freeze or ()),
        lora=lora,
        train_vision=train_vision,
        batch_size=batch_size,
        accumulate=accumulate,
        bf16=bf16,
        seed=seed,
    )
    with show.batch_progress("check", 0) as progress:
        report = check_data(
            Cache(cache), config, tflops=tflops, on_progress=lambda done, total: progress.update("items", done, total)
        )
    if out is not None:
        draw_lengths({row.keyframes: row.totals for row in report.lengths}, report.context_tokens, out)
    if json:
        show.print_json(report.to_dict())
    else:
        _show(report)
        if out is not None:
            show.out.print(f"histogram {out}", highlight=False, soft_wrap=True)
    if report.problems:
        raise typer.Exit(1)


def _show(report: CheckReport) -> None:
    files = [(str(f.path), f.sampling, str(f.num_items), str(f.num_taken)) for f in report.files]
    show.print_table("Data", ["file", "taken", "items", "of them"], files)
    rows = []
    for row in report.lengths:
        spreads = (row.visual, row.text, row.total)
        numbers = [f"{spread.min} / {spread.median} / {spread.p95} / {spread.max}" for spread in spreads]
        counts = [str(count) for count in (row.num_samples, row.num_shortened, row.num_refused)]
        rows.append([f"{row.keyframes} ({100 * row.share:.0f} %)", *numbers, *counts])
    columns = ["keyframes", "visual tokens", "text", "total", "samples", "shortened", "refused"]
    show.print_table(f"Lengths: min / median / p95 / max; the context is {report.context_tokens}", columns, rows)
    if report.num_frames_missing:
        size = show.as_bytes(report.frames_missing_bytes)
        text = f"{report.num_frames_missing} RGB slots will be added to the cache first, {size} before compression"
        show.out.print(text, highlight=False, soft_wrap=True)
    if report.cost is not None:
        _show_cost(report.cost, report.delta_encoder)
    kinds: dict[str, list[Any]] = {}
    for problem in report.problems:
        kinds.setdefault(problem.kind, []).append(problem)
    for kind, problems in kinds.items():
        show.err.print(f"{kind}: {len(problems)}", style="bold red")
        for problem in problems:
            prefix = "" if problem.message.startswith(problem.where) else f"{problem.where}: "
            show.err.print(f"  {prefix}{problem.message}", style="red", markup=False, highlight=False, soft_wrap=True)
        show.err.print(f"    -> {problems[0].hint}", markup=False, highlight=False, soft_wrap=True)


def _show_cost(cost: StepCost, delta_encoder: str) -> None:
    memory = cost.memory
    rows = [(label, show.as_bytes(getattr(memory, name))) for name, label in _MEMORY.items() if getattr(memory, name)]
    rows.append(("all", show.as_bytes(memory.total)))
    rows.append(("all, language model checkpointed", show.as_bytes(memory.total_checkpointed)))
    longest = f"computed, not measured; micro-batch of the longest sample, {cost.longest.num_tokens} tokens"
    show.print_table(f"Memory of one unsharded device ({longest})", ["", "size"], rows)
    speed = "time: name a speed with --tflops"
    if cost.seconds is not None:
        hours = cost.seconds * cost.num_steps / 3600
        speed = f"{cost.seconds:.2f} s a step on one device, {hours:.1f} h for {cost.num_steps} steps"
    text = (
        f"{cost.num_trained:,} of {cost.num_parameters:,} parameters learn (Delta-encoder: {delta_encoder}); "
        f"{cost.flops / 1e12:.2f} * 10^12 operations a step; {speed}"
    )
    show.out.print(text, highlight=False, soft_wrap=True)
