from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train_setup import GRID_PX, SIZE_PX, fill, write_qa

from cope_cli.cache.store import Cache
from cope_cli.model.batch import VideoLMBatch
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.token_plan import IGNORED_LABEL, TokenKind, plan_tokens


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


@pytest.fixture(scope="session")
def batch() -> VideoLMBatch:
    """One sequence: a GOP of three slots, one of them RGB, then twelve tokens, of which six are learned."""
    generator = torch.Generator().manual_seed(0)
    kinds = plan_tokens(
        [0, 0, 0], keyframes_per_gop=1, costs=build_small_videolm(grid_px=GRID_PX)[0].token_costs
    ).token_kinds()
    kinds = torch.tensor([[*kinds, *[int(TokenKind.TEXT)] * 12]], dtype=torch.uint8)
    ids = torch.randint(0, 256, kinds.shape, generator=generator)
    labels = ids.clone()
    labels[:, :-6] = IGNORED_LABEL
    return VideoLMBatch(
        input_ids=ids,
        token_kind=kinds,
        attention_mask=torch.ones_like(ids),
        labels=labels,
        rgb=torch.randint(0, 256, (1, SIZE_PX, SIZE_PX, 3), generator=generator).byte(),
        motion=torch.randint(-60, 60, (2, 2, GRID_PX, GRID_PX), generator=generator).short(),
        residual=torch.randint(-255, 256, (2, GRID_PX, GRID_PX, 3), generator=generator).short(),
        frame_size_px=torch.full((2, 2), 64, dtype=torch.int32),
    )
