"""`cope bench --ablation SPEC`: a table of trainings x seeds x evaluations, with everything else equal.

A specification is YAML or JSON; paths are relative to its folder:

```
model: runs/vision                # where pre-training and finetuning start
data: one/questions.json          # to finetune on
test: test-one/questions.json     # to answer
kinds: [direction, colour]        # of questions, in training and tests; all where absent
test_cache: cache-test            # primitives of the test videos; those of --cache where absent
seeds: [0, 1, 2]
pretrain: {steps: 800}            # fields of PretrainConfig
finetune: {steps: 500, pack: 10}  # fields of FinetuneConfig
variants:
  - {name: Delta-tokens, retrieval: true}
  - {name: zeroed at test, of: Delta-tokens, delta: zero}
  - {name: no Delta-tokens, pretrain: null, finetune: {delta: "off"}, delta: "off"}
  - {name: no pre-training, pretrain: null, finetune: {delta_encoder: fresh}}
  - {name: motion branch, pretrain: {delta_branches: motion}}
  - {name: K = 2, finetune: {keyframes: 2}}
```

Each variant changes some fields and keeps the rest. `of` asks another variant's model again, shown otherwise. Trainings
that come to the same are run once. One JSON a variant and seed; what has one is not run again, and a training that
was interrupted resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import mean
from typing import Any

from cope_cli.ask.config import AskConfig, DeltaMode
from cope_cli.ask.models import load_model
from cope_cli.cache.store import Cache
from cope_cli.data.judged import read_judged
from cope_cli.errors import DataError, PathNotFoundError, UsageError
from cope_cli.evaluate.accuracy import measure_accuracy
from cope_cli.evaluate.retrieval import measure_retrieval
from cope_cli.files import canonical_json, write_json, write_text
from cope_cli.runs import Kind, read_status, result_folder
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.train.pretrain.config import PretrainConfig
from cope_cli.types import OnText

_KEYS = {"model", "data", "test", "kinds", "test_cache", "seeds", "pretrain", "finetune", "variants", "video_root"}
_HINT = 'See "Ablations" in docs/ablations.md.'


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Attributes:
        name: of the row.
        of: the variant whose model is asked, if not one of its own.
        delta: how Delta-tokens are shown at test time: on, zero or off.
        pretrain: changed fields; None: no pre-training.
        finetune: changed fields.
        retrieval: also measure next-frame retrieval with the pre-trained Delta-encoder.
    """

    name: str
    of: str | None = None
    delta: str = "on"
    pretrain: Mapping[str, Any] | None = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict)
    retrieval: bool = False

    def __post_init__(self) -> None:
        if self.delta not in list(DeltaMode):
            raise UsageError(f"variant {self.name}: delta is {self.delta!r}, expected {', '.join(DeltaMode)}", _HINT)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is compared.

    Attributes:
        model: where training starts.
        data: to finetune on.
        test: to answer.
        kinds: kinds of questions that are trained and tested; empty: all.
        test_cache: primitives of the test videos; None for the training cache.
        seeds: each training is run with each.
        pretrain: fields that all have.
        finetune: the same.
        variants: the rows.
    """

    model: Path
    data: Path
    test: Path
    kinds: tuple[str, ...]
    test_cache: Path | None
    seeds: tuple[int, ...]
    pretrain: Mapping[str, Any]
    finetune: Mapping[str, Any]
    variants: tuple[Variant, ...]

    def trained(self, variant: Variant) -> Variant:
        """Return the variant whose model a variant asks."""
        if variant.of is None:
            return variant
        found = next((other for other in self.variants if other.name == variant.of and other.of is None), None)
        if found is None:
            raise UsageError(f"variant {variant.name}: of {variant.of!r}, which is no variant with a model", _HINT)
        return found

    def pretrain_config(self, variant: Variant, seed: int) -> PretrainConfig | None:
        """Return the settings of a variant's pre-training; None: it has none."""
        if variant.pretrain is None:
            return None
        values = {"recipe": "small", **self.pretrain, **variant.pretrain, "model": self.model, "seed": seed}
        return PretrainConfig(**_known(values, PretrainConfig, variant.name))

    def finetune_config(self, variant: Variant, seed: int, delta_encoder: str | None) -> FinetuneConfig:
        """Return the settings of a variant's finetuning."""
        values = {"keyframes": 1, **self.finetune, **variant.finetune}
        values |= {"model": self.model, "data": self.data, "seed": seed}
        if delta_encoder is not None:
            values["delta_encoder"] = delta_encoder
        return FinetuneConfig(**_known(values, FinetuneConfig, variant.name))


