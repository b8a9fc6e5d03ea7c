"""`cope ask --chat` in a pipe and at a terminal."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time

import pytest
from asked_videos import SAMPLES

VIDEO = SAMPLES / "camera_pan.mp4"


@pytest.fixture
def chat(lively_folder, asked_cache):
    command = [sys.executable, "-m", "cope_cli", "ask", "--chat", "--model", str(lively_folder)]
    return [*command, "--cache", str(asked_cache.root), "--max-new-tokens", "6", "--keyframes", "1"]


def talk(chat, lines: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*chat, *more], input=lines, capture_output=True, text=True, timeout=300)


def test_every_line_of_a_pipe_is_a_question(chat):
    result = talk(chat, "What happened?\n\nAnd then?\n", str(VIDEO), "--json")
    assert result.returncode == 0
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["question"], second["question"]) == ("What happened?", "And then?")
    assert (first["num_cached_tokens"], second["num_cached_tokens"] > first["num_visual_tokens"]) == (0, True)
    plain = talk(chat, "And then?\n", str(VIDEO), "What happened?")
    assert plain.stdout.splitlines() == [first["text"], second["text"]]


def test_commands_of_a_chat(chat):
    lines = f"What?\n/video {VIDEO}\nWhat?\n/clear\nWhat?\n/video gone.mp4\n/dance\n/help\nWhat?\n/quit\nNever asked\n"
    result = talk(chat, lines, "--json")
    assert result.returncode == 1  # three lines failed, and the rest was done
    for words in ("no video yet", "gone.mp4: no such file", "/dance: no such command", "/clear       forget"):
        assert words in result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == 3
    assert answers[0]["text"] == answers[1]["text"]  # cleared in between
    assert answers[2]["num_text_tokens"] > answers[1]["num_text_tokens"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_has_a_prompt_history_and_line_editing(chat, tmp_path, request):
    leader, follower = os.openpty()
    env = os.environ | {"XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    process = subprocess.Popen(
        [*chat, str(VIDEO)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    request.addfinalizer(process.wait)
    request.addfinalizer(process.kill)  # first
    os.close(follower)
    shown = b""

    def wait_for(text: bytes) -> None:
        nonlocal shown
        end = time.monotonic() + 120
        while text not in shown:
            assert time.monotonic() < end, shown
            if select.select([leader], [], [], 1)[0]:
                shown += os.read(leader, 4096)
        shown = shown.partition(text)[2]

    wait_for(b"> ")
    os.write(leader, b"What hapened\x1b[D\x1b[D\x1b[D\x1b[Dp\n")  # the p goes in four characters to the left
    wait_for(b"first token after")
    wait_for(b"> ")
    time.sleep(1)  # between showing the prompt and waiting for keys, readline would see the signal at the next key only
    process.send_signal(signal.SIGINT)  # what Ctrl-C does
    wait_for(b"/quit leaves")
    wait_for(b"> ")
    os.write(leader, b"\x04")  # Ctrl-D
    assert process.wait(60) == 0
    os.close(leader)
    assert (tmp_path / "cope" / "chat_history").read_text().splitlines()[-1] == "What happened"


@pytest.mark.parametrize(
    "args",
    [(), ("video.mp4",), ("video.mp4", "What?", "--questions", "q.json"), ("--chat", "--questions", "q.json")],
    ids=" ".join,
)
def test_too_little_and_too_much_is_wrong_usage(args):
    result = subprocess.run([sys.executable, "-m", "cope_cli", "ask", *args], capture_output=True, text=True)
    assert result.returncode == 2
    assert "error:" in result.stderr or "Usage" in result.stderr
