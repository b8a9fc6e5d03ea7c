"""Does pre-training learn more than to copy? Errors on videos that it never saw, beside those of copying.

Per patch the error is Eq. 10's: the squared distance of the predicted vision token to the true one, summed over the
width. It is averaged over all patches, and over the changed ones: a still background is predicted by copying. Four
predictions are compared: the model's, the previous slot unchanged (copy), the model's with its Delta-tokens zeroed, and
with those of another pair (shuffled). A model that reads its Delta-tokens is worse without them.

Legend: P pairs, M vision tokens of a frame, D their width.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from cope_cli.cache.store import PrimitivesEntry
from cope_cli.data.collate import PairBatch
from cope_cli.data.datasets import BadSample
from cope_cli.errors import DataError
from cope_cli.runs import EVALUATION
from cope_cli.train.loop.clock import StepClock
from cope_cli.train.loop.setup import LeftOut

#: A patch has changed if its token's squared distance to the previous slot's is over this share of the mean squared
#: distance of the frame's tokens to their mean. A share of the frame's own spread, because attention moves every token
#: a little when anything in the frame does, and because the scale of vision tokens differs from tower to tower.
CHANGED_SHARE = 0.1
#: The predictions that are compared.
METHODS = ("model", "copy", "zeroed", "shuffled")


def held_out_names(entries: Mapping[str, PrimitivesEntry], share: float, seed: int) -> frozenset[str]:
    """Return the entries to keep from training: those of `share` of the videos, at least one and never all.

    All entries of one source are on the same side, with any window and encoding. Which sources are held out
    depends on the seed and the encoded videos' content hashes alone.

    Args:
        entries: by name.
        share: of the videos; 0 holds out none.
        seed: draws them.
    """
    by_source: dict[str, list[PrimitivesEntry]] = {}
    for entry in entries.values():
        by_source.setdefault(str(entry.source_path), []).append(entry)
    if share == 0 or len(by_source) < 2:
        return frozenset()

    def draw(source: str) -> str:
        content = min(str(entry.manifest.source["sha256"]) for entry in by_source[source])
        return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()

    count = min(max(1, round(share * len(by_source))), len(by_source) - 1)
    chosen = sorted(by_source, key=draw)[:count]
    return frozenset(entry.name for source in chosen for entry in by_source[source])


def changed_patches(reference: Tensor, target: Tensor) -> Tensor:
    """Return which patches of the later slot differ from the previous slot's, by `CHANGED_SHARE`.

    Args:
        reference: (P, M, D), vision tokens of the previous slot.
        target: (P, M, D), of the later slot.

    Returns:
        (P, M) bool.
    """
    reference, target = reference.float(), target.float()
    moved = (target - reference).square().sum(-1)
    spread = (target - target.mean(1, keepdim=True)).square().sum(-1).mean(1, keepdim=True)
    return moved > CHANGED_SHARE * spread


def error_sums(predictions: Mapping[str, Tensor], reference: Tensor, target: Tensor) -> Tensor:
    """Add up each prediction's errors.

    Args:
        predictions: of each of `METHODS` but copy, (P, M, D).
        reference: (P, M, D), vision tokens of the previous slot; the prediction of copying.
        target: (P, M, D).

    Returns:
        (5, 2) float32: the number of patches, then the error of each of `METHODS`; over all and over changed patches.
    """
    changed = changed_patches(reference, target).float()
    masks = torch.stack([torch.ones_like(changed), changed])  # (2, P, M)
    tokens = {**predictions, "copy": reference}
    errors = [(tokens[name].float() - target.float()).square().sum(-1) for name in METHODS]
    rows = torch.stack([torch.ones_like(changed), *errors])  # (5, P, M)
    return torch.einsum("rpm,cpm->rc", rows, masks)


class _Pairs(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class HeldOutBatches:
    """Held-out pairs in batches, in an order drawn by the seed; each ends with the first pair of the next one.

    That last pair only lends its Delta-tokens: pair n is shown those of pair n + 1 when they are shuffled.

    Args:
        pairs: all held-out pairs of one fusion window.
        batch_size: pairs that are evaluated together.
        max_pairs: pairs that are evaluated at most.
        seed: draws the order.
    """

    def __init__(self, pairs: _Pairs, *, batch_size: int, max_pairs: int, seed: int) -> None:
        self.pairs = pairs
        self.batch_size = batch_size
        self.order = list(range(len(pairs)))
        random.Random(seed).shuffle(self.order)
        self.order = self.order[:max_pairs]

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def indices(self, number: int) -> list[int]:
        """Return the pairs of a batch, the lender of Delta-tokens last."""
        start = number * self.batch_size
        end = min(start + self.batch_size, len(self.order))
        return [*self.order[start:end], self.order[end % len(self.order)]]

    def __getitem__(self, number: int) -> list[Any]:
        """Read a batch; what cannot be read comes back as a `BadSample`, or as the error it raises."""
        samples = []
        for index in self.indices(number):
            try:
                samples.append(self.pairs[index])
            except DataError as error:  # raised in a worker process, torch would bury it in a traceback
                samples.append(error)
        return samples


def _as_read(samples: list[Any]) -> list[Any]:
    return samples


class Evaluator(TrainerCallback):
    """Evaluates every `every` steps and after the last one, on all ranks, each its share of the batches.

    Draws no random number of the training's: a run with another `every` has the same losses.

    Args:
        sets: held-out pairs by fusion window.
        collate: makes a `PairBatch` of readable samples, and a batch of zeros of none.
        every: steps between evaluations.
        workers: processes that read.
        left_out: counts the pairs that cannot be read, beside those of training; says which run's the lines are, and
            which ranks evaluate.
        clock: paused meanwhile.
        on_line: called with each line that is written.
    """

    def __init__(
        self,
        *,
        sets: Mapping[int, HeldOutBatches],
        collate: Callable[[Sequence[Any]], dict[str, Any]],
        every: int,
        workers: int,
        left_out: LeftOut,
        clock: StepClock,
        on_line: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.sets = sets
        self.collate = collate
        self.every = every
        self.workers = workers
        self.left_out = left_out
        self.run = left_out.run
        self.ranks = left_out.ranks
        self.clock = clock
        self.on_line = on_line

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Evaluate if it is time to; Trainer's hook.

        Raises:
            DataError: a pair cannot be read and skipping is off, or too many are skipped; the same on all ranks.
        """
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        was_training = model.training
        with self.clock.paused(), torch.no_grad():
            model.eval()
            for window, batches in self.sets.items():
                line = self._line(model, batches, args.device, state.global_step)
                if self.ranks.is_main:
                    line = {"kind": EVALUATION, "step": state.global_step, "fusion_frames": window, **line}
                    self.run.log(line)
                    self.on_line(line)
            model.train(was_training)

    def _line(self, model: nn.Module, batches: HeldOutBatches, device: torch.device, step: int) -> dict[str, Any]:
        """Evaluate one window: error sums of this rank's batches, added up over the ranks."""
        loader: DataLoader[Any] = DataLoader(
            batches,  # type: ignore[arg-type]
            batch_size=None,
            sampler=range(self.ranks.index, len(batches), self.ranks.count),
            num_workers=self.workers,
            collate_fn=_as_read,
            generator=torch.Generator(),  # else a loader draws from the training's
        )
        mine = iter(loader)
        sums = torch.zeros((len(METHODS) + 1, 2), dtype=torch.float64)
        num_pairs = 0
        # Every rank runs the model equally often, on zeros that do not count where it has no batch left.
        for _ in range(-(-len(batches) // self.ranks.count)):
            batch, num_counted = self._batch(next(mine, []), step)
            found = model(batch.to(device), compare=True)
            if num_counted:
                sums += found.double().cpu()
                num_pairs += num_counted
        parts = self.ranks.gather((sums, num_pairs), "while evaluating")
        total = torch.stack([part for part, _ in parts]).sum(0)
        return _averaged(total.tolist(), sum(count for _, count in parts), can_shuffle=len(batches.order) > 1)

    def _batch(self, samples: Sequence[Any], step: int) -> tuple[PairBatch, int]:
        """Collate what can be read, and return of how many pairs the errors count; all ranks hear of what cannot."""
        unread = [sample for sample in samples if isinstance(sample, (DataError, BadSample))]
        for sample in self.ranks.gather_lists(unread, "while reading held-out samples"):
            if isinstance(sample, DataError):
                raise sample
            self.left_out.add(step, sample)
        good = [sample for sample in samples if not isinstance(sample, (DataError, BadSample))]
        if len(good) >= 2:
            batch: PairBatch = self.collate(good)["batch"]
            return batch, len(good) - 1
        empty: PairBatch = self.collate([])["batch"]
        return empty.twice(), 0


def _averaged(sums: list[list[float]], num_pairs: int, *, can_shuffle: bool) -> dict[str, Any]:
    """Return a line's means; None where there is nothing to average."""
    line: dict[str, Any] = {"num_pairs": num_pairs, "num_patches": int(sums[0][0]), "num_changed": int(sums[0][1])}
    for column, suffix in enumerate(("mse", "changed_mse")):
        count = sums[0][column]
        for row, name in enumerate(METHODS, start=1):
            is_known = count > 0 and (can_shuffle or name != "shuffled")
            line[f"{name}_{suffix}"] = sums[row][column] / count if is_known else None
    return line


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What held-out videos say about a run.

    Attributes:
        beats_copying: the error is below that of copying, over all patches and over changed ones, in every window.
        text: the same in words, with figures.
    """

    beats_copying: bool
    text: str


def judge(lines: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """Judge a run by its last evaluation; None if there is none.

    Args:
        lines: `RunFolder.evaluations`.
    """
    last = [line for line in lines if line["step"] == lines[-1]["step"] and line["model_mse"] is not None]
    if not last:
        return None
    beats, texts = zip(*(_judge_window(line) for line in last), strict=True)
    return Verdict(beats_copying=all(beats), text="; ".join(texts))


def _judge_window(line: Mapping[str, Any]) -> tuple[bool, str]:
    beaten = {
        name: line[f"model_{suffix}"] / max(line[f"copy_{suffix}"], 1e-30)
        for name, suffix in (("all patches", "mse"), ("changed patches", "changed_mse"))
        if line[f"model_{suffix}"] is not None
    }
    beats = all(ratio < 1 for ratio in beaten.values())
    text = f"window {line['fusion_frames']}: {'beats' if beats else 'does not beat'} copying the previous slot: "
    text += " and ".join(f"{ratio:.3f} of its error on {name}" for name, ratio in beaten.items())
    unread = [
        name
        for name in ("zeroed", "shuffled")
        if line[f"{name}_mse"] is not None and line[f"{name}_mse"] <= line["model_mse"]
    ]
    if unread:
        text += f"; it is no worse with {' or '.join(unread)} Delta-tokens, so it makes no use of them"
    return beats, text


def described(line: Mapping[str, Any]) -> str:
    """Return an evaluation in one line of text."""
    shares = []
    for name in ("model", "zeroed", "shuffled"):
        values = [line[f"{name}_{suffix}"] for suffix in ("mse", "changed_mse")]
        copies = [line[f"copy_{suffix}"] for suffix in ("mse", "changed_mse")]
        figures = " / ".join(
            "-" if value is None or not copy else f"{value / copy:.3f}"
            for value, copy in zip(values, copies, strict=True)
        )
        shares.append(f"{name} {figures}")
    return (
        f"step {line['step']}, window {line['fusion_frames']}, {line['num_pairs']} held-out pairs: error over that of "
        f"copying (all / changed patches): {', '.join(shares)}"
    )
