from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train_setup import fill, write_qa

from cope_cli.cache.store import Cache


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models this small gain nothing from a second thread, and two that share busy cores wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def train_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """`still_scene` and `camera_pan`: 18 slots in 3 GOPs, 15 pairs."""
    cache = Cache(tmp_path_factory.mktemp("train") / "cache")
    fill(cache, ["still_scene", "camera_pan"])
    return cache


@pytest.fixture(scope="session")
def qa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five items with short answers."""
    ids = ["still_scene-1", "still_scene-2", "camera_pan-1", "camera_pan-2", "still_scene-0"]
    return write_qa(tmp_path_factory.mktemp("qa") / "qa.json", ids)
