"""benchmarks.sensitivity: one factor at a time, figures that mean what they claim, old entries as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_videos import pictures, write_video
from matplotlib.figure import Figure

from benchmarks import sensitivity as module
from benchmarks.coding import read_coding
from benchmarks.sensitivity import Asked, FactorValues, SensitivityReport, measure_sensitivity, settings_of
from benchmarks.sensitivity_plot import draw_sensitivity
from cope_cli.ask.config import AskConfig
from cope_cli.ask.questions import QuestionsRecord
from cope_cli.codec.mpeg4.bitstream import VolHeader, VopParser
from cope_cli.codec.mpeg4.stream import read_vops
from cope_cli.codec.mpeg4.transcode import transcode
from cope_cli.codec.mpeg4.vlc import INTRA
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import DataError, UsageError, VideoError

ENCODE = EncodeConfig(gop_frames=12, short_side_px=64)
EXTRACT = ExtractConfig(fusion_frames=4, grid_px=32)
VALUES = FactorValues(qualities=(4, 31), gop_frames=(6,), short_sides_px=(32,))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264: a moving disc on a pan, 36 frames."""
    path = tmp_path_factory.mktemp("sensitivity") / "a.mp4"
    return write_video(path, pictures(36, x_px=2), codec="libx264", options={"g": "12"})


@pytest.fixture(scope="module")
def report(video: Path) -> SensitivityReport:
    return measure_sensitivity([video], ENCODE, EXTRACT, values=VALUES)


def test_every_factor_holds_the_default_once_and_changes_nothing_else():
    settings = settings_of(EncodeConfig(), FactorValues())
    for factor in module.FACTORS:
        assert sum(s.is_default for s in settings if s.factor == factor) == 1
    for setting in settings:
        if setting.encode is not None:
            changed = [n for n, v in vars(setting.encode).items() if v != getattr(EncodeConfig(), n)]
            assert len(changed) == (not setting.is_default)
    assert [s.value for s in settings if s.factor == "short side"] == ["144", "224", "384", "source"]


def test_figures_move_as_their_factor_says(report: SensitivityReport):
    costs = {(cost.factor, cost.value): cost for cost in report.costs}
    default = costs["quality", "4"]
    assert costs["quality", "31"].bytes_per_second < default.bytes_per_second
    assert costs["GOP", "6"].bytes_per_second > default.bytes_per_second
    assert costs["short side", "32"].bytes_per_second < default.bytes_per_second
    assert (costs["codec", "MPEG-4"].codec, costs["codec", "direct"].codec) == ("mpeg4", "h264")
    assert costs["codec", "MPEG-4"].bytes_per_second == default.bytes_per_second
    assert default.warp_mae < default.copy_mae  # the camera pans
    assert all(cost.num_slots == 9 and cost.cpu_seconds > 0 for cost in report.costs if cost.value != "6")
    assert report.answers == () and report.not_direct == {}


def test_the_bytes_counted_are_those_of_the_streams_packets(video: Path, tmp_path: Path):
    encoded = tmp_path / "encoded.mp4"
    transcode(video, encoded, ENCODE)
    coding = read_coding(encoded)
    assert coding.num_bytes == sum(len(data) for data, _ in read_vops(encoded))
    assert coding.seconds == pytest.approx(36 / 30)


@pytest.mark.parametrize("four_vectors", [False, True])
def test_the_intra_share_is_that_of_the_bitstreams_macroblock_types(tmp_path: Path, four_vectors: bool):
    noise = np.random.default_rng(0)
    frames = [
        np.where(noise.random((48, 96, 1)) < 0.3, noise.integers(0, 255, (48, 96, 3)), p)
        for p in pictures(8, height=48)
    ]
    source = write_video(tmp_path / "noise.mp4", [frame.astype(np.uint8) for frame in frames])
    encoded = tmp_path / "encoded.mp4"
    transcode(source, encoded, EncodeConfig(quality=20, short_side_px=0, four_vectors=four_vectors))
    shares, kinds = [], np.empty((3, 6), np.uint8)
    seen = set()
    for data, header in read_vops(encoded):
        parser = VopParser(VolHeader.parse(header))
        if not parser.read_header(data).is_iframe:
            parser.macroblocks(data, np.empty((6, 12, 2), np.int16), kinds, np.empty_like(kinds))
            shares.append(np.mean(kinds == INTRA))
            seen |= set(kinds.flat)
    assert 0 < np.mean(shares) < 1
    assert read_coding(encoded).intra_share == pytest.approx(np.mean(shares))
    assert (2 in seen) == four_vectors  # INTER_4V


def test_settings_of_entries_made_before_are_as_they_were():
    assert "four_vectors" not in EncodeConfig().to_dict()
    on = EncodeConfig(four_vectors=True)
    assert EncodeConfig(**on.to_dict()) == on


def test_a_codec_without_vectors_lacks_the_direct_row_and_says_why(tmp_path: Path):
    video = write_video(tmp_path / "v.webm", pictures(12), codec="libvpx-vp9", options={})
    report = measure_sensitivity([video], ENCODE, EXTRACT, values=VALUES)
    assert "direct" not in {cost.value for cost in report.costs}
    assert "exports no motion vectors" in report.not_direct[str(video)]


