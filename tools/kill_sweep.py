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
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from cope_cli.cache.store import Cache
from cope_cli.stages.verify import verify_batch

SHORT_SECONDS = 3.0
LONG_SECONDS = 230.0  # above 6000 frames: both stages share it out among workers
LONG_SIZE = (64, 48)
ORPHAN_SECONDS = 5.0
LIMIT_SECONDS = 120.0
#: Share of the trials whose moment is drawn from the whole run, start-up included, and those that follow a change.
WHOLE_SHARE, CHANGE_SHARE = 0.15, 0.25
CHANGE_DELAY_SECONDS = 0.0005
BIT_EXACT = {"fflags": "+bitexact"}

Command = tuple[str, ...]


# What is run


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Commands (without --cache) that run one after the other on a copy of a start cache.

    Attributes:
        name: shown in the table.
        start: commands that fill the start cache, undisturbed.
        commands: what is killed and then run again.
    """

    name: str
    start: tuple[Command, ...]
    commands: tuple[Command, ...]

    @property
    def is_forced(self) -> bool:
        """Whether a rerun of the same commands does finished work again."""
        return any("--force" in command for command in self.commands)


def scenarios(short: Sequence[Path], long: Path) -> list[Scenario]:
    """Return all scenarios, for a few short videos and a long one."""
    size = ("--short-side", "96", "--gop", "30")
    encode: Command = ("encode", *map(str, short), *size)
    encode_long: Command = ("encode", str(long))
    extract: Command = ("extract", "--grid", "64", "--fusion", "10", "--frame-size", "64", "--store-frames", "1")
    extract_long: Command = ("extract", "--grid", "32", "--fusion", "30", "--store-frames", "none")
    more: Command = (*extract[:-1], "all")
    one, two, force = ("--workers", "1"), ("--workers", "2"), ("--force",)
    full = (encode + two, extract + two)
    return [
        Scenario(name="encode", start=(), commands=(encode + two,)),
        Scenario(name="encode, 1 worker", start=(), commands=(encode + one,)),
        Scenario(name="encode long", start=(), commands=(encode_long + two,)),
        Scenario(name="encode --force", start=full, commands=(encode + two + force,)),
        Scenario(name="extract", start=full[:1], commands=(extract + two,)),
        Scenario(name="extract long", start=(encode_long + two,), commands=(extract_long + two,)),
        Scenario(name="extract --force", start=full, commands=(extract + two + force,)),
        Scenario(name="more frames", start=full, commands=(more + two,)),
        Scenario(name="encode, extract", start=(), commands=full),
        Scenario(name="encode, extract long", start=(), commands=(encode_long + two, extract_long + two)),
    ]


def repeat(source: Path, target: Path, seconds: float) -> Path:
    """Copy a video's packets, over and over, until the file is `seconds` long; the same packets give the same file."""
    import av

    with av.open(str(target), "w", options=BIT_EXACT) as written:
        out, shift = None, 0
        while True:
            with av.open(str(source)) as read:
                stream = read.streams.video[0]
                out = out or written.add_stream_from_template(stream)
                end = shift
                for packet in read.demux(stream):
                    if packet.dts is None or packet.pts is None or stream.time_base is None:
                        continue
                    packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                    if packet.dts * stream.time_base >= seconds:
                        return target
                    end = max(end, packet.pts + (packet.duration or 1))
                    packet.stream = out
                    written.mux(packet)
                if end == shift:
                    raise ValueError(f"{source}: no packet with a time, cannot be repeated")
                shift = end


def shrink(source: Path, target: Path, num_frames: int = 60) -> Path:
    """Encode a video's first frames in a small size, with an I-frame every 30."""
    import av

    with av.open(str(source)) as read, av.open(str(target), "w", options=BIT_EXACT) as written:
        stream = written.add_stream("mpeg4", rate=30)
        (stream.width, stream.height), stream.pix_fmt, stream.thread_count = LONG_SIZE, "yuv420p", 1
        stream.codec_context.gop_size = 30
        for index, frame in zip(range(num_frames), read.decode(video=0), strict=False):
            small = frame.reformat(*LONG_SIZE, format="yuv420p")
            small.pts, small.time_base, small.pict_type = index, Fraction(1, 30), av.video.frame.PictureType.NONE
            written.mux(stream.encode(small))
        written.mux(stream.encode(None))
    return target


def command_line(command: Command, root: Path) -> list[str]:
    """Return a command as a process of its own."""
    return [sys.executable, "-m", "cope_cli", *command, "--cache", str(root), "--json"]


# What is in a cache


def tree(root: Path) -> dict[str, str]:
    """Return every file and folder of a cache but tmp/ itself, with a hash that leaves out the source's mtime."""
    paths = (path for path in root.rglob("*") if path != root / "tmp")
    return {path.relative_to(root).as_posix(): "folder" if path.is_dir() else digest(path) for path in paths}


