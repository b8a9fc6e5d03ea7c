"""`cope train pretrain` and `cope train finetune`; `check` has a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cope_cli.cli import show, train_check
from cope_cli.cli.options import DEFAULT_CACHE, DEFAULT_RUNS, CacheOption, JsonOption, RunsOption

if TYPE_CHECKING:
    from cope_cli.train.config import TrainConfig
    from cope_cli.train.runs import RunFolder

app = typer.Typer(help="Train: align the Delta-encoder, then the whole VideoLM.", no_args_is_help=True)
app.command("check")(train_check.check)

ModelOption = Annotated[Path | None, typer.Option(help="Model folder or Hub id; the small seeded model if none.")]
RunOption = Annotated[str, typer.Option("--run", help="Name of the run below --runs; pretrain-1, ... if none.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run, exactly where it was.")]
FusionOption = Annotated[int, typer.Option(help="Fusion window s of the primitives to train on.")]
GridOption = Annotated[int, typer.Option(help="Their grid.")]
StepsOption = Annotated[int | None, typer.Option(help="Optimiser steps; --epochs decides if none.")]
EpochsOption = Annotated[
    float | None, typer.Option(help="Passes over the data; 1, or a number that suits the small model.")
]
BatchOption = Annotated[int, typer.Option(help="Samples per device and micro-batch.")]
AccumulateOption = Annotated[int, typer.Option(help="Micro-batches per optimiser step.")]
GlobalBatchOption = Annotated[
    int | None, typer.Option(help="Samples per optimiser step over all ranks; accumulation follows from it.")
]
RateOption = Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")]
WarmupOption = Annotated[int | None, typer.Option("--warmup", help="Steps of linear rise before the cosine.")]
SeedOption = Annotated[int, typer.Option(help="Of fresh weights and of the order of samples.")]
SaveOption = Annotated[int, typer.Option(help="Steps between checkpoints.")]
LogOption = Annotated[int, typer.Option(help="Steps between lines of metrics.jsonl.")]
ReadersOption = Annotated[int, typer.Option("--workers", help="Processes that read samples; 0 reads in this one.")]
Bf16Option = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")]
CpuOption = Annotated[bool, typer.Option("--cpu", help="Use no GPU.")]
FsdpOption = Annotated[bool, typer.Option("--fsdp", help="Shard the model over the ranks' GPUs (FSDP2).")]
ActivationsOption = Annotated[
    bool, typer.Option("--activation-checkpointing", help="Less memory: activations are computed twice.")
]
ReportOption = Annotated[str, typer.Option(help="tensorboard, wandb or none, beside metrics.jsonl.")]
SkipOption = Annotated[
    int,
    typer.Option("--skip-bad", help="Leave out, by name, up to this many unreadable samples; 0 stops at one."),
]
TimeoutOption = Annotated[
    float, typer.Option("--rank-timeout", help="Minutes that a rank waits for others, such as one that adds frames.")
]
PresetOption = Annotated[str | None, typer.Option(help="Preset of a fresh Delta-encoder: paper, wide, small or tiny.")]
BranchesOption = Annotated[
    Any, typer.Option(help="Branches of a fresh Delta-encoder: both, motion or residual.", parser=str, metavar="TEXT")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(help="Defaults of rate, warm-up, steps and batch: paper or small; by the model if none."),
]
FusionMixOption = Annotated[
    str | None, typer.Option(help="Several windows in equal parts, as in 10,15,30, instead of --fusion.")
]
HeldOutOption = Annotated[float, typer.Option(help="Share of the videos kept for evaluation; 0 trains on all.")]
EvalStepsOption = Annotated[int, typer.Option(help="Steps between evaluations on held-out videos.")]
EvalPairsOption = Annotated[int, typer.Option(help="Held-out pairs of each window evaluated at most.")]
StoreFeaturesOption = Annotated[
    bool, typer.Option("--store-features", help="Keep vision tokens in the cache: 1.7 MB a slot for SigLIP so400m.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Store them even if they take more than 10 GB.")]

FreezeOption = Annotated[
    list[str] | None,
    typer.Option("--freeze", help="Part that does not learn, repeatable: llm, projector or delta-encoder."),
]
LoraOption = Annotated[
    int | None, typer.Option(help="Rank of LoRA adapters that learn in place of the language model.")
]
TrainVisionOption = Annotated[bool, typer.Option("--train-vision", help="Train the vision tower too, at --vision-lr.")]


@app.command("pretrain")
def pretrain(
    model: ModelOption = None,
    recipe: RecipeOption = None,
    delta_preset: PresetOption = None,
    delta_branches: BranchesOption = "both",
    fusion: FusionOption = 30,
    fusion_mix: FusionMixOption = None,
    grid: GridOption = 224,
    held_out: HeldOutOption = 0.1,
    eval_steps: EvalStepsOption = 500,
    eval_pairs: EvalPairsOption = 1000,
    store_features: StoreFeaturesOption = False,
    yes: YesOption = False,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = 16,
    accumulate: AccumulateOption = 1,
    global_batch: GlobalBatchOption = None,
    lr: RateOption = None,
    warmup: WarmupOption = None,
    seed: SeedOption = 0,
    save_steps: SaveOption = 500,
    log_steps: LogOption = 1,
    workers: ReadersOption = 0,
    bf16: Bf16Option = False,
    cpu: CpuOption = False,
    fsdp: FsdpOption = False,
    activation_checkpointing: ActivationsOption = False,
    report_to: ReportOption = "none",
    skip_bad: SkipOption = 0,
    rank_timeout: TimeoutOption = 60.0,
    run: RunOption = "",
    resume: ResumeOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Stage 3: align the Delta-encoder with a frozen vision encoder, on neighbouring slots of all videos."""
    from cope_cli.train.config import PretrainConfig, parse_windows

    config = PretrainConfig(
        model=model,
        recipe=recipe,
        delta_preset=delta_preset,
        delta_branches=delta_branches,
        fusion_frames=fusion,
        fusion_mix=parse_windows(fusion_mix),
        held_out=held_out,
        eval_steps=eval_steps,
        eval_pairs=eval_pairs,
        store_features=store_features,
        grid_px=grid,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        global_batch=global_batch,
        learning_rate=lr,
        warmup_steps=warmup,
        seed=seed,
        save_steps=save_steps,
        log_steps=log_steps,
        workers=workers,
        bf16=bf16,
        cpu=cpu,
        fsdp=fsdp,
        activation_checkpointing=activation_checkpointing,
        report_to=report_to,
        skip_bad=skip_bad,
        rank_timeout_minutes=rank_timeout,
    )
    from cope_cli.train.pretrain import pretrain as train

    with_notes = partial(train, is_large_accepted=yes, on_note=_say)
    _train("pretrain", with_notes, config, cache, runs, run, resume, json)


