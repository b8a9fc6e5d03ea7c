"""The benchmarks of the data stages on small videos: every figure is present and means what its name says."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_videos import pictures, write_video

from benchmarks import adaptive, direct, encode, extract, loader, lowres, memory, parallel, residual, storage, warp
from benchmarks.adaptive import measure_adaptive
from benchmarks.direct import measure_direct
from benchmarks.encode import measure_encode
from benchmarks.extract import STEPS, measure_extract
from benchmarks.lowres import measure_lowres
from benchmarks.memory import measure_memory
from benchmarks.parallel import measure_parallel
from benchmarks.storage import measure_storage
from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError, EntryNotFoundError, UsageError
from cope_cli.stages.encode import encode_video
from cope_cli.stages.frames import ensure_frames

ENCODE = EncodeConfig(gop_frames=12, short_side_px=64)
EXTRACT = ExtractConfig(fusion_frames=4, grid_px=32)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    return write_video(folder / "a.mp4", pictures(48), codec="libx264", options={"g": "12"})


def test_the_steps_of_extraction_add_up_to_the_whole(video: Path):
    (cost,) = measure_extract([video], ENCODE, EXTRACT, rounds=3)
    assert set(cost.steps_ms) == set(STEPS)
    assert all(ms >= 0 for ms in cost.steps_ms.values())
    assert sum(cost.steps_ms.values()) == pytest.approx(cost.stored_ms, rel=0.8)
    assert cost.stored_ratio > cost.in_memory_ratio > 0


@pytest.mark.parametrize("has_program", [True, False])
def test_encoding_is_split_and_stands_beside_the_program_where_there_is_one(
    video: Path, monkeypatch, has_program: bool
):
    monkeypatch.setattr("benchmarks.encode._cpu_of_program", lambda command: 1.0)
    monkeypatch.setattr("benchmarks.encode._version", lambda program: "7.0")
    monkeypatch.setattr("shutil.which", lambda name: "ffmpeg" if has_program else None)
    small, large = measure_encode([video], ENCODE, [32, 0], rounds=1)
    assert (small.width_px, small.height_px, large.width_px, large.height_px) == (48, 32, 96, 64)
    assert (small.program_ms is not None, small.program_version) == (has_program, "7.0" if has_program else "")
    assert small.total_ms == pytest.approx(small.decode_ms + small.filter_ms + small.encode_ms)
    assert small.size_bytes < large.size_bytes


def test_pictures_of_reduced_decoding_drift_within_a_gop(video: Path):
    records = measure_lowres([video], ENCODE, EXTRACT, rounds=1)
    assert [record.lowres for record in records] == [1, 2]
    for record in records:
        assert len(record.drift_by_slot) == 2
        assert all(drift > 0 for drift in record.drift_by_slot)
        assert record.residual_mae > 0


def test_storage_compares_every_layout_and_the_frames(filled_cache):
    entry = filled_cache.cache.primitives_entry(filled_cache.primitives)
    ensure_frames(filled_cache.cache, entry, 32, [0, 1])
    records, (frames,) = measure_storage(filled_cache.root)
    assert {record.array for record in records} == {"motion", "residual", "grid_iframe"}
    assert all(record.bytes_per_slot > 0 for record in records)
    stored = next(record for record in records if record.array == "residual")
    assert (stored.layout, stored.codec) == ("as stored", "blosc zstd 1, bit shuffle")
    assert frames.num_frames >= 2 and frames.decode_one_ms > 0
    with pytest.raises(EntryNotFoundError):
        measure_storage(filled_cache.root / "none")


@pytest.mark.slow
def test_more_workers_write_the_same_bytes(video: Path):
    records, overlap = measure_parallel([video, video.with_name("a.mp4")], ENCODE, EXTRACT)
    assert len({(record.load, record.digest) for record in records}) == len({record.load for record in records})
    assert overlap.overlapped_seconds > 0


def test_memory_is_read_in_processes_of_their_own(video: Path):
    record = measure_memory(video, 4.0, ENCODE, EXTRACT)
    assert record.seconds >= 4.0
    assert 20e6 < record.start_bytes <= record.extract_bytes


def test_a_stage_that_fails_ends_the_benchmark(tmp_path: Path):
    broken = tmp_path / "a.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(CopeError):
        measure_extract([broken], ENCODE, EXTRACT, rounds=1)


SMALL = ("--short-side", "64", "--fusion", "4", "--grid", "32", "--rounds", "1")
#: Script -> its arguments after the video, and how to find the records in its JSON.
SCRIPTS = {
    adaptive: (SMALL[:4], lambda found: found),
    direct: (SMALL, lambda found: found["costs"]),
    encode: (("--short-sides", "64", "--rounds", "1"), lambda found: found),
    extract: (SMALL, lambda found: found),
    lowres: (SMALL, lambda found: found),
    memory: ((*SMALL[:6], "--hours", "0.001"), lambda found: found),
    residual: (SMALL[:2], lambda found: found),
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__.split(".")[1])
def test_a_script_prints_tables_or_json(video: Path, script, capsys: pytest.CaptureFixture[str]):
    arguments, records = SCRIPTS[script]
    script.main([str(video), *arguments])
    assert "a.mp4" in capsys.readouterr().out
    script.main([str(video), *arguments, "--json"])
    assert {record["video"] for record in records(json.loads(capsys.readouterr().out))} == {"a.mp4"}


@pytest.mark.slow
def test_the_script_of_parallel_work_prints_both_loads(video: Path, capsys: pytest.CaptureFixture[str]):
    parallel.main([str(video), *SMALL[:6]])
    shown = capsys.readouterr().out
    assert "1 files" in shown and "a.mp4" in shown and "DIFFERENT" not in shown


def test_the_scripts_of_a_cache_print_tables_and_json(filled_cache, capsys: pytest.CaptureFixture[str]):
    cache = ("--cache", str(filled_cache.root))
    entry = filled_cache.cache.primitives_entry(filled_cache.primitives)
    ensure_frames(filled_cache.cache, entry, 32, range(entry.manifest.info["num_slots"]))
    for script, arguments, word in [
        (storage, (), "zstd 5"),
        (loader, ("--fusion", "10", "--grid", "32", "--rounds", "1"), "conversations"),
        (warp, (), filled_cache.primitives),
    ]:
        script.main([*cache, *arguments])
        assert word in capsys.readouterr().out
        script.main([*cache, *arguments, "--json"])
        assert word in capsys.readouterr().out


def test_a_script_runs_as_a_program_and_its_errors_are_one_line(video: Path, tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.warp", "--cache", str(tmp_path)]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith("error: ") and "Traceback" not in failed.stderr
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert json.loads(as_json.stdout)["error"]["type"] == "EntryNotFoundError"
    command = [sys.executable, "-m", "benchmarks.residual", str(video)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "a.mp4" in done.stdout
    nothing = subprocess.run(command[:3], capture_output=True, text=True, check=False)
    assert nothing.returncode == 2 and "VIDEO" in nothing.stderr


def test_every_option_of_a_script_has_help(capsys: pytest.CaptureFixture[str]):
    for script in (*SCRIPTS, parallel, storage, loader, warp):
        with pytest.raises(SystemExit) as stop:
            script.main(["--help"])
        assert stop.value.code == 0
        assert f"python -m {script.__name__}" in capsys.readouterr().out


def test_a_repeated_video_is_as_long_as_asked_and_plays_on(video: Path, tmp_path: Path):
    memory.repeat_video(video, tmp_path / "long.mp4", 4.0)
    record = encode_video(tmp_path / "long.mp4", Cache(tmp_path / "cache"), ENCODE)
    assert record.num_frames == 3 * 48  # 1.6 seconds, three times


def test_direct_stands_beside_encode_and_extract(video: Path):
    report = measure_direct([video], ENCODE, EXTRACT, rounds=1)
    (cost,) = report.costs
    assert report.errors == {}
    assert (cost.codec, cost.width_px, cost.height_px, cost.num_frames) == ("h264", 96, 64, 48)
    assert 0 < cost.ratio == cost.direct.cpu_seconds / cost.re_encoded.cpu_seconds
    for way in (cost.direct, cost.re_encoded):
        assert way.num_slots == 12 and 0 < way.warp_mae < way.copy_mae and way.primitives_bytes > 0
    assert cost.direct.encoded_bytes == 0 < cost.re_encoded.encoded_bytes
    assert (cost.direct.num_iframe_slots, cost.re_encoded.num_iframe_slots) == (1, 4)


def test_what_cannot_be_read_directly_is_listed_and_the_rest_measured(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken, webm = tmp_path / "a.mp4", tmp_path / "b.webm"
    broken.write_bytes(b"no video")
    write_video(webm, pictures(12), codec="libvpx-vp9", options={})
    shutil.copy(video, tmp_path / "c.mp4")

    def run(*arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stop:
            direct.main([str(tmp_path), "--fusion", "4", "--grid", "32", "--rounds", "1", *arguments])
        assert stop.value.code == 1
        captured = capsys.readouterr()
        return captured.out, captured.err

    shown, errors = run()
    assert "c.mp4" in shown and "a.mp4" not in shown
    assert "2 of 3 failed" in errors and "exports no motion vectors" in errors
    found = json.loads(run("--json")[0])
    assert [cost["video"] for cost in found["costs"]] == ["c.mp4"]
    assert set(found["errors"]) == {str(broken), str(webm)}
    assert all(error["type"] == "VideoError" and error["message"] for error in found["errors"].values())
    (tmp_path / "c.mp4").unlink()
    assert run()[0] == ""


@pytest.mark.parametrize("fusion", [3, 250])
def test_windows_that_cannot_be_adaptive_are_refused_before_anything_is_encoded(
    video: Path, fusion: int, monkeypatch: pytest.MonkeyPatch
):
    encoded: list[Path] = []
    monkeypatch.setattr("benchmarks.adaptive.transcode", lambda source, *rest: encoded.append(source))
    with pytest.raises(UsageError, match=f"{fusion}: expected 4 to 200"):
        measure_adaptive([video], ENCODE, fusion)
    assert encoded == []


def test_the_commands_in_the_documents_are_accepted_by_their_scripts(monkeypatch: pytest.MonkeyPatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, arguments: list[str]) -> None:
        parse(self, arguments)
        raise InterruptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    docs = Path(__file__).parents[2] / "docs"
    lines = [line for page in docs.glob("*.md") for line in page.read_text().splitlines()]
    commands = [line.split() for line in lines if line.startswith("python -m benchmarks.")]
    assert len(commands) > 10
    for _, _, script, *arguments in commands:
        with pytest.raises(InterruptedError):
            importlib.import_module(script).main(arguments)
