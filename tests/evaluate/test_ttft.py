"""Time to first token: every part is timed, and every shape is that of the token plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cope_cli.cli.main import app
from cope_cli.data.collate import collate
from cope_cli.errors import UsageError
from cope_cli.evaluate import machine
from cope_cli.evaluate.config import TtftConfig
from cope_cli.evaluate.flops import Shape, saving_percent
from cope_cli.evaluate.machine import PeakMemory
from cope_cli.evaluate.runner import PARTS, Runner, Stopwatch
from cope_cli.evaluate.ttft import made_samples, measure_ttft, shape_of_sample
from cope_cli.model.sizes.geometry import GEOMETRIES


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(TtftConfig(rounds=1, max_new_tokens=3, is_warm_up_full=False, grid_px=32, device="cpu"))


def test_every_configuration_is_measured_in_parts(runner: Runner) -> None:
    seen: list[tuple[int, int]] = []
    report = measure_ttft(runner, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(7)]  # one short warm-up, five runs
    found = {r.configuration: (r.num_rgb, r.num_p, r.visual_tokens) for r in report.records}
    assert found == {
        "64 RGB frames": (64, 0, 64 * 56),
        "K = 1": (8, 56, 8 * 56 + 56 * 10),
        "K = 2": (16, 48, 16 * 56 + 48 * 10),
        "K = 4": (32, 32, 32 * 56 + 32 * 10),
        "8 RGB frames": (8, 0, 8 * 56),
    }
    for record in report.records:
        assert set(record.seconds) == set(PARTS)
        assert (record.seconds["delta_encoder"] > 0) == (record.num_p > 0)
        assert min(record.seconds[part] for part in PARTS if part != "delta_encoder") > 0
        assert record.ttft_seconds == pytest.approx(sum(record.seconds[part] for part in PARTS[:-1]))
        assert record.total_seconds == pytest.approx(record.ttft_seconds + record.seconds["decode"])
        assert set(record.cpu_seconds) == set(PARTS)
        assert record.saving_percent < 100
    baseline, rival = report.records[0], report.records[-1]
    assert (baseline.saving_percent, baseline.bound_percent) == (0, 0)
    assert rival.saving_percent > 0
    assert (report.weights, report.dtype, report.device) == ("random", "float32", "cpu")
    assert report.machine.name


def test_bounds_are_those_of_the_prompts_that_ran(runner: Runner) -> None:
    samples = made_samples(runner)
    shape, baseline = shape_of_sample(samples["K = 1"]), shape_of_sample(samples["64 RGB frames"])
    assert len(samples["K = 1"].prompt) == 8 * 56 + 56 * 10 + shape.num_text
    assert baseline.num_text > shape.num_text > 50  # the time instruction names every frame, or every keyframe
    record = next(r for r in measure_ttft(runner).records if r.configuration == "K = 1")
    assert runner.model.delta_encoder is not None
    delta = runner.model.delta_encoder.config
    assert record.bound_percent == saving_percent(GEOMETRIES["tiny"], shape, baseline, delta)
    without = (Shape(num_rgb=8, num_p=56), Shape(num_rgb=64, num_p=0))
    assert record.bound_without_text_percent == saving_percent(GEOMETRIES["tiny"], *without, delta)


def test_the_parts_give_the_models_own_input_and_first_token(runner: Runner) -> None:
    sample = runner.made_sample(2, 2)
    batch = collate([sample], pad_id=0, padding_side="left", with_labels=False)
    embeddings = runner._embed(batch, Stopwatch(device=runner.device))
    with torch.no_grad():
        torch.testing.assert_close(embeddings, runner.model.embed(batch))
        expected = runner.model(batch).logits[:, -1].argmax(-1)
        token = runner._step(embeddings, runner.model.new_cache())
    assert token.item() == expected.item()


def test_portions_change_nothing(runner: Runner, monkeypatch) -> None:
    batch = collate([runner.made_sample(2, 3)], pad_id=0, padding_side="left", with_labels=False)
    with torch.no_grad():
        in_portions = runner.model.embed(batch)
        monkeypatch.setattr("cope_cli.model.videolm.CPU_CHUNK", 1000)
        torch.testing.assert_close(in_portions, runner.model.embed(batch), rtol=1e-4, atol=1e-5)
    with torch.enable_grad():  # gradients: in one portion, on contiguous residuals
        torch.testing.assert_close(in_portions, runner.model.embed(batch), rtol=1e-4, atol=1e-5)


def test_peak_memory_is_that_of_the_block() -> None:
    memory = PeakMemory(torch.device("cpu"))
    with memory.watch():
        torch.ones(50_000_000)
    if memory.growth_bytes is None:
        pytest.skip("the system does not tell a process's peak")
    assert memory.peak_bytes is not None
    assert 190e6 < memory.growth_bytes < 400e6 < memory.peak_bytes + 300e6


def test_a_system_that_does_not_tell_gives_none(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CLEAR_REFS", tmp_path / "none" / "clear_refs")
    memory = PeakMemory(torch.device("cpu"))
    with memory.watch():
        pass
    assert (memory.peak_bytes, memory.growth_bytes) == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "1b"}, "--geometry 1b"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"rounds": 0}, "--rounds 0"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0"),
    ],
)
def test_wrong_settings_are_refused_by_flag(options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TtftConfig(**options)


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(monkeypatch) -> None:
    monkeypatch.setattr("cope_cli.evaluate.runner.free_bytes", lambda device: 20_000_000_000)
    with pytest.raises(UsageError, match=r"32\.1 GB as torch\.float32, and cpu has 20\.0 GB"):
        Runner(TtftConfig(geometry="7b", dtype="float32", device="cpu"))
    with pytest.raises(UsageError, match="--device nothing"):
        Runner(TtftConfig(device="nothing"))


def test_the_command_prints_tables_and_json() -> None:
    options = ["bench", "--ttft", "--rounds", "1", "--max-new-tokens", "2", "--short-warm-up", "--grid", "32"]
    options += ["--device", "cpu"]
    printed = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert set(printed) == {"ttft", "flops", "longest_video"}
    assert [set(record["seconds"]) for record in printed["ttft"]["records"]] == [set(PARTS)] * 5
    assert {row["geometry"] for row in printed["flops"]} == {"0.5b", "7b", "72b"}
    text = CliRunner().invoke(app, [*options, "--share-layers"]).stdout
    for expected in ("one layer's in all, weights", "FLOP bound", "Delta-encoder", "K = 4", "8 RGB frames", "72b"):
        assert expected in text
