"""Train cope-tiny from scratch, stage by stage, with the commands of `cope` and the vision stage here: `make tiny`.

```
scenes, encode, extract     clips with one object and with several, for training, validation and tests
vision, ...-again, ...-last the vision tower, on still pictures, then twice on new pictures
pretrain                    the Delta-encoder
align                       language model and projector, on questions that the first I-frame of 3 or 4 things answers
motion                      the VideoLM, on clips of both worlds, without choice questions
finetune                    the same with choice questions
evaluate-val-*              right answers on validation clips, for choosing the recipe
evaluate-test-*             right answers on test clips, once: Delta-tokens on, zeroed, left out
```

Start the script again to continue: finished stages are skipped, an interrupted one resumes. `DIR/log.json` holds the
command, CPU seconds and wall seconds of every stage. `--workers` processes make data, `--threads` threads train.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes and seeds of all stages.

    Attributes:
        num_one: training clips with one object.
        num_all: training clips with two to four.
        num_val: validation clips of each of the two worlds.
        num_test: test clips of each of the two worlds.
        vision_steps: steps of `vision_batch` pictures.
        vision_again_steps: steps of the second vision training, on other pictures.
        vision_last_steps: steps of the third vision training, on other pictures again.
        vision_batch: pictures in a step.
        pretrain_steps: steps of `pretrain_batch` pairs of slots.
        pretrain_batch: pairs in a step.
        align_steps: steps of `align_batch` packs.
        align_batch: packs in a step.
        motion_steps: steps of `finetune_batch` packs, without choice questions.
        finetune_steps: steps of `finetune_batch` packs, with choice questions.
        finetune_batch: packs in a step.
        pack: questions that share one visual prefix.
        twins: training clips from each group of four; two from each show twice as many first frames as four.
        rounds_one: how often questions are drawn for a training clip with one object.
        rounds_all: how often questions are drawn for a training clip with two to four objects.
        seed: seed of everything except the test clips.
        test_seed: seed of the test clips; raise it once a model's answers about the current ones have been read.
    """

    num_one: int = 1500
    num_all: int = 9000
    num_val: int = 200
    num_test: int = 600
    vision_steps: int = 1200
    vision_again_steps: int = 1200
    vision_last_steps: int = 1000
    vision_batch: int = 16
    pretrain_steps: int = 1600
    pretrain_batch: int = 16
    align_steps: int = 300
    align_batch: int = 18
    motion_steps: int = 2600
    finetune_steps: int = 1200
    finetune_batch: int = 8
    pack: int = 18
    twins: int = 2
    rounds_one: int = 3
    rounds_all: int = 6
    seed: int = 0
    test_seed: int = 3

    def scaled(self, scale: float) -> Recipe:
        """Return a recipe with this share of the clips and steps, for a quick trial."""
        sizes = {
            name: 4 * max(1, round(scale * value / 4))
            for name, value in asdict(self).items()
            if name.startswith("num_")
        }
        steps = {name: max(2, round(scale * value)) for name, value in asdict(self).items() if name.endswith("_steps")}
        return Recipe(**{**asdict(self), **sizes, **steps})


