"""transformers' Trainer with our losses, batches, parameter groups, checkpoints and records.

Covered: one process on the CPU or a GPU, bf16, gradient accumulation, exact resume. The same code runs under
torchrun as far as Trainer goes; what has to be checked there is left to the issue that does.

The loss of a step is a sum over what its samples ask for, divided by the count over all its micro-batches (and
ranks): batch size times accumulation is what counts, not how it is cut.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from cope_cli.errors import CheckpointError, CopeError
from cope_cli.files import new_folder
from cope_cli.train.clock import StepClock
from cope_cli.train.config import TrainConfig
from cope_cli.train.plot import draw_loss
from cope_cli.train.runs import RunFolder, newest_checkpoint
from cope_cli.train.setup import OnProgress


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
    """Trainer for one `Recipe`, writing to one `RunFolder`."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        run: RunFolder,
        on_progress: OnProgress,
        clock: StepClock | None = None,
        **options: Any,
    ) -> None:
        super().__init__(callbacks=[_LogWithCheckpoints()], **options)
        self.remove_callback(PrinterCallback)
        # Trainer then counts the labels of a step's micro-batches and knows that our loss is divided by them.
        self.model_accepts_loss_kwargs = True
        self.recipe = recipe
        self.run = run
        self.on_progress = on_progress
        self.clock = clock
        self._bad = {line["where"] for line in run.skipped()}
        self._extra_values: dict[str, Tensor] = {}
        self._last_logged_step: int | None = None
        self._last_log_seconds = time.monotonic()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return the share of the step's loss that a micro-batch has.

        Raises:
            DataError: a sample could not be read and is not to be left out.
        """
        if self._last_logged_step is None:  # the first step of this process, which may be a resumed run's
            self._last_logged_step, self._last_log_seconds = self.state.global_step, time.monotonic()
        for error in inputs["errors"]:
            raise error
        for bad in inputs["bad"]:
            if bad.where not in self._bad:  # it comes back every epoch
                self._bad.add(bad.where)
                self.run.log_skipped(self.state.global_step + 1, bad)
        counted = inputs["labels"].ne(-100).sum() if num_items_in_batch is None else num_items_in_batch
        num_items = torch.as_tensor(counted, device=self.args.device).clamp(min=1)  # all samples of a step may be bad
        loss, extra = self.recipe.loss(model, inputs["batch"], inputs["labels"], num_items)
        for name, value in extra.items():
            self._extra_values[name] = self._extra_values.get(name, 0) + value.detach()
        loss = loss * self.accelerator.num_processes  # the ranks' gradients are averaged
        return (loss, None) if return_outputs else loss

    def get_batch_samples(self, *arguments: Any) -> Any:
        """Return a step's micro-batches, and time it; Trainer's hook."""
        with nullcontext() if self.clock is None else self.clock.part("data"):
            return super().get_batch_samples(*arguments)

    def training_step(self, *arguments: Any) -> Tensor:
        """Run a micro-batch forward and back, and time it; Trainer's hook."""
        with nullcontext() if self.clock is None else self.clock.part("backward", self.args.device):
            return super().training_step(*arguments)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build AdamW with one group per peak rate and weight decay; Trainer's hook for that."""
        self.optimizer: torch.optim.Optimizer | None
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
            self.optimizer = optimizer_class(self._parameter_groups(model or self.model), **options)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rate = self.recipe.learning_rate_of(name) or self.args.learning_rate
                decay = self.args.weight_decay if parameter.ndim >= 2 else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        # The run's own rate first: it is the one that Trainer logs.
        ordered = sorted(groups.items(), key=lambda item: (item[0][0] != self.args.learning_rate, item[0]))
        return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in ordered]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a logged step to metrics.jsonl; Trainer's summary at the end is left out.

        Raises:
            CopeError: the loss is not a number.
        """
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        step = self.state.global_step
        num_steps = step - (self._last_logged_step or 0)
        values = {"step": step, **{name: float(value) for name, value in logs.items()}}
        for name, total in self._extra_values.items():
            values[name] = float(self.accelerator.reduce(total, "sum")) / num_steps
        now = time.monotonic()
        values["seconds_per_step"] = (now - self._last_log_seconds) / num_steps
        if self.clock is not None:
            values |= self.clock.take(num_steps)
        self._extra_values, self._last_logged_step, self._last_log_seconds = {}, step, now
        if not all(math.isfinite(value) for value in values.values()):
            raise CopeError(
                f"{self.run.path}: step {step}: the loss or its gradient is not a number: {values}",
                "Lower the learning rate with --lr, or raise --warmup.",
            )
        if self.is_world_process_zero():
            self.run.log(values)
            self.on_progress(step, self.state.max_steps, {**values, "num_bad": len(self._bad)})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint under a temporary name, rename it, and remove the oldest ones."""
        step = self.state.global_step
        with new_folder(self.run.path / f"checkpoint-{step}") as folder:
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))
        self.run.set_running(step)
        draw_loss(self.run.metrics(), self.run.path / "loss.png")
        self.run.remove_old_checkpoints(self.args.save_total_limit)

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write the model as the recipe does; Trainer calls this on the rank that writes."""
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
                f"{checkpoint}: cannot go on from it: {type(error).__name__}: {error}",
                "Remove this checkpoint to go on from the one before it.",
            ) from error


class _LogWithCheckpoints(TrainerCallback):
    """Logs wherever a checkpoint is written: values are means since the last log, and a resumed run starts afresh."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_log = control.should_log or control.should_save
        return control


