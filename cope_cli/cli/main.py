"""The `cope` command: its subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from cope_cli import __version__
from cope_cli.cli import ask, cache, data, inspect, show
from cope_cli.cli.bench import command as bench
from cope_cli.cli.options import command
from cope_cli.cli.train import commands as train
from cope_cli.errors import CopeError, UsageError

#: Packages of the extra `models`; the data stages work without them.
_MODELS_EXTRA = frozenset(
    {"torch", "transformers", "accelerate", "safetensors", "tokenizers", "matplotlib", "yaml", "peft"}
)
_INSTALL = "Install what training and asking need: pip install 'cope-cli[models]'"
_INTERRUPTED = 130

app = typer.Typer(
    name="cope",
    help="Video for language models from codec primitives: RGB tokens for keyframes, Delta-tokens between them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Stages: encode, extract, train pretrain, train finetune, ask. Each reads the previous one's results.",
)
command(app, "encode", examples=data.ENCODE_EXAMPLES)(data.encode)
command(app, "extract", examples=data.EXTRACT_EXAMPLES)(data.extract)
app.add_typer(train.app, name="train")
command(app, "ask", examples=ask.EXAMPLES)(ask.ask)
command(app, "bench", examples=bench.EXAMPLES)(bench.command)
command(app, "inspect", examples=inspect.EXAMPLES)(inspect.inspect)
app.add_typer(cache.app, name="cache")
command(app, "scenes", examples=data.SCENES_EXAMPLES)(data.scenes)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cope {__version__}")
        raise typer.Exit


@app.callback()
def main(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the resolved settings too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Set how much is printed; these options may stand anywhere on the command line."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose: give one of them")
    show.verbosity = show.Verbosity(1 - quiet + verbose)


@command(app, "help", examples=["cope help", "cope help train finetune"], context_settings={"allow_extra_args": True})
def help_(
    words: Annotated[
        list[str] | None, typer.Argument(help="Command, such as `train finetune`.", metavar="COMMAND")
    ] = None,
) -> None:
    """Print the help of a command; the same as COMMAND --help."""
    app([*(words or []), "--help"], prog_name="cope", standalone_mode=True)


def run() -> NoReturn:
    """Run `cope` and exit."""
    run_app(app)


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command line and exit: 0 success, 1 a failure, 2 wrong usage, 130 stopped by Ctrl-C."""
    arguments = _verbosity_first(sys.argv[1:])
    try:
        code = app(arguments, standalone_mode="--json" not in arguments)
        sys.exit(code or 0)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            typer.echo(f"\n{show.interrupted()}", err=True)
        raise
    except UsageError as error:
        show.complain(error)
        sys.exit(2)
    except CopeError as error:
        show.complain(error)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name not in _MODELS_EXTRA:
            raise
        show.complain(CopeError(f"{error.name} is not installed, and this command needs it", _INSTALL))
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # an error of the option parser, under --json
            raise
        show.complain(UsageError(error.format_message()))
        sys.exit(2)


def _verbosity_first(arguments: list[str]) -> list[str]:
    """Move -q, -v and their long forms to the front: they belong to `cope` itself but are accepted anywhere."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [word for word in arguments[:end] if word in ("-q", "--quiet", "-v", "--verbose")]
    return [*flags, *(word for word in arguments[:end] if word not in flags), *arguments[end:]]
