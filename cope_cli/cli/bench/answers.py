"""`cope bench --accuracy` and `--ablation`: how many questions models answer right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cope_cli.cli import show
from cope_cli.cli.bench.measure import measured

if TYPE_CHECKING:
    from cope_cli.evaluate.config import AblationConfig, AccuracyConfig


def accuracy(named: str, config: AccuracyConfig, cache: Path, runs: Path, json: bool) -> None:
    """Show a model's share of right answers, and write every answer into `out`."""
    from cope_cli.ask.config import AskConfig
    from cope_cli.ask.models import load_model
    from cope_cli.ask.settings import find_model
    from cope_cli.cache.store import Cache
    from cope_cli.data.judged import read_judged
    from cope_cli.evaluate.accuracy import measure_accuracy, write_accuracy

    inside = runs / named
    loaded = load_model(find_model(inside if inside.is_dir() else named, runs), config.device, dtype=config.dtype)
    questions = read_judged(config.data)
    if config.limit is not None:
        kept = set(list(dict.fromkeys(question.item.video for question in questions))[: config.limit])
        questions = [question for question in questions if question.item.video in kept]
    asked = AskConfig(
        keyframes_per_gop=config.keyframes_per_gop, delta=config.delta, max_new_tokens=config.max_new_tokens
    )
    report = measured(
        "questions",
        lambda progress: measure_accuracy(
            questions, loaded, Cache(cache), asked, data=str(config.data), on_progress=progress
        ),
    )
    if config.out is not None:
        write_accuracy(report, config.out)
    if json:
        show.print_json(report.to_dict())
        return
    milliseconds = 1000 * report.cpu_seconds / len(report.answers)
    show.print_table(
        f"Right answers of {report.model} to {report.data}, {report.num_videos} videos, Delta-tokens {config.delta}, "
        f"K = {report.settings['keyframes_per_gop']}; {milliseconds:.1f} ms of CPU a question",
        ["questions", "number", "right %", "95 % interval", "chance %"],
        [
            (
                row.name,
                str(row.num_questions),
                f"{100 * row.accuracy:.1f}",
                f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}",
                f"{100 * row.chance:.1f}",
            )
            for row in report.rows
        ],
    )


def ablation(specification: Path, config: AblationConfig, cache: Path, json: bool) -> None:
    """Run the missing parts of an ablation and show its table."""
    from cope_cli.cache.store import Cache
    from cope_cli.evaluate.ablation import draw_ablation, read_ablation, run_ablation, table

    what = read_ablation(specification)
    results = run_ablation(what, Cache(cache), config.out, device=config.device, on_note=show.note)
    rows = table(what, results)
    names = [name for name in rows[0]["shares"] if name == "all" or not name.startswith("form ")]
    for name in names:
        draw_ablation(rows, name, config.out / f"{name.replace(' ', '-')}.png")
    if json:
        show.print_json({"table": rows})
        return
    show.print_table(
        f"Right answers in percent, means of {len(what.seeds)} seeds (least to most), to {what.test}",
        ["variant", "tokens a GOP", *names],
        [
            (
                str(row["variant"]),
                str(row["tokens_per_gop"]),
                *(
                    f"{100 * share['mean']:.1f} ({100 * share['least']:.1f} to {100 * share['most']:.1f})"
                    for share in (row["shares"][name] for name in names)
                ),
            )
            for row in rows
        ],
    )
    show.out.print(
        "chance: " + ", ".join(f"{name} {100 * rows[0]['shares'][name]['chance']:.1f}" for name in names),
        highlight=False,
    )
    for row in rows:
        if "retrieval" in row:
            recalls = ", ".join(
                f"{name} {' / '.join(f'{100 * value:.1f}' for value in ranks.values())}"
                for name, ranks in row["retrieval"].items()
            )
            show.out.print(f"{row['variant']}: retrieval at 1 / 2 / 5: {recalls}", highlight=False)
