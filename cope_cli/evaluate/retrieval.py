"""`cope bench --retrieval`: next-frame retrieval, as in the paper's H.6.

A query is a slot I[t-1] with the primitives of the P slot t after it; wanted is slot t among all slots of the same
video but the query. The model's query is the vision tokens it predicts for slot t, the baseline's the vision tokens of
slot t-1 as they are. Vectors are mean-pooled tokens, compared by cosine. Of slots that are equally near, each is as
likely to be named: a constant prediction of zeros scores what chance does.

Legend: S slots of a video, Q queries, M vision tokens of a slot, D their width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.data.collate import collate_pairs
from cope_cli.data.samples import read_pair
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import CheckpointError, DataError, EntryNotFoundError
from cope_cli.model.checkpoint.folders import LoadedDeltaEncoder, load_delta_encoder, load_videolm, vision_tower_sha256
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.model.videolm import VideoLM
from cope_cli.runs import RunFolder, delta_encoder_folder
from cope_cli.stages.frames import ensure_frames
from cope_cli.train.loop.setup import SMALL_MODEL_SEED
from cope_cli.train.pretrain.stage import PretrainModel
from cope_cli.types import OnProgress

#: Recall at these ranks (Table H.6).
RANKS = (1, 2, 5)
#: Pairs, or slots, at a time.
CHUNK = 8


class Predictor(Protocol):
    """What is measured: gives vision tokens, and predicts those of the slot after."""

    def pooled(self, frames: Frames, slots: Sequence[int]) -> Tensor:
        """Return the mean-pooled vision tokens of slots, (len, D) on the CPU."""

    def predicted(self, primitives: Primitives, frames: Frames, slots: Sequence[int]) -> Tensor:
        """Return the mean-pooled tokens predicted for P slots, (len, D) on the CPU."""


@dataclass(frozen=True, kw_only=True)
class RetrievalRow:
    """Recall in one video, or over all queries.

    Attributes:
        name: of the entry; "all videos".
        num_frames: slots of the video, S.
        num_queries: P slots with a previous slot, Q.
        model: recall by rank, as a share.
        vision: the same of the vision tokens of the previous slot.
        chance: the same of guessing.
    """

    name: str
    num_frames: int
    num_queries: int
    model: Mapping[int, float]
    vision: Mapping[int, float]
    chance: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class RetrievalReport:
    """What was measured.

    Attributes:
        delta_encoder: its folder.
        vision_encoder: whose vision tower was used, in words.
        fusion_frames: the fusion window s.
        chosen: which videos, in words.
        rows: one for each video.
        overall: over all queries of all videos.
    """

    delta_encoder: str
    vision_encoder: str
    fusion_frames: int
    chosen: str
    rows: tuple[RetrievalRow, ...]
    overall: RetrievalRow


def hit_shares(queries: Tensor, frames: Tensor, query_slots: Sequence[int], wanted_slots: Sequence[int]) -> Tensor:
    """Return how surely each query has its slot among the nearest.

    Args:
        queries: (Q, D), a vector for each query.
        frames: (S, D), of every slot of the video.
        query_slots: the slot of each query, which is not searched.
        wanted_slots: the slot to be found.

    Returns:
        (Q, ranks) float64: 1 if it is among the first `RANKS`, 0 if not; the probability if slots are equally near.
    """
    unit = torch.nn.functional.normalize(frames.double(), dim=-1)
    similarity = torch.nn.functional.normalize(queries.double(), dim=-1) @ unit.T  # (Q, S)
    rows = torch.arange(len(queries))
    similarity[rows, torch.as_tensor(query_slots)] = -torch.inf
    wanted = similarity[rows, torch.as_tensor(wanted_slots)][:, None]
    num_nearer = (similarity > wanted).sum(-1, keepdim=True)
    num_equal = (similarity == wanted).sum(-1, keepdim=True)  # the wanted one among them
    return ((torch.tensor(RANKS) - num_nearer).double() / num_equal).clamp(0, 1)


def measure_video(predictor: Predictor, entry: PrimitivesEntry, size_px: int) -> tuple[RetrievalRow, Tensor]:
    """Measure one video.

    Args:
        predictor: the model.
        entry: the video's primitives; all its RGB slots are stored.
        size_px: the vision encoder's input size V.

    Returns:
        The video's row, and the hit shares (3, Q, ranks) of model, vision and chance that it is made of.
    """
    primitives, frames = Primitives(entry), Frames(entry, size_px)
    slots = list(range(len(primitives.slots)))
    wanted = [slot for slot in slots if not primitives.slots.is_iframe[slot]]
    before = [slot - 1 for slot in wanted]
    database = _in_chunks(lambda part: predictor.pooled(frames, part), slots)
    predicted = _in_chunks(lambda part: predictor.predicted(primitives, frames, part), wanted)
    guessed = torch.tensor([min(1.0, rank / (len(slots) - 1)) for rank in RANKS], dtype=torch.float64)
    shares = torch.stack(
        [
            hit_shares(predicted, database, before, wanted),
            hit_shares(database[before], database, before, wanted),
            guessed.expand(len(wanted), -1),
        ]
    )
    return _row(entry.name, len(slots), shares), shares


def _in_chunks(compute: Callable[[Sequence[int]], Tensor], slots: Sequence[int]) -> Tensor:
    return torch.cat([compute(slots[start : start + CHUNK]) for start in range(0, len(slots), CHUNK)])


def _row(name: str, num_frames: int, shares: Tensor) -> RetrievalRow:
    model, vision, chance = (dict(zip(RANKS, values, strict=True)) for values in shares.mean(1).tolist())
    return RetrievalRow(
        name=name, num_frames=num_frames, num_queries=shares.shape[1], model=model, vision=vision, chance=chance
    )


class PretrainedPredictor:
    """A pre-trained Delta-encoder with its alignment modules and vision tower.

    Args:
        model: the modules, in evaluation mode.
        device: where they are put.
    """

    def __init__(self, model: PretrainModel, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.device = device

    @torch.no_grad()
    def pooled(self, frames: Frames, slots: Sequence[int]) -> Tensor:
        """Return the mean-pooled vision tokens of slots, (len, D)."""
        rgb = torch.stack([torch.from_numpy(frames.rgb(slot)) for slot in slots]).to(self.device)
        return self.model.vision.vision_tokens(rgb).float().mean(1).cpu()

    @torch.no_grad()
    def predicted(self, primitives: Primitives, frames: Frames, slots: Sequence[int]) -> Tensor:
        """Return the mean-pooled tokens predicted for P slots, (len, D)."""
        batch = collate_pairs([read_pair(primitives, frames, slot) for slot in slots]).to(self.device)
        return self.model.predict(batch).float().mean(1).cpu()


def measure_retrieval(
    named: str,
    cache: Cache,
    runs_root: Path,
    *,
    videos: Sequence[str] = (),
    model: Path | str | None = None,
    fusion_frames: int | None = None,
    device: str = "auto",
    on_progress: OnProgress = lambda done, total: None,
) -> RetrievalReport:
    """Measure next-frame retrieval with a pretrain run's Delta-encoder; RGB slots that are missing are added.

    Args:
        named: a finished pretrain run, its name, or the folder of a Delta-encoder.
        cache: has the primitives, with the Delta-encoder's grid and window.
        runs_root: where the run of that name is.
        videos: to search in; none: those the run held out, or all of the cache if it held out none.
        model: has the vision tower; None: what the run was trained with.
        fusion_frames: one of several windows that the run was trained with; None: the largest.
        device: PyTorch's name; "auto" takes a GPU if there is one.
        on_progress: called with (videos done, videos in all).

    Raises:
        PathNotFoundError, CheckpointError: the Delta-encoder or the vision tower cannot be used.
        EntryNotFoundError, DataError: the cache has no such video, or none with a P slot.
    """
    folder = delta_encoder_folder(named, runs_root)
    loaded = load_delta_encoder(folder)
    if loaded.alignment is None:
        raise CheckpointError(
            f"{folder}: holds no alignment modules, which retrieval needs", "Name a run of `cope train pretrain`."
        )
    run = RunFolder(folder.parent, "pretrain")
    about = run.config() if run.config_file.is_file() else {}
    vision, described = _vision(loaded, model, about)
    window = loaded.window_for(fusion_frames or loaded.fusion_frames)
    entries, chosen = _entries(cache, loaded, window, videos, about)
    size_px = vision.vision_size_px
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    predictor = PretrainedPredictor(PretrainModel(vision, loaded.delta_encoder, loaded.alignment), where)
    rows, shares = [], []
    for number, entry in enumerate(entries, start=1):
        ensure_frames(cache, entry, size_px, range(int(entry.manifest.info["num_slots"])))
        row, found = measure_video(predictor, entry, size_px)
        rows.append(row)
        shares.append(found)
        on_progress(number, len(entries))
    return RetrievalReport(
        delta_encoder=str(folder),
        vision_encoder=described,
        fusion_frames=window,
        chosen=chosen,
        rows=tuple(rows),
        overall=_row("all videos", sum(row.num_frames for row in rows), torch.cat(shares, dim=1)),
    )


def _vision(loaded: LoadedDeltaEncoder, model: Path | str | None, about: Mapping[str, object]) -> tuple[VideoLM, str]:
    """Return the vision tower that the Delta-encoder was trained for, and whose it is.

    Raises:
        CheckpointError: it is another one.
    """
    settings = about.get("settings")
    trained_with = settings.get("model") if isinstance(settings, dict) else None
    wanted = model or trained_with
    if wanted is None:
        vision, _ = build_small_videolm(SMALL_MODEL_SEED, loaded.delta_encoder.config.grid_px)
        described, found = "the small seeded model", vision_tower_sha256(vision)
    else:
        videolm = load_videolm(model_folder(wanted))
        vision, described, found = videolm.model, str(wanted), videolm.vision_sha256
    if found != loaded.vision_sha256:
        raise CheckpointError(
            f"{loaded.folder}: trained for the vision tower {loaded.vision_sha256[:12]}, that of {described} is "
            f"{found[:12]}",
            "Name the model it was trained with by --model.",
        )
    return vision, described


def _entries(
    cache: Cache, loaded: LoadedDeltaEncoder, window: int, videos: Sequence[str], about: Mapping[str, object]
) -> tuple[list[PrimitivesEntry], str]:
    """Return the entries to search in, and which they are in words."""
    index = VideoIndex(cache, fusion_frames=window, grid_px=loaded.delta_encoder.config.grid_px)
    held = about.get("held_out_entries")
    known = [index.entries[name] for name in held if name in index.entries] if isinstance(held, list) else []
    if videos:
        entries, chosen = [index.find(video) for video in videos], "the videos named"
    elif known:
        entries, chosen = known, "the videos that the run held out"
    else:
        entries, chosen = list(index.entries.values()), "all videos of the cache, which the run may have trained on"
    if not entries:
        raise EntryNotFoundError(
            f"{cache.root}: no primitives with fusion window {window} and grid {index.grid_px}",
            f"Run `cope encode`, then `cope extract --fusion {window} --grid {index.grid_px}`.",
        )
    usable = [e for e in entries if e.manifest.info["num_slots"] > e.manifest.info["num_iframe_slots"]]
    if not usable:
        raise DataError(f"{cache.root}: none of {len(entries)} videos has a P slot", "Name longer videos.")
    return sorted(usable, key=lambda entry: entry.name), chosen
