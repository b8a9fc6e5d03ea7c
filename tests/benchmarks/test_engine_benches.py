"""The benchmarks of the data stages on small videos: every figure is there and has the meaning it claims."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_videos import pictures, write_video
from typer.testing import CliRunner

from benchmarks.adaptive import measure_adaptive
from benchmarks.direct import measure_direct
from benchmarks.encode import measure_encode
from benchmarks.extract import STEPS, measure_extract
from benchmarks.lowres import measure_lowres
from benchmarks.memory import measure_memory
from benchmarks.parallel import measure_parallel
from benchmarks.storage import measure_storage
from cope_cli.cli.main import app
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError, EntryNotFoundError, UsageError
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


@pytest.mark.parametrize("flag", ["--residual", "--lowres"])
def test_the_command_prints_a_table_and_json(video: Path, flag: str, capsys: pytest.CaptureFixture[str]):
    from cope_cli.cli import show
    from cope_cli.cli.bench.command import bench

    show.out.file = None  # the stream that is captured now
    options = {
        flag.removeprefix("--"): True,
        "videos": [str(video)],
        "fusion": 4,
        "grid": 32,
        "short_side": 64,
        "rounds": 1,
    }
    bench(**options, json=True)
    assert json.loads(capsys.readouterr().out)[0]["video"] == "a.mp4"
    bench(**options)
    assert "a.mp4" in capsys.readouterr().out


def test_a_benchmark_of_files_asks_for_files():
    from cope_cli.cli.bench.command import bench

    with pytest.raises(UsageError, match="--lowres: name the videos"):
        bench(lowres=True)
    with pytest.raises(UsageError, match="choose one of"):
        bench()
    with pytest.raises(UsageError, match="choose one of"):
        bench(lowres=True, residual=True)


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


@pytest.mark.parametrize("flag", ["--direct", "--adaptive"])
def test_both_ways_and_both_windows_are_printed(video: Path, flag: str):
    args = ["bench", flag, str(video), "--fusion", "4", "--grid", "32", "--rounds", "1"]
    shown = CliRunner().invoke(app, args)
    assert shown.exit_code == 0, shown.output
    for word in ("re-encoded", "direct") if flag == "--direct" else ("fixed", "adaptive"):
        assert word in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*args, "--json"]).stdout)
    (record,) = found["costs"] if flag == "--direct" else found
    assert record["video"] == "a.mp4"


def test_what_cannot_be_read_directly_is_listed_and_the_rest_measured(video: Path, tmp_path: Path):
    broken, webm = tmp_path / "a.mp4", tmp_path / "b.webm"
    broken.write_bytes(b"no video")
    write_video(webm, pictures(12), codec="libvpx-vp9", options={})
    shutil.copy(video, tmp_path / "c.mp4")
    args = ["bench", "--direct", str(tmp_path), "--fusion", "4", "--grid", "32", "--rounds", "1"]
    shown = CliRunner().invoke(app, args)
    assert shown.exit_code == 1
    assert "c.mp4" in shown.stdout and "a.mp4" not in shown.stdout
    assert "2 of 3 failed" in shown.stderr and "exports no motion vectors" in shown.stderr
    as_json = CliRunner().invoke(app, [*args, "--json"])
    assert as_json.exit_code == 1
    found = json.loads(as_json.stdout)
    assert [cost["video"] for cost in found["costs"]] == ["c.mp4"]
    assert set(found["errors"]) == {str(broken), str(webm)}
    assert all(error["type"] == "VideoError" and error["message"] for error in found["errors"].values())
    (tmp_path / "c.mp4").unlink()
    nothing = CliRunner().invoke(app, args)
    assert nothing.exit_code == 1 and not nothing.stdout.strip()


@pytest.mark.parametrize("fusion", [3, 250])
def test_windows_that_cannot_be_adaptive_are_refused_before_anything_is_encoded(
    video: Path, fusion: int, monkeypatch: pytest.MonkeyPatch
):
    encoded: list[Path] = []
    monkeypatch.setattr("benchmarks.adaptive.transcode", lambda source, *rest: encoded.append(source))
    with pytest.raises(UsageError, match=f"{fusion}: expected 4 to 200"):
        measure_adaptive([video], ENCODE, fusion)
    assert encoded == []