def digest(path: Path) -> str:
    """Return a file's SHA-256; an encoded video's manifest is hashed without the source's modification time."""
    data = path.read_bytes()
    if path.suffix == ".json" and path.parent.name == "encoded":
        manifest = json.loads(data)
        del manifest["source"]["mtime_ns"], manifest["manifest_sha256"]
        data = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def visible(root: Path) -> dict[str, list[Path]]:
    """Return the entries that a cache shows, by name, with their files."""
    cache = Cache(root)
    encoded = {
        name: [cache.encoded_folder / f"{name}{suffix}" for suffix in (".mp4", ".json")]
        for name in cache.encoded_names()
    }
    primitives = {
        name: [path for path in sorted((cache.primitives_folder / f"{name}.zarr").rglob("*")) if path.is_file()]
        for name in cache.primitives_names()
    }
    return encoded | primitives


def unsound(root: Path) -> Iterator[str]:
    """Verify every visible entry and yield what is wrong."""
    for name in visible(root):
        for outcome in verify_batch([name], root, workers=1).run():
            if outcome.error is not None:
                yield f"{name} is visible and fails verify: {outcome.error}"


def identities(root: Path) -> dict[str, tuple[int, int, str]]:
    """Return inode, time and hash of every file of the visible entries."""
    files = [path for paths in visible(root).values() for path in paths if path.exists()]
    return {
        path.relative_to(root).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns, digest(path)) for path in files
    }


def names_and_inodes(root: Path) -> frozenset[tuple[str, int]]:
    """Return what stands under a final name, quickly enough to be asked all the time."""
    found = []
    for folder in ("encoded", "primitives"):
        with contextlib.suppress(FileNotFoundError):
            found += [(entry.name, entry.inode()) for entry in os.scandir(root / folder)]
    return frozenset(found)


# Processes


def run_to_end(commands: Sequence[Command], root: Path, on_poll: Callable[[], None] = lambda: None) -> list[str]:
    """Run commands undisturbed; returns what went wrong."""

    def poll() -> bool:
        on_poll()
        return False

    for command in commands:
        with start(command, root) as process:
            wait(process, poll, LIMIT_SECONDS)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                return [f"`cope {command[0]}` hangs, {LIMIT_SECONDS:.0f} s"]
        if process.returncode != 0:
            return [f"`cope {command[0]}` ends with exit code {process.returncode}: {said(root)}"]
    return []


def start(command: Command, root: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; what it says goes to a file beside the cache."""
    with log_path(root).open("wb") as log:
        return subprocess.Popen(command_line(command, root), stdout=log, stderr=log, start_new_session=True)


def log_path(root: Path) -> Path:
    """Return where a cache's last command says what it does."""
    return root.with_name(f"{root.name}.log")


def said(root: Path) -> str:
    """Return the end of what the last command said."""
    return log_path(root).read_text(errors="replace").strip()[-500:]


def wait(process: subprocess.Popen[bytes], is_due: Callable[[], bool], seconds: float) -> None:
    """Wait until the process ends, something is due, or the time is over."""
    end = time.monotonic() + seconds
    while process.poll() is None and not is_due() and time.monotonic() < end:
        time.sleep(0.0002)


def live_processes(session: int, root: Path) -> dict[int, str]:
    """Return id and command line of the processes of a session, or with a cache's path in the command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, sid = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if state not in "ZX" and (int(sid) == session or f"{root} " in line):
                found[int(folder.name)] = line
    return found


def kill(process: subprocess.Popen[bytes], root: Path, target: str, rng: random.Random) -> str:
    """Send SIGKILL; returns whom it went to: a command that has no worker is killed itself."""
    if target == "group":
        os.killpg(process.pid, signal.SIGKILL)
        return "group"
    workers = [
        pid
        for pid, line in sorted(live_processes(process.pid, root).items())
        if pid != process.pid and "resource_tracker" not in line
    ]
    if target == "worker" and workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
        return "worker"
    process.kill()
    return "main"


def orphans(session: int, root: Path) -> dict[int, str]:
    """Return the processes that live on after a while, and end them."""
    end = time.monotonic() + ORPHAN_SECONDS
    while (left := live_processes(session, root)) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


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


def done_again(before: dict[str, tuple[int, int, str]], after: dict[str, tuple[int, int, str]]) -> Iterator[str]:
    """Yield the files of finished entries that a rerun has touched."""
    for name, identity in before.items():
        if after.get(name) != identity:
            yield f"{name} was finished before the kill and is another file after the rerun"


def differences(expected: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    """Yield where a cache differs from that of an undisturbed run."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"{name} is missing after the rerun"
        elif name not in expected:
            yield f"{name} is left over after the rerun"
        elif found[name] != expected[name]:
            yield f"{name} differs from an undisturbed run"


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
