"""Many items at once: what happens to one never reaches the others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from batch_work import CountedWork, chatty, slow, work

from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError, VideoError, WorkerDiedError
from cope_cli.files import sha256_file
from cope_cli.stages.batch import Batch, Outcome
from cope_cli.stages.encode import encode_batch
from cope_cli.stages.extract import extract_batch
from cope_cli.stages.frames import FramesRequest
from cope_cli.stages.verify import verify_batch


def run(*items: str, workers: int = 2) -> dict[str, Outcome[str]]:
    outcomes = list(Batch(items=items, work=work, workers=workers).run())
    assert sorted(outcome.item for outcome in outcomes) == sorted(items)
    assert all((outcome.result is None) != (outcome.error is None) for outcome in outcomes)
    return {outcome.item: outcome for outcome in outcomes}


@pytest.mark.parametrize("workers", [1, 2, 7, 0])
def test_every_item_is_done(workers: int):
    items = [f"item {index}" for index in range(5)]
    assert {item: outcome.result for item, outcome in run(*items, workers=workers).items()} == {
        item: item.upper() for item in items
    }


def test_no_items_is_no_work():
    assert run() == {}


def test_a_single_item_runs_in_this_process_and_more_do_not():
    assert run("pid")["pid"].result == str(os.getpid())
    pids = {outcome.result for outcome in run("pid 1", "pid 2", workers=1).values()}
    assert str(os.getpid()) not in pids


@pytest.mark.parametrize("num_others", [0, 3])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raise-video", "the video is bad"),
        ("raise-value", "raise-value: ValueError: a value"),
        ("raise-picky", "raise-picky: Picky: not simple"),
        ("raise-memory", "raise-memory: MemoryError: "),
        ("exit", "exit: SystemExit: 3"),
    ],
)
def test_any_exception_becomes_that_items_error(kind: str, message: str, num_others: int):
    others = [f"fine {index}" for index in range(num_others)]
    outcomes = run(kind, *others)
    error = outcomes[kind].error
    assert error is not None and error.message == message
    assert isinstance(error, CopeError) and not isinstance(error, WorkerDiedError)
    assert all(outcomes[item].result == item.upper() for item in others)


def test_a_cope_error_keeps_its_class_and_hint_across_processes():
    error = run("raise-video", "fine")["raise-video"].error
    assert type(error) is VideoError and error.hint == "mend it"


def test_a_result_that_cannot_be_sent_back_is_that_items_error():
    outcomes = run("unpicklable", "fine", workers=1)
    assert "cannot be pickled" in outcomes["unpicklable"].error.message
    assert outcomes["fine"].result == "FINE"


@pytest.mark.parametrize(("kind", "workers"), [("killed", 1), ("die", 2), ("segfault", 2)])
def test_a_worker_that_dies_costs_only_its_own_item(kind: str, workers: int):
    items = ["a", kind, "b", f"{kind} again", "c", "d"]
    outcomes = run(*items, workers=workers)
    for item in items:
        if item.startswith(kind):
            assert isinstance(outcomes[item].error, WorkerDiedError) and item in outcomes[item].error.message
        else:
            assert outcomes[item].result == item.upper()


def test_items_that_failed_before_are_reported_first():
    early = {"lost.mp4": CopeError("no such file")}
    outcomes = list(Batch(items=["a", "b"], work=work, workers=1, errors=early).run())
    assert outcomes[0] == Outcome(item="lost.mp4", error=early["lost.mp4"])
    assert len(outcomes) == 3


@pytest.mark.parametrize("items", [["a"], ["a", "b"]])
def test_progress_arrives(tmp_path: Path, items: list[str]):
    seen: dict[str, list[float]] = {}
    batch = Batch(items=items, work=partial(slow, folder=tmp_path), workers=2)
    for outcome in batch.run(lambda item, done, total: seen.setdefault(item, []).append(done / total)):
        assert outcome.result == outcome.item
    assert set(seen) == set(items)
    for progress in seen.values():
        assert progress == sorted(progress) and len(progress) > 5 and progress[-1] > 0.8


def test_the_work_is_sent_once_to_a_worker_not_with_every_item():
    """It knows all items: sent with each, a batch of 4000 spent half of its time on that."""
    counted = CountedWork()
    outcomes = list(Batch(items=[f"item {index}" for index in range(9)], work=counted, workers=2).run())
    assert len(outcomes) == 9 and all(outcome.error is None for outcome in outcomes)
    assert counted.times_sent == 2


def test_leaving_a_batch_half_way_does_not_wait_for_what_is_running():
    outcomes: Iterator[Outcome[str]] = Batch(items=["first", "second"], work=chatty, workers=2).run()
    assert next(outcomes).item == "first"
    start = time.monotonic()
    outcomes.close()
    assert time.monotonic() - start < 30


# The stages as batches


def tree(root: Path) -> dict[str, str]:
    """Every file's hash; a manifest's too, which names sources, settings and versions but no times of making."""
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in root.rglob("*") if path.is_file()}


def make(root: Path, sources: list[Path], workers: int) -> None:
    encode = encode_batch(sources, root, EncodeConfig(fps=10, gop_frames=12), workers=workers)
    assert [outcome.error for outcome in encode.run()] == [None] * len(sources)
    config, frames = ExtractConfig(fusion_frames=4, grid_px=32), FramesRequest(size_px=32)
    extract = extract_batch([], root, config, frames=frames, workers=workers)
    assert [outcome.error for outcome in extract.run()] == [None] * len(sources)


@pytest.fixture
def sources(clip: Path, tmp_path: Path) -> list[Path]:
    """The same pictures under other names and in another container, so that contents differ."""
    folder = tmp_path / "videos"
    folder.mkdir()
    paths = [folder / f"{name}.mp4" for name in ("one", "two")]
    for index, path in enumerate(paths):
        path.write_bytes(clip.read_bytes() + bytes(8 * index))
    return paths


def test_the_number_of_workers_does_not_change_a_byte(sources: list[Path], tmp_path: Path):
    trees = []
    for workers in (1, 2):
        make(tmp_path / f"cache-{workers}", sources, workers)
        trees.append(tree(tmp_path / f"cache-{workers}"))
    assert len(trees[0]) == 2 * 24
    assert trees[0] == trees[1]


def test_bad_videos_do_not_stop_the_others_and_leave_nothing(sources: list[Path], tmp_path: Path):
    folder, root = sources[0].parent, tmp_path / "cache"
    (folder / "empty.mp4").touch()
    (folder / "noise.mkv").write_bytes(bytes(range(256)) * 40)
    (folder / "cut.mp4").write_bytes(sources[0].read_bytes()[:500])
    batch = encode_batch([folder, folder / "missing.mp4"], root, EncodeConfig(fps=5), workers=2)
    outcomes = {Path(outcome.item).name: outcome for outcome in batch.run()}
    assert {name for name, outcome in outcomes.items() if outcome.error} == {
        *("empty.mp4", "noise.mkv", "cut.mp4", "missing.mp4")
    }
    for name in ("empty.mp4", "noise.mkv", "cut.mp4", "missing.mp4"):
        assert name in outcomes[name].error.message
    assert sorted(Cache(root).encoded_names()) == sorted(outcomes[path.name].result.name for path in sources)
    assert len(tree(root)) == 4


def test_a_second_run_finds_everything_done_and_force_redoes_it(sources: list[Path], tmp_path: Path):
    root, config = tmp_path / "cache", EncodeConfig(fps=5)
    for force, is_new in ((False, True), (False, False), (True, True)):
        outcomes = list(encode_batch(sources, root, config, workers=1, force=force).run())
        assert [outcome.result.is_new for outcome in outcomes] == [is_new] * 2


def test_a_source_that_changed_is_seen_and_a_touched_one_is_not_encoded_again(clip: Path, tmp_path: Path):
    source, root = tmp_path / "a.mp4", tmp_path / "cache"
    source.write_bytes(clip.read_bytes())

    def encode() -> tuple[str, bool]:
        (outcome,) = encode_batch([source], root, EncodeConfig(fps=5)).run()
        assert outcome.result is not None
        return outcome.result.name, outcome.result.is_new

    first = encode()
    os.utime(source, (1, 1))
    assert encode() == (first[0], False)
    source.write_bytes(clip.read_bytes() + bytes(8))
    name, is_new = encode()
    assert is_new and name != first[0]


def test_verify_checks_every_entry_and_names_the_bad_ones(filled_cache):
    root, video = filled_cache.root, filled_cache.video
    outcomes = list(verify_batch([], root, workers=1).run())
    names = [f"encoded/{filled_cache.encoded}", f"primitives/{filled_cache.primitives}"]
    assert [outcome.item for outcome in outcomes] == names
    assert all(outcome.error is None for outcome in outcomes)
    data = bytearray(video.read_bytes())
    data[len(data) // 2] ^= 4
    video.write_bytes(data)
    failed = [outcome for outcome in verify_batch([], root, workers=1).run() if outcome.error]
    assert [outcome.item for outcome in failed] == names[:1]
    assert "SHA-256 differs" in failed[0].error.message
    with pytest.raises(CopeError, match="no entry nothing"):
        verify_batch(["nothing"], root)
    with pytest.raises(CopeError, match="an empty cache"):
        verify_batch([], root / "none")


# Killed and side by side

_EXTRACT_SLOWLY = """
import sys, time
from pathlib import Path
from cope_cli.cache.store import Cache
from cope_cli.config import ExtractConfig
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest
def wait(done, total):
    if done > 1:
        print("half", flush=True)
        time.sleep(float(sys.argv[3]))
