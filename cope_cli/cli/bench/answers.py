"""`cope bench --accuracy` and `--ablation`: how many questions models answer right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cope_cli.cli import show
from cope_cli.cli.bench.data import measured
from cope_cli.errors import UsageError


def accuracy(
    named: str,
    data: Path | None,
    delta: Any,
    keyframes: int,
    limit: int | None,
    device: str,
    out: Path | None,
    cache: Path,
    runs: Path,
    json: bool,
) -> None:
    """Show a model's share of right answers, and write it with every single answer if there is a folder for it."""
    from cope_cli.ask.models import load_model
    from cope_cli.ask.settings import AskConfig
    from cope_cli.cache.store import Cache
    from cope_cli.data.judged import read_judged
    from cope_cli.evaluate.accuracy import measure_accuracy, write_accuracy
    from cope_cli.model.checkpoint.hub import model_folder

    if data is None:
        raise UsageError("--accuracy: it needs --data FILE, questions with their answers")
    inside = runs / named
    loaded = load_model(model_folder(inside if inside.is_dir() else named), device)
    questions = read_judged(data)
    if limit is not None:
        kept = set(list(dict.fromkeys(question.item.video for question in questions))[:limit])
        questions = [question for question in questions if question.item.video in kept]
    config = AskConfig(keyframes_per_gop=keyframes, delta=delta, max_new_tokens=48)
    report = measured(
        "questions",
        lambda progress: measure_accuracy(
            questions, loaded, Cache(cache), config, data=str(data), on_progress=progress
        ),
    )
    if out is not None:
        write_accuracy(report, out)
    if json:
        show.print_json(report.to_dict())
        return
    milliseconds = 1000 * report.cpu_seconds / len(report.answers)
    show.print_table(
        f"Right answers of {report.model} to {report.data}, {report.num_videos} videos, Delta-tokens {delta}, "
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


def ablation(specification: Path, device: str, out: Path | None, cache: Path, json: bool) -> None:
    """Run what is not done of an ablation and show its table."""
    from cope_cli.cache.store import Cache
    from cope_cli.evaluate.ablation import draw_ablation, read_ablation, run_ablation, table

    if out is None:
        raise UsageError("--ablation: it needs --out FOLDER, for results and training runs")
    what = read_ablation(specification)
    results = run_ablation(
        what, Cache(cache), out, device=device, on_note=lambda text: show.err.print(text, style="dim", highlight=False)
    )
    rows = table(what, results)
    names = [name for name in rows[0]["shares"] if name == "all" or not name.startswith("form ")]
    for name in names:
        draw_ablation(rows, name, out / f"{name.replace(' ', '-')}.png")
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
