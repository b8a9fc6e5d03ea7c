"""Ablations: what is trained, what is asked again, what is not run twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cope_cli.cache.store import Cache
from cope_cli.errors import CopeError, DataError, PathNotFoundError, UsageError
from cope_cli.evaluate import ablation as module
from cope_cli.evaluate.ablation import read_ablation, run_ablation, table

SPEC = """
model: model
data: train.json
test: test.json
seeds: [0, 1]
pretrain: {steps: 5}
finetune: {steps: 7, pack: 3}
variants:
  - {name: all of it, retrieval: true}
  - {name: zeroed, of: all of it, delta: zero}
  - {name: without, pretrain: null, finetune: {delta: "off"}, delta: "off"}
  - {name: one branch, pretrain: {delta_branches: motion}}
"""


def write(tmp_path: Path, text: str = SPEC) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return path


def test_a_variant_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    spec = read_ablation(write(tmp_path))
    whole, zeroed, without, branch = spec.variants
    assert spec.trained(zeroed) is whole
    base = spec.pretrain_config(whole, 1)
    assert base is not None
    assert (base.steps, base.seed, base.recipe, base.model) == (5, 1, "small", tmp_path / "model")
    changed = spec.pretrain_config(branch, 1)
    assert changed is not None
    assert {k for k, v in changed.to_dict().items() if v != base.to_dict()[k]} == {"delta_branches"}
    assert spec.pretrain_config(without, 1) is None
    finetuned, alone = (spec.finetune_config(variant, 1, None).to_dict() for variant in (whole, without))
    assert {k for k, v in alone.items() if v != finetuned[k]} == {"delta"}
    assert finetuned["data"] == str(tmp_path / "train.json")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (("{steps: 5}", "{step: 5}"), "no field step"),
        (("of: all of it", "of: another"), "another"),
        (("delta: zero", "delta: none"), "none"),
        (("retrieval: true", "retrieve: true"), "retrieve"),
        (("test: test.json\n", ""), "missing keys: test"),
        (("seeds: [0, 1]", "seeds: ["), "YAML"),
    ],
)
def test_a_specification_that_cannot_be_run_is_refused_before_anything_is(
    tmp_path: Path, changed: tuple[str, str], problem: str
) -> None:
    with pytest.raises(CopeError, match=problem):
        read_ablation(write(tmp_path, SPEC.replace(*changed)))
    with pytest.raises(PathNotFoundError):
        read_ablation(tmp_path / "nowhere.yaml")


def test_the_shipped_specification_can_be_read() -> None:
    spec = read_ablation(Path(__file__).parents[2] / "recipes" / "one-object.yaml")
    assert len(spec.variants) == 9
    assert len(spec.seeds) == 3


def test_results_are_kept_and_only_what_changed_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measured(ablation: Any, variant: Any, seed: int, *rest: Any) -> dict[str, Any]:
        asked.append(f"{variant.name} {seed}")
        share = {"accuracy": 0.5 + 0.1 * seed, "chance": 0.25}
        return {"accuracy": {"rows": {"all": share, "needs motion": share}}, "tokens_per_gop": 90}

    monkeypatch.setattr(module, "_measured", measured)
    spec = read_ablation(write(tmp_path))
    cache, out = Cache(tmp_path / "cache"), tmp_path / "out"
    results = run_ablation(spec, cache, out)
    assert len(asked) == 8
    assert (out / "one-branch-seed1.json").is_file()
    assert run_ablation(spec, cache, out) == results
    assert len(asked) == 8
    rows = table(spec, results)
    assert [row["variant"] for row in rows] == ["all of it", "zeroed", "without", "one branch"]
    assert rows[0]["shares"]["needs motion"] == pytest.approx({"mean": 0.55, "least": 0.5, "most": 0.6, "chance": 0.25})
    assert json.loads((out / "ablation.json").read_text())["table"] == rows
    module.draw_ablation(rows, "needs motion", out / "motion.png")
    assert (out / "motion.png").stat().st_size > 1000
    asked.clear()
    run_ablation(read_ablation(write(tmp_path, SPEC.replace("motion}", "residual}"))), cache, out)
    assert asked == ["one branch 0", "one branch 1"]


def test_an_interrupted_one_leaves_the_table_of_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(ablation: Any, variant: Any, seed: int, *rest: Any) -> dict[str, Any]:
        if (variant.name, seed) == ("without", 1):
            raise KeyboardInterrupt
        return {"accuracy": {"rows": {"all": {"accuracy": 0.5, "chance": 0.25}}}, "tokens_per_gop": 90}

    monkeypatch.setattr(module, "_measured", measured)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(read_ablation(write(tmp_path)), Cache(tmp_path / "cache"), tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["table"]
    assert [(row["variant"], row["num_seeds"]) for row in rows] == [
        *(("all of it", 2), ("zeroed", 2)),
        *(("without", 1), ("one branch", 1)),
    ]


def test_only_questions_of_the_kinds_asked_for_are_trained_and_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "test"):
        items = [{"id": f"{name}-{kind}", "kind": kind} for kind in ("direction", "colour", "end")]
        (tmp_path / f"{name}.json").write_text(json.dumps(items))
    seen: list[list[str]] = []

    def measured(ablation: Any, *rest: Any) -> dict[str, Any]:
        seen.append([item["id"] for path in (ablation.data, ablation.test) for item in json.loads(path.read_text())])
        return {"accuracy": {"rows": {}}, "tokens_per_gop": 90}

    monkeypatch.setattr(module, "_measured", measured)
    cache, out = Cache(tmp_path / "cache"), tmp_path / "out"
    run_ablation(read_ablation(write(tmp_path, SPEC + "kinds: [direction, colour]\n")), cache, out)
    assert seen == 8 * [["train-direction", "train-colour", "test-direction", "test-colour"]]
    with pytest.raises(DataError, match="no item is of the kinds order"):
        run_ablation(read_ablation(write(tmp_path, SPEC + "kinds: [order]\n")), cache, out)


def test_a_variant_with_an_unknown_word_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="delta is"):
        read_ablation(write(tmp_path, SPEC.replace("delta: zero", "delta: half")))
    with pytest.raises(DataError, match="variants"):
        read_ablation(write(tmp_path, SPEC.replace("{name: zeroed,", "{")))
