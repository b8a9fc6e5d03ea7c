"""Training on primitives that were read directly: the model says so, and `ask` reads videos that way for it."""

from __future__ import annotations

from pathlib import Path

from train_setup import GRID_PX, SAMPLES, SIZE_PX, finetune_config, pretrain_config

from cope_cli.ask.config import AskConfig
from cope_cli.ask.shown import is_direct_tried
from cope_cli.cache.store import Cache
from cope_cli.config import DirectConfig, ExtractConfig
from cope_cli.model.checkpoint.folders import load_delta_encoder, load_videolm
from cope_cli.stages.direct import extract_direct
from cope_cli.stages.frames import FramesRequest
from cope_cli.train.finetune.stage import finetune
from cope_cli.train.pretrain.stage import pretrain


def test_a_model_says_how_its_primitives_were_made(train_cache: Cache, qa: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    frames = FramesRequest(size_px=SIZE_PX, keyframes_per_gop=1)
    for name in ("still_scene", "camera_pan"):
        config = DirectConfig(extract=ExtractConfig(grid_px=GRID_PX))
        extract_direct(SAMPLES / f"{name}.mp4", cache, config, frames=frames)
    runs = tmp_path / "runs"
    encoder = pretrain(cache, pretrain_config(steps=1), runs / "pretrain-1")
    assert load_delta_encoder(encoder).primitives == ("direct",)
    model = load_videolm(finetune(cache, finetune_config(qa, steps=1), runs / "finetune-1"))
    assert model.primitives == ("direct",)
    adapter = load_videolm(finetune(cache, finetune_config(qa, steps=1, lora=2), runs / "finetune-2"))
    assert adapter.primitives == ("direct",)
    assert is_direct_tried(model, AskConfig()) and is_direct_tried(adapter, AskConfig())
    usual = load_videolm(finetune(train_cache, finetune_config(qa, steps=1), runs / "finetune-3"))
    assert usual.primitives == ("re-encoded",)
