"""Training data of several files: the YAML recipe of LLaVA-Video, or one file of items.

```
datasets:
  - json_path: captions.json            relative to the recipe's folder, not above it; or absolute
    sampling_strategy: "first:10%"      all (default), first:N, end:N, random:N; N is a number, or a percentage,
  - json_path: qa.jsonl                 which is rounded up
    sampling_strategy: "random:2000"
```

A random choice depends on the seed and the entry's place in the list alone, so that all ranks train on the same items.
Chosen items keep the order of their file. A number above what a file holds takes all of it. Covered: these two keys.
Not covered, refused by name: any other, and the brace form of paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from cope_cli.data.conversations import Item, read_items
from cope_cli.data.draws import drawn_sample
from cope_cli.errors import DataError, PathNotFoundError

RECIPE_SUFFIXES = (".yaml", ".yml")
_KEYS = {"json_path", "sampling_strategy"}
_STRATEGY = re.compile(r"(first|end|random):(\d+)(%?)")
_HINT = "A recipe is a list `datasets:` of json_path and sampling_strategy (all, first:N, end:N, random:N, N or K%)."


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which items of a file are taken.

    Attributes:
        kind: from which end, or drawn.
        amount: how many, or how many percent.
        is_percent: which of the two.
    """

    kind: Literal["all", "first", "end", "random"] = "all"
    amount: int = 100
    is_percent: bool = True

    @classmethod
    def parse(cls, text: str) -> Sampling:
        """Read a sampling strategy.

        Raises:
            ValueError: it is none; says what was found and expected.
        """
        if text == "all":
            return cls()
        match = _STRATEGY.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} found, all, first:N, end:N or random:N expected, N a whole number or K%")
        amount, is_percent = int(match[2]), bool(match[3])
        if amount < 1 or (is_percent and amount > 100):
            raise ValueError(f"{text!r} found, at least 1 and at most 100% expected")
        return cls(kind=cast(Literal["first", "end", "random"], match[1]), amount=amount, is_percent=is_percent)

    def __str__(self) -> str:
        return "all" if self.kind == "all" else f"{self.kind}:{self.amount}{'%' if self.is_percent else ''}"

    def chosen(self, num_items: int, *, seed: int, place: int) -> list[int]:
        """Return the indices taken, in ascending order.

        Args:
            num_items: how many the file has.
            seed: of the run.
            place: of the file in the recipe's list.
        """
        wanted = -(-self.amount * num_items // 100) if self.is_percent else self.amount
        wanted = min(wanted, num_items)
        if self.kind == "random":
            return drawn_sample(num_items, wanted, "recipe", seed, place)
        start = num_items - wanted if self.kind == "end" else 0
        return list(range(start, start + wanted))


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a recipe and what was taken of it.

    Attributes:
        path: the file.
        sampling: the strategy, as a recipe writes it.
        num_items: usable items in it.
        num_taken: of these, how many are trained on.
    """

    path: Path
    sampling: str
    num_items: int
    num_taken: int


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """All items to train on, file by file.

    Attributes:
        items: the items.
        files: where they come from.
    """

    items: list[Item]
    files: list[DataFile]


def read_data(path: Path, *, seed: int = 0, on_bad: Callable[[DataError], None] | None = None) -> TrainingData:
    """Read a recipe, or one file of items.

    Args:
        path: .yaml or .yml is a recipe; anything else what `read_items` takes.
        seed: decides what `random:N` takes.
        on_bad: called with the error of each malformed item, which is then left out; None raises the first one.

    Raises:
        PathNotFoundError: there is no such file.
        DataError: the recipe or an item is malformed; says where, what was found and expected.
    """
    wanted = _recipe(path) if path.suffix.lower() in RECIPE_SUFFIXES else [(path, Sampling())]
    items: list[Item] = []
    files = []
    for place, (file, sampling) in enumerate(wanted):
        found = read_items(file, on_bad=on_bad)
        taken = sampling.chosen(len(found), seed=seed, place=place)
        items += [found[index] for index in taken]
        files.append(DataFile(path=file, sampling=str(sampling), num_items=len(found), num_taken=len(taken)))
    return TrainingData(items=items, files=files)


def _recipe(path: Path) -> list[tuple[Path, Sampling]]:
    """Read a recipe's list of files."""
    import yaml

    if not path.is_file():
        raise PathNotFoundError(f"{path}: no such recipe", "Name a .yaml, .json or .jsonl file with --data.")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read as YAML: {error}", _HINT) from error
    if not isinstance(value, Mapping) or set(value) != {"datasets"}:
        found = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise DataError(f"{path}: {found} found, the one key datasets expected", _HINT)
    datasets = value["datasets"]
    if not isinstance(datasets, list) or not datasets:
        raise DataError(f"{path}: datasets is {datasets!r}, a list of at least one file expected", _HINT)
    return [_entry(path, number, entry) for number, entry in enumerate(datasets)]


def _entry(path: Path, number: int, entry: Any) -> tuple[Path, Sampling]:
    """Check one entry of the list."""
    where = f"{path}: datasets[{number}]"
    if not isinstance(entry, Mapping) or "json_path" not in entry or not set(entry) <= _KEYS:
        found = sorted(map(str, entry)) if isinstance(entry, Mapping) else repr(entry)
        raise DataError(f"{where}: {found} found, json_path and, if wanted, sampling_strategy expected", _HINT)
    json_path, strategy = entry["json_path"], entry.get("sampling_strategy", "all")
    if not isinstance(json_path, str) or not json_path.strip():
        raise DataError(f"{where}: json_path is {json_path!r}, a path expected", _HINT)
    if not isinstance(strategy, str):
        raise DataError(f"{where}: sampling_strategy is {strategy!r}, text such as first:10% expected", _HINT)
    try:
        sampling = Sampling.parse(strategy.strip())
    except ValueError as error:
        raise DataError(f"{where}: sampling_strategy: {error}", _HINT) from error
    file = Path(json_path)
    if not file.is_absolute():
        _refuse_to_leave(file, where)
        file = path.parent / file
    if not file.is_file():
        raise PathNotFoundError(f"{where}: {file}: no such data file", "Paths are relative to the recipe's folder.")
    return file, sampling


def _refuse_to_leave(file: Path, where: str) -> None:
    """Refuse a relative path that goes above the recipe's folder on its way."""
    depth = 0
    for part in file.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise DataError(
                f"{where}: json_path {str(file)!r} leaves the recipe's folder",
                "Write it as an absolute path if it is meant.",
            )
