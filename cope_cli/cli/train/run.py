"""Running a training stage from the command line: a progress bar, then what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cope_cli.cli import show

if TYPE_CHECKING:
    from cope_cli.runs import RunFolder
    from cope_cli.train.config import TrainConfig


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
    """Run a training stage under a progress bar and say what came of it, all of it on rank 0."""
    from cope_cli.cache.store import Cache
    from cope_cli.runs import RunFolder, next_run_name
    from cope_cli.train.loop.ranks import join_ranks, leave_ranks

    ranks = join_ranks(cpu=config.cpu, timeout_minutes=config.rank_timeout_minutes)
    name = ranks.from_main(lambda: run or next_run_name(runs, kind), "while the run gets its name")
    folder = runs / name
    with show.batch_progress(kind, 0, is_shown=ranks.is_main) as progress:
        result = train(
            Cache(cache),
            config,
            folder,
            resume=resume,
            on_begin=_say_what_is_trained,
            on_progress=lambda step, total, metrics: progress.step(kind, step, total, metrics),
            on_frames=lambda entry, done, total: progress.update(f"RGB slots of {entry}", done, total),
        )
    leave_ranks()
    if not ranks.is_main:
        return
    records = RunFolder(folder, kind)
    metrics, skipped, shortened = records.metrics(), records.skipped(), records.shortened()
    if json:
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
        show.out.print(f"  {len(skipped)} samples left out: {folder / 'skipped.jsonl'}", style="yellow")
    if shortened:
        text = (
            f"  {len(shortened)} samples show fewer GOPs than asked for, to fit the context: {records.shortened_file}"
        )
        show.out.print(text, style="yellow", soft_wrap=True)


def say(text: str) -> None:
    show.err.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _say_what_is_trained(record: Mapping[str, Any]) -> None:
    show.err.print(record["batch"], style="dim", highlight=False, soft_wrap=True)
    show.err.print(f"base: {record['base_model']}", style="dim", highlight=False, soft_wrap=True)
    show.err.print(f"Delta-encoder: {record['delta_encoder']}", style="dim", highlight=False, soft_wrap=True)


def _show_losses(folder: Path, metrics: Sequence[Mapping[str, float]]) -> None:
    """Print the loss over the first and the last tenth of a run; for pretrain that of copying the slot before too."""
    count = max(1, len(metrics) // 10)

    def mean(name: str, lines: Sequence[Mapping[str, float]]) -> float:
        return sum(line[name] for line in lines) / len(lines)

    text = f"{folder}: loss {mean('loss', metrics[:count]):.3f} -> {mean('loss', metrics[-count:]):.3f}"
    if "copy_loss" in metrics[-1]:
        text += f", where copying the slot before gives {mean('copy_loss', metrics[-count:]):.3f}"
    show.out.print(f"{text} (means of {count} of {len(metrics)} logged steps)", highlight=False, soft_wrap=True)


def _held_out(run: RunFolder) -> dict[str, Any]:
    """Return what a run's evaluations came to, for pretrain."""
    evaluations = run.evaluations()
    config = run.config()
    return {"evaluations": evaluations, "verdict": config.get("verdict")} if evaluations else {}


def _show_split(metrics: Sequence[Mapping[str, float]]) -> None:
    """Print where the time of a step went, if that was measured; the first logged step warms up and is left out."""
    counted = metrics[1:] or metrics
    names = [name for name in counted[-1] if name.endswith("_seconds")]
    if names:
        means = {name: sum(line[name] for line in counted) / len(counted) for name in names}
        parts = ", ".join(
            f"{name.removesuffix('_seconds').replace('_', '-')} {value:.3f}" for name, value in means.items()
        )
        show.out.print(f"  a step in seconds: {parts}", highlight=False, soft_wrap=True)
