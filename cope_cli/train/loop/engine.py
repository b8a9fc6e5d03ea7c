"""transformers' Trainer with our losses, batches, parameter groups, checkpoints and records.

Covered: one process on the CPU or a GPU, several under torchrun (DDP, FSDP2), bf16, gradient accumulation, exact
resume. Rank 0 writes; errors on one rank are broadcast before the next collective, so that no rank hangs.

The loss of a step is a sum over what its samples ask for, divided by the count over all its micro-batches (and
ranks): batch size times accumulation is what counts, not how it is cut.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from accelerate.utils import save_fsdp_optimizer, send_to_device
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from cope_cli.data.samples import Shortened
from cope_cli.errors import CheckpointError, CopeError
from cope_cli.runs import RunFolder, newest_checkpoint
from cope_cli.train.config import TrainConfig
from cope_cli.train.loop.callbacks import LogWithCheckpoints, StopAfter, TimeOptimizer
from cope_cli.train.loop.clock import StepClock
from cope_cli.train.loop.muon import MuonAdamW, is_hidden_matrix
from cope_cli.train.loop.order import EpochLoader, RankBatches
from cope_cli.train.loop.plot import LOSS_UNITS, draw_loss
from cope_cli.train.loop.ranks import Ranks
from cope_cli.train.loop.setup import LeftOut, OnStep
from cope_cli.train.loop.sharding import (
    check_is_sharded,
    checkpoint_activations,
    full_state_dict,
)


class Recipe(Protocol):
    """What differs between the stages."""

    def loss(self, model: nn.Module, batch: Any, labels: Tensor, num_items: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a batch's share of the step's loss, and of values to log beside it."""

    def learning_rate_of(self, name: str) -> float | None:
        """Return a parameter's own peak rate; None for the run's."""

    def save(self, model: nn.Module, folder: Path, state_dict: Mapping[str, Tensor] | None) -> None:
        """Write the model into a new folder; the weights are those of `state_dict` if given."""

    def load(self, model: nn.Module, folder: Path) -> None:
        """Read back what `save` wrote."""


