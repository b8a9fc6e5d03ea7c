"""`CopeVideoLM`: the documented example runs, and every way of asking gives the same answer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from asked_videos import SAMPLES

import cope_cli
from cope_cli import CopeVideoLM
from cope_cli.ask import videolm
from cope_cli.errors import PathNotFoundError

VIDEO = SAMPLES / "camera_pan.mp4"


@pytest.fixture(scope="module")
def lm(lively, asked_cache) -> CopeVideoLM:
    return CopeVideoLM(lively, asked_cache)


def test_the_documented_example_runs(lively_folder, tmp_path, monkeypatch, capsys):
    example = re.search(r"```python\n(.*?)```", videolm.__doc__, re.DOTALL).group(1)
    (tmp_path / "runs").mkdir()
    shutil.copytree(lively_folder, tmp_path / "runs" / "finetune-1" / "model")
    shutil.copy(VIDEO, tmp_path / "video.mp4")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(example, scope)
    assert scope["tokens"].ndim == 2
    assert capsys.readouterr().out.strip()
    assert example in (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def test_asking_streaming_and_chatting_agree(lm):
    settings = {"keyframes": 1, "max_new_tokens": 8}
    answer = lm.ask(VIDEO, "What happened?", **settings)
    assert "".join(lm.stream(VIDEO, "What happened?", **settings)).rstrip() == answer.text
    assert lm.chat(VIDEO, **settings).ask("What happened?").text == answer.text


def test_a_stream_can_be_left_and_its_errors_arrive(lm):
    stream = lm.stream(VIDEO, "What happened?", max_new_tokens=500)
    assert isinstance(next(stream), str)
    stream.close()  # returns at once: generation ends at the next token
    with pytest.raises(PathNotFoundError, match=r"gone\.mp4"):
        next(lm.stream("gone.mp4", "What?"))


def test_embeddings_are_those_that_stand_in_a_prompt(lm, lively):
    video = lm.embed(VIDEO, keyframes=1)
    chat = lm.chat(VIDEO, keyframes=1)
    prompt = chat.video.prompt("What?")
    width = lively.model.base.config.text_config.hidden_size
    assert video.embeddings.shape == (prompt.num_visual_tokens, width)
    assert torch.equal(video.embeddings, chat.video.visual_embeddings(prompt.plan))
    assert video.kinds.tolist() == [kind for kind in prompt.kinds if kind]
    costs = lively.model.token_costs
    assert sum(costs.rgb if is_rgb else costs.delta for is_rgb in video.slot_is_rgb) == len(video.embeddings)
    assert list(video.slot_seconds) == sorted(video.slot_seconds)


def test_the_package_has_no_other_lazy_names():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        cope_cli.Nothing  # noqa: B018