#: The modules that stages run.
COPE, VISION = "cope_cli", "recipes.cope_tiny"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command.

    Attributes:
        name: its name in the log.
        arguments: arguments of the program.
        run: name of its training run; the run's status says whether it is finished or can be resumed.
        cache: name of its cache below the work folder.
        module: the program, as `python -m` names it.
    """

    name: str
    arguments: Sequence[str]
    run: str = ""
    cache: str = "cache"
    module: str = COPE


@dataclass
class Work:
    """The work folder and its log."""

    folder: Path
    threads: int = 1
    log: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log_file = self.folder / "log.json"
        self.log = self.read_log()

    def read_log(self) -> list[dict[str, object]]:
        """Return the records of the stages that have ended, oldest first."""
        return json.loads(self.log_file.read_text()) if self.log_file.exists() else []

    def is_done(self, stage: Stage, command: Sequence[str]) -> bool:
        """Return whether the same command has succeeded before."""
        return any(line["name"] == stage.name and line["command"] == command and line["code"] == 0 for line in self.log)

    def run(self, stage: Stage) -> None:
        """Run a stage unless it is done; raises SystemExit if it fails."""
        command = ["cope" if stage.module == COPE else f"python -m {stage.module}", *stage.arguments]
        if self.is_done(stage, command):
            print(f"{stage.name}: already done", flush=True)
            return
        arguments = [*stage.arguments]
        status = self.folder / "runs" / stage.run / "status.json"
        if stage.run and status.exists():
            if json.loads(status.read_text())["state"] == "finished":
                print(f"{stage.name}: already finished", flush=True)
                return
            arguments.append("--resume")
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"COPE_CACHE": str(self.folder / stage.cache), "COPE_RUNS": str(self.folder / "runs")}
        start, before = time.monotonic(), _children_seconds()
        with (self.folder / f"{stage.name}.txt").open("a") as output:
            line = [sys.executable, "-m", stage.module, *arguments]
            code = subprocess.run(
                line, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
            ).returncode
        cpu, wall = _children_seconds() - before, time.monotonic() - start
        record = {"name": stage.name, "command": command, "code": code, "cpu_seconds": cpu, "wall_seconds": wall}
        self.log = [*self.read_log(), record]  # read again: another process may run other stages
        self.log_file.write_text(json.dumps(self.log, indent=2) + "\n")
        print(f"{stage.name}: {cpu:.0f} s of CPU, {wall:.0f} s", flush=True)
        if code:
            raise SystemExit(f"{stage.name} failed: {self.folder / stage.name}.txt")


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def stages_of(recipe: Recipe, folder: Path, workers: int) -> list[Stage]:
    """Return all stages in order."""
    return [*_data_stages(recipe, folder, workers), *_training_stages(recipe, folder), *_evaluations(folder)]


def _data_stages(recipe: Recipe, folder: Path, workers: int) -> list[Stage]:
    sets = [
        ("one", recipe.num_one, "1", "train", "cache"),
        ("all", recipe.num_all, "2-4", "train", "cache"),
        ("val-one", recipe.num_val, "1", "val", "cache-val"),
        ("val-all", recipe.num_val, "1-4", "val", "cache-val"),
        ("test-one", recipe.num_test, "1", "test", "cache-test"),
        ("test-all", recipe.num_test, "1-4", "test", "cache-test"),
    ]
    rounds = {"one": recipe.rounds_one, "all": recipe.rounds_all}
    found = []
    for number, (name, count, objects, split, cache) in enumerate(sets):
        out = folder / "scenes" / name
        seed = (recipe.test_seed if split == "test" else recipe.seed) * 10 + number
        scenes = ["scenes", "--num", str(count), "--seed", str(seed), "--objects", objects]
        scenes += ["--split", split, "--rounds", str(rounds.get(name, 1)), "--out", str(out)]
        if split == "train":
            scenes += ["--twins", str(recipe.twins)]
        scenes += ["--workers", str(workers)]
        encode = ["encode", str(out / "clips"), "--workers", str(workers)]
        extract = ["extract", "--fusion", "30", "--grid", "128", "--frame-size", "128", "--workers", str(workers)]
        extract += ["--store-frames", "1" if split == "test" else "all"]
        found.append(Stage(name=f"scenes-{name}", arguments=scenes, cache=cache))
        found.append(Stage(name=f"encode-{name}", arguments=encode, cache=cache))
        found.append(Stage(name=f"extract-{name}", arguments=extract, cache=cache))
    return found


def _training_stages(recipe: Recipe, folder: Path) -> list[Stage]:
    runs, scenes = folder / "runs", folder / "scenes"
    settings = ["--grid", "128", "--log-steps", "20", "--save-steps", "200", "--optimizer", "muon"]
    seeded = ["--seed", str(recipe.seed), *settings]
    pictures = ["--data", str(scenes / "val-one"), "--data", str(scenes / "val-all")]
    pictures += ["--batch-size", str(recipe.vision_batch)]
    vision = [*pictures, "--steps", str(recipe.vision_steps), "--lr", "3e-3", "--run", "vision", *seeded]
    again = [*pictures, "--model", str(runs / "vision"), "--steps", str(recipe.vision_again_steps), "--lr", "2e-3"]
    again += ["--run", "vision-again", "--seed", str(recipe.seed + 1), *settings]
    last = [*pictures, "--model", str(runs / "vision-again"), "--steps", str(recipe.vision_last_steps), "--lr", "2e-3"]
    last += ["--run", "vision-last", "--seed", str(recipe.seed + 2), *settings]
    pretrain = ["train", "pretrain", "--model", str(runs / "vision-last"), "--recipe", "small"]
    pretrain += ["--delta-preset", "tiny"]
    pretrain += ["--steps", str(recipe.pretrain_steps), "--batch-size", str(recipe.pretrain_batch), "--lr", "4e-3"]
    pretrain += ["--held-out", "0.03", "--eval-pairs", "500", "--run", "pretrain", *seeded]
    questions = ["train", "finetune", "--keyframes", "1", "--pack", str(recipe.pack)]
    questions += ["--group-by-length", "--beta2", "0.95", *seeded]
    # This stage needs no Delta-tokens, so it can run at the same time as pre-training.
    align = [*questions, "--lr", "2e-3", "--delta", "off", "--delta-encoder", "fresh", "--delta-preset", "tiny"]
    align += ["--model", str(runs / "vision-last"), "--data", str(scenes / "all" / "static.json")]
    align += ["--steps", str(recipe.align_steps), "--batch-size", str(recipe.align_batch)]
    # The learning rate stays constant in this stage and decays in the next one: one annealing for both.
    motion = [*questions, "--lr", "2e-3", "--delta-encoder", "pretrain", "--model", str(runs / "align")]
    motion += ["--schedule", "constant"]
    motion += ["--data", str(scenes / "no-choices.yaml"), "--steps", str(recipe.motion_steps)]
    motion += ["--batch-size", str(recipe.finetune_batch)]
    # Without --delta-encoder, the model keeps its own Delta-encoder, which was trained in the previous stage.
    finetune = [*questions, "--lr", "2e-3", "--model", str(runs / "motion"), "--data", str(scenes / "choices.yaml")]
    finetune += ["--schedule", "linear", "--warmup", "10"]
    finetune += ["--steps", str(recipe.finetune_steps), "--batch-size", str(recipe.finetune_batch)]
    return [
        Stage(name="vision", arguments=vision, run="vision", cache="cache-val", module=VISION),
        Stage(name="vision-again", arguments=again, run="vision-again", cache="cache-val", module=VISION),
        Stage(name="vision-last", arguments=last, run="vision-last", cache="cache-val", module=VISION),
        Stage(name="pretrain", arguments=pretrain, run="pretrain"),
        Stage(name="align", arguments=[*align, "--run", "align"], run="align"),
        Stage(name="motion", arguments=[*motion, "--run", "motion"], run="motion"),
        Stage(name="finetune", arguments=[*finetune, "--run", "finetune"], run="finetune"),
    ]


def _evaluations(folder: Path) -> list[Stage]:
    def evaluate(split: str, world: str, delta: str) -> Stage:
        name = f"evaluate-{split}-{world}-{delta}"
        questions = folder / "scenes" / f"{split}-{world}" / "questions.json"
        arguments = ["bench", "--accuracy", "finetune", "--data", str(questions), "--delta", delta]
        arguments += ["--out", str(folder / "results" / name)]
        return Stage(name=name, arguments=arguments, cache=f"cache-{split}")

    val = [evaluate("val", world, "on") for world in ("one", "all")]
    return val + [evaluate("test", world, delta) for world in ("one", "all") for delta in ("on", "zero", "off")]


def write_recipes(folder: Path) -> None:
    """Choose the questions of each training stage from those of both worlds, and write the lists for `--data`.

    The stages ask first about things that stand still, then about motion with half of the still questions, and last
    about choices with half of the others: with choices, the model takes longer to find the thing in question. Only
    questions about three and four things teach colour and place in the first stage, because with one or two things a
    guess is right too often.
    """
    scenes = folder / "scenes"
    for world in ("all", "one"):
        items = json.loads((scenes / world / "questions.json").read_text(encoding="utf-8"))
        no_choices = [item for item in items if item["form"] != "choice"]
        fewer = [item for number, item in enumerate(no_choices) if item["needs"] == "motion" or number % 2 == 0]
        _write(scenes / world / "no-choices.json", json.dumps(fewer))
        choices = [item for item in items if item["form"] == "choice"]
        _write(scenes / world / "choices.json", json.dumps([*choices, *no_choices[::2]]))
        if world == "all":
            static = [item for item in no_choices if item["needs"] == "static" and item["objects"] >= 3]
            _write(scenes / world / "static.json", json.dumps(static))
    for name in ("no-choices", "choices"):
        lines = ["datasets:", *(f"  - json_path: {world}/{name}.json" for world in ("all", "one"))]
        _write(scenes / f"{name}.yaml", "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Run all stages that are not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="work folder")
    parser.add_argument("--workers", type=int, default=2, help="processes that make data")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads of each process")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the clips and steps, for a quick trial")
    parser.add_argument("--until", default="", help="last stage to run")
    parser.add_argument("--only", nargs="+", default=["*"], help="run only stages that match these patterns")
    options = parser.parse_args()
    recipe = Recipe() if options.scale == 1 else Recipe().scaled(options.scale)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    work = Work(options.out, options.threads)
    for stage in stages_of(recipe, options.out, options.workers):
        if any(fnmatch(stage.name, pattern) for pattern in options.only):
            if stage.name == "align":
                write_recipes(options.out)
            work.run(stage)
        if stage.name == options.until:
            break
    total = sum(float(str(line["cpu_seconds"])) for line in work.log)
    print(f"{total / 3600:.2f} CPU-hours in all")


if __name__ == "__main__":
    main()
