"""Held-out evaluation: which videos, which patches, what is compared, and that it disturbs nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from train_setup import GRID_PX, SIZE_PX, fill, losses, pretrain_config

from cope_cli.cache.store import Cache
from cope_cli.data.datasets import BadSample
from cope_cli.errors import DataError
from cope_cli.model.alignment import patch_loss
from cope_cli.runs import RunFolder
from cope_cli.train.loop.batches import PretrainCollator
from cope_cli.train.loop.clock import PARTS, StepClock
from cope_cli.train.loop.ranks import Ranks
from cope_cli.train.loop.setup import LeftOut, load_base
from cope_cli.train.pretrain.evaluation import (
    CHANGED_SHARE,
    Evaluator,
    HeldOutBatches,
    changed_patches,
    described,
    error_sums,
    held_out_names,
    judge,
)
from cope_cli.train.pretrain.stage import build_pretrain_model, pretrain
from cope_cli.train.pretrain.windows import open_pretrain_data


def _entry(name: str, source: str, content: str) -> Any:
    manifest = SimpleNamespace(source={"sha256": content})
    return SimpleNamespace(name=name, source_path=Path(source), manifest=manifest)


def _entries(num_videos: int) -> dict[str, Any]:
    """Two windows of each video."""
    made = [_entry(f"v{n}-{w}", f"/videos/{n}.mp4", f"content-{n}") for n in range(num_videos) for w in ("a", "b")]
    return {entry.name: entry for entry in made}


def test_held_out_videos_depend_on_seed_and_content_alone_and_take_all_their_windows_along() -> None:
    entries = _entries(20)
    held = held_out_names(entries, 0.25, 0)
    assert len(held) == 2 * 5
    assert {name[:-1] + "a" for name in held} | {name[:-1] + "b" for name in held} == held
    backwards = dict(reversed(entries.items()))
    renamed = {
        name: _entry(name, f"/elsewhere{e.source_path}", e.manifest.source["sha256"]) for name, e in entries.items()
    }
    assert held_out_names(backwards, 0.25, 0) == held_out_names(renamed, 0.25, 0) == held
    assert len({held_out_names(entries, 0.25, seed) for seed in range(10)}) > 5
    # Of a larger share, a smaller one is a part: a run with more held out has not trained on what was held out before.
    assert held < held_out_names(entries, 0.5, 0)


def test_at_least_one_video_is_held_out_and_never_all() -> None:
    assert held_out_names(_entries(5), 0.0, 0) == frozenset()
    assert held_out_names(_entries(1), 0.5, 0) == frozenset()
    assert len(held_out_names(_entries(3), 0.01, 0)) == 2
    assert len(held_out_names(_entries(3), 0.99, 0)) == 4
    # Two encodings of one source are one video.
    twice = {"a": _entry("a", "/v.mp4", "1"), "b": _entry("b", "/v.mp4", "2"), "c": _entry("c", "/w.mp4", "3")}
    assert held_out_names(twice, 0.5, 0) in ({"a", "b"}, {"c"})


def test_a_patch_has_changed_beyond_a_share_of_the_frames_spread() -> None:
    target = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    spread = (target - target.mean(1, keepdim=True)).square().sum(-1).mean(1)
    reference = target.clone()
    for row, share in ((0, CHANGED_SHARE * 0.99), (1, CHANGED_SHARE * 1.01)):
        reference[row, 5, 2] += (share * spread[row]).sqrt()
    expected = torch.zeros(2, 9, dtype=torch.bool)
    expected[1, 5] = True
    assert torch.equal(changed_patches(reference, target), expected)
    # Neither the scale of the tokens nor what all of a frame share matters.
    shift = torch.tensor([100.0, 0, 0, -7])
    assert torch.equal(changed_patches(reference * 8 + shift, target * 8 + shift), expected)


def test_errors_are_those_of_eq_10_over_all_and_over_changed_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, target, model, zeroed, shuffled = (torch.randn(3, 6, 5, generator=generator) for _ in range(5))
    target[:, :4] = reference[:, :4]
    sums = error_sums({"model": model, "zeroed": zeroed, "shuffled": shuffled}, reference, target)
    changed = changed_patches(reference, target)
    assert sums[0].tolist() == [18, int(changed.sum())]
    assert 0 < int(changed.sum()) <= 6
    for row, tokens in enumerate((model, reference, zeroed, shuffled), start=1):
        assert sums[row, 0] / 18 == pytest.approx(float(patch_loss(tokens, target)))
        slow = sum(float((tokens[p, m] - target[p, m]).square().sum()) for p, m in changed.nonzero())
        assert float(sums[row, 1]) == pytest.approx(slow, rel=1e-5)


def test_every_pair_is_evaluated_once_with_the_tokens_of_another() -> None:
    batches = HeldOutBatches(list(range(10)), batch_size=4, max_pairs=7, seed=3)
    rows = [batches.indices(number) for number in range(len(batches))]
    own = [index for row in rows for index in row[:-1]]
    lenders = [index for row in rows for index in row[1:]]
    assert len(own) == len(set(own)) == 7
    assert sorted(own) == sorted(lenders)  # shuffled between the pairs that are evaluated
    assert all(a != b for a, b in zip(own, lenders, strict=True))
    again = HeldOutBatches(list(range(10)), batch_size=7, max_pairs=7, seed=3)
    assert again.indices(0)[:-1] == own  # pairs and partners do not depend on the batch
    assert again.indices(0)[1:] == lenders
    assert HeldOutBatches(list(range(10)), batch_size=4, max_pairs=7, seed=4).order != batches.order


class _Shifter(nn.Module):
    """Stands in for the model on made-up "pairs", plain numbers: sums that tell which pairs a rank ran and counted."""

    def forward(self, batch: Any, compare: bool) -> torch.Tensor:
        return torch.full((5, 2), float(sum(batch.numbers[:-1])))


class _Numbers:
    def __init__(self, numbers: Sequence[float]) -> None:
        self.numbers = list(numbers)

    def to(self, device: Any) -> _Numbers:
        return self

    def twice(self) -> _Numbers:
        return _Numbers(self.numbers * 2)


class _Apart(Ranks):
    """A rank that hears nothing of the others: it has its own share alone."""

    def gather(self, value: Any, doing: str) -> list[Any]:
        return [value]

    def gather_lists(self, values: Sequence[Any], doing: str) -> list[Any]:
        return list(values)


def _evaluator(
    run: RunFolder, pairs: Sequence[Any], lines: list[Any], ranks: Ranks | None = None, max_bad: int = 0
) -> Evaluator:
    return Evaluator(
        sets={30: HeldOutBatches(pairs, batch_size=2, max_pairs=100, seed=0)},
        collate=lambda samples: {"batch": _Numbers(samples or [1000.0])},
        every=2,
        workers=0,
        left_out=LeftOut(run, ranks or Ranks(), max_bad=max_bad),
        clock=StepClock(),
        on_line=lines.append,
    )


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 5])
def test_ranks_share_the_batches_and_run_the_model_equally_often(tmp_path: Path, num_ranks: int) -> None:
    pairs = [float(2**n) for n in range(7)]  # 4 batches; every sum tells its terms
    calls, total = [], 0.0
    for rank in range(num_ranks):
        model, count = _Shifter(), []
        model.register_forward_hook(lambda *_, count=count: count.append(1))
        evaluator = _evaluator(RunFolder(tmp_path, "pretrain"), pairs, [], _Apart(index=rank, count=num_ranks))
        total += evaluator._line(model, evaluator.sets[30], torch.device("cpu"), 2)["num_patches"]
        calls.append(len(count))
    assert total == sum(pairs)
    assert len(set(calls)) == 1


def _evaluate(evaluator: Evaluator, model: nn.Module, num_steps: int) -> None:
    args = SimpleNamespace(device=torch.device("cpu"))
    for step in range(1, num_steps + 1):
        evaluator.on_step_end(args, SimpleNamespace(global_step=step, max_steps=num_steps), None, model=model)


def test_it_evaluates_every_so_many_steps_and_after_the_last(tmp_path: Path) -> None:
    lines: list[Any] = []
    pairs = [1.0, 2.0, BadSample(where="pair 2", message="bad")]
    evaluator = _evaluator(RunFolder(tmp_path, "pretrain"), pairs, lines, max_bad=1)
    model = _Shifter().train()
    _evaluate(evaluator, model, 5)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert model.training
    assert [line["where"] for line in evaluator.run.skipped()] == ["pair 2"]
    assert len(evaluator.run.skipped_file.read_text().splitlines()) == 1


def test_a_held_out_pair_that_cannot_be_read_counts_like_one_of_training(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "pretrain")
    pairs = [1.0, 2.0, BadSample(where="pair 2", message="bad")]
    run.log_skipped(1, BadSample(where="pair 9", message="bad"))  # by training, in an earlier step
    with pytest.raises(DataError, match="2 samples could not be read, --skip-bad 1 allows no more"):
        _evaluate(_evaluator(run, pairs, [], max_bad=1), _Shifter(), 2)
    with pytest.raises(DataError, match="pair 0 is broken"):
        _evaluate(_evaluator(run, _Broken(), [], max_bad=9), _Shifter(), 2)


class _Broken:
    """Pairs that cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise DataError("pair 0 is broken")


