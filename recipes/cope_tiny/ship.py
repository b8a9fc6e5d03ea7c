"""Copy a trained cope-tiny into the package, in bfloat16, and the records of its training into docs/.

docs/cope-tiny/ receives recipe, log, loss curves and results from a work folder of `make tiny`; docs/cope-tiny.md shows
them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from cope_cli.files import write_json
from cope_cli.model.checkpoint.folders import load_videolm, save_videolm
from cope_cli.model.checkpoint.hub import SHIPPED_MODEL, model_folder
from recipes.cope_tiny.card import ABLATION, RECORDS

LIMIT_BYTES = 20_000_000


def ship(run: Path, folder: Path = SHIPPED_MODEL) -> int:
    """Write a run's model into a folder and return its size in bytes.

    Raises:
        ValueError: the model is too large to ship.
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
        raise ValueError(f"{folder}: {size} bytes, expected at most {LIMIT_BYTES}")
    return size


def keep_records(work: Path, records: Path = RECORDS, ablation: Path = ABLATION) -> None:
    """Copy recipe, log, curves, results and ablation of a work folder; copies name it `.tiny`, whatever its path."""
    files = {Path(file.name): file for file in (work / "recipe.json", work / "log.json")}
    files |= {Path(f"{file.parent.name}.png"): file for file in work.glob("runs/*/loss.png")}
    files |= {Path("results") / f"{file.parent.name}.json": file for file in work.glob("results/*/accuracy.json")}
    files = {records / place: file for place, file in files.items()}
    if (work / "ablation" / "ablation.json").exists():
        kept = [*work.glob("ablation/*-seed*.json"), work / "ablation" / "ablation.json"]
        files |= {ablation / file.name: file for file in [*kept, work / "ablation" / "needs-motion.png"]}
    vision = work / "runs" / "vision-last" / "config.json"
    if vision.exists():
        found = json.loads(vision.read_text(encoding="utf-8"))["slots_of_clips"]
        write_json(records / "vision.json", found)
    for place, file in files.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".json":
            text = json.dumps(json.loads(file.read_text(encoding="utf-8")), indent=1) + "\n"
            place.write_text(text.replace(str(work.resolve()), ".tiny"), encoding="utf-8")
        else:
            shutil.copyfile(file, place)


def main() -> None:
    """Ship a run of a work folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", default=Path(".tiny"), help="work folder of make tiny")
    parser.add_argument("--run", default="finetune", help="the training run whose model is shipped")
    options = parser.parse_args()
    print(f"{SHIPPED_MODEL}: {ship(options.work / 'runs' / options.run) / 1e6:.1f} MB")
    keep_records(options.work)


if __name__ == "__main__":
    main()
