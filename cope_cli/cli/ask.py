"""`cope ask`: one question, a conversation, or a file of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, DEFAULT_RUNS, CacheOption, JsonOption, RunsOption
from cope_cli.config import parse_fusion
from cope_cli.errors import UsageError
from cope_cli.model.quick_imports import quick_imports

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from cope_cli.ask.conversation import Answer
    from cope_cli.ask.settings import AskConfig
    from cope_cli.model.checkpoint.folders import LoadedVideoLM

VideoArgument = Annotated[Path | None, typer.Argument(help="Video file.")]
QuestionArgument = Annotated[str | None, typer.Argument(help="What to ask about it.")]
ModelOption = Annotated[
    str | None, typer.Option(help="Model or run folder, or a Hub id; the newest finished finetune run if none.")
]
DeltaEncoderOption = Annotated[
    str | None, typer.Option(help="Pretrain run or folder with a Delta-encoder for a model that has none.")
]
DeltaOption = Annotated[str, typer.Option(help="Delta-tokens: on, zero (H.3), or off: P slots left out (H.4).")]
DirectOption = Annotated[
    bool | None,
    typer.Option("--direct/--reencode", help="How videos are read; if neither, directly where the model allows it."),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
DtypeOption = Annotated[
    str, typer.Option(help="Type of the weights: auto (the checkpoint's), float32, bfloat16, float16.")
]
DeviceMapOption = Annotated[
    str | None, typer.Option(help="Spread the model over several GPUs: auto, balanced or sequential.")
]
AttentionOption = Annotated[str, typer.Option(help="sdpa, eager, or flash_attention_2 where it is installed.")]


def ask(
    video: VideoArgument = None,
    question: QuestionArgument = None,
    chat: Annotated[bool, typer.Option("--chat", help="Go on asking; later questions reuse the KV cache.")] = False,
    questions: Annotated[
        Path | None, typer.Option(help="Answer a file of questions, JSON or JSON lines.", dir_okay=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where its answers go, JSON lines; beside it if none. A rerun goes on.")
    ] = None,
    video_root: Annotated[
        Path | None, typer.Option(help="Folder its videos are relative to; the file's own if none.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions of the file at a time.")] = 4,
    model: ModelOption = None,
    delta_encoder: DeltaEncoderOption = None,
    keyframes: Annotated[int, typer.Option(help="K: slots per GOP shown as RGB; 0 takes the model's, or 4.")] = 0,
    fusion: Annotated[str, typer.Option(help="Fusion window s; 0 takes the model's; or auto, as in extract.")] = "0",
    max_gops: Annotated[int, typer.Option(help="Show longer videos by this many evenly spaced GOPs.")] = 64,
    delta: DeltaOption = "on",
    direct: DirectOption = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time.")] = 0.0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
    attention: AttentionOption = "sdpa",
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Answer a question about a video; stages that are missing for it are run first."""
    _check_what_is_asked(video, question, chat, questions)
    from cope_cli.ask.settings import AskConfig, find_model

    fusion_frames, adaptive = parse_fusion(fusion)
    config = AskConfig(
        keyframes_per_gop=keyframes,
        fusion_frames=fusion_frames,
        adaptive=adaptive,
        max_gops=max_gops,
        delta=delta,  # type: ignore[arg-type]  # checked there
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        way="auto" if direct is None else "direct" if direct else "reencode",
    )
    folder = find_model(model, runs)
    _note(f"model: {folder}")
    ahead = None if video is None else _begin_stages(video, folder, cache, config)
    with quick_imports():
        from cope_cli.ask.models import load_model
        from cope_cli.ask.shown import notes

        loaded = load_model(
            folder,
            device,
            dtype=dtype,
            device_map=device_map,
            attention=attention,
            delta_encoder=delta_encoder,
            runs_root=runs,
        )
    for note in notes(loaded, config):
        _note(note)
    if ahead is not None:
        ahead.join()
    if questions is not None:
        _answer_file(questions, out, video_root, batch_size, loaded, cache, config, json)
    elif chat:
        from cope_cli.cli.chat import Chat

        Chat(loaded, cache, config, as_json=json).run(video, question)
    elif video is not None and question is not None:
        _answer_one(video, question, loaded, cache, config, json)


