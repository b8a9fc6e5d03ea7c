"""Options of the command line: made from configuration dataclasses, and the few that are no setting of a stage.

```python
@command(app, "encode", examples=["cope encode videos/"])
def encode(paths: Paths, config: EncodeConfig, cache: CacheOption = DEFAULT_CACHE) -> None: ...
```

Here `config` becomes one option per field of `EncodeConfig` that is an `option`; the function gets the dataclass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, is_dataclass
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from cope_cli.options import Option, Panel, flag_of, options_of


def path(text: str | Path) -> Path:
    """Return a path as the user means it: `~` is the home folder, in variables and `--option=~/...` too."""
    return Path(text).expanduser()


def path_or_name(text: str | Path) -> str:
    """Return a name, or a path with `~` expanded."""
    return str(path(text)) if str(text).startswith("~") else str(text)


def path_option(*flags: str, help: str, panel: Panel = Panel.OUTPUT, metavar: str = "PATH", **more: Any) -> Any:
    """Return an option that takes a path."""
    return typer.Option(*flags, help=help, parser=path, metavar=metavar, rich_help_panel=panel, **more)


DEFAULT_CACHE = Path("cope_cache")
DEFAULT_RUNS = Path("runs")

CacheOption = Annotated[
    Path, path_option("--cache", envvar="COPE_CACHE", help="Cache folder.", panel=Panel.DATA, metavar="FOLDER")
]
RunsOption = Annotated[
    Path,
    path_option("--runs", envvar="COPE_RUNS", help="Folder of training runs.", panel=Panel.MODEL, metavar="FOLDER"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.", rich_help_panel=Panel.OUTPUT)]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace results that are already there.", rich_help_panel=Panel.OUTPUT)
]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Answer yes to the question that the command asks.", rich_help_panel=Panel.OUTPUT)
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", "-j", min=0, help="Processes that share the videos; 0: one per core.", rich_help_panel=Panel.DATA
    ),
]
PathsArgument = Annotated[
    list[Path], typer.Argument(help="Videos, and folders to search.", parser=path, metavar="PATHS")
]


def ordered_panels(found: Iterable[str]) -> list[str]:
    """Return panels in the order of the help: a command's own ones before those that all commands share."""
    own = [panel for panel in found if panel not in ("Arguments", "Other", *Panel)]
    return [panel for panel in ("Arguments", *own, *Panel, "Other") if panel in found]


class CopeCommand(TyperCommand):
    """A command whose help groups options by panel and prints its epilog, the examples, line by line."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then each panel's options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Other"
                groups.setdefault(panel, []).append(record)
        for panel in ordered_panels(groups):
            if rows := groups[panel]:
                with formatter.section(str(panel)):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], **settings: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a function to an app as a command, its configurations expanded into options.

    Args:
        app: where the command goes.
        name: what the user types.
        examples: command lines for its help.
        settings: further settings of typer's command.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        app.command(name, cls=CopeCommand, epilog="\n".join(examples), **settings)(expanded(function))
        return function

    return add


def expanded(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function with one keyword per option in place of each parameter that is a configuration."""
    signature = inspect.signature(function, eval_str=True)
    parameters_of = signature.parameters.items()
    configs: dict[str, Any] = {name: one.annotation for name, one in parameters_of if is_dataclass(one.annotation)}
    parameters = []
    for name, one in parameters_of:
        parameters += config_parameters(configs[name]) if name in configs else [one]
    parameters.sort(key=lambda one: one.default is not inspect.Parameter.empty)  # required ones first

    @wraps(function)
    def call(**values: Any) -> None:
        for name, config in configs.items():
            values[name] = build_config(config, values)
        function(**{name: values[name] for name in signature.parameters})

    keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    call.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]  # read by typer
    call.__annotations__ = {one.name: one.annotation for one in keyword_only}
    return call


def config_parameters(config: type, **changes: Any) -> list[inspect.Parameter]:
    """Return one function parameter, annotated for typer, per option of a configuration; `changes` are typer's."""
    hints = get_type_hints(config)
    parameters = []
    for name, (one, about) in options_of(config).items():
        kind, more = _typer_type(about.text_type if about.parse else hints[name])
        flags = [about.flag or flag_of(one), *([about.short] if about.short else [])]
        settings = {"help": about.help, "rich_help_panel": about.panel, **more, **changes}
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[kind, typer.Option(*flags, **settings)],
                default=_text_default(one, about),
            )
        )
    return parameters


def build_config(config: type, values: Mapping[str, Any]) -> Any:
    """Build a configuration from what the command line was given; its own checks raise."""
    found: dict[str, Any] = {}
    for name, (_, about) in options_of(config).items():
        if name not in values:
            continue
        value = values[name]
        if about.parse is not None:
            found |= about.parse(value)
        else:
            found[name] = tuple(value) if isinstance(value, list) else value
    return config(**found)


def _text_default(one: Field[Any], about: Option) -> Any:
    """Return the default that typer shows and hands over."""
    if about.parse is not None:
        return about.text_default
    if one.default is MISSING:
        return inspect.Parameter.empty
    return list(one.default) if isinstance(one.default, tuple) else one.default


def _typer_type(hint: Any) -> tuple[Any, dict[str, Any]]:
    """Return the type that typer reads, and further settings of the option, for a field's type."""
    members = [member for member in get_args(hint) if member is not NoneType]
    if get_origin(hint) is tuple:
        kind, more = _typer_type(members[0])
        return list[kind], more  # type: ignore[valid-type]
    if not members:
        return hint, {"parser": path, "metavar": "PATH"} if hint is Path else {}
    if Path in members and str in members:
        return str | None, {"parser": path_or_name, "metavar": "NAME"}
    kind, more = _typer_type(str if str in members else members[0])
    return kind | None, more
