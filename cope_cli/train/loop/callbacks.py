"""What happens between the Trainer's steps, in every run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from cope_cli.train.loop.clock import StepClock


class LogWithCheckpoints(TrainerCallback):
    """Logs wherever a checkpoint is written: values are means since the last log, and a resumed run starts afresh."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Trainer's hook."""
        control.should_log = control.should_log or control.should_save
        return control


class StopAfter(TrainerCallback):
    """Ends training after some steps, without a checkpoint."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Trainer's hook."""
        control.should_save = False
        control.should_training_stop = control.should_training_stop or state.global_step >= self.num_steps
        return control


class TimeOptimizer(TrainerCallback):
    """Times the optimiser's step."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self._block = ExitStack()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Trainer's hook."""
        self._block.enter_context(self.clock.part("optimiser", args.device))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Trainer's hook."""
        self._block.close()