class _TimeOptimizer(TrainerCallback):
    """Times the optimiser's step."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self._block = ExitStack()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._block.enter_context(self.clock.part("optimiser", args.device))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._block.close()


def training_arguments(config: TrainConfig, run: Path, num_samples: int, learning_rate: float) -> TrainingArguments:
    """Return Trainer's settings: nothing printed, nothing reported, nothing hidden."""
    steps = config.num_steps(num_samples)
    return TrainingArguments(
        output_dir=str(run),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.num_warmup_steps(steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,  # it would log the mean of other steps instead
        save_steps=config.save_steps,
        save_total_limit=config.keep_checkpoints,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=torch.cuda.is_available() and not config.cpu,
        bf16=config.bf16,
        use_cpu=config.cpu,
        remove_unused_columns=False,
        label_names=[],
        disable_tqdm=True,
        report_to="none",
    )


def run_training(
    *,
    recipe: Recipe,
    model: nn.Module,
    dataset: Any,
    collator: Callable[[list[Any]], dict[str, Any]],
    arguments: TrainingArguments,
    run: RunFolder,
    on_progress: OnProgress,
    callbacks: Sequence[TrainerCallback] = (),
    clock: StepClock | None = None,
    on_trained: Callable[[], None] = lambda: None,
) -> None:
    """Train from the beginning or from the run's newest checkpoint, and write the result.

    Args:
        recipe: loss, rates, checkpoints.
        model: what is trained.
        dataset: its samples, errors as values.
        collator: makes a batch of them.
        arguments: Trainer's settings.
        run: where everything goes.
        on_progress: called with (step, steps in all, logged values).
        callbacks: what else happens between the steps.
        clock: times the parts of a step that the model does not time itself.
        on_trained: called after the last step, before the run counts as finished.

    Raises:
        CopeError: the loss is not a number; a sample cannot be read; a checkpoint is broken.
    """
    trainer = CopeTrainer(
        recipe=recipe,
        run=run,
        on_progress=on_progress,
        clock=clock,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    if clock is not None:
        trainer.add_callback(_TimeOptimizer(clock))
    checkpoint = newest_checkpoint(run.path)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    recipe.save(trainer.accelerator.unwrap_model(trainer.model), run.result, None)
    draw_loss(run.metrics(), run.path / "loss.png")
    on_trained()
    run.set_finished(trainer.state.global_step)
