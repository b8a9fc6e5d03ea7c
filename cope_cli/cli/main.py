"""The `cope` command: its groups, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cope_cli import __version__
from cope_cli.cli import ask, cache, data, inspect
from cope_cli.cli.bench import command as bench
from cope_cli.cli.train import commands as train
from cope_cli.errors import CopeError, UsageError

#: Packages of the extra `models`, which the data stages do without.
_MODELS_EXTRA = frozenset(
    {"torch", "transformers", "accelerate", "safetensors", "tokenizers", "matplotlib", "yaml", "peft"}
)
_INSTALL = "Install what training and asking need: pip install 'cope_cli[models]'"

app = typer.Typer(
    name="cope",
    help="Video for language models from codec primitives: keyframes as RGB tokens, Delta-tokens between them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Stages: encode, extract, train pretrain, train finetune, ask. They meet in the cache folder.",
)
app.command("encode")(data.encode)
app.command("extract")(data.extract)
app.add_typer(train.app, name="train")
app.command("ask")(ask.ask)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.add_typer(cache.app, name="cache")
app.command("scenes")(data.scenes)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cope {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that belong to no command."""


def run() -> None:
    """Run the command line: exit code 0 all good, 1 something failed, 2 wrong usage."""
    try:
        app()
    except UsageError as error:
        _complain(error)
        sys.exit(2)
    except CopeError as error:
        _complain(error)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name not in _MODELS_EXTRA:
            raise
        _complain(CopeError(f"{error.name} is not installed, which this command needs", _INSTALL))
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        sys.stderr.close()
        sys.exit(1)


def _complain(error: CopeError) -> None:
    typer.secho(f"error: {error.message}", fg="red", err=True)
    if error.hint:
        typer.echo(f"  -> {error.hint}", err=True)
