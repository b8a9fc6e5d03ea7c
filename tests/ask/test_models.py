"""Which model answers, by folder, run or Hub id, and what is said where it cannot do what it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import make_base, write_llava

from cope_cli.ask.config import AskConfig
from cope_cli.ask.models import check_delta_mode, load_model
from cope_cli.ask.settings import find_model
from cope_cli.ask.shown import notes
from cope_cli.errors import CheckpointError, PathNotFoundError, UsageError
from cope_cli.files import write_json
from cope_cli.model.checkpoint.folders import load_videolm, save_delta_encoder
from cope_cli.model.delta_encoder import DeltaEncoder, DeltaEncoderConfig

HUB_ID = "lmms-lab/LLaVA-Video-7B-Qwen2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base model in the original layout."""
    return write_llava(make_base(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretrain run for it."""
    run = tmp_path_factory.mktemp("runs") / "pretrain-1"
    run.mkdir()
    sizes = {"grid_px": 32, "width": 12, "depth": 1, "heads": 2, "out_width": 16, "trunk_width": 4}
    encoder = DeltaEncoder(DeltaEncoderConfig(**sizes))
    sha256 = load_videolm(folder).vision_sha256
    save_delta_encoder(encoder, run / "delta_encoder", fusion_frames=15, vision_sha256=sha256)
    write_json(run / "status.json", {"kind": "pretrain", "state": "finished", "step": 1, "unix_seconds": 1})
    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """What was asked of the Hub, which has the small model under every name."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(hub_id: str, **options: Any) -> str:
        calls.append((hub_id, options))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return calls


@pytest.mark.parametrize("named", [HUB_ID, Path(HUB_ID)], ids=["text", "path"])
def test_a_hub_id_becomes_a_folder_without_pickled_weights(
    folder: Path, asked: list[tuple[str, dict[str, Any]]], tmp_path: Path, named: str | Path
) -> None:
    assert find_model(named, tmp_path) == folder
    ((hub_id, options),) = asked
    assert hub_id == HUB_ID
    assert {"*.json", "*.safetensors", "*.txt", "tokenizer.model"} <= set(options["allow_patterns"])
    assert not [pattern for pattern in options["allow_patterns"] if "bin" in pattern or pattern == "*"]


def test_what_is_a_folder_or_a_slip_is_not_asked_for(
    folder: Path, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert find_model("org", tmp_path) == Path("org/model")
    (tmp_path / "org" / "model" / "model").mkdir()
    assert find_model("org/model", tmp_path) == Path("org/model/model")
    assert find_model(folder, tmp_path) == folder
    for slip in ("org/modle", "gone", "./gone/model", "a/b/c", str(tmp_path / "gone" / "model")):
        assert find_model(slip, tmp_path) == Path(slip)
        with pytest.raises(PathNotFoundError, match="no such folder"):
            load_model(find_model(slip, tmp_path), "cpu")
    assert asked == []


@pytest.mark.parametrize("kind", ["offline", "no network", "no such repository", "not an id"])
def test_a_hub_id_that_cannot_be_had_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    errors = {
        "offline": OfflineModeIsEnabled("offline"),
        "no network": LocalEntryNotFoundError("cannot find the files\nmore"),
        "no such repository": OSError("404"),
        "not an id": HFValidationError("no"),
    }

    def fail(*_: Any, **__: Any) -> None:
        raise errors[kind]

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=f"{HUB_ID}: no such folder here, and it cannot be downloaded") as caught:
        find_model(HUB_ID, tmp_path)
    assert f"hf download {HUB_ID}" in caught.value.hint
    assert "\n" not in caught.value.message


def test_offline_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="nobody/nothing: no such folder here"):
        find_model("nobody/nothing", tmp_path)


def test_types_are_chosen_by_name(folder: Path) -> None:
    for name in ("auto", "float32", "bfloat16", "float16"):
        model = load_model(folder, "cpu", dtype=name).model
        expected = torch.float32 if name == "auto" else getattr(torch, name)
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
    with pytest.raises(UsageError, match="--dtype int4: expected auto, float32, bfloat16, float16"):
        load_model(folder, dtype="int4")


@pytest.mark.parametrize("by", ["run", "name", "folder"])
def test_a_delta_encoder_is_named_beside_a_base_model(folder: Path, run: Path, by: str) -> None:
    named = {"run": run, "name": "pretrain-1", "folder": str(run / "delta_encoder")}[by]
    loaded = load_model(folder, "cpu", delta_encoder=named, runs_root=run.parent)
    assert loaded.fusion_frames == 15
    check_delta_mode(loaded, "on")


def test_a_delta_encoder_that_is_not_there_is_named(folder: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match=r"--delta-encoder pretrain-9: no such folder, and no such run in"):
        load_model(folder, "cpu", delta_encoder="pretrain-9", runs_root=run.parent)
    with pytest.raises(CheckpointError, match="neither a Delta-encoder nor a finished pretrain run"):
        load_model(folder, "cpu", delta_encoder=tmp_path)
    with pytest.raises(CheckpointError, match="neither a Delta-encoder nor a finished pretrain run"):
        load_model(folder, "cpu", delta_encoder=folder)


def test_a_base_model_answers_without_delta_tokens_only(folder: Path) -> None:
    loaded = load_model(folder, "cpu")
    check_delta_mode(loaded, "off")
    for mode in ("on", "zero"):
        with pytest.raises(CheckpointError, match="has no Delta-encoder") as caught:
            check_delta_mode(loaded, mode)
        for way in ("--delta off", "cope train pretrain --model", "cope train finetune --model", "--delta-encoder"):
            assert way in caught.value.hint


def test_what_a_reader_of_the_answers_should_know_is_noted(folder: Path, run: Path) -> None:
    base = load_model(folder, "cpu")
    assert any("no Delta-encoder" in note for note in notes(base, AskConfig(delta="off")))
    with_encoder = load_model(folder, "cpu", delta_encoder=run)
    assert notes(with_encoder, AskConfig(fusion_frames=15)) == notes(with_encoder, AskConfig()) == list(base.notes)
    assert (
        "fusion window 30: the Delta-encoder was trained with 15"
        in notes(with_encoder, AskConfig(fusion_frames=30))[-1]
    )


def test_a_device_map_needs_no_device(folder: Path) -> None:
    assert load_model(folder, "nonsense", device_map="auto").model.device.type in ("cpu", "cuda")
