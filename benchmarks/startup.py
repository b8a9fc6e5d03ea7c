"""`python -m benchmarks.startup VIDEO`: seconds from `cope ask` to its end, beside a bare import of the model classes.

Both run in fresh processes, in turn, with the files of all libraries in memory. The bare import ends as Python ends by
default. The cache folder is new each time, so that `cope ask` also encodes and extracts the video.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

#: The classes that `cope ask` uses, each from its own module.
BARE = """
import torch
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionForConditionalGeneration
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.siglip.modeling_siglip import SiglipVisionModel
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerFast, TextStreamer
"""


def seconds_of(*words: str) -> float:
    """Return the seconds that a Python process takes, from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - start


def measure(video: str, repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each bare import and of each `cope ask`; a first round of both is not counted."""
    bare, asked = [], []
    for _ in range(repeats + 1):
        bare.append(seconds_of("-c", BARE))
        with tempfile.TemporaryDirectory() as root:
            folders = ("--cache", f"{root}/cache", "--runs", f"{root}/runs")
            asked.append(seconds_of("-m", "cope_cli", "ask", video, "What moves?", *folders))
    return bare[1:], asked[1:]


def main() -> None:
    """Print the medians, the fastest times and their ratios."""
    parser = argparse.ArgumentParser(description="Measure the start-up time of `cope ask`.")
    parser.add_argument("video", help="A video file of a few seconds.")
    parser.add_argument("--repeats", type=int, default=5, help="Rounds that count (default: 5).")
    options = parser.parse_args()
    bare, asked = measure(options.video, options.repeats)
    for name, of in (("median", statistics.median), ("fastest", min)):
        print(f"{name}: bare import {of(bare):.2f} s, cope ask {of(asked):.2f} s, ratio {of(asked) / of(bare):.2f}")


if __name__ == "__main__":
    main()