def test_the_model_is_asked_once_per_setting_with_its_encoding(video: Path, tmp_path: Path, monkeypatch):
    calls = []

    def answer(path, out, loaded, cache, config, *, encode, workers):
        calls.append((config.way, encode))
        return QuestionsRecord(
            out=out,
            num_questions=4,
            num_answered=4,
            num_known=0,
            num_direct=0,
            num_expected=0 if path.name == "none.json" else 4,
            num_equal=1 if encode is None else 3,
            errors=(),
        )

    monkeypatch.setattr(module, "answer_questions", answer)
    asked = Asked(loaded=None, questions=tmp_path / "qa.json", config=AskConfig())
    report = measure_sensitivity([], ENCODE, EXTRACT, values=VALUES, asked=asked)
    assert {(a.value, a.accuracy) for a in report.answers if a.factor == "codec"} == {
        ("MPEG-4", 0.75),
        ("direct", 0.25),
    }
    assert len(calls) == len(set(calls)) == len({setting.encode for setting in settings_of(ENCODE, VALUES)})
    assert ("direct", None) in calls and ("reencode", ENCODE) in calls
    nothing = Asked(loaded=None, questions=tmp_path / "none.json", config=AskConfig())
    with pytest.raises(DataError, match="no question has an answer"):
        measure_sensitivity([], ENCODE, EXTRACT, values=VALUES, asked=nothing)


def test_questions_about_videos_without_vectors_lack_the_direct_row_alone(tmp_path: Path, monkeypatch):
    def count(asked, encode):
        if encode is None:
            raise VideoError("question a: exports no motion vectors")
        return 4, 2

    monkeypatch.setattr(module, "_count_right", count)
    asked = Asked(loaded=None, questions=tmp_path / "qa.json", config=AskConfig())
    report = measure_sensitivity([], ENCODE, EXTRACT, values=VALUES, asked=asked)
    assert [a.value for a in report.answers if a.factor == "codec"] == ["MPEG-4"]
    assert report.not_direct == {str(asked.questions): "question a: exports no motion vectors"}


def test_without_p_slots_there_is_no_error_to_show(tmp_path: Path, monkeypatch, capsys):
    from benchmarks.sensitivity_plot import MEASURES

    video = write_video(tmp_path / "short.mp4", pictures(3))
    report = measure_sensitivity([video], ENCODE, EXTRACT, values=VALUES)
    assert {(cost.num_slots, cost.num_p_slots) for cost in report.costs} == {(1, 0)}
    assert all(np.isnan(MEASURES["warp error, levels"](cost)) for cost in report.costs)
    monkeypatch.setattr(module, "measure_sensitivity", lambda *arguments, **options: report)
    module.main([str(video)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "kB" in line]
    assert rows and all(row.count("-") == 2 for row in rows)


def test_videos_of_one_name_keep_tables_of_their_own(tmp_path: Path, monkeypatch, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    one = write_video(tmp_path / "one" / "v.mp4", pictures(12))
    two = write_video(tmp_path / "two" / "v.mp4", pictures(12), codec="mjpeg", pix_fmt="yuvj420p", options={})
    report = measure_sensitivity([one, two], ENCODE, EXTRACT, values=VALUES)
    counts = {video: sum(cost.video == str(video) for cost in report.costs) for video in (one, two)}
    assert counts[one] == counts[two] + 1 == len(settings_of(ENCODE, VALUES))
    assert set(report.not_direct) == {str(two)}
    monkeypatch.setattr(module, "measure_sensitivity", lambda *arguments, **options: report)
    module.main([str(tmp_path)])
    first, second = capsys.readouterr().out.split("two/v.mp4: one factor changed at a time")
    assert "one/v.mp4: one factor changed at a time" in first and str(tmp_path) not in first
    assert "direct h264" in first and "not read directly" not in first
    assert "direct h264" not in second and "not read directly" in second


def test_no_marker_is_cut_off_at_the_top(report: SensitivityReport, tmp_path: Path, monkeypatch):
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: (figures.append(self), path.touch()))
    costs = tuple(
        replace(cost, bytes_per_second=1e5 + 10 * number, video=str(tmp_path / f"{number % 2}" / "v.mp4"))
        for number, cost in enumerate(report.costs)
    )
    draw_sensitivity(replace(report, costs=costs), tmp_path / "a.png")
    (figure,) = figures
    figure.draw_without_rendering()
    for axes in figure.axes:
        for line in axes.lines:
            tops = axes.transData.transform(line.get_xydata())[:, 1] + line.get_markersize() * figure.dpi / 72 / 2
            assert tops.max(initial=0) < axes.bbox.y1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0/v.mp4", "1/v.mp4"]


def test_the_picture_and_the_tables(video: Path, report: SensitivityReport, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(module, "measure_sensitivity", lambda *arguments, **options: report)
    picture = tmp_path / "figures" / "a.png"
    module.main([str(video), "--out", str(picture)])
    shown = capsys.readouterr().out
    assert "direct h264" in shown and "4 *" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in picture.parent.iterdir()] == ["a.png"]
    module.main([str(video), "--json"])
    assert len(json.loads(capsys.readouterr().out)["costs"]) == len(report.costs)
    draw_sensitivity(SensitivityReport(costs=(), answers=(), not_direct={}), tmp_path / "empty.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "a.jpg"], "ends in .png"),
        (["--data", "qa.json"], "name the model to ask"),
        (["--model", "m", "--data", "none.json"], "no such file of questions"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_measured(video: Path, options, message):
    with pytest.raises(UsageError, match=message):
        module.main([str(video), *options])
