"""`cope inspect` from the command line: the files it writes, the table it prints, the mistakes it names."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cope_cli.cli.main import app
from cope_cli.errors import CopeError, UsageError


@pytest.fixture
def inspect(shared_cache, tmp_path):
    def run(*args: str) -> Result:
        command = [
            "inspect",
            str(shared_cache.source),
            "--cache",
            str(shared_cache.root),
            "--out",
            str(tmp_path),
            *args,
        ]
        return CliRunner().invoke(app, command)

    return run


def test_five_pictures_of_a_slot_a_figure_and_a_sheet(inspect, shared_cache, tmp_path):
    result = inspect("--slot", "5")
    assert result.exit_code == 0, result.output
    folder = tmp_path / shared_cache.primitives
    endings = ["1-previous", "2-vectors", "3-residual", "4-compensated", "5-result"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["slot-0005.png", "gop-0001.png", *(f"slot-0005-{ending}.png" for ending in endings)]
    )
    with Image.open(folder / "slot-0005-1-previous.png") as single, Image.open(folder / "slot-0005.png") as figure:
        assert figure.width > 4.8 * (single.width - 12)
    assert str(folder / "slot-0005.png") in result.stdout


def test_without_a_slot_a_typical_one_is_drawn(inspect, shared_cache, tmp_path):
    record = json.loads(inspect("--json").stdout)
    moved = {row["slot"]: row["energy"]["motion_mean_px"] for row in record["rows"] if row["energy"]}
    assert record["slot"] == max(moved, key=moved.get)
    assert (tmp_path / shared_cache.primitives / f"slot-{record['slot']:04d}.png").is_file()


def test_an_iframe_slot_has_its_frame_alone(inspect, shared_cache, tmp_path):
    assert inspect("--slot", "3").exit_code == 0
    names = sorted(path.name for path in (tmp_path / shared_cache.primitives).iterdir())
    assert names == ["gop-0001.png", "slot-0003-5-result.png", "slot-0003.png"]


def test_text_prints_a_row_per_slot_and_writes_nothing(inspect, tmp_path):
    result = inspect("--text", "--from", "1")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    slots = [line for line in lines if line and line[0].isdigit()]
    assert [line[0] for line in slots] == ["3", "4", "5", "6", "7"]
    assert slots[0][3:6] == ["1", "I", "210"]
    assert slots[1][3:6] == ["1", "P", "10"]
    assert "K = 1: 680 tokens, 3 RGB and 5 P slots of 3 of 3 GOPs" in result.stdout
    assert not list(tmp_path.iterdir())


def test_adaptive_windows_show_their_lengths_in_table_and_json(filled_cache):
    def inspect(*args: str) -> str:
        command = ["inspect", str(filled_cache.source), "--cache", str(filled_cache.root), "--text", *args]
        return CliRunner().invoke(app, command).stdout

    rows = json.loads(inspect("--fusion", "auto:12", "--json"))["rows"]
    lines = [line.split() for line in inspect("--fusion", "auto:12").splitlines()]
    shown = [line[5] for line in lines if line and line[0].isdigit()]
    assert "window," in next(line for line in lines if "slot" in line)
    assert shown == [str(row["window_frames"] or "-") for row in rows]
    assert len(set(shown)) > 1
    assert "window, frames" not in inspect("--fusion", "10")
    assert {row["window_frames"] for row in json.loads(inspect("--fusion", "10", "--json"))["rows"]} == {None}


def test_json_holds_slots_plans_and_files(inspect, shared_cache, tmp_path):
    record = json.loads(inspect("--html", "--slot", "4", "--json").stdout)
    assert record["entry"] == shared_cache.primitives
    assert record["slot"] == 4
    assert record["files"] == [str(tmp_path / shared_cache.primitives / "index.html")]
    assert len(record["rows"]) == 8
    assert [plan["num_tokens"] for plan in record["plans"]] == [680, 1280, 1680]
    assert record["rows"][1]["energy"]["residual_rms_levels"] > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--slot", "8"], "--slot 8: .* has slots 0 to 7"),
        (["--slot", "-1"], "--slot -1"),
        (["--from", "50"], "--from 50: no slot"),
        (["--from", "2", "--to", "1"], "--to 1: expected more than --from 2"),
        (["--from", "-1"], "--from -1.0: expected 0 or more"),
        (["--fusion", "601"], "--fusion 601"),
        (["--fusion", "auto:3"], "--fusion auto:3"),
        (["--fusion", "often"], "--fusion often: expected a number of frames, auto, or auto:N"),
        (["--html", "--slot", "1", "--from", "1"], "--slot 1: the page shows slots 3 to 7"),
    ],
)
def test_mistakes_name_their_flag(inspect, args, message, tmp_path):
    result = inspect(*args)
    assert isinstance(result.exception, UsageError)
    with pytest.raises(UsageError, match=message):
        raise result.exception
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(inspect, shared_cache, tmp_path):
    (tmp_path / shared_cache.primitives).write_text("a file stands here")
    for flags in ([], ["--html"]):
        result = inspect(*flags)
        assert isinstance(result.exception, CopeError)
        assert "cannot be written" in str(result.exception)
