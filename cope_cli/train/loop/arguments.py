"""Our settings in the Trainer's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from cope_cli.errors import UsageError
from cope_cli.options import Dtype
from cope_cli.train.config import Schedule, TrainConfig
from cope_cli.train.loop.reporting import check_reporter
from cope_cli.train.loop.sharding import fsdp_options

#: Our schedules in transformers' words.
_SCHEDULERS = {Schedule.COSINE: "cosine", Schedule.LINEAR: "linear", Schedule.CONSTANT: "constant_with_warmup"}


def training_arguments(
    config: TrainConfig, run: Path, num_samples: int, learning_rate: float, num_ranks: int = 1, model: Any = None
) -> TrainingArguments:
    """Return Trainer's settings: nothing printed, nothing reported unasked, nothing hidden.

    Args:
        config: the settings.
        run: the run's folder.
        num_samples: in the dataset.
        learning_rate: peak rate.
        num_ranks: processes that train together.
        model: what FSDP shards.

    Raises:
        UsageError: the device is not there, or cannot compute in the format.
    """
    has_gpu = torch.cuda.is_available() and not config.is_cpu
    if config.device == "cuda" and not has_gpu:
        raise UsageError("--device cuda: no GPU is found", "Use --device cpu, or check the driver with nvidia-smi.")
    if config.dtype == Dtype.FLOAT16 and not has_gpu:
        raise UsageError("--dtype float16: training in float16 needs a GPU", "Use bfloat16, which CPUs support too.")
    check_reporter(config.report_to)
    steps = config.num_steps(num_samples, num_ranks)
    arguments = TrainingArguments(
        output_dir=str(run),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.micro_batches(num_ranks),
        learning_rate=learning_rate,
        lr_scheduler_type=_SCHEDULERS[Schedule(config.schedule)],
        warmup_steps=config.num_warmup_steps(steps),
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,  # it would log the mean of other steps instead
        save_steps=config.save_steps,
        save_total_limit=config.keep_checkpoints,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=has_gpu,
        bf16=config.is_bf16,
        fp16=config.dtype == Dtype.FLOAT16,
        use_cpu=config.is_cpu or not torch.accelerator.is_available(),  # unsaid, it refuses bf16 there
        remove_unused_columns=False,
        label_names=[],
        disable_tqdm=True,
        ddp_find_unused_parameters=False,  # every rank uses every trained parameter in each step
        report_to=config.report_to,
        run_name=run.name,
        **fsdp_options(config, model),
    )
    # One process is one device. Trainer would cut batches up among all GPUs it sees; torchrun does that better.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