def _known(values: Mapping[str, Any], config: type[Any], name: str) -> dict[str, Any]:
    """Refuse fields that the configuration lacks."""
    unknown = sorted(set(values) - {one.name for one in fields(config)})
    if unknown:
        raise UsageError(f"variant {name}: {config.__name__} has no field {', '.join(unknown)}", _HINT)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def read_ablation(path: Path) -> Ablation:
    """Read a specification.

    Raises:
        PathNotFoundError, DataError: it cannot be read.
        UsageError: something in it cannot be done.
    """
    import yaml

    if not path.is_file():
        raise PathNotFoundError(f"{path}: no such specification", _HINT)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read as YAML or JSON: {error}", _HINT) from error
    if not isinstance(values, Mapping) or not {"model", "data", "test", "variants"} <= set(values) <= _KEYS:
        keys = set(values) if isinstance(values, Mapping) else set()
        missing = ", ".join(sorted({"model", "data", "test", "variants"} - keys)) or "none"
        unknown = ", ".join(sorted(map(str, keys - _KEYS))) or "none"
        raise DataError(f"{path}: missing keys: {missing}; unknown keys: {unknown}", _HINT)

    def place(name: str) -> Path:
        return path.parent / Path(values[name])

    try:
        variants = tuple(Variant(**one) for one in values["variants"])
    except TypeError as error:
        raise DataError(f"{path}: variants: {error}", _HINT) from error
    ablation = Ablation(
        model=place("model"),
        data=place("data"),
        test=place("test"),
        kinds=tuple(values.get("kinds", ())),
        test_cache=place("test_cache") if "test_cache" in values else None,
        seeds=tuple(values.get("seeds", (0,))),
        pretrain=values.get("pretrain", {}),
        finetune=values.get("finetune", {}),
        variants=variants,
    )
    for variant in variants:
        ablation.pretrain_config(ablation.trained(variant), 0)
        ablation.finetune_config(ablation.trained(variant), 0, None)
    return ablation


def run_ablation(
    ablation: Ablation,
    cache: Cache,
    out: Path,
    *,
    device: str = "auto",
    on_note: OnText = lambda text: None,
) -> list[dict[str, Any]]:
    """Train and evaluate every variant with every seed that has no result yet.

    Args:
        ablation: what is compared.
        cache: primitives to train on.
        out: the results, and below `runs` the training runs.
        device: of the evaluations; trainings choose their own.
        on_note: called with what is done now.

    Returns:
        The results, in the order of seeds and variants.

    Raises:
        CopeError: as training and evaluation do.
    """
    out.mkdir(parents=True, exist_ok=True)
    ablation = replace(
        ablation,
        data=_of_kinds(ablation.data, ablation.kinds, out / "data.json"),
        test=_of_kinds(ablation.test, ablation.kinds, out / "test.json"),
    )
    found = []
    for seed in ablation.seeds:
        for variant in ablation.variants:
            file = out / f"{_file_name(variant.name)}-seed{seed}.json"
            key = _key(ablation, variant, seed)
            if file.exists():
                result = json.loads(file.read_text(encoding="utf-8"))
                if result.get("key") == key:
                    found.append(result)
                    continue
            on_note(f"{variant.name}, seed {seed}")
            result = {"key": key, "variant": variant.name, "seed": seed}
            result |= _measured(ablation, variant, seed, cache, out / "runs", device, on_note)
            write_json(file, result)
            found.append(result)
            _write_table(ablation, found, out)
    _write_table(ablation, found, out)
    return found


def _write_table(ablation: Ablation, found: Sequence[Mapping[str, Any]], out: Path) -> None:
    write_json(out / "ablation.json", {"results": found, "table": table(ablation, found)})


def _of_kinds(items: Path, kinds: Sequence[str], out: Path) -> Path:
    """Return items of some kinds alone, in a file of their own.

    Raises:
        PathNotFoundError, DataError: the items cannot be read, or none is of these kinds.
    """
    if not kinds:
        return items
    if not items.is_file():
        raise PathNotFoundError(f"{items}: no such file", _HINT)
    try:
        values = json.loads(items.read_text(encoding="utf-8"))
        chosen = [value for value in values if value.get("kind") in kinds]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{items}: with kinds, a JSON list of items is expected: {error}", _HINT) from error
    if not chosen:
        raise DataError(f"{items}: no item is of the kinds {', '.join(kinds)}", _HINT)
    write_text(out, json.dumps(chosen, indent=1) + "\n")
    return out


