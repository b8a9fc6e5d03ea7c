"""The fuzzer and the kill sweep, small, so that they cannot rot; and that they find what they are there to find.

Covered: a run of each, repetition, resuming, a hang, what counts as a violation.
Not covered: many mutants and many kills: `make fuzz`, `make kill-sweep`.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from tools.fuzz import fuzz, read_rows
from tools.fuzz_chunk import Event, Limits, chunk_violations, hanging, judge, watch
from tools.fuzz_mutations import LONG, MUTATIONS, Mutant, mutant
from tools.fuzz_sources import make_corpus
from tools.kill_cache import differences, done_again, identities, tree, unsound
from tools.kill_sweep import sweep

NUM_MUTANTS = len(MUTATIONS)


@pytest.fixture(scope="module")
def out(short_videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a fuzz run, with the sources of its mutants."""
    folder = tmp_path_factory.mktemp("fuzz")
    make_corpus(short_videos, folder / "sources")
    return folder


# Fuzzing


def test_a_small_fuzz_run_and_its_repetition(short_videos: list[Path], out: Path):
    found = fuzz(short_videos, out, num=NUM_MUTANTS, seed=7, per_chunk=NUM_MUTANTS)
    assert found["violations"] == []
    assert found["num"] == sum(found["outcomes"].values()) == NUM_MUTANTS
    assert set(found["outcomes"]) <= {"done", "refused", "worker_died"}
    assert set(found["kinds"]) == {mutate.__name__ for mutate in MUTATIONS}
    lines = (out / "results.jsonl").read_text()
    assert fuzz(short_videos, out, num=NUM_MUTANTS, seed=7) == found
    assert (out / "results.jsonl").read_text() == lines
    with pytest.raises(ValueError, match="choose another --out"):
        fuzz(short_videos, out, num=NUM_MUTANTS, seed=8)


def test_a_mutant_is_a_function_of_seed_and_number(short_videos: list[Path], out: Path):
    corpus = make_corpus(short_videos, out / "sources")
    numbers = range(3 * NUM_MUTANTS)
    mutants = [mutant(corpus, 1, number) for number in numbers]
    assert mutants == [mutant(corpus, 1, number) for number in numbers]
    assert len({one.data for one in mutants}) > 2.5 * NUM_MUTANTS
    assert mutants[0] != mutant(corpus, 2, 0)


@pytest.mark.slow
def test_the_same_videos_give_the_same_sources(short_videos: list[Path], out: Path, tmp_path: Path):
    first = make_corpus(short_videos, out / "sources")
    assert make_corpus(short_videos, tmp_path / "sources").sha256 == first.sha256


def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"number": 1}\n{"numb')
    assert read_rows(path) == [{"number": 1}]


def test_a_child_that_says_nothing_for_too_long_is_killed():
    script = 'import time; print(\'{"event": "begin", "stage": "encode", "items": []}\', flush=True); time.sleep(60)'
    begun = time.monotonic()
    events, is_in_time, code, _ = watch([sys.executable, "-c", script], Limits(file_seconds=1))
    assert time.monotonic() - begun < 20
    assert (len(events), is_in_time, code) == (1, False, -9)


def event(kind: str, item: str, stage: str = "encode", **more: object) -> Event:
    return {"event": kind, "stage": stage, "item": item, "seconds": 0.1, **more}


def test_the_file_that_hangs_is_the_one_begun_and_not_ended():
    begin = {"event": "begin", "stage": "encode", "items": ["/v/a_healthy.mp4", "/v/m000001.mp4", "/v/m000002.mp4"]}
    done = event("outcome", "/v/a_healthy.mp4")
    assert hanging([begin, done]) == "m000001"
    assert hanging([begin, done, event("started", "/v/m000002.mp4")]) == "m000002"
    assert hanging([]) == "?"


DONE = [event("outcome", "/v/m000001.mp4"), event("outcome", "m000001-0a0b0c0d", "extract")] + [
    event("outcome", f"{kind}/m000001-0a0b0c0d", "verify") for kind in ("encoded", "primitives")
]


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        (DONE, "done"),
        (DONE[:3], "vanished"),
        ([], "vanished"),
        ([event("outcome", "/v/m000001.mp4", error="VideoError", message="/v/m000001.mp4: bad")], "refused"),
        ([event("outcome", "/v/m000001.mp4", error="VideoError", message="bad")], "unnamed"),
        ([event("outcome", "/v/m000001.mp4", error="CopeError", message="/v/m000001.mp4: KeyError")], "unforeseen"),
        ([event("outcome", "/v/m000001.mp4", error="WorkerDiedError", message="/v/m000001.mp4")], "worker_died"),
        ([*DONE[:1], event("outcome", "m000001-0", "extract", error="VideoError", message="")], "extract_failed"),
        ([*DONE[:2], event("outcome", "encoded/m000001-0", "verify", error="X", message="")], "verify_failed"),
    ],
)
def test_what_became_of_a_mutant(events: list[Event], outcome: str):
    one = Mutant(number=1, kind="join", suffix="mp4", data=b"")
    assert judge(one, Path("/v"), events).outcome == outcome


