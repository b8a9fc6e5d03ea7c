"""Running a training stage from the command line: progress, then a summary of the run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cope_cli.cli import show

if TYPE_CHECKING:
    from cope_cli.runs import RunFolder
    from cope_cli.train.config import TrainConfig

_NEXT = {
    "pretrain": "cope train finetune --data FILE",
    "finetune": 'cope ask VIDEO "QUESTION"',
}


def run_stage(
    kind: Any,
    train: Callable[..., Path],
    config: TrainConfig,
    cache: Path,
    runs: Path,
    run: str,
    resume: bool,
    json: bool,
) -> None:
    """Run a training stage with a progress bar and print a summary, all of it on rank 0."""
    from cope_cli.cache.store import Cache
    from cope_cli.runs import next_run_name
    from cope_cli.train.loop.ranks import join_ranks, leave_ranks

    ranks = join_ranks(cpu=config.is_cpu, timeout_minutes=config.rank_timeout_minutes)
    name = ranks.from_main(lambda: run or next_run_name(runs, kind), "while the run gets its name")
    folder = runs / name
    if ranks.is_main:
        show.settings(kind, config.to_dict())
        show.interrupted = lambda: _how_to_resume(folder)
    with show.batch_progress(kind, 0, is_shown=ranks.is_main) as progress:
        result = train(
            Cache(cache),
            config,
            folder,
            resume=resume,
            on_begin=_show_begin,
            on_progress=lambda step, total, metrics: progress.step(kind, step, total, metrics),
            on_frames=lambda entry, done, total: progress.update(f"RGB slots of {entry}", done, total),
        )
    leave_ranks()
    if ranks.is_main:
        _show_run(kind, folder, result, as_json=json)


def _how_to_resume(folder: Path) -> str:
    """Return what Ctrl-C prints: the step that is saved, and the command that continues."""
    from cope_cli.runs import newest_checkpoint, step_of

    words = [word for word in sys.argv[1:] if word != "--resume"]
    if "--run" not in words:
        words += ["--run", folder.name]
    command = shlex.join([*_program(), *words, "--resume"])
    checkpoint = newest_checkpoint(folder)
    saved = "no step is saved yet (--save-steps)" if checkpoint is None else f"step {step_of(checkpoint)} is saved"
    return f"stopped; {saved}. Continue with: {command}"


def _program() -> list[str]:
    """Return the words that start this command line: `cope`, or `python -m` with a recipe's module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = "cope_cli" if spec is None else spec.name.removesuffix(".__main__")
    return ["cope"] if module.startswith("cope_cli") else ["python", "-m", module]


def _show_run(kind: Any, folder: Path, result: Path, *, as_json: bool) -> None:
    """Print what a finished run came to, and the command that usually comes next."""
    from cope_cli.runs import RunFolder

    records = RunFolder(folder, kind)
    metrics, skipped, shortened = records.metrics(), records.skipped(), records.shortened()
    if as_json:
        last = metrics[-1] if metrics else None
        found = {"run": folder, "result": result, "last": last, "skipped": skipped, "shortened": shortened}
        show.print_json(found | _held_out(records))
        return
    _show_losses(folder, metrics)
    _show_split(metrics)
    if verdict := _held_out(records).get("verdict"):
        show.out.print(f"  held-out videos: {verdict}", highlight=False, soft_wrap=True)
    show.out.print(f"  result {result}; curve {folder / 'loss.png'}", highlight=False, soft_wrap=True)
    if skipped:
        show.out.print(f"  {len(skipped)} samples skipped: {records.skipped_file}", style="yellow")
    if shortened:
        text = f"  {len(shortened)} samples show fewer GOPs, to fit the context: {records.shortened_file}"
        show.out.print(text, style="yellow", soft_wrap=True)
    if kind in _NEXT:
        show.next_step(_NEXT[kind])


def _show_begin(record: Mapping[str, Any]) -> None:
    show.note(record["batch"])
    show.note(f"base: {record['base_model']}")
    show.note(f"Delta-encoder: {record['delta_encoder']}")


def _show_losses(folder: Path, metrics: Sequence[Mapping[str, float]]) -> None:
    """Print the mean loss of the first and the last tenth of a run; for pretrain also that of copying."""
    count = max(1, len(metrics) // 10)

    def mean(name: str, lines: Sequence[Mapping[str, float]]) -> float:
        return sum(line[name] for line in lines) / len(lines)

    text = f"{folder}: loss {mean('loss', metrics[:count]):.3f} -> {mean('loss', metrics[-count:]):.3f}"
    if "copy_loss" in metrics[-1]:
        text += f", copying the previous slot gives {mean('copy_loss', metrics[-count:]):.3f}"
    show.out.print(f"{text} (means of {count} of {len(metrics)} logged steps)", highlight=False, soft_wrap=True)


def _held_out(run: RunFolder) -> dict[str, Any]:
    """Return the evaluations on held-out videos and their verdict, if there are any."""
    evaluations = run.evaluations()
    config = run.config()
    return {"evaluations": evaluations, "verdict": config.get("verdict")} if evaluations else {}


def _show_split(metrics: Sequence[Mapping[str, float]]) -> None:
    """Print the seconds per step by part, without the first logged step, which warms up."""
    counted = metrics[1:] or metrics
    names = [name for name in counted[-1] if name.endswith("_seconds")]
    if names:
        means = {name: sum(line[name] for line in counted) / len(counted) for name in names}
        parts = ", ".join(
            f"{name.removesuffix('_seconds').replace('_', '-')} {value:.3f}" for name, value in means.items()
        )
        show.out.print(f"  a step in seconds: {parts}", highlight=False, soft_wrap=True)
