"""`cope ask --chat`: a prompt with history and line editing; in a pipe, a question per line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from cope_cli.ask.config import AskConfig
from cope_cli.ask.conversation import Conversation
from cope_cli.cache.store import Cache
from cope_cli.cli import show
from cope_cli.errors import CopeError, UsageError
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.stages.batch import default_workers

_HELP = """/video FILE  talk about another video
/clear       forget the questions so far
/help        these commands
/quit        leave (also Ctrl-D); Ctrl-C ends an answer"""
_COMMANDS = ("/clear", "/help", "/quit", "/video ")
_MAX_HISTORY = 1000


class Chat:
    """A conversation at the terminal or in a pipe.

    Args:
        loaded: the model and its tokenizer.
        cache_root: the cache folder.
        config: how to show videos.
        as_json: print each answer as one line of JSON.
    """

    def __init__(self, loaded: LoadedVideoLM, cache_root: Path, config: AskConfig, *, as_json: bool) -> None:
        self.loaded = loaded
        self.cache = Cache(cache_root)
        self.config = config
        self.as_json = as_json
        self.is_terminal = sys.stdin.isatty()
        self.conversation: Conversation | None = None
        self.num_failed = 0

    def run(self, video: Path | None, question: str | None) -> None:
        """Ask the first question if there is one, then those that are typed; exits with 1 if one in a pipe failed."""
        if video is not None:
            self._try(f"/video {video}")
        if question is not None:
            self._try(question)
        if self.is_terminal:
            show.err.print("Ask away; /help lists the commands.", style="dim", highlight=False)
        with _line_editing() if self.is_terminal else contextlib.nullcontext():
            for line in self._lines():
                if line in ("/quit", "/exit"):
                    break
                if line:
                    self._try(line)
        if self.num_failed and not self.is_terminal:
            raise typer.Exit(1)

    def _lines(self) -> Iterator[str]:
        """Yield what is typed, until the end of input."""
        while True:
            try:
                yield (input("> ") if self.is_terminal else next(sys.stdin)).strip()
            except KeyboardInterrupt:
                show.err.print("\n/quit leaves.", style="dim", highlight=False)
            except (EOFError, StopIteration):
                if self.is_terminal:
                    show.err.print()
                return

    def _try(self, line: str) -> None:
        """Run the command of a line; an error is printed, and the conversation continues."""
        try:
            self._do(line)
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            show.err.print("\nstopped", style="dim", highlight=False)
        except CopeError as error:
            self.num_failed += 1
            show.print_error(error)

    def _do(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if not line.startswith("/"):
            self._ask(line)
        elif command == "/video" and rest.strip():
            self._open(Path(rest.strip()).expanduser())
        elif command == "/clear":
            if self.conversation is not None:
                self.conversation.clear()
        elif command == "/help":
            show.err.print(_HELP, markup=False, highlight=False)
        else:
            raise UsageError(f"{line}: no such command", "/help lists them.")

    def _open(self, video: Path) -> None:
        with show.batch_progress("stages", 0) as progress:
            self.conversation = Conversation.about(
                video, self.loaded, self.cache, self.config, workers=default_workers(), on_stage=progress.update
            )
        show.err.print(f"video: {video}", style="dim", markup=False, highlight=False, soft_wrap=True)

    def _ask(self, question: str) -> None:
        if self.conversation is None:
            raise UsageError("no video yet", "Name one: /video FILE")
        answer = self.conversation.ask(
            question, on_text=lambda text: None if self.as_json else typer.echo(text, nl=False)
        )
        if self.as_json:
            show.print_json_line({"question": question, **vars(answer)})
        else:
            typer.echo()
            show.err.print(
                f"first token after {answer.ttft_seconds:.2f} s; {answer.num_cached_tokens} of "
                f"{answer.num_visual_tokens + answer.num_text_tokens} tokens computed before",
                style="dim",
                highlight=False,
            )


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Switch on editing, completion of commands, and a history that lasts, where Python has readline."""
    try:
        import readline
    except ImportError:  # Windows; `input` edits lines there by itself
        yield
        return
    history = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "cope" / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_completer(lambda text, state: [*(c for c in _COMMANDS if c.startswith(text)), None][state])
    readline.set_completer_delims("")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_history_length(_MAX_HISTORY)
        with contextlib.suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
