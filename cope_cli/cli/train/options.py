"""Options that the training commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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
WarmupOption = Annotated[int | None, typer.Option("--warmup", help="Steps of linear rise at the start.")]
ScheduleOption = Annotated[
    str, typer.Option(help="Of the rate after that: cosine or linear, down to 0, or constant, for a run to go on from.")
]
OptimizerOption = Annotated[
    str, typer.Option(help="adamw, or muon for hidden matrices: fewer steps for a small model from nothing.")
]
BetaOption = Annotated[
    float, typer.Option("--beta2", help="AdamW's memory of squared gradients; 0.95 to 0.98 suits short runs.")
]
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
