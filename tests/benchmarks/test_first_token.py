"""benchmarks.first_token: every step from the file on is timed, and both ways to take frames give the same frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_videos import pictures, write_video

from benchmarks import first_token
from benchmarks.first_token import STEPS, measure_first_token
from benchmarks.sampling import sample_frames, sampled_indices
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import VideoError
from cope_cli.evaluate.config import TtftConfig
from cope_cli.evaluate.runner import Runner


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first_token")
    return write_video(folder / "a.mp4", pictures(96), codec="libx264", options={"g": "24"})


def test_videos_are_measured_from_the_file_on(video: Path) -> None:
    runner = Runner(TtftConfig(rounds=1, grid_px=32, device="cpu"))
    encode, extract = EncodeConfig(gop_frames=48, short_side_px=0), ExtractConfig(fusion_frames=6, grid_px=32)
    records = measure_first_token(runner, [video], encode, extract)
    found = {r.configuration: (r.num_rgb, r.num_p) for r in records}
    expected = {"64 RGB frames": (64, 0), "8 RGB frames": (8, 0), "K = 1": (2, 14), "K = 2": (4, 12), "K = 4": (8, 8)}
    assert found == expected
    for record in records:
        used = {step for step in STEPS if record.seconds[step] > 0}
        assert used == ({"decode"} if "frames" in record.configuration else {"encode", "extract", "read"})
        assert bool(record.method) == ("frames" in record.configuration)
        assert record.total_seconds == pytest.approx(sum(record.seconds.values()) + record.ttft_seconds)
        assert record.total_seconds >= record.again_seconds > record.ttft_seconds > 0
        assert record.cpu_seconds > 0
        assert record.visual_tokens == record.num_rgb * 56 + record.num_p * 10


def test_seeking_gives_the_frames_that_decoding_all_gives(video: Path) -> None:
    whole = sample_frames(video, 5, 40, by_seeking=False)
    sought = sample_frames(video, 5, 40, by_seeking=True)
    assert whole.rgb.shape == (5, 40, 40, 3)
    np.testing.assert_array_equal(whole.rgb, sought.rgb)
    assert whole.seconds == sought.seconds
    assert (whole.seconds[0], whole.seconds[-1]) == (0, whole.video_seconds)
    assert len(sample_frames(video, 1000, 40, by_seeking=True).rgb) == 96


def test_sampled_indices_reach_from_the_first_frame_to_the_last() -> None:
    assert sampled_indices(100, 4) == [0, 33, 66, 99]
    assert sampled_indices(100, 1) == [0]
    assert sampled_indices(3, 8) == [0, 1, 2]


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="not a video"):
        sample_frames(tmp_path / "a.mp4", 8, 32, by_seeking=False)


def test_the_script_prints_a_table_or_json(video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(video), "--rounds", "1", "--grid", "32", "--fusion", "6", "--short-side", "0", "--device", "cpu"]
    first_token.main([*arguments, "--json"])
    records = json.loads(capsys.readouterr().out)
    assert [record["configuration"] for record in records][:2] == ["64 RGB frames", "8 RGB frames"]
    first_token.main([*arguments, "--share-layers"])
    assert "From the file to the first token" in capsys.readouterr().out