def _line(**values: Any) -> dict[str, Any]:
    base = {"kind": "eval", "step": 9, "fusion_frames": 30, "num_pairs": 4}
    for suffix, scale in (("mse", 1.0), ("changed_mse", 3.0)):
        base |= {f"model_{suffix}": 0.8 * scale, f"copy_{suffix}": scale}
        base |= {f"zeroed_{suffix}": 1.1 * scale, f"shuffled_{suffix}": 1.2 * scale}
    return base | values


def test_the_verdict_says_in_plain_words_whether_copying_is_beaten() -> None:
    good = judge([_line(step=5, model_mse=7.0), _line()])
    assert good is not None
    assert good.beats_copying
    assert good.text == (
        "window 30: beats copying the previous slot: 0.800 of its error on all patches and 0.800 of its error on "
        "changed patches"
    )
    bad = judge([_line(), _line(fusion_frames=10, model_changed_mse=3.3)])
    assert bad is not None
    assert not bad.beats_copying
    assert "window 10: does not beat copying the previous slot" in bad.text
    assert "1.100 of its error on changed patches" in bad.text
    unread = judge([_line(zeroed_mse=0.8)])
    assert unread is not None
    assert "no worse with zeroed Delta-tokens, so it makes no use of them" in unread.text
    still = judge([_line(model_changed_mse=None, shuffled_mse=None)])
    assert still is not None
    assert still.beats_copying
    assert judge([]) is None
    assert "model 0.800 / 0.800, zeroed 1.100 / 1.100, shuffled - / 1.200" in described(_line(shuffled_mse=None))


