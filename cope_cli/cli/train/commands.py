"""`cope train pretrain | finetune | check | merge`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import (
    DEFAULT_CACHE,
    DEFAULT_RUNS,
    CacheOption,
    JsonOption,
    RunsOption,
    YesOption,
    command,
    path,
    path_option,
)
from cope_cli.cli.train.check import show_measured, show_report
from cope_cli.cli.train.run import run_stage
from cope_cli.options import Dtype, Panel
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.pretrain.config import PretrainConfig

app = typer.Typer(help="Train the Delta-encoder, then the whole VideoLM.", no_args_is_help=True)

RunOption = Annotated[
    str,
    typer.Option(
        "--run", help="Name of the run, below --runs. Default: the next free number.", rich_help_panel=Panel.OUTPUT
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue an unfinished run from its newest checkpoint.", rich_help_panel=Panel.OUTPUT
    ),
]


@command(
    app,
    "pretrain",
    examples=[
        "cope train pretrain",
        "cope train pretrain --model lmms-lab/LLaVA-Video-7B-Qwen2 --recipe paper --dtype bfloat16",
        "cope train pretrain --run first --resume",
    ],
)
def pretrain(
    config: PretrainConfig,
    run: RunOption = "",
    resume: ResumeOption = False,
    yes: YesOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Stage 3: align the Delta-encoder with a frozen vision encoder, on pairs of consecutive slots."""
    from cope_cli.train.pretrain.stage import pretrain as train

    with_notes = partial(train, is_large_accepted=yes, on_note=show.note)
    run_stage("pretrain", with_notes, config, cache, runs, run, resume, json)


@command(
    app,
    "finetune",
    examples=[
        "cope train finetune --data qa.json",
        "cope train finetune --data qa.json --model lmms-lab/LLaVA-Video-7B-Qwen2 --lora 64 --dtype bfloat16",
        "cope train finetune --data recipe.yaml --keyframes 1:2,2:1,4:1 --global-batch 128",
    ],
)
def finetune(
    config: FinetuneConfig,
    run: RunOption = "",
    resume: ResumeOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Stage 4: teach the language model to answer from RGB tokens and Delta-tokens."""
    from cope_cli.train.finetune.stage import finetune as train

    run_stage("finetune", train, config, cache, runs, run, resume, json)


@command(
    app,
    "check",
    examples=[
        "cope train check --data qa.json",
        "cope train check --data qa.json --model lmms-lab/LLaVA-Video-7B-Qwen2 --out lengths.png",
        "cope train check --data qa.json --batch-size 4 --measure 10",
    ],
)
def check(
    config: FinetuneConfig,
    measure: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also run this many steps: seconds per step, memory, disk, time of the whole run. Default: none.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = 0,
    out: Annotated[
        Path | None, path_option("--out", help="Draw the token lengths into this PNG file. Default: no picture.")
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Read all data of a finetuning before it starts: list what is wrong with it and how long it is."""
    show.settings("finetune", config.to_dict())
    from cope_cli.cache.store import Cache
    from cope_cli.train.check import check_data
    from cope_cli.train.loop.plot import draw_lengths

    with show.batch_progress("check", 0) as progress:
        report = check_data(Cache(cache), config, on_progress=lambda done, total: progress.update("items", done, total))
    if out is not None:
        draw_lengths({row.keyframes: row.totals for row in report.lengths}, report.context_tokens, out)
    measured = None
    if measure and any(row.num_samples for row in report.lengths):
        from cope_cli.train.measure import measure_steps

        with show.batch_progress("measure", 0) as progress:
            measured = measure_steps(
                Cache(cache),
                config,
                runs,
                num_steps=measure,
                on_progress=lambda step, total, metrics: progress.step("measure", step, total, metrics),
                on_frames=lambda entry, done, total: progress.update(f"RGB slots of {entry}", done, total),
            )
    if json:
        show.print_json({**report.to_dict(), "measured": measured})
    else:
        show_report(report)
        if out is not None:
            show.out.print(f"histogram {out}", highlight=False, soft_wrap=True)
        if measured is not None:
            show_measured(measured)
    if report.problems:
        raise typer.Exit(1)


@command(
    app,
    "merge",
    examples=[
        "cope train merge runs/finetune-1 --out merged",
        "cope train merge runs/finetune-1 --out merged --dtype bfloat16",
    ],
)
def merge(
    run: Annotated[Path, typer.Argument(help="LoRA run, or the adapter folder in it.", parser=path, metavar="RUN")],
    out: Annotated[Path, path_option("--out", help="New folder for the model.")],
    base: Annotated[
        Path | None,
        path_option("--base", help="Folder of the base model. Default: where it was in training.", panel=Panel.MODEL),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Format of the weights. auto: float32.", rich_help_panel=Panel.MODEL)
    ] = Dtype.AUTO,
    json: JsonOption = False,
) -> None:
    """Turn a LoRA adapter and its base into a plain model."""
    from cope_cli.train.finetune.merge import merge_adapter

    result = merge_adapter(run, out, base=base, dtype=dtype)
    if json:
        show.print_json({"result": result})
    else:
        show.out.print(f"merged {run} into {result}", highlight=False, soft_wrap=True)
        show.next_step(f'cope ask VIDEO "QUESTION" --model {result}')
