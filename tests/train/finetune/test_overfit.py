"""A small model learns eight questions about real clips by heart and gives the answers back."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_setup import SIZE_PX, fill, finetune_config, write_qa

from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.data.collate import collate
from cope_cli.data.conversations import read_items
from cope_cli.data.prompt import PromptBuilder, Timeline
from cope_cli.data.samples import Sample, read_visuals
from cope_cli.data.videos import VideoIndex
from cope_cli.model.checkpoint.folders import LoadedVideoLM, load_videolm, save_videolm
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.runs import RunFolder
from cope_cli.train.finetune.stage import finetune

# "What happened?" is asked of three videos: only what is seen can tell which answer is meant.
IDS = ["still_scene-0", "still_scene-1", "still_scene-2", "hard_cut-0", "hard_cut-1", "hard_cut-2"]
IDS += ["camera_pan-0", "camera_pan-1"]


def _answers(loaded: LoadedVideoLM, cache: Cache, data: Path, grid_px: int) -> tuple[list[str], list[str]]:
    """What the model says to every question of a data file, earlier turns given, and what it should say."""
    index = VideoIndex(cache, fusion_frames=30, grid_px=grid_px)
    model, tokenizer = loaded.model, loaded.tokenizer
    builder = PromptBuilder(tokenizer=tokenizer, costs=model.token_costs, context_tokens=model.context_tokens)
    said, expected = [], []
    for item in read_items(data):
        entry = index.find(item.video)
        primitives, frames = Primitives(entry), Frames(entry, SIZE_PX)
        for number, turn in enumerate(item.turns):
            prompt = builder.ask(turn.question, Timeline.of(primitives), history=item.turns[:number])
            sample = Sample(prompt=prompt, visuals=read_visuals(primitives, frames, prompt.plan, SIZE_PX))
            batch = collate([sample], pad_id=tokenizer.pad_token_id, padding_side="left", with_labels=False)
            new = model.generate(batch, max_new_tokens=len(turn.answer) + 10)
            said.append(tokenizer.decode(new[0], skip_special_tokens=True))
            expected.append(turn.answer)
    return said, expected


@pytest.mark.slow
def test_eight_questions_are_learned_by_heart(tmp_path: Path) -> None:
    cache, grid_px = Cache(tmp_path / "cache"), 64
    fill(cache, ["still_scene", "hard_cut", "camera_pan"], grid_px=grid_px)
    data = write_qa(tmp_path / "qa.json", IDS)
    save_videolm(*build_small_videolm(grid_px=grid_px), tmp_path / "tiny", fusion_frames=30)
    run = RunFolder(tmp_path / "runs" / "finetune-1", "finetune")
    config = finetune_config(data, model=tmp_path / "tiny", grid_px=grid_px, batch_size=8, steps=80, learning_rate=3e-3)
    finetune(cache, config, run.path)
    assert run.metrics()[0]["loss"] > 4
    said, expected = _answers(load_videolm(run.result), cache, data, grid_px)
    assert said == expected
