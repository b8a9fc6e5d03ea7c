"""`cope bench`: measurements. Each mode has its own options and refuses those of the others."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any

import typer

from cope_cli.cli import show
from cope_cli.cli.bench import answers, model
from cope_cli.cli.options import (
    DEFAULT_CACHE,
    DEFAULT_RUNS,
    CacheOption,
    JsonOption,
    RunsOption,
    build_config,
    config_parameters,
    path,
    path_or_name,
)
from cope_cli.errors import UsageError
from cope_cli.evaluate.config import AblationConfig, AccuracyConfig, RetrievalConfig, TokensConfig, TtftConfig
from cope_cli.options import options_of

EXAMPLES = [
    "cope bench --tokens",
    "cope bench --ttft --geometry 0.5b --dtype bfloat16",
    "cope bench --accuracy cope-tiny --data scenes/questions.json",
    "cope bench --retrieval pretrain-1",
    "cope bench --ablation spec.yaml --out results/",
]
_MODE = "Measurement (choose one)"
#: The settings of each mode, and which of the command's own options it uses.
MODES: dict[str, tuple[type, tuple[str, ...]]] = {
    "tokens": (TokensConfig, ()),
    "ttft": (TtftConfig, ()),
    "accuracy": (AccuracyConfig, ("runs", "cache")),
    "retrieval": (RetrievalConfig, ("videos", "runs", "cache")),
    "ablation": (AblationConfig, ("cache",)),
}


def bench(
    context: typer.Context,
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            help="For --retrieval: videos to search in. Default: those that the run held out.",
            parser=path_or_name,
            metavar="VIDEOS",
        ),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Token budgets: the paper's arithmetic.", rich_help_panel=_MODE)
    ] = False,
    ttft: Annotated[bool, typer.Option("--ttft", help="Time to first token.", rich_help_panel=_MODE)] = False,
    accuracy: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Right answers of a model to --data.", parser=path_or_name, rich_help_panel=_MODE
        ),
    ] = None,
    retrieval: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Next-frame retrieval of a pretrain run (H.6).",
            parser=path_or_name,
            rich_help_panel=_MODE,
        ),
    ] = None,
    ablation: Annotated[
        Path | None,
        typer.Option(
            metavar="SPEC", help="Trainings x seeds x evaluations, into --out.", parser=path, rich_help_panel=_MODE
        ),
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    cache: CacheOption = DEFAULT_CACHE,
    json: JsonOption = False,
    **values: Any,
) -> None:
    """Measure tokens, time to first token, right answers, retrieval, or a whole ablation."""
    chosen = {"tokens": tokens, "ttft": ttft, "accuracy": accuracy, "retrieval": retrieval, "ablation": ablation}
    name = _chosen(chosen)
    config = _config(context, name, values)
    show.settings("bench", vars(config))
    if isinstance(config, AccuracyConfig):
        answers.accuracy(str(accuracy), config, cache, runs, json)
    elif isinstance(config, AblationConfig):
        assert ablation is not None
        answers.ablation(ablation, config, cache, json)
    elif isinstance(config, RetrievalConfig):
        model.retrieval(str(retrieval), videos or [], config, cache, runs, json)
    elif isinstance(config, TtftConfig):
        model.ttft(config, json)
    else:
        model.tokens(json)


def _chosen(flags: Mapping[str, Any]) -> str:
    """Return the one measurement that was asked for."""
    names = [name for name, value in flags.items() if value not in (None, False)]
    if len(names) != 1:
        raise UsageError(f"choose one of {', '.join(f'--{name}' for name in flags)}")
    return names[0]


def _config(context: typer.Context, mode: str, values: Mapping[str, Any]) -> Any:
    """Return a mode's settings; options that it does not use are refused, not ignored."""
    config, own = MODES[mode]
    used = {*options_of(config), *own, *MODES, "json"}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in used and source is not None and source.name == "COMMANDLINE":
            flag = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name
            raise UsageError(f"{flag}: --{mode} does not use it", "`cope help bench` lists the options of each.")
    given = {name: value for name, value in values.items() if name in options_of(config) and value is not None}
    missing = [name for name, (one, _) in options_of(config).items() if one.default is MISSING and name not in given]
    if missing:
        raise UsageError(f"--{mode}: expected --{missing[0]}")
    return build_config(config, given)


def _parameters() -> list[inspect.Parameter]:
    """Return one parameter per option of any mode; without a value the mode's own default holds."""
    found: dict[str, inspect.Parameter] = {}
    for config, _ in MODES.values():
        for one in config_parameters(config, show_default=False):
            kind, about = one.annotation.__origin__, one.annotation.__metadata__[0]
            defaults = {mode: options_of(its)[one.name][0].default for mode, (its, _) in MODES.items()
                        if one.name in options_of(its)}  # fmt: skip
            about.rich_help_panel = f"Options of {', '.join(f'--{mode}' for mode in defaults)}"
            about.help += _defaults_in_words(defaults, about.help)
            found.setdefault(one.name, one.replace(annotation=Annotated[kind | None, about], default=None))
    return list(found.values())


def _defaults_in_words(defaults: Mapping[str, Any], text: str) -> str:
    """Return what to add to a help text about an option's default in each mode."""
    required = [f"--{mode}" for mode, default in defaults.items() if default is MISSING]
    needed = f" Required with {', '.join(required)}." if required else ""
    shown = {mode: default for mode, default in defaults.items() if default not in (MISSING, None, True, False)}
    if not shown or "0:" in text:
        return needed
    if len(set(shown.values())) == 1:
        return f" Default: {next(iter(shown.values()))}.{needed}"
    return f" Default: {', '.join(f'{default} with --{mode}' for mode, default in shown.items())}.{needed}"


def _with_options() -> Any:
    own = [one for one in inspect.signature(bench, eval_str=True).parameters.values() if one.name != "values"]
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *_parameters())]

    def call(**values: Any) -> None:
        bench(**values)

    call.__doc__ = bench.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


command = _with_options()
