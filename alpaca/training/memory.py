"""How much memory training will take per process, beside what the machine has: shown before weights are loaded.

With Adam in mixed precision a parameter costs 16 bytes (4 weight, 4 gradient, 8 optimizer state; Rajbhandari et
al. 2020, arXiv 1910.02054, section 3.1), 112 GB for 7 billion; sharding divides that by the number of processes.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import copy
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from alpaca.training import adapters, packed_steps, response_loss
from alpaca.training.arguments import LoraArguments, say

# Optimizer state in bytes per parameter, for what --optim may say; two float32 moments where the name is not here.
OPTIMIZER_BYTES = {"sgd": 0, "adafactor": 0, "rmsprop": 4, "adagrad": 4, "lion_32bit": 4}
OPTIMIZER_BYTES |= {"adamw_8bit": 2, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "adamw_torch_8bit": 2}


def show(meta_model: torch.nn.Module, lora_args: LoraArguments, training_args) -> None:
    """Print the table for a model without memory (device meta), and the warning where it will not fit."""
    num_parameters = sum(parameter.numel() for parameter in meta_model.parameters())
    num_adapters = adapters.num_adapter_parameters(lora_args, meta_model)
    num_trained = num_adapters or num_parameters
    frozen_bytes = 0.5 if lora_args.load_in_4bit else 4
    say(table(num_parameters + num_adapters, num_trained, training_args, frozen_bytes, meta_model.config))


@dataclass
class Memory:
    """Bytes for one process, and where they lie: "gpu" or "cpu"."""

    what: str
    num_bytes: float
    place: str


def estimate(
    num_parameters: int, num_trained: int, world_size: int, training_args, frozen_bytes: float = 4
) -> list[Memory]:
    """Weights, gradients and optimizer state of one process under FSDP, DeepSpeed ZeRO, or neither.

    num_trained of num_parameters are trained, the others take frozen_bytes each. training_args is
    transformers.TrainingArguments. Activations come on top: they depend on the batch.
    """
    device = "cpu" if training_args.device.type == "cpu" else "gpu"
    optimizer_bytes = OPTIMIZER_BYTES.get(str(training_args.optim.value), 8)
    shards = dict.fromkeys(("weights", "gradients", "optimizer"), 1)
    places = dict.fromkeys(shards, device)
    weight_bytes = gradient_bytes = 4
    if training_args.fsdp:
        config = training_args.fsdp_config
        shards = dict.fromkeys(shards, world_size)
        if not packed_steps.exchanges_each_micro_batch(training_args):
            shards["gradients"] = 1  # whole until the last micro-batch of a step
        if config.get("cpu_offload"):
            places = dict.fromkeys(shards, "cpu")
    elif training_args.deepspeed:
        config = training_args.hf_deepspeed_config
        stage = config.get_value("zero_optimization.stage", 0)
        for part, from_stage in (("optimizer", 1), ("gradients", 2), ("weights", 3)):
            shards[part] = world_size if stage >= from_stage else 1
        if training_args.bf16 or training_args.fp16:  # the float32 copy of the weights goes with the optimizer
            weight_bytes, gradient_bytes, optimizer_bytes = 2, 2, optimizer_bytes + 4
        if config.get_value("zero_optimization.offload_optimizer.device") in ("cpu", "nvme"):
            places["optimizer"] = places["gradients"] = "cpu"
        if config.get_value("zero_optimization.offload_param.device") in ("cpu", "nvme"):
            places["weights"] = "cpu"
    num_bytes = {
        "weights": weight_bytes * num_trained + min(weight_bytes, frozen_bytes) * (num_parameters - num_trained),
        "gradients": gradient_bytes * num_trained,
        "optimizer": optimizer_bytes * num_trained,
    }
    names = {"optimizer": f"optimizer ({training_args.optim.value})"}
    rows = [Memory(names.get(part, part), num_bytes[part] / shards[part], places[part]) for part in shards]
    keeps_whole = not training_args.fsdp or not training_args.fsdp_config.get("reshard_after_forward", True)
    if (training_args.bf16 or training_args.fp16) and not training_args.deepspeed and keeps_whole:
        rows.insert(1, Memory("weights, 16 bits", 2 * num_parameters, device))
    return rows


def activations(config: transformers.PretrainedConfig, training_args) -> list[Memory]:
    """What a micro-batch takes as long as it is on its way through the model: the tensors that autograd keeps, and the
    logits of one chunk of the loss. Empty for model types whose loss is not ours.

    Counted, not estimated: autograd says what it keeps while models of one and of two layers run on the meta device.
    """
    if config.model_type not in response_loss.MODEL_TYPES:
        return []
    num_tokens = packed_steps.max_tokens(training_args, training_args.per_device_train_batch_size)
    is_half = training_args.bf16 or training_args.fp16
    dtype = torch.bfloat16 if is_half else torch.float32
    one, two = (saved_bytes(config, num_layers, num_tokens, dtype) for num_layers in (1, 2))
    per_layer, num_layers = two - one, config.num_hidden_layers
    kept = one + (num_layers - 1) * per_layer
    if training_args.gradient_checkpointing or training_args.activation_checkpointing:
        # The input of each layer, and one layer, which is computed again.
        kept = one + num_layers * num_tokens * config.hidden_size * dtype.itemsize
    chunk = min(num_tokens, response_loss.CHUNK_LOGITS // config.vocab_size)
    logits = chunk * config.vocab_size * (8 + (4 if is_half else 0))  # in float32, their gradient, both in 16 bits
    device = "cpu" if training_args.device.type == "cpu" else "gpu"
    return [Memory(f"activations ({num_tokens:,} tokens)", kept, device), Memory("logits", logits, device)]


def saved_bytes(config: transformers.PretrainedConfig, num_layers: int, num_tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the tensors, beside weights, that autograd keeps for the backward pass of a model of num_layers."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]
    transformers.AttentionInterface.register(packed_steps.VARLEN, packed_steps.varlen_attention)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=packed_steps.VARLEN, trust_remote_code=False
        ).train()
    example = {name: torch.zeros(num_tokens, dtype=torch.long) for name in ("input_ids", "labels")}
    row = packed_steps.PackedRow(num_tokens)([example])
    del row["labels"]
    row = {name: value.to("meta") if torch.is_tensor(value) else value for name, value in row.items()}
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes(), tensor  # the tensor, so that its place is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(**row)
    return sum(num_bytes for num_bytes, _ in kept.values())


def available(local_world_size: int) -> dict[str, float]:
    """Bytes that one process may use: free memory of its GPU, its share of the machine's available memory."""
    found = {"cpu": available_cpu_bytes() / local_world_size}
    if torch.cuda.is_available():
        found["gpu"] = float(torch.cuda.mem_get_info()[0])
    return found