class CopeTrainer(Trainer):
    """Trainer for one `Recipe`, writing to one `RunFolder`.

    Args:
        recipe: of the stage.
        run: where to write.
        on_progress: called on rank 0 for each logged step.
        ranks: this process among the others.
        left_out: counts the samples that are left out; None allows none.
        lengths: of the samples, to batch similar ones together; None for any.
        clock: times the parts of a step that the model does not time itself.
        uses_muon: hidden matrices are trained by Muon.
        options: Trainer's.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        run: RunFolder,
        on_progress: OnStep,
        ranks: Ranks | None = None,
        left_out: LeftOut | None = None,
        lengths: Sequence[int] | None = None,
        clock: StepClock | None = None,
        uses_muon: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(callbacks=[LogWithCheckpoints()], **options)
        self.remove_callback(PrinterCallback)
        # Trainer then counts the labels of a step's micro-batches and knows that our loss is divided by them.
        self.model_accepts_loss_kwargs = True
        self.recipe = recipe
        self.run = run
        self.on_progress = on_progress
        self.ranks = ranks or Ranks()
        self.left_out = left_out or LeftOut(run, self.ranks, max_bad=0)
        self.lengths = lengths
        self.clock = clock
        self.uses_muon = uses_muon
        self._shortened = {line["where"] for line in run.shortened()}
        self._counts = Counter[str]()
        self._extra_values: dict[str, Tensor] = {}
        self._last_logged_step: int | None = None
        self._last_log_seconds = time.monotonic()

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Wrap the model; Trainer's hook.

        Raises:
            UsageError: it was to be sharded and was not.
        """
        if self.args.fsdp and not self.is_fsdp_enabled:
            check_is_sharded(self.model)
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.args.fsdp:
            check_is_sharded(self.model)
        return prepared

    def get_train_dataloader(self) -> EpochLoader:
        """Return this rank's share of the samples; Trainer's hook."""
        args, dataset = self.args, self.train_dataset
        batches = RankBatches(
            len(dataset),
            batch_size=args.per_device_train_batch_size,
            accumulate=args.gradient_accumulation_steps,
            seed=args.seed,
            rank=self.ranks.index,
            num_ranks=self.ranks.count,
            lengths=self.lengths,
            on_epoch=getattr(dataset, "set_epoch", lambda epoch: None),
        )
        return EpochLoader(
            dataset,
            batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Read a step's micro-batches; every rank hears here of what any of them could not read.

        Raises:
            DataError: a sample could not be read and skipping is off, or too many were skipped; the same on all ranks.
        """
        with self._timed("data"):
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        kinds = ("errors", "bad", "shortened")
        found = [sample for batch in batches for kind in kinds for sample in batch.get(kind, ())]
        for sample in self.ranks.gather_lists(found, "while reading samples"):
            if isinstance(sample, CopeError):
                raise sample
            if isinstance(sample, Shortened):
                self._note_shortened(sample)
            else:
                self._counts["num_too_long"] += sample.is_too_long
                self.left_out.add(self.state.global_step + 1, sample)
        return batches, num_items

    def _note_shortened(self, sample: Shortened) -> None:
        """Count a sample that shows fewer GOPs than asked for, and note it where it is met first."""
        self._counts["num_shortened"] += 1
        if sample.where not in self._shortened:
            self._shortened.add(sample.where)
            if self.ranks.is_main:
                self.run.log_shortened(self.state.global_step + 1, sample)

    def _prepare_input(self, data: Any) -> Any:
        """Move a batch to the device; Trainer's own looks inside no dataclass."""
        return send_to_device(data, self.args.device, non_blocking=self.args.dataloader_pin_memory)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return the share of the step's loss that a micro-batch has."""
        if self._last_logged_step is None:  # the first step of this process, which may be a resumed run's
            self._last_logged_step, self._last_log_seconds = self.state.global_step, time.monotonic()
        counted = inputs["labels"].ne(-100).sum() if num_items_in_batch is None else num_items_in_batch
        num_items = torch.as_tensor(counted, device=self.args.device).clamp(min=1)  # all samples of a step may be bad
        loss, extra = self.recipe.loss(model, inputs["batch"], inputs["labels"], num_items)
        for name, value in extra.items():
            self._extra_values[name] = self._extra_values.get(name, 0) + value.detach()
        loss = loss * self.accelerator.num_processes  # the ranks' gradients are averaged
        return (loss, None) if return_outputs else loss

    def training_step(self, *arguments: Any) -> Tensor:
        """Run a micro-batch forward and back, and time it; Trainer's hook."""
        with self._timed("backward"):
            return super().training_step(*arguments)

    def _timed(self, part: str) -> AbstractContextManager[None]:
        if self.clock is None:
            return nullcontext()
        return self.clock.part(part, "cpu" if part == "data" else self.args.device)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimiser, with one group per peak rate and weight decay; Trainer's hook for that."""
        self.optimizer: torch.optim.Optimizer | None
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
            if self.uses_muon:
                optimizer_class = MuonAdamW
            self.optimizer = optimizer_class(self._parameter_groups(model or self.model), **options)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = self.recipe.learning_rate_of(name) or self.args.learning_rate
                decay = self.args.weight_decay if parameter.ndim >= 2 else 0.0
                muon = self.uses_muon and is_hidden_matrix(name, parameter)
                groups.setdefault((rate, decay, muon), []).append(parameter)
        # The run's own rate first: it is the one that Trainer logs.
        ordered = sorted(groups.items(), key=lambda item: (item[0][0] != self.args.learning_rate, item[0]))
        names = ("lr", "weight_decay", "muon") if self.uses_muon else ("lr", "weight_decay")
        return [{"params": params, **dict(zip(names, key, strict=False))} for key, params in ordered]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a logged step to metrics.jsonl; Trainer's summary at the end is left out.

        Raises:
            CopeError: the loss is not a number.
        """
        if "loss" not in logs:
            super().log(logs, start_time)
            return
        step = self.state.global_step
        num_steps = step - (self._last_logged_step or 0)
        for name, total in self._extra_values.items():
            logs[name] = float(self.accelerator.reduce(total, "sum")) / num_steps
        for name in ("num_shortened", "num_too_long"):  # of samples since the last log, on all ranks
            logs[name] = self._counts[name]
        self._counts.clear()
        now = time.monotonic()
        logs["seconds_per_step"] = (now - self._last_log_seconds) / num_steps
        if self.clock is not None:
            logs |= self.clock.take(num_steps)
        super().log(logs, start_time)  # to what --report-to asks for
        values = {"step": step, **{name: float(value) for name, value in logs.items()}}
        self._extra_values, self._last_logged_step, self._last_log_seconds = {}, step, now
        if not all(math.isfinite(value) for value in values.values()):
            raise CopeError(
                f"{self.run.path}: step {step}: the loss or its gradient is not a number: {values}",
                "Lower the learning rate with --lr, or raise --warmup.",
            )
        if self.ranks.is_main:
            self.run.log(values)
            self.on_progress(step, self.state.max_steps, {**values, "num_bad": self.left_out.count})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint under a temporary name, rename it, and remove the oldest ones.

        Raises:
            CopeError: it failed on some rank; on all ranks the same.
        """
        step = self.state.global_step
        with self.ranks.new_folder(self.run.path / f"checkpoint-{step}", f"while saving step {step}") as folder:
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            if self.ranks.is_main:
                self.state.save_to_json(str(folder / "trainer_state.json"))
        self.ranks.from_main(lambda: self._note_checkpoint(step), f"after saving step {step}")

    def _note_checkpoint(self, step: int) -> None:
        self.run.set_running(step)
        self._draw_loss()
        self.run.remove_old_checkpoints(self.args.save_total_limit)

    def _draw_loss(self) -> None:
        title = f"{self.run.kind}: {self.run.path.name}"
        unit = LOSS_UNITS.get(self.run.kind, "loss")
        draw_loss(self.run.metrics(), self.run.path / "loss.png", title=title, unit=unit)

    def save_result(self, on_trained: Callable[[], None] = lambda: None) -> None:
        """Write what was trained and say that the run is finished; `on_trained` is called on rank 0 in between."""
        state = full_state_dict(self.model) if self.is_fsdp_enabled else None
        model = self.accelerator.unwrap_model(self.model)

        def write() -> None:
            self.recipe.save(model, self.run.result, state)
            self._draw_loss()
            on_trained()
            self.run.set_finished(self.state.global_step)

        self.ranks.from_main(write, "while writing the result")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model's whole weights on rank 0; all ranks call this."""
        self._save(output_dir, full_state_dict(self.model) if self.is_fsdp_enabled else None)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write both; Trainer's own would write a sharded model's weights a second time."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.ranks.is_main:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write the model as the recipe does, on rank 0."""
        if not self.ranks.is_main:
            return
        self.recipe.save(self.accelerator.unwrap_model(self.model), Path(str(output_dir)) / "model", state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Read the model back as the recipe does."""
        self.recipe.load(model or self.model, Path(resume_from_checkpoint) / "model")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read the optimiser's state (torch files, weights only) and name the checkpoint if that fails."""
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (OSError, EOFError, ValueError, RuntimeError, KeyError, UnpicklingError) as error:
            raise CheckpointError(
                f"{checkpoint}: cannot resume from it: {type(error).__name__}: {error}",
                "Remove this checkpoint to resume from the previous one.",
            ) from error


def run_training(
    *,
    recipe: Recipe,
    model: nn.Module,
    dataset: Any,
    collator: Callable[[list[Any]], dict[str, Any]],
    arguments: TrainingArguments,
    run: RunFolder,
    on_progress: OnStep,
    ranks: Ranks,
    config: TrainConfig,
    left_out: LeftOut | None = None,
    lengths: Sequence[int] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    clock: StepClock | None = None,
    on_trained: Callable[[], None] = lambda: None,
    stop_after: int | None = None,
) -> None:
    """Train from the beginning or from the run's newest checkpoint, and write the result.

    Args:
        recipe: loss, rates, checkpoints.
        model: the model.
        dataset: samples, errors as values.
        collator: makes a batch of samples.
        arguments: Trainer's settings.
        run: the run's folder.
        on_progress: called with (step, steps in all, logged values).
        ranks: this process among the others.
        config: the settings.
        left_out: counts samples that are left out; None: made here, of those of training alone.
        lengths: of the samples, to batch similar ones together; None for any.
        callbacks: what else happens between the steps.
        clock: times the parts of a step that the model does not time itself.
        on_trained: called on rank 0 after the last step, before the run counts as finished.
        stop_after: end after this many steps and write nothing; None trains to the end.

    Raises:
        CopeError: the loss is not a number; a sample cannot be read; a checkpoint is broken.
    """
    if config.activation_checkpointing and not config.fsdp:  # else accelerate does it
        checkpoint_activations(model)
    trainer = CopeTrainer(
        recipe=recipe,
        run=run,
        on_progress=on_progress,
        ranks=ranks,
        left_out=left_out or LeftOut(run, ranks, max_bad=config.skip_bad),
        lengths=lengths,
        clock=clock,
        uses_muon=config.optimizer == "muon",
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
    )
    timers = [] if clock is None else [TimeOptimizer(clock)]
    for callback in (*callbacks, *timers, *([] if stop_after is None else [StopAfter(stop_after)])):
        trainer.add_callback(callback)
    checkpoint = newest_checkpoint(run.path)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if stop_after is None:
            trainer.save_result(on_trained)
    finally:
        run.release()