@pytest.fixture(scope="module")
def moving_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """`hard_cut` and `camera_pan`: something changes in both."""
    cache = Cache(tmp_path_factory.mktemp("moving") / "cache")
    fill(cache, ["hard_cut", "camera_pan"])
    return cache


@pytest.fixture(scope="module")
def runs(moving_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder, list[str]]:
    """The same training with two evaluations and with four, and what the first one said."""
    root, notes = tmp_path_factory.mktemp("held-out"), list[str]()
    found = []
    for every in (3, 1):
        run = RunFolder(root / f"every-{every}", "pretrain")
        config = pretrain_config(held_out=0.5, eval_steps=every, steps=4, batch_size=3)
        pretrain(moving_cache, config, run.path, on_note=notes.append if every == 3 else lambda text: None)
        found.append(run)
    return found[0], found[1], notes


def test_evaluation_changes_no_loss_and_stays_out_of_the_logged_steps(
    runs: tuple[RunFolder, RunFolder, list[str]],
) -> None:
    seldom, often, _ = runs
    assert losses(seldom.metrics()) == losses(often.metrics())
    assert [line["step"] for line in seldom.metrics()] == [1, 2, 3, 4]
    assert [line["step"] for line in seldom.evaluations()] == [3, 4]
    assert often.evaluations()[-1] == seldom.evaluations()[-1]
    assert len(often.evaluations()) == 4


