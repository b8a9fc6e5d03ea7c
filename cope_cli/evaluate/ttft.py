"""`cope bench --ttft`: time to first token and to the last, part by part (paper, Fig. 4a).

Seen are 64 slots, one a second: all as RGB frames, or 8 GOPs at K = 1, 2, 4; beside them 8 RGB frames alone, plain
down-sampling. Weights, frames and primitives are random, because time does not depend on their values; shapes are the
real ones (`runner`).

Every configuration runs once a round, one after the other, so that a machine that slows down slows all of them; ratios
are taken within a round. Beside each ratio stands its bound: the same ratio of floating-point operations (`flops`).
On a CPU the ratio of CPU time stands there too: other work on the machine stretches wall time, and with one thread
(`OMP_NUM_THREADS=1`) leaves CPU time alone; several threads wait for each other busily, and that counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cope_cli.data.samples import Sample
from cope_cli.evaluate.flops import Shape, configurations, saving_percent
from cope_cli.evaluate.machine import Machine
from cope_cli.evaluate.runner import PARTS, Run, Runner
from cope_cli.evaluate.tokens import BASELINE_FRAMES, SLOTS_PER_GOP
from cope_cli.model.token_plan import PAPER_TABLE_KEYFRAMES
from cope_cli.types import OnProgress

BASELINE = f"{BASELINE_FRAMES} RGB frames"


@dataclass(frozen=True, kw_only=True)
class TtftRecord:
    """One configuration; seconds are medians over the rounds.

    Attributes:
        configuration: what is shown.
        num_rgb: RGB slots.
        num_p: P slots.
        visual_tokens: RGB tokens, Delta-tokens, newlines.
        text_tokens: the rest of the prompt.
        seconds: by part, `PARTS`.
        cpu_seconds: the same of all threads.
        ttft_seconds: up to the first token.
        total_seconds: up to the last.
        saving_percent: TTFT against 64 RGB frames, median of the rounds' ratios.
        cpu_saving_percent: the same by CPU time; None on a GPU.
        bound_percent: the same by operations, for exactly this prompt.
        bound_without_text_percent: the same without text.
        total_saving_percent: as `saving_percent`, up to the last token.
        peak_bytes: the most memory of any round, weights included.
        growth_bytes: of it what the run itself took.
        rounds_ttft_seconds: of each round.
    """

    configuration: str
    num_rgb: int
    num_p: int
    visual_tokens: int
    text_tokens: int
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    ttft_seconds: float
    total_seconds: float
    saving_percent: float
    cpu_saving_percent: float | None
    bound_percent: float
    bound_without_text_percent: float
    total_saving_percent: float
    peak_bytes: int | None
    growth_bytes: int | None
    rounds_ttft_seconds: list[float]


@dataclass(frozen=True, kw_only=True)
class TtftReport:
    """All configurations.

    Attributes:
        geometry: its name.
        weights: what they are, `Runner.weights`.
        dtype: of the weights.
        device: where they lay.
        machine: what that is.
        num_new_tokens: tokens of each answer.
        rounds: runs of each configuration.
        records: the configurations, 64 RGB frames first.
    """

    geometry: str
    weights: str
    dtype: str
    device: str
    machine: Machine
    num_new_tokens: int
    rounds: int
    records: list[TtftRecord]


def measure_ttft(runner: Runner, *, on_progress: OnProgress = lambda done, total: None) -> TtftReport:
    """Measure every configuration.

    Args:
        runner: the model.
        on_progress: called with (runs done, runs in all).
    """
    config = runner.config
    samples = made_samples(runner)
    warm_up = list(samples.values()) if config.is_warm_up_full else [runner.made_sample(1, 1)]
    total, done = len(warm_up) + config.rounds * len(samples), 0
    on_progress(done, total)
    for sample in warm_up:
        runner.run(sample, num_new_tokens=2)
        on_progress(done := done + 1, total)
    runs: dict[str, list[Run]] = {name: [] for name in samples}
    for _ in range(config.rounds):
        for name, sample in samples.items():
            runs[name].append(runner.run(sample))
            on_progress(done := done + 1, total)
    return TtftReport(
        geometry=config.geometry,
        weights=runner.weights,
        dtype=runner.dtype,
        device=str(runner.device),
        machine=Machine.of(runner.device),
        num_new_tokens=config.max_new_tokens,
        rounds=config.rounds,
        records=[_record(runner, name, samples, runs) for name in samples],
    )


def made_samples(runner: Runner) -> dict[str, Sample]:
    """Return the made-up input of each configuration of `flops.configurations`."""
    num_gops = BASELINE_FRAMES // SLOTS_PER_GOP
    samples = {BASELINE: runner.made_sample(num_gops, SLOTS_PER_GOP)}
    samples |= {f"K = {keyframes}": runner.made_sample(num_gops, keyframes) for keyframes in PAPER_TABLE_KEYFRAMES}
    return samples | {f"{num_gops} RGB frames": runner.made_sample(num_gops, 1, slots_per_gop=1)}


def shape_of_sample(sample: Sample) -> Shape:
    """Return what decides the cost of a prompt."""
    plan = sample.prompt.plan
    return Shape(num_rgb=plan.num_rgb_slots, num_p=plan.num_delta_slots, num_text=sample.prompt.num_text_tokens)


def _record(runner: Runner, name: str, samples: Mapping[str, Sample], runs: Mapping[str, list[Run]]) -> TtftRecord:
    own, baseline = runs[name], runs[BASELINE]
    sample, shape, delta = samples[name], shape_of_sample(samples[name]), runner.model.delta_encoder
    assert delta is not None
    shapes = configurations()

    def saving(seconds: Callable[[Run], float]) -> float:
        ratios = [seconds(run) / seconds(other) for run, other in zip(own, baseline, strict=True)]
        return 100 * (1 - statistics.median(ratios))

    def most(values: list[int | None]) -> int | None:
        return max((value for value in values if value is not None), default=None)

    return TtftRecord(
        configuration=name,
        num_rgb=shape.num_rgb,
        num_p=shape.num_p,
        visual_tokens=sample.prompt.num_visual_tokens,
        text_tokens=shape.num_text,
        seconds={part: statistics.median(run.seconds[part] for run in own) for part in PARTS},
        cpu_seconds={part: statistics.median(run.cpu_seconds[part] for run in own) for part in PARTS},
        ttft_seconds=statistics.median(run.ttft_seconds for run in own),
        total_seconds=statistics.median(run.total_seconds for run in own),
        saving_percent=saving(lambda run: run.ttft_seconds),
        cpu_saving_percent=saving(lambda run: run.ttft_cpu_seconds) if runner.device.type == "cpu" else None,
        bound_percent=saving_percent(runner.geometry, shape, shape_of_sample(samples[BASELINE]), delta.config),
        bound_without_text_percent=saving_percent(runner.geometry, shapes[name], shapes[BASELINE], delta.config),
        total_saving_percent=saving(lambda run: run.total_seconds),
        peak_bytes=most([run.peak_bytes for run in own]),
        growth_bytes=most([run.growth_bytes for run in own]),
        rounds_ttft_seconds=[run.ttft_seconds for run in own],
    )
