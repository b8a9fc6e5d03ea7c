"""A small model whose answers depend on what it is shown, and the videos it is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cope_cli.ask.models import load_model
from cope_cli.cache.store import Cache
from cope_cli.model.checkpoint.folders import LoadedVideoLM, save_videolm
from cope_cli.model.sizes.small import build_small_videolm


@pytest.fixture(scope="session")
def lively_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights, large enough that every answer is another."""
    folder = tmp_path_factory.mktemp("lively") / "model"
    model, tokenizer = build_small_videolm(grid_px=64, seed=5)
    with torch.no_grad():
        for parameter in model.base.model.language_model.layers.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    save_videolm(model, tokenizer, folder, fusion_frames=30)
    return folder


@pytest.fixture(scope="session")
def lively(lively_folder: Path) -> LoadedVideoLM:
    return load_model(lively_folder, "cpu")


@pytest.fixture(scope="session")
def asked_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache that fills up while tests ask about the sample videos."""
    return Cache(tmp_path_factory.mktemp("asked"))