def test_the_record_names_what_was_held_out_and_how_it_went(runs: tuple[RunFolder, RunFolder, list[str]]) -> None:
    run, _, notes = runs
    config = json.loads(run.config_file.read_text())
    assert len(config["cache_entries"]) == len(config["held_out_entries"]) == 1
    assert config["cache_entries"] != config["held_out_entries"]
    assert "copying the previous slot" in config["verdict"]
    assert len([note for note in notes if note.startswith("step ")]) == 2


def test_an_evaluation_is_that_of_the_saved_model_on_the_held_out_pairs(
    runs: tuple[RunFolder, RunFolder, list[str]], moving_cache: Cache
) -> None:
    from cope_cli.train.pretrain.stage import PretrainRecipe

    run = runs[0]
    config = pretrain_config(held_out=0.5)
    model = build_pretrain_model(load_base(config), config)
    PretrainRecipe(fusion_frames=30, vision_sha256="", token_width=96).load(model, run.result)
    data = open_pretrain_data(moving_cache, config, size_px=SIZE_PX)
    (pairs,) = data.held_out.values()
    batch = PretrainCollator(size_px=SIZE_PX, grid_px=GRID_PX)([pairs[n] for n in range(len(pairs))])["batch"]
    with torch.no_grad():
        output = model(batch)
    line = run.evaluations()[-1]
    assert line["num_pairs"] == len(pairs)
    assert line["num_patches"] == len(pairs) * 14**2
    assert line["model_mse"] == pytest.approx(float(output.loss), rel=1e-4)
    assert line["copy_mse"] == pytest.approx(float(output.copy_loss), rel=1e-4)
    assert line["zeroed_mse"] != line["model_mse"]
    assert line["shuffled_mse"] not in (line["model_mse"], line["zeroed_mse"])


def test_a_single_video_is_said_to_leave_nothing_to_evaluate(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    fill(cache, ["still_scene"])
    notes: list[str] = []
    run = RunFolder(tmp_path / "run", "pretrain")
    pretrain(cache, pretrain_config(held_out=0.5, steps=1), run.path, on_note=notes.append)
    assert notes == ["nothing is held out for evaluation: the cache has a single video"]
    assert run.evaluations() == []
    assert "verdict" not in run.config()


def test_a_steps_time_is_split_into_its_parts(runs: tuple[RunFolder, RunFolder, list[str]]) -> None:
    for line in runs[0].metrics()[1:]:  # the first begins before its time is taken
        parts = [line[f"{name}_seconds"] for name in PARTS]
        assert all(seconds > 0 for seconds in parts)
        # Evaluations between the steps are in none of them.
        assert sum(parts) <= line["seconds_per_step"]


def test_the_clock_counts_each_second_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 1, 10, 11, 13, 20])  # data: 0-1; backward 10-20, in it vision 11-13
    monkeypatch.setattr("cope_cli.train.loop.clock.time.perf_counter", lambda: float(next(times)))
    clock = StepClock()
    with clock.part("data"):
        pass
    with clock.part("backward"), clock.part("vision"):
        pass
    with clock.paused(), clock.part("vision"):
        pass
    assert clock.take(2) == {
        "data_seconds": 0.5,
        "vision_seconds": 1.0,
        "delta_encoder_seconds": 0.0,
        "alignment_seconds": 0.0,
        "backward_seconds": 4.0,
        "optimiser_seconds": 0.0,
    }
    assert set(clock.take(1).values()) == {0.0}
