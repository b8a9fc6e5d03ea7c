"""Kill `cope encode` and `cope extract` at random moments, and check that the cache is whole before and after a rerun.

    python tools/kill_sweep.py sample_videos/*.mp4 --out DIR --num 200 --seed 0 [--json]

A trial starts a real command on a fresh copy of a cache, sends SIGKILL to the main process, its whole group or one
worker, at a moment between the start and the end measured before (mostly while work is done, now and then right after
the cache has changed), and checks:

a. what is visible in the cache is whole: `verify` of every entry passes;
b. what was finished before the kill is the same file, byte and inode, after a rerun without --force;
c. a rerun of the same commands ends with exit code 0, verifies, and leaves what an undisturbed run leaves, byte by
   byte; only the source's modification time is left out of the comparison;
d. then nothing is in tmp/ and no other file or folder is in the cache; and soon after the kill no process of the
   command lives.

Trial t of seed s draws the same scenario, target and moment each time; what the machine does at that moment is its own.

Covered: several short videos and a long one, one and two workers, both stages alone and one after the other, --force
over a finished cache, RGB frames added to a finished entry.
Not covered: power loss (nothing here forgets what was not flushed), two commands at once (tests/reliability).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, Python looks in tools/ and not beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.kill_cache import differences, done_again, identities, names_and_inodes, tree, unsound, visible
from tools.kill_processes import LIMIT_SECONDS, kill, orphans, run_to_end, said, start, wait
from tools.kill_scenarios import LONG_SECONDS, SHORT_SECONDS, Command, Scenario, repeat, scenarios, shrink

#: Share of the trials whose moment is drawn from the whole run, start-up included, and those that follow a change.
WHOLE_SHARE, CHANGE_SHARE = 0.15, 0.25
CHANGE_DELAY_SECONDS = 0.0005


# Trials


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An undisturbed run of a scenario.

    Attributes:
        start: the start cache.
        tree: what the run leaves.
        seconds: how long it took.
        work_seconds: when the first temporary folder appeared.
        num_changes: how often the visible part of the cache was seen to change.
    """

    start: Path
    tree: dict[str, str]
    seconds: float
    work_seconds: float
    num_changes: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one kill did.

    Attributes:
        number: of the trial.
        scenario: its name.
        target: whom the signal went to; "none" if the commands had ended.
        moment: seconds after the start, or "change n".
        num_visible: entries visible after the kill.
        violations: what was wrong.
        seconds: what the trial took.
    """

    number: int
    scenario: str
    target: str
    moment: str
    num_visible: int
    violations: tuple[str, ...]
    seconds: float


def make_reference(scenario: Scenario, folder: Path) -> Reference:
    """Fill the start cache and run the scenario undisturbed.

    Raises:
        RuntimeError: a command failed, or what it left is not sound.
    """
    start_root, root = folder / "start", folder / "reference"
    start_root.mkdir(parents=True)
    problems = run_to_end(scenario.start, start_root)
    shutil.copytree(start_root, root)
    begun, work_seconds, num_changes, seen = time.monotonic(), 0.0, 0, names_and_inodes(root)

    def look() -> None:
        nonlocal work_seconds, num_changes, seen
        if not work_seconds and any((root / "tmp").glob("*")):
            work_seconds = time.monotonic() - begun
        now = names_and_inodes(root)
        num_changes += now != seen
        seen = now

    problems += run_to_end(scenario.commands, root, look)
    seconds = time.monotonic() - begun
    problems += unsound(root)
    if problems:
        raise RuntimeError(f"undisturbed, {scenario.name}: {problems[0]}")
    return Reference(
        start=start_root, tree=tree(root), seconds=seconds, work_seconds=work_seconds, num_changes=num_changes
    )


def run_trial(number: int, seed: int, scenario: Scenario, reference: Reference, folder: Path) -> Trial:
    """Run, kill, check, run again, check."""
    begun = time.monotonic()
    rng = random.Random(f"{seed}/{number}")
    root = folder / "cache"
    shutil.copytree(reference.start, root)
    target = rng.choice(("main", "main", "group", "worker"))
    moment, is_due = draw_moment(rng, reference, root)
    hit, violations = run_and_kill(scenario.commands, root, target, is_due, rng)
    violations += unsound(root)
    num_visible = len(visible(root))
    is_plain_rerun = not scenario.is_forced or rng.random() < 0.5
    before = identities(root)
    commands = scenario.commands
    if is_plain_rerun:
        commands = tuple(tuple(word for word in command if word != "--force") for command in commands)
    violations += run_to_end(commands, root)
    if is_plain_rerun:
        violations += done_again(before, identities(root))
    violations += unsound(root)
    violations += differences(reference.tree, tree(root))
    return Trial(
        number=number,
        scenario=scenario.name,
        target=hit,
        moment=moment,
        num_visible=num_visible,
        violations=tuple(violations),
        seconds=round(time.monotonic() - begun, 2),
    )


def draw_moment(rng: random.Random, reference: Reference, root: Path) -> tuple[str, Callable[[], bool]]:
    """Draw when to kill; returns it in words, and a function that says whether it has come."""
    share = rng.random()
    if share < CHANGE_SHARE and reference.num_changes:
        number = rng.randint(1, reference.num_changes)
        return f"change {number}", after_change(root, number, rng.random() * CHANGE_DELAY_SECONDS)
    low = 0.0 if share > 1 - WHOLE_SHARE else reference.work_seconds
    seconds = rng.uniform(low, reference.seconds)
    begun = time.monotonic()
    return f"{seconds:.2f} s", lambda: time.monotonic() - begun >= seconds


def after_change(root: Path, number: int, delay_seconds: float) -> Callable[[], bool]:
    """Return a function that becomes true a moment after the visible part of a cache has changed `number` times."""
    seen, count = names_and_inodes(root), 0

    def is_due() -> bool:
        nonlocal seen, count
        now = names_and_inodes(root)
        count += now != seen
        seen = now
        if count >= number:
            time.sleep(delay_seconds)
        return count >= number

    return is_due


def run_and_kill(
    commands: Sequence[Command], root: Path, target: str, is_due: Callable[[], bool], rng: random.Random
) -> tuple[str, list[str]]:
    """Run commands until the moment has come, and kill; returns whom it hit and what went wrong."""
    for command in commands:
        with start(command, root) as process:
            wait(process, is_due, LIMIT_SECONDS)
            if process.poll() is None:
                hit = kill(process, root, target, rng)
                violations = after_kill(process, hit, root)
                return hit, violations
        if process.returncode != 0:
            return "none", [f"`cope {command[0]}` ended before the kill with exit code {process.returncode}"]
    return "none", []


def after_kill(process: subprocess.Popen[bytes], hit: str, root: Path) -> list[str]:
    """Check that the processes end: at once, or, where a worker was hit, when the rest of the batch is done."""
    violations = []
    if hit == "worker":
        wait(process, lambda: False, LIMIT_SECONDS)
        if process.poll() is None:
            violations.append(f"hangs after a worker was killed: {said(root)}")
            os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode not in (0, 1):
            violations.append(f"exit code {process.returncode} after a worker was killed: {said(root)}")
    process.wait()
    return violations + [f"process {pid} lives on: {line}" for pid, line in orphans(process.pid, root).items()]


# The run


def sweep(
    videos: Sequence[Path],
    out: Path,
    *,
    num: int,
    seed: int = 0,
    only: Sequence[str] = (),
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> dict[str, Any]:
    """Run trials 0 to num - 1 and return the report.

    Args:
        videos: at least one; the first two are cut short, a small copy of the first is repeated for the long one.
        out: folder to work in; what lies there from an earlier sweep is removed.
        num: how many kills; scenarios take turns.
        seed: another seed draws other targets and moments.
        only: names of the scenarios to run; all if none.
        on_trial: called with each trial.
    """
    out = out.resolve()
    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    short = [repeat(video, work / f"short-{index}.mp4", SHORT_SECONDS) for index, video in enumerate(videos[:2])]
    long = repeat(shrink(videos[0], work / "small.mp4"), work / "long.mp4", LONG_SECONDS)
    chosen = [scenario for scenario in scenarios(short, long) if not only or scenario.name in only]
    references: dict[str, Reference] = {}
    trials = []
    for number in range(num):
        scenario = chosen[number % len(chosen)]
        if scenario.name not in references:
            references[scenario.name] = make_reference(scenario, work / f"scenario-{number}")
        folder = work / f"trial-{number}"
        folder.mkdir()
        trial = run_trial(number, seed, scenario, references[scenario.name], folder)
        trials.append(trial)
        on_trial(trial)
        if not trial.violations:
            shutil.rmtree(folder)
    found = report(trials)
    if not found["violations"]:
        shutil.rmtree(work)
    return found


def report(trials: Sequence[Trial]) -> dict[str, Any]:
    """Count what happened."""
    table: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for trial in trials:
        row = table[trial.scenario]
        row[trial.target] += 1
        row["with_entries"] += trial.num_visible > 0
        row["violations"] += bool(trial.violations)
    return {
        "num": len(trials),
        "scenarios": {name: dict(row) for name, row in table.items()},
        "num_killed": sum(trial.target != "none" for trial in trials),
        "seconds_per_trial": round(sum(trial.seconds for trial in trials) / max(1, len(trials)), 2),
        "violations": [
            f"trial {trial.number}, {trial.scenario}, {trial.target} at {trial.moment}: {violation}"
            for trial in trials
            for violation in trial.violations
        ],
        "trials": [asdict(trial) for trial in trials],
    }


def show(found: dict[str, Any]) -> None:
    """Print the report for a person."""
    columns = ("main", "group", "worker", "none", "with_entries", "violations")
    print(f"{'scenario':<24}" + "".join(f"{column:>14}" for column in columns))
    for name, row in found["scenarios"].items():
        print(f"{name:<24}" + "".join(f"{row.get(column, 0):>14}" for column in columns))
    print(f"{found['num_killed']} of {found['num']} killed before the end; {found['seconds_per_trial']} s a trial")
    for violation in found["violations"]:
        print(f"VIOLATION: {violation}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, help="videos; two are enough")
    parser.add_argument("--out", required=True, type=Path, help="folder to work in; keeps what was wrong")
    parser.add_argument("--num", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)

    def on_trial(trial: Trial) -> None:
        wrong = "; ".join(trial.violations) or "fine"
        print(f"{trial.number + 1} of {options.num}: {trial.scenario}, {trial.target} at {trial.moment}: {wrong}",
              file=sys.stderr)  # fmt: skip

    found = sweep(options.videos, options.out, num=options.num, seed=options.seed, on_trial=on_trial)
    (options.out / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    return 1 if found["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
