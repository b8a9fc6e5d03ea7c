"""`cope ask`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, DEFAULT_RUNS, CacheOption, JsonOption, RunsOption

if TYPE_CHECKING:
    from cope_cli.api.ask import Answer


def ask(
    video: Annotated[Path, typer.Argument(help="Video file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Annotated[
        Path | None, typer.Option(help="Model or run folder; the newest finished finetune run if none.")
    ] = None,
    keyframes: Annotated[int, typer.Option(help="K: slots per GOP shown as RGB.")] = 4,
    fusion: Annotated[int, typer.Option(help="Fusion window s; 0 takes the model's.")] = 0,
    max_gops: Annotated[int, typer.Option(help="Show longer videos by this many evenly spaced GOPs.")] = 64,
    delta: Annotated[str, typer.Option(help="Delta-tokens: on, zero (H.3), or off: P slots left out (H.4).")] = "on",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time.")] = 0.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")] = "auto",
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Answer a question about a video; stages that are missing for it are run first."""
    from cope_cli.api.ask import AskConfig, ask_video
    from cope_cli.api.models import find_model, load_model

    config = AskConfig(
        keyframes_per_gop=keyframes,
        fusion_frames=fusion,
        max_gops=max_gops,
        delta=delta,  # type: ignore[arg-type]  # checked there
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    from cope_cli.cache.store import Cache
    from cope_cli.stages.batch import default_workers

    folder = find_model(model, runs)
    show.err.print(f"model: {folder}", style="dim", highlight=False, soft_wrap=True)
    loaded = load_model(folder, device)
    with show.batch_progress("stages", 0) as progress:

        def say(text: str) -> None:
            progress.stop()
            if not json:
                typer.echo(text, nl=False)

        workers = default_workers()
        answer = ask_video(
            video, question, loaded, Cache(cache), config, workers=workers, on_stage=progress.update, on_text=say
        )
    if json:
        show.print_json({"model": str(folder), **vars(answer)})
    else:
        typer.echo()
        show.err.print(_summary(answer), style="dim", highlight=False, soft_wrap=True)


def _summary(answer: Answer) -> str:
    gops = f"{answer.num_gops_used} GOPs"
    if answer.num_gops_used < answer.num_gops_total:
        gops = f"{answer.num_gops_used} of {answer.num_gops_total} GOPs, evenly spaced,"
    return (
        f"{answer.num_visual_tokens} visual tokens ({gops} with {answer.num_rgb_slots} RGB and "
        f"{answer.num_p_slots} P slots) + {answer.num_text_tokens} text tokens -> {answer.num_new_tokens} new; "
        f"first token after {answer.ttft_seconds:.2f} s, stages {answer.stages_seconds:.2f} s, "
        f"{answer.total_seconds:.2f} s in all"
    )
