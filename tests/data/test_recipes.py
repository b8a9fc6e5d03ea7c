from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cope_cli.data.conversations import read_items
from cope_cli.data.draws import drawn_number, drawn_sample
from cope_cli.data.recipes import Sampling, read_data
from cope_cli.errors import DataError, PathNotFoundError


def _items(path: Path, ids: range) -> Path:
    """Items with these ids, as a list or as lines."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    values = [{"id": number, "video": f"{number}.mp4", "conversations": turns} for number in ids]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values) if path.suffix == ".json" else "\n".join(json.dumps(value) for value in values))
    return path


def _recipe(folder: Path, *entries: Any, name: str = "mix.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump({"datasets": list(entries)}))
    return path


def _ids(path: Path, **options: Any) -> list[int]:
    return [int(item.id) for item in read_data(path, **options).items]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", range(7)),
        ("first:3", range(3)),
        ("end:3", range(4, 7)),
        ("first:30%", range(3)),  # 2.1, rounded up
        ("end:1%", range(6, 7)),
        ("first:100%", range(7)),
        ("end:100", range(7)),  # more than there are
    ],
)
def test_the_strategies_of_llava_video(tmp_path: Path, strategy: str, expected: range) -> None:
    _items(tmp_path / "a.json", range(7))
    recipe = _recipe(tmp_path, {"json_path": "a.json", "sampling_strategy": strategy})
    assert _ids(recipe) == list(expected)
    (file,) = read_data(recipe).files
    assert (file.sampling, file.num_items, file.num_taken) == (strategy, 7, len(expected))


def test_files_follow_each_other_and_lines_and_lists_mix(tmp_path: Path) -> None:
    _items(tmp_path / "a.json", range(4))
    _items(tmp_path / "sub" / "b.jsonl", range(10, 13))
    outside = _items(tmp_path.parent / f"{tmp_path.name}-outside" / "c.json", range(20, 22))
    recipe = _recipe(
        tmp_path,
        {"json_path": "sub/../a.json", "sampling_strategy": "end:2"},
        {"json_path": "sub/b.jsonl"},
        {"json_path": str(outside)},
        name="mix.yml",
    )
    assert _ids(recipe) == [2, 3, 10, 11, 12, 20, 21]
    # Without a recipe the reader of one file is what reads it.
    assert read_data(tmp_path / "a.json").items == read_items(tmp_path / "a.json")


def test_a_random_choice_depends_on_seed_and_place_alone(tmp_path: Path) -> None:
    _items(tmp_path / "a.json", range(200))
    draw = {"json_path": "a.json", "sampling_strategy": "random:20"}
    recipe = _recipe(tmp_path, draw, draw)
    taken = _ids(recipe, seed=1)
    first, second = taken[:20], taken[20:]
    assert taken == _ids(recipe, seed=1)
    assert first == sorted(set(first))  # no item twice, in the order of the file
    assert len(second) == 20
    assert first != second
    assert first != _ids(recipe, seed=2)[:20]
    alone = _recipe(tmp_path, draw, name="alone.yaml")
    assert _ids(alone, seed=1) == first
    other = _recipe(tmp_path, {"json_path": "a.json", "sampling_strategy": "first:1"}, draw, name="other.yaml")
    assert _ids(other, seed=1)[1:] == second


def test_draws_never_change() -> None:
    # A run is gone on with by another version of Python or of cope: these are fixed for good.
    assert drawn_number("recipe", 0, 0) == 5444685843220832143
    assert drawn_sample(10, 3, "recipe", 0, 0) == drawn_sample(10, 3, "recipe", 0, 0)


@given(num=st.integers(0, 60), amount=st.integers(1, 100), percent=st.booleans(), seed=st.integers(0, 5))
def test_every_strategy_takes_as_many_as_it_says(num: int, amount: int, percent: bool, seed: int) -> None:
    wanted = min(num, -(-num * amount // 100) if percent else amount)
    for kind in ("first", "end", "random"):
        sampling = Sampling.parse(f"{kind}:{amount}{'%' if percent else ''}")
        taken = sampling.chosen(num, seed=seed, place=0)
        assert len(taken) == wanted
        assert taken == sorted(set(taken))
        assert set(taken) <= set(range(num))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"json_path": "a.json", "sampling_strategy": "last:3"}, r"datasets\[0\]: sampling_strategy: 'last:3' found"),
        ({"json_path": "a.json", "sampling_strategy": "first:0"}, "at least 1"),
        ({"json_path": "a.json", "sampling_strategy": "first:101%"}, "at most 100%"),
        ({"json_path": "a.json", "sampling_strategy": 3}, "sampling_strategy is 3"),
        ({"json_path": "a.json", "sampling": "all"}, r"\['json_path', 'sampling'\] found"),
        ({"sampling_strategy": "all"}, "json_path and"),
        ({"json_path": ""}, "json_path is ''"),
        ({"json_path": "../a.json"}, "leaves the recipe's folder"),
        ({"json_path": "x/../../a.json"}, "leaves the recipe's folder"),
        ("a.json", "'a.json' found"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, entry: Any, message: str) -> None:
    _items(tmp_path / "a.json", range(2))
    with pytest.raises(DataError, match=message):
        read_data(_recipe(tmp_path, entry))


@pytest.mark.parametrize("text", ["[]", "datasets: []", "datasets: {}", "other: 1", "a: [", "datasets:\n- x\nmore: 1"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mix\.yaml"):
        read_data(path)


def test_no_code_is_run_from_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(f"datasets: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']")
    with pytest.raises(DataError, match="cannot be read as YAML"):
        read_data(path)
    assert not (tmp_path / "made").exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match="no such recipe"):
        read_data(tmp_path / "none.yaml")
    with pytest.raises(PathNotFoundError, match=r"datasets\[0\]: .*none\.json: no such data file"):
        read_data(_recipe(tmp_path, {"json_path": "none.json"}))


def test_malformed_items_are_left_out_by_name(tmp_path: Path) -> None:
    _items(tmp_path / "a.json", range(3))
    values = json.loads((tmp_path / "a.json").read_text())
    values[1]["conversations"] = []
    (tmp_path / "a.json").write_text(json.dumps(values))
    recipe = _recipe(tmp_path, {"json_path": "a.json"})
    with pytest.raises(DataError, match=r"item 1 \(id '1'\)"):
        read_data(recipe)
    bad: list[DataError] = []
    assert _ids(recipe, on_bad=bad.append) == [0, 2]
    assert len(bad) == 1