def test_a_long_video_must_give_the_same_from_two_workers():
    one = Mutant(number=1, kind=LONG, suffix="mp4", data=b"")
    assert one.path(Path("/v")) == Path("/v/long/m000001.mp4")
    events = [event("outcome", "/v/long/m000001.mp4", stage) for stage in ("encode", "split", "same")]
    assert judge(one, Path("/v"), events).outcome == "done"
    refused = [{**part, "error": "VideoError", "message": "/v/long/m000001.mp4: bad"} for part in events[:2]]
    assert judge(one, Path("/v"), [*refused, events[2]]).outcome == "refused"
    events[2] |= {"error": "Differs", "message": "other bytes"}
    assert judge(one, Path("/v"), events).outcome == "same_failed"


def test_what_is_wrong_with_a_chunk():
    healthy = [
        event("outcome", item, stage)
        for item, stage in (
            *(("/v/a_healthy.mp4", "encode"), ("a_healthy-0", "extract")),
            *((f"{kind}/a_healthy-0", "verify") for kind in ("encoded", "primitives")),
        )
    ]
    end = {"event": "end", "max_rss_bytes": 2**20, "left": []}
    limits = Limits()
    assert list(chunk_violations([*healthy, end], 0, "", limits)) == []
    for events, code, message in (
        (healthy, 1, "the batch itself failed"),
        ([*healthy, end], 1, "the batch itself failed"),
        ([*healthy[1:], end], 0, "the healthy neighbour"),
        ([*healthy, {**end, "left": ["x"]}], 0, "left in tmp/: x"),
        ([*healthy, {**end, "max_rss_bytes": 2**33}], 0, "MiB resident"),
    ):
        (violation,) = chunk_violations(events, code, "", limits)
        assert message in violation


# Kill sweep


def test_a_very_small_kill_sweep(short_videos: list[Path], tmp_path: Path):
    check_sweep(sweep(short_videos, tmp_path, num=1, seed=3, only=["encode, 1 worker"]), 1)


@pytest.mark.slow
def test_a_small_kill_sweep(short_videos: list[Path], tmp_path: Path):
    only = ["encode", "encode long", "encode --force", "extract --force", "encode, extract long"]
    check_sweep(sweep(short_videos, tmp_path, num=5, only=only), 5)


def check_sweep(found: dict[str, object], num: int) -> None:
    assert found["violations"] == []
    assert found["num"] == num
    json.dumps(found)


def test_the_sweep_sees_half_entries_strays_and_work_done_twice(filled_cache, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(filled_cache.root, root)
    expected, before = tree(root), identities(root)
    assert list(unsound(root)) == []
    assert list(differences(expected, tree(filled_cache.root))) == []
    video = root / "encoded" / f"{filled_cache.encoded}.mp4"
    shutil.copy(video, video.with_suffix(".again"))
    video.with_suffix(".again").replace(video)
    assert [line.split()[0] for line in done_again(before, identities(root))] == [f"encoded/{video.name}"]
    video.write_bytes(video.read_bytes()[:-10])
    (root / "tmp" / "left").mkdir(parents=True)
    shard = next((root / "primitives").glob("*/motion/c*"))
    shard.unlink()
    name = shard.relative_to(root).as_posix()
    assert set(differences(expected, tree(root))) == {
        f"encoded/{video.name} differs from an undisturbed run",
        f"{name} is missing after the rerun",
        "tmp/left is left over after the rerun",
    }
    assert len(list(unsound(root))) == 2