def _file_name(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _key(ablation: Ablation, variant: Variant, seed: int) -> str:
    """Return a hash of all that decides a result but the data's content."""
    trained = ablation.trained(variant)
    pretrain = ablation.pretrain_config(trained, seed)
    values = {
        "pretrain": None if pretrain is None else pretrain.settings(),
        "finetune": ablation.finetune_config(trained, seed, None).settings(),
        "shown": [variant.delta, variant.retrieval, str(ablation.test)],
    }
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()[:16]


def _measured(
    ablation: Ablation, variant: Variant, seed: int, cache: Cache, runs: Path, device: str, on_note: OnText
) -> dict[str, Any]:
    """Train what is not trained, and measure."""
    trained = ablation.trained(variant)
    config = ablation.pretrain_config(trained, seed)
    delta_encoder = None
    if config is not None:
        delta_encoder = _trained("pretrain", config, cache, runs, on_note)
    finetune_config = ablation.finetune_config(trained, seed, None if delta_encoder is None else str(delta_encoder))
    run = _trained("finetune", finetune_config, cache, runs, on_note)
    loaded = load_model(run / "model", device)
    keyframes = finetune_config.keyframe_mix.counts[0]
    asked = AskConfig(keyframes_per_gop=keyframes, delta=variant.delta, max_new_tokens=48)  # type: ignore[arg-type]
    report = measure_accuracy(
        read_judged(ablation.test),
        loaded,
        Cache(ablation.test_cache or cache.root),
        asked,
        data=str(ablation.test),
    )
    costs = loaded.model.token_costs
    num_p = 0 if variant.delta == "off" else 8 - keyframes
    result = {"accuracy": report.to_dict(), "tokens_per_gop": keyframes * costs.rgb + num_p * costs.delta}
    if variant.retrieval and delta_encoder is not None:
        overall = measure_retrieval(str(delta_encoder), cache, runs, model=ablation.model, device=device).overall
        result["retrieval"] = {
            name: {str(rank): value for rank, value in getattr(overall, name).items()}
            for name in ("model", "vision", "chance")
        }
    return result


def _trained(kind: Kind, config: PretrainConfig | FinetuneConfig, cache: Cache, runs: Path, on_note: OnText) -> Path:
    """Return the finished run of some settings; runs it, or resumes it."""
    from cope_cli.train.finetune.stage import finetune
    from cope_cli.train.pretrain.stage import pretrain

    digest = hashlib.sha256(canonical_json(config.settings()).encode()).hexdigest()[:10]
    run = runs / f"{kind}-seed{config.seed}-{digest}"
    if (run / "status.json").exists() and read_status(run)["state"] == "finished" and result_folder(run, kind).is_dir():
        return run

    def say(step: int, total: int, metrics: Mapping[str, float]) -> None:
        on_note(f"  {run.name}: step {step} of {total}, loss {metrics['loss']:.3f}")

    resume = (run / "status.json").exists()
    if isinstance(config, PretrainConfig):
        pretrain(cache, config, run, resume=resume, on_progress=say)
    else:
        finetune(cache, config, run, resume=resume, on_progress=say)
    return run


def table(ablation: Ablation, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each variant: mean, least and most over the seeds of each share of right answers."""
    rows = []
    for variant in ablation.variants:
        own = [result for result in results if result["variant"] == variant.name]
        if not own:
            continue
        shares: dict[str, dict[str, float]] = {}
        for name in own[0]["accuracy"]["rows"]:
            values = [result["accuracy"]["rows"][name]["accuracy"] for result in own]
            chance = mean(result["accuracy"]["rows"][name]["chance"] for result in own)
            shares[name] = {"mean": mean(values), "least": min(values), "most": max(values), "chance": chance}
        row: dict[str, Any] = {"variant": variant.name, "num_seeds": len(own), "shares": shares}
        row["tokens_per_gop"] = own[0]["tokens_per_gop"]
        if "retrieval" in own[0]:
            row["retrieval"] = {
                name: {rank: mean(result["retrieval"][name][rank] for result in own) for rank in ranks}
                for name, ranks in own[0]["retrieval"].items()
            }
        rows.append(row)
    return rows


def draw_ablation(rows: Sequence[Mapping[str, Any]], name: str, path: Path) -> None:
    """Draw each variant's share of right answers to some questions over the seeds, as a PNG.

    Args:
        rows: of `table`.
        name: of the questions, such as "needs motion".
        path: the file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if name in row["shares"]]
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="right answers in percent", title=name, xlim=(0, 100))
    for place, row in enumerate(shown):
        share = row["shares"][name]
        axes.barh(place, 100 * share["mean"], color="#4477aa")
        axes.plot([100 * share["least"], 100 * share["most"]], [place, place], color="black")
        axes.plot([100 * share["chance"]] * 2, [place - 0.4, place + 0.4], color="#cc6677")
    axes.set_yticks(range(len(shown)), [str(row["variant"]) for row in shown])
    axes.invert_yaxis()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=100)
    temporary.replace(path)
