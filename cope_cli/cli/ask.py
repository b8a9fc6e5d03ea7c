"""`cope ask`: one question, a conversation, or a file of questions."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cope_cli.ask.config import AskConfig, ModelConfig
from cope_cli.cli import show
from cope_cli.cli.options import DEFAULT_CACHE, DEFAULT_RUNS, CacheOption, JsonOption, RunsOption, path, path_option
from cope_cli.errors import PathNotFoundError, UsageError
from cope_cli.options import Panel

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from cope_cli.ask.conversation import Answer
    from cope_cli.model.checkpoint.folders import LoadedVideoLM

EXAMPLES = [
    'cope ask video.mp4 "what happened?"',
    "cope ask video.mp4 --chat --keyframes 1",
    "cope ask --questions questions.json --video-root videos --model runs/finetune-1/model",
]
_DEFAULT_BATCH = 4


def ask(
    config: AskConfig,
    model: ModelConfig,
    video: Annotated[Path | None, typer.Argument(help="Video file.", parser=path, metavar="VIDEO")] = None,
    question: Annotated[str | None, typer.Argument(help="Question about it.", metavar="QUESTION")] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Ask several questions, at a prompt or from a pipe.", rich_help_panel=Panel.ANSWER),
    ] = False,
    questions: Annotated[
        Path | None,
        path_option("--questions", help="Answer a file of questions, JSON or JSON lines.", panel=Panel.ANSWER),
    ] = None,
    out: Annotated[
        Path | None,
        path_option("--out", help="Answers to --questions, JSON lines; a rerun resumes. Default: beside the file."),
    ] = None,
    video_root: Annotated[
        Path | None,
        path_option("--video-root", help="Folder of the videos of --questions. Default: the file's.", panel=Panel.DATA),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help=f"Questions of --questions to answer at a time. Default: {_DEFAULT_BATCH}.",
            min=1,
            rich_help_panel=Panel.ANSWER,
        ),
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
) -> None:
    """Answer questions about a video; missing stages are run first."""
    only_file = {"--out": out, "--video-root": video_root, "--batch-size": batch_size}
    _check_what_is_asked(video, question, chat, questions, only_file)
    show.settings("ask", {**vars(config), **vars(model)})
    from cope_cli.ask.settings import find_model

    folder = find_model(model.model, runs)
    show.note(f"model: {folder}")
    ahead = None if video is None else _begin_stages(video, folder, cache, config)
    loaded = _load(folder, model, runs, config)
    if ahead is not None:
        ahead.join()
    if questions is not None:
        batch = batch_size or _DEFAULT_BATCH
        _answer_file(questions, out, video_root, batch, loaded, cache, config, json)
    elif chat:
        from cope_cli.cli.chat import Chat

        Chat(loaded, cache, config, as_json=json).run(video, question)
    elif video is not None and question is not None:
        _answer_one(video, question, loaded, cache, config, json)


def _load(folder: Path, model: ModelConfig, runs: Path, config: AskConfig) -> LoadedVideoLM:
    """Read the model and print what the user should know about it."""
    gc.disable()  # scanning the many objects of imported modules for garbage takes a third of the start-up time
    from cope_cli.ask.models import load_model
    from cope_cli.ask.shown import notes

    loaded = load_model(
        folder,
        model.device,
        dtype=model.dtype,
        device_map=model.device_map,
        attention=model.attention,
        delta_encoder=model.delta_encoder,
        runs_root=runs,
    )
    gc.freeze()  # modules and weights live until the process ends: no later scan needs to visit them
    gc.enable()
    for text in notes(loaded, config):
        show.note(text)
    return loaded


def _begin_stages(video: Path, folder: Path, cache: Path, config: AskConfig) -> BaseProcess | None:
    """Run the stages in a process of their own while PyTorch is imported and the model is read."""
    from cope_cli.ask.settings import preparation_ahead
    from cope_cli.stages.prepare import prepare_ahead

    needed = preparation_ahead(folder, config)
    return None if needed is None or not video.is_file() else prepare_ahead(video, cache, needed)


def _check_what_is_asked(
    video: Path | None, question: str | None, chat: bool, questions: Path | None, only_file: Mapping[str, object]
) -> None:
    """Refuse missing and contradicting arguments, and missing files, before anything is imported."""
    if questions is not None and (chat or video is not None):
        raise UsageError("--questions FILE names the videos and the questions: leave out VIDEO, QUESTION and --chat")
    if questions is None and not chat and (video is None or question is None):
        raise UsageError("expected VIDEO and QUESTION, or --chat, or --questions FILE")
    for flag, value in only_file.items():
        if questions is None and value is not None:
            raise UsageError(f"{flag} {value}: only --questions uses it")
    for file in (video, questions):
        if file is not None and not file.is_file():
            raise PathNotFoundError(f"{file}: no such file")


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
        show.note(summary(answer))


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
    """Return the token counts and times of an answer in one line."""
    gops = f"{answer.num_gops_used} GOP{'' if answer.num_gops_used == 1 else 's'}"
    if answer.num_gops_used < answer.num_gops_total:
        gops = f"{answer.num_gops_used} of {answer.num_gops_total} GOPs, evenly spaced,"
    reused = f", {answer.num_cached_tokens} of them cached" if answer.num_cached_tokens else ""
    return (
        f"{answer.num_visual_tokens} visual tokens ({gops} with {answer.num_rgb_slots} RGB and "
        f"{answer.num_p_slots} P slots) + {answer.num_text_tokens} text tokens{reused} -> {answer.num_new_tokens} new; "
        f"{answer.way} video; first token after {answer.ttft_seconds:.2f} s, stages {answer.stages_seconds:.2f} s, "
        f"{answer.total_seconds:.2f} s in all"
    )
