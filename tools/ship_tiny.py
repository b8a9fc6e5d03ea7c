"""Puts a finetuned model into the package as cope-tiny, in bfloat16: `python -m tools.ship_tiny RUN`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cope_cli.api.models import SHIPPED_MODEL
from cope_cli.model.checkpoint import load_videolm, save_videolm
from cope_cli.model.hub import model_folder

LIMIT_BYTES = 20_000_000


def ship(run: Path, folder: Path = SHIPPED_MODEL) -> int:
    """Write a run's model into a folder; returns its size in bytes.

    Raises:
        ValueError: it is too large to be shipped.
    """
    loaded = load_videolm(model_folder(run), dtype=torch.bfloat16)
    assert loaded.fusion_frames is not None
    save_videolm(
        loaded.model,
        loaded.tokenizer,
        folder,
        fusion_frames=loaded.fusion_frames,
        keyframes_per_gop=loaded.keyframes_per_gop,
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LIMIT_BYTES:
        raise ValueError(f"{folder}: {size} bytes, at most {LIMIT_BYTES} expected")
    return size


def main() -> None:
    """Ship one run's model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="finished finetune run, or a model folder")
    print(f"{SHIPPED_MODEL}: {ship(parser.parse_args().run) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