extract_video(sys.argv[1], Cache(Path(sys.argv[2])), ExtractConfig(fusion_frames=5, grid_px=32),
              frames=FramesRequest(size_px=32), force=True, on_progress=wait)
"""


def start_slow_extract(encoded: str, root: Path, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _EXTRACT_SLOWLY, encoded, str(root), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    return process


def test_a_killed_extract_leaves_no_entry_and_the_next_run_cleans_up(filled_cache):
    root, cache = filled_cache.root, filled_cache.cache
    before = tree(root)
    with start_slow_extract(filled_cache.encoded, root, 60) as process:
        cache.clean()  # must not take away what a living process is writing
        assert len(list(cache.tmp.glob("*.lock"))) == 1
        assert any(path.is_file() for path in cache.tmp.glob("*/entry/**/*"))
        process.kill()
    assert {name: digest for name, digest in tree(root).items() if not name.startswith("tmp/")} == before
    config = ExtractConfig(fusion_frames=5, grid_px=32)
    (outcome,) = extract_batch([filled_cache.encoded], root, config, frames=FramesRequest(size_px=32)).run()
    assert outcome.result is not None and outcome.result.is_new
    assert not any(cache.tmp.iterdir())
    assert all(outcome.error is None for outcome in verify_batch([], root, workers=1).run())


def test_two_processes_on_one_entry_end_with_one_sound_entry(filled_cache):
    root = filled_cache.root
    both = [start_slow_extract(filled_cache.encoded, root, 0.02) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert len(filled_cache.cache.primitives_names()) == 2  # the fixture's and this one
    assert not any(filled_cache.cache.tmp.iterdir())
    assert all(outcome.error is None for outcome in verify_batch([], root, workers=1).run())


def test_workers_end_with_a_killed_parent(tmp_path: Path):
    script = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from batch_work import slow\n"
        "from cope_cli.stages.batch import Batch\n"
        "if __name__ == '__main__':\n"
        "    list(Batch(items=['a', 'b'] * 50, work=partial(slow, folder=Path(sys.argv[2])), workers=2).run())\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py"), str(Path(__file__).parents[1] / "support"), str(tmp_path)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not all((tmp_path / name).exists() for name in "ab") and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    time.sleep(1.0)
    before = (tmp_path / "a").read_text(), (tmp_path / "b").read_text()
    time.sleep(0.5)
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == before
