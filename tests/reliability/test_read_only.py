"""A cache that may only be read is read in full: verify, ls, primitives and frames.

Covered: files and folders without the right to write, read by a process that respects it (root gives up its
privilege to ignore modes). tests/cache/test_damage.py has a read-only mount.
Not covered: a file system that becomes read-only while it is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rights import read_only, run_without_rights

_READ = """
import json, sys
from pathlib import Path
from cope_cli.cache.frames import Frames
from cope_cli.cache.listing import list_cache
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.stages.verify import verify_batch

root, encoded, primitives = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
try:
    (root / "probe").touch()
except OSError:
    pass
else:
    sys.exit("the cache can be written: the test proves nothing")
entry = Cache(root).primitives_entry(primitives)
reader, frames = Primitives(entry), Frames(entry, 32)
outcomes = [outcome for name in (encoded, primitives) for outcome in verify_batch([name], root).run()]
print(json.dumps({
    "ls": [row.name for row in list_cache(root)],
    "verified": [outcome.error is None for outcome in outcomes],
    "slots": sum(1 for _ in reader.grid_frames()),
    "motion": reader.motion(1).shape,
    "residual": reader.residual(1).shape,
    "grid_iframe": reader.grid_iframe(0).shape,
    "frames": [frames.rgb(slot).shape for slot in sorted(frames.slots)],
}))
"""


@pytest.fixture
def read_only_cache(filled_cache) -> Iterator[Any]:
    """A copy whose files and folders nobody may write."""
    with read_only(filled_cache.root):
        yield filled_cache


def test_everything_is_read_without_the_right_to_write(read_only_cache):
    words = [str(read_only_cache.root), read_only_cache.encoded, read_only_cache.primitives]
    done = run_without_rights([sys.executable, "-c", _READ, *words])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("frames") == [[32, 32, 3]] * 6
    assert found == {
        "ls": [read_only_cache.encoded, read_only_cache.primitives],
        "verified": [True, True],
        "slots": 8,
        "motion": [2, 32, 32],
        "residual": [32, 32, 3],
        "grid_iframe": [32, 32, 3],
    }


@pytest.mark.slow
@pytest.mark.parametrize("words", [["cache", "verify", "--workers", "2"], ["cache", "ls"], ["cache", "prune"]])
def test_commands_read_it_as_well(read_only_cache, words: list[str]):
    done = run_without_rights([sys.executable, "-m", "cope_cli", *words, "--cache", str(read_only_cache.root)])
    assert done.returncode == 0, done.stderr
