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
from cope_cli.errors import PathNotFoundError, UsageError

VIDEO = SAMPLES / "camera_pan.mp4"


@pytest.fixture(scope="module")
def lm(lively, asked_cache) -> CopeVideoLM:
    return CopeVideoLM(lively, asked_cache)


def test_the_documented_examples_run(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    shutil.copy(SAMPLES / "tiny_vanishes.mp4", tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COPE_CACHE", raising=False)
    scope: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(example, scope)  # the page itself is what is tested
    assert scope["tokens"].ndim == 2
    assert scope["item"]["motion"].shape == (2, 224, 224)
    assert "vanishes" in capsys.readouterr().out
    assert re.search(r"```python\n(.*?)```", videolm.__doc__, re.DOTALL).group(0) in page


def test_an_open_video_is_asked_about_as_its_file_is(lm, tmp_path):
    settings = {"keyframes": 1, "max_new_tokens": 8}
    asked = lm.ask(VIDEO, "What happened?", **settings)
    video = cope_cli.open(VIDEO, cache=lm.cache.root)
    assert lm.ask(video, "What happened?", **settings).text == asked.text
    assert lm.ask(cope_cli.open(VIDEO, cache=tmp_path), "What happened?", **settings).text == asked.text
    with pytest.raises(UsageError, match="expected a whole video, found a part"):
        lm.ask(video[1:3], "What happened?")
    direct = cope_cli.open(VIDEO, cache=tmp_path, direct=True)
    assert lm.ask(direct, "What happened?", **settings).way == "direct"


def test_representations_say_what_there_is(lm):
    assert re.fullmatch(r"CopeVideoLM\('.*': [\d.]+ M parameters, fusion 30, cpu, torch.float32\)", repr(lm))
    answer = lm.ask(VIDEO, "What happened?", keyframes=1, max_new_tokens=3)
    assert str(answer) == answer.text
    assert "3 new" in repr(answer)
    assert "slots: 2 RGB, 8 P" in repr(lm.embed(VIDEO, keyframes=1))


def test_settings_out_of_range_are_refused(lm):
    with pytest.raises(UsageError, match="--temperature -1"):
        lm.ask(VIDEO, "What?", temperature=-1)
    with pytest.raises(TypeError, match="keyframe"):
        lm.ask(VIDEO, "What?", keyframe=1)


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