def table(
    num_parameters: int,
    num_trained: int,
    training_args,
    frozen_bytes: float = 4,
    config: transformers.PretrainedConfig | None = None,
) -> str:
    """The table, and a warning, with the flags to try, where the memory will not do.

    config is that of the model, by which its activations are counted.
    """
    world_size = training_args.world_size
    rows = estimate(num_parameters, num_trained, world_size, training_args, frozen_bytes)
    of_micro_batch = activations(config, training_args) if config else []
    rows += of_micro_batch
    free = available(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    batch = training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps * world_size
    precision = "bfloat16" if training_args.bf16 else "float16" if training_args.fp16 else "float32"
    lines = [
        f"{num_parameters / 1e6:,.1f} million parameters"
        f"{f', {num_trained / 1e6:,.1f} million of them trained' if num_trained < num_parameters else ''}, "
        f"{precision} arithmetic, "
        f"{world_size} process{'es' if world_size > 1 else ''}, {batch} examples per step",
        f"memory per process{'' if of_micro_batch else ', before activations'}:",
        *(f"  {row.what:<28}{row.num_bytes / 1e9:>9.3f} GB  {row.place}" for row in rows),
    ]
    short = []
    for place in ("gpu", "cpu"):
        needed = sum(row.num_bytes for row in rows if row.place == place)
        if needed:
            lines.append(f"  {f'sum, {place}':<28}{needed / 1e9:>9.3f} GB  of {free[place] / 1e9:.1f} GB available")
            if needed > free[place]:
                short.append(f"{needed / 1e9:.1f} GB of {place} memory are needed and {free[place] / 1e9:.1f} GB there")
    if short:
        lines.append(f"warning: {' and '.join(short)}: {advice(training_args)}")
    return "\n".join(lines)


def advice(training_args) -> str:
    """The next flag to try when memory will not do."""
    if training_args.deepspeed:
        return "use more processes, on more machines."
    if not training_args.fsdp:
        return 'shard with torchrun and --fsdp "full_shard auto_wrap", or train adapters with --lora_rank 8.'
    if not training_args.fsdp_config.get("cpu_offload"):
        first = "use more processes,"
        if not packed_steps.exchanges_each_micro_batch(training_args):
            first = (
                "exchange gradients in each micro-batch, which keeps none whole "
                """(--accelerator_config '{"gradient_accumulation_kwargs": {"sync_each_batch": true}}'), use"""
            )
        return f'{first} --fsdp "full_shard auto_wrap offload", or --deepspeed configs/default_offload_opt_param.json.'
    return "use more machines, or --deepspeed configs/default_offload_opt_param.json with NVMe offload."


def available_cpu_bytes() -> int:
    """Bytes that this process may still take, in a container too."""
    import psutil

    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no control group (version 2) here, or no limit ("max")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        # Cached files count as used, and give way.
        cached = re.search(r"^file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        available = min(available, limit - used + int(cached[1]))
    return available