@app.command("finetune")
def finetune(
    data: Annotated[
        Path,
        typer.Option(
            help="Items of LLaVA-Video-178K as JSON or JSON lines, or a YAML recipe of several files.", dir_okay=False
        ),
    ],
    video_root: Annotated[
        Path | None, typer.Option(help="Folder the items' paths are relative to; if none, ends of paths are compared.")
    ] = None,
    model: ModelOption = None,
    delta_encoder: Annotated[
        str | None, typer.Option(help="Pretrain run, Delta-encoder folder, or fresh; the newest pretrain run if none.")
    ] = None,
    delta_preset: PresetOption = None,
    delta_branches: BranchesOption = "both",
    keyframes: Annotated[
        str, typer.Option(help="K: slots per GOP shown as RGB; or several with weights, drawn per sample: 1:2,2:1,4:1.")
    ] = "4",
    max_gops: Annotated[int, typer.Option(help="Show longer videos by this many evenly spaced GOPs.")] = 64,
    frozen: FreezeOption = None,
    lora: LoraOption = None,
    lora_alpha: Annotated[
        int | None, typer.Option(help="LoRA's scale is alpha / rank; twice the rank if none.")
    ] = None,
    train_vision: TrainVisionOption = False,
    vision_lr: Annotated[float, typer.Option(help="Peak learning rate of the vision tower.")] = 2e-6,
    pack: Annotated[
        int, typer.Option(help="Up to this many items of a video share its visual tokens in one sequence.")
    ] = 1,
    delta: Annotated[str, typer.Option(help="on; off trains on RGB slots alone, a control.")] = "on",
    group_by_length: Annotated[
        bool, typer.Option("--group-by-length", help="Make batches of items of similar length.")
    ] = False,
    fusion: FusionOption = 30,
    grid: GridOption = 224,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = 8,
    accumulate: AccumulateOption = 1,
    global_batch: GlobalBatchOption = None,
    lr: RateOption = None,
    warmup: WarmupOption = None,
    seed: SeedOption = 0,
    save_steps: SaveOption = 500,
    log_steps: LogOption = 1,
    workers: ReadersOption = 0,
    bf16: Bf16Option = False,
    cpu: CpuOption = False,
    fsdp: FsdpOption = False,
    activation_checkpointing: ActivationsOption = False,
    report_to: ReportOption = "none",
    skip_bad: SkipOption = 0,
    rank_timeout: TimeoutOption = 60.0,
    run: RunOption = "",
    resume: ResumeOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Stage 4: teach the language model to answer from RGB tokens and Delta-tokens."""
    from cope_cli.train.config import FinetuneConfig

    config = FinetuneConfig(
        data=data,
        video_root=video_root,
        model=model,
        delta_encoder=delta_encoder,
        delta_preset=delta_preset,
        delta_branches=delta_branches,
        keyframes=keyframes,
        max_gops=max_gops,
        freeze=tuple(frozen or ()),
        lora=lora,
        lora_alpha=lora_alpha,
        train_vision=train_vision,
        group_by_length=group_by_length,
        pack=pack,
        delta=delta,
        vision_learning_rate=vision_lr,
        fusion_frames=fusion,
        grid_px=grid,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        global_batch=global_batch,
        learning_rate=lr,
        warmup_steps=warmup,
        seed=seed,
        save_steps=save_steps,
        log_steps=log_steps,
        workers=workers,
        bf16=bf16,
        cpu=cpu,
        fsdp=fsdp,
        activation_checkpointing=activation_checkpointing,
        report_to=report_to,
        skip_bad=skip_bad,
        rank_timeout_minutes=rank_timeout,
    )
    from cope_cli.train.finetune import finetune as train

    _train("finetune", train, config, cache, runs, run, resume, json)


@app.command("merge")
def merge(
    run: Annotated[Path, typer.Argument(help="Run of --lora, or the adapter folder in it.")],
    out: Annotated[Path, typer.Option(help="New folder for the model.", file_okay=False)],
    base: Annotated[Path | None, typer.Option(help="Where its base model is now, if it was moved.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of the weights written: fp32 or bf16.")] = "fp32",
    json: JsonOption = False,
) -> None:
    """Turn a LoRA adapter and its base into a plain model."""
    from cope_cli.train.merge import merge_adapter

    result = merge_adapter(run, out, base=base, dtype=dtype)
    if json:
        show.print_json({"result": result})
    else:
        show.out.print(f"merged {run} into {result}", highlight=False, soft_wrap=True)


def _train(
    kind: Any,
    train: Callable[..., Path],
    config: TrainConfig,
    cache: Path,
    runs: Path,
    run: str,
    resume: bool,
    json: bool,
) -> None:
    """Run a training stage under a progress bar and say what came of it, all of it on rank 0."""
    from cope_cli.cache.store import Cache
    from cope_cli.train.ranks import join_ranks, leave_ranks
    from cope_cli.train.runs import RunFolder, next_run_name

    ranks = join_ranks(cpu=config.cpu, timeout_minutes=config.rank_timeout_minutes)
    name = ranks.from_main(lambda: run or next_run_name(runs, kind), "while the run gets its name")
    folder = runs / name
    with show.batch_progress(kind, 0, is_shown=ranks.is_main) as progress:
        result = train(
            Cache(cache),
            config,
            folder,
            resume=resume,
            on_begin=_say_what_is_trained,
            on_progress=lambda step, total, metrics: progress.step(kind, step, total, metrics),
            on_frames=lambda entry, done, total: progress.update(f"RGB slots of {entry}", done, total),
        )
    leave_ranks()
    if not ranks.is_main:
        return
    records = RunFolder(folder, kind)
    metrics, skipped, shortened = records.metrics(), records.skipped(), records.shortened()
    if json:
        last = metrics[-1] if metrics else None
        found = {"run": folder, "result": result, "last": last, "skipped": skipped, "shortened": shortened}
        show.print_json(found | _held_out(records))
        return
    _show_losses(folder, metrics)
    _show_split(metrics)
    if verdict := _held_out(records).get("verdict"):
        show.out.print(f"  held-out videos: {verdict}", highlight=False, soft_wrap=True)
    show.out.print(f"  result {result}; curve {folder / 'loss.png'}", highlight=False, soft_wrap=True)
    if skipped:
        show.out.print(f"  {len(skipped)} samples left out: {folder / 'skipped.jsonl'}", style="yellow")
    if shortened:
        text = (
            f"  {len(shortened)} samples show fewer GOPs than asked for, to fit the context: {records.shortened_file}"
        )
        show.out.print(text, style="yellow", soft_wrap=True)


def _say(text: str) -> None:
    show.err.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _say_what_is_trained(record: Mapping[str, Any]) -> None:
    show.err.print(record["batch"], style="dim", highlight=False, soft_wrap=True)
    show.err.print(f"base: {record['base_model']}", style="dim", highlight=False, soft_wrap=True)
    show.err.print(f"Delta-encoder: {record['delta_encoder']}", style="dim", highlight=False, soft_wrap=True)


def _show_losses(folder: Path, metrics: Sequence[Mapping[str, float]]) -> None:
    """Print the loss over the first and the last tenth of a run; for pretrain that of copying the slot before too."""
    count = max(1, len(metrics) // 10)

    def mean(name: str, lines: Sequence[Mapping[str, float]]) -> float:
        return sum(line[name] for line in lines) / len(lines)

    text = f"{folder}: loss {mean('loss', metrics[:count]):.3f} -> {mean('loss', metrics[-count:]):.3f}"
    if "copy_loss" in metrics[-1]:
        text += f", where copying the slot before gives {mean('copy_loss', metrics[-count:]):.3f}"
    show.out.print(f"{text} (means of {count} of {len(metrics)} logged steps)", highlight=False, soft_wrap=True)


def _held_out(run: RunFolder) -> dict[str, Any]:
    """Return what a run's evaluations came to, for pretrain."""
    evaluations = run.evaluations()
    config = run.config()
    return {"evaluations": evaluations, "verdict": config.get("verdict")} if evaluations else {}


def _show_split(metrics: Sequence[Mapping[str, float]]) -> None:
    """Print where the time of a step went, if that was measured; the first logged step warms up and is left out."""
    counted = metrics[1:] or metrics
    names = [name for name in counted[-1] if name.endswith("_seconds")]
    if names:
        means = {name: sum(line[name] for line in counted) / len(counted) for name in names}
        parts = ", ".join(
            f"{name.removesuffix('_seconds').replace('_', '-')} {value:.3f}" for name, value in means.items()
        )
        show.out.print(f"  a step in seconds: {parts}", highlight=False, soft_wrap=True)
