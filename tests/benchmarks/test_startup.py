"""`python -m benchmarks.startup` times both processes, and `cope ask` stays near the bare import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_asking_takes_little_longer_than_importing() -> None:
    words = ["-m", "benchmarks.startup", "sample_videos/tiny_vanishes.mp4", "--repeats", "1"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    found = re.findall(r"(\w+): bare import ([\d.]+) s, cope ask ([\d.]+) s, ratio ([\d.]+)", done.stdout)
    assert [name for name, *_ in found] == ["median", "fastest"]
    assert float(found[0][3]) < 2  # on an idle machine: below 1.4
