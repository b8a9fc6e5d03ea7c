"""Two processes on one cache at the same time: one sound entry each, both succeed, nothing is left over.

Covered: encode and extract of the same videos, begun at the same moment, with and without --force.
Not covered: two machines on a network file system, where locks may not hold.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running import ENCODE_WORDS, EXTRACT_WORDS, all_fine, answers, cope, leftovers, verify

_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from running import all_fine, encode, extract
force, root, videos = sys.argv[2] == "force", Path(sys.argv[3]), [Path(path) for path in sys.argv[4:]]
if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    for video in videos:  # one at a time: no worker whose start would separate the two
        for errors in (encode([video], root, force=force), extract(root, [video], force=force)):
            assert all_fine(errors, 1), errors
"""


def run_two(root: Path, videos: list[Path], *, force: bool) -> None:
    words = [str(Path(__file__).parents[1] / "support"), "force" if force else "", str(root), *map(str, videos)]
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _RUN, *words]
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        process.stdout.readline()
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said


@pytest.mark.parametrize("force", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_both_finish_and_leave_one_sound_entry_each(short_videos: list[Path], tmp_path: Path, force: bool):
    root = tmp_path / "cache"
    for _ in range(1 + force):  # the second time over finished entries
        run_two(root, short_videos, force=force)
        assert all_fine(verify(root), 4)
        assert leftovers(root) == []


@pytest.mark.slow
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_two_commands_with_workers(short_videos: list[Path], long_video: Path, tmp_path: Path, force: list[str]):
    root, videos = tmp_path / "cache", [*short_videos, long_video]
    for words in (("encode", *videos, *ENCODE_WORDS), ("extract", *EXTRACT_WORDS)):
        both = [cope(*words, "--cache", root, "--workers", "2", *force) for _ in range(2)]
        for code, outcomes in answers(both):
            assert code == 0 and [outcome["error"] for outcome in outcomes] == [None] * 3
    assert all_fine(verify(root), 6)
    assert leftovers(root) == []
