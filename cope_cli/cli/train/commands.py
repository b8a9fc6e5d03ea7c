"""`cope train`: the vision tower of cope-tiny, pretrain, finetune, merge; `check` has a file of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, DEFAULT_RUNS, CacheOption, JsonOption, RunsOption
from cope_cli.cli.train import check as train_check
from cope_cli.cli.train import costs as train_costs
from cope_cli.cli.train.options import (
    AccumulateOption,
    ActivationsOption,
    BatchOption,
    BetaOption,
    Bf16Option,
    BranchesOption,
    CpuOption,
    EpochsOption,
    EvalPairsOption,
    EvalStepsOption,
    FreezeOption,
    FsdpOption,
    FusionMixOption,
    FusionOption,
    GlobalBatchOption,
    GridOption,
    HeldOutOption,
    LogOption,
    LoraOption,
    ModelOption,
    OptimizerOption,
    PresetOption,
    RateOption,
    ReadersOption,
    RecipeOption,
    ReportOption,
    ResumeOption,
    RunOption,
    SaveOption,
    ScheduleOption,
    SeedOption,
    SkipOption,
    StepsOption,
    StoreFeaturesOption,
    TimeoutOption,
    TrainVisionOption,
    WarmupOption,
    YesOption,
)
from cope_cli.cli.train.run import run_stage, say

app = typer.Typer(help="Train: align the Delta-encoder, then the whole VideoLM.", no_args_is_help=True)
app.command("check")(train_check.check)
app.command("costs")(train_costs.costs)


@app.command("vision")
def vision(
    data: Annotated[
        list[Path],
        typer.Option(
            help="Folder of `cope scenes --num N`: a world to draw pictures of, and clips to evaluate on. Repeatable.",
            file_okay=False,
        ),
    ],
    model: Annotated[
        Path | None, typer.Option(help="Run of this command to start from; fresh weights if none.")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Pictures of an epoch; the next one's are others.")] = 100_000,
    eval_frames: Annotated[int, typer.Option(help="Slots of the clips evaluated on at most.")] = 1000,
    fusion: FusionOption = 30,
    grid: GridOption = 128,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = 64,
    lr: RateOption = None,
    warmup: WarmupOption = None,
    schedule: ScheduleOption = "cosine",
    optimizer: OptimizerOption = "adamw",
    beta2: BetaOption = 0.999,
    seed: SeedOption = 0,
    save_steps: SaveOption = 500,
    log_steps: LogOption = 1,
    workers: ReadersOption = 0,
    cpu: CpuOption = False,
    skip_bad: SkipOption = 0,
    run: RunOption = "",
    resume: ResumeOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Before stage 3, for cope-tiny alone: train its vision tower, on pictures of the rendered world."""
    from cope_cli.train.config import VisionConfig

    config = VisionConfig(
        data=tuple(data),
        model=model,
        num_pictures=pictures,
        eval_frames=eval_frames,
        fusion_frames=fusion,
        grid_px=grid,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=lr,
        warmup_steps=warmup,
        schedule=schedule,
        optimizer=optimizer,
        adam_beta2=beta2,
        seed=seed,
        save_steps=save_steps,
        log_steps=log_steps,
        workers=workers,
        cpu=cpu,
        skip_bad=skip_bad,
    )
    from recipes.cope_tiny.vision import train_vision as train

    run_stage("vision", partial(train, on_note=say), config, cache, runs, run, resume, json)


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
    schedule: ScheduleOption = "cosine",
    optimizer: OptimizerOption = "adamw",
    beta2: BetaOption = 0.999,
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
        schedule=schedule,
        optimizer=optimizer,
        adam_beta2=beta2,
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
    from cope_cli.train.pretrain.stage import pretrain as train

    with_notes = partial(train, is_large_accepted=yes, on_note=say)
    run_stage("pretrain", with_notes, config, cache, runs, run, resume, json)


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
        str | None,
        typer.Option(
            help="Pretrain run, Delta-encoder folder, or fresh; if none, that of --model, or the newest pretrain run's."
        ),
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
    schedule: ScheduleOption = "cosine",
    optimizer: OptimizerOption = "adamw",
    beta2: BetaOption = 0.999,
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
        schedule=schedule,
        optimizer=optimizer,
        adam_beta2=beta2,
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
    from cope_cli.train.finetune.stage import finetune as train

    run_stage("finetune", train, config, cache, runs, run, resume, json)


@app.command("merge")
def merge(
    run: Annotated[Path, typer.Argument(help="Run of --lora, or the adapter folder in it.")],
    out: Annotated[Path, typer.Option(help="New folder for the model.", file_okay=False)],
    base: Annotated[Path | None, typer.Option(help="Where its base model is now, if it was moved.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of the weights written: fp32 or bf16.")] = "fp32",
    json: JsonOption = False,
) -> None:
    """Turn a LoRA adapter and its base into a plain model."""
    from cope_cli.train.finetune.merge import merge_adapter

    result = merge_adapter(run, out, base=base, dtype=dtype)
    if json:
        show.print_json({"result": result})
    else:
        show.out.print(f"merged {run} into {result}", highlight=False, soft_wrap=True)