def _begin_stages(video: Path, folder: Path, cache: Path, config: AskConfig) -> BaseProcess | None:
    """Let the stages run while PyTorch is imported and the model is read, which takes longer for most videos."""
    from cope_cli.ask.settings import preparation_ahead
    from cope_cli.stages.prepare import prepare_ahead

    needed = preparation_ahead(folder, config)
    return None if needed is None or not video.is_file() else prepare_ahead(video, cache, needed)


def _check_what_is_asked(video: Path | None, question: str | None, chat: bool, questions: Path | None) -> None:
    """Refuse too little and too much."""
    if questions is not None and (chat or video is not None):
        raise UsageError("--questions FILE names the videos and the questions: leave out VIDEO, QUESTION and --chat")
    if questions is None and not chat and (video is None or question is None):
        raise UsageError("expected VIDEO and QUESTION, or --chat, or --questions FILE")


def _note(text: str) -> None:
    show.err.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _answer_one(
    video: Path, question: str, loaded: LoadedVideoLM, cache: Path, config: AskConfig, as_json: bool
) -> None:
    from cope_cli.ask.question import ask_video
    from cope_cli.cache.store import Cache
    from cope_cli.stages.batch import default_workers

    with show.batch_progress("stages", 0) as progress:

        def say(text: str) -> None:
            progress.stop()
            if not as_json:
                typer.echo(text, nl=False)

        workers = default_workers()
        answer = ask_video(
            video, question, loaded, Cache(cache), config, workers=workers, on_stage=progress.update, on_text=say
        )
    if as_json:
        show.print_json({"model": str(loaded.folder), **vars(answer)})
    else:
        typer.echo()
        _note(summary(answer))


def _answer_file(
    questions: Path,
    out: Path | None,
    video_root: Path | None,
    batch_size: int,
    loaded: LoadedVideoLM,
    cache: Path,
    config: AskConfig,
    as_json: bool,
) -> None:
    from cope_cli.ask.questions import answer_questions
    from cope_cli.cache.store import Cache

    with show.batch_progress("questions", 0) as progress:
        record = answer_questions(
            questions,
            out or questions.with_suffix(".answers.jsonl"),
            loaded,
            Cache(cache),
            config,
            video_root=video_root,
            batch_size=batch_size,
            on_stage=progress.update,
            on_answers=lambda done, total: progress.update("questions", done, total),
        )
    if as_json:
        show.print_json(record)
    else:
        show.out.print(
            f"{record.out}: {record.num_answered} answered now, {record.num_known} before, "
            f"{len(record.errors)} failed, of {record.num_questions}",
            highlight=False,
            soft_wrap=True,
        )
        num_answers = record.num_answered + record.num_known
        show.out.print(
            f"  videos read directly for {record.num_direct}, re-encoded for {num_answers - record.num_direct}"
        )
        if record.num_expected:
            share = 100 * record.num_equal / record.num_expected
            equal = f"{record.num_equal} of {record.num_expected} ({share:.1f} %)"
            show.out.print(f"  equal to the expected answer: {equal}", highlight=False)
    show.fail_with(record.errors)


def summary(answer: Answer) -> str:
    """Return what an answer took, in a line."""
    gops = f"{answer.num_gops_used} GOPs"
    if answer.num_gops_used < answer.num_gops_total:
        gops = f"{answer.num_gops_used} of {answer.num_gops_total} GOPs, evenly spaced,"
    reused = f", {answer.num_cached_tokens} of them computed before" if answer.num_cached_tokens else ""
    return (
        f"{answer.num_visual_tokens} visual tokens ({gops} with {answer.num_rgb_slots} RGB and "
        f"{answer.num_p_slots} P slots) + {answer.num_text_tokens} text tokens{reused} -> {answer.num_new_tokens} new; "
        f"{answer.way} video; first token after {answer.ttft_seconds:.2f} s, stages {answer.stages_seconds:.2f} s, "
        f"{answer.total_seconds:.2f} s in all"
    )
