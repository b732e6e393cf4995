"""The flags of train.py, and its processes: today's TrainingArguments, the command lines of 2023, on any hardware.

Flags that transformers has renamed or dropped keep working, and what the machine lacks (bfloat16, TF32, a second
process to shard over) is left out with a warning.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import logging
import math
import os
import socket
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import transformers

from alpaca.training import flags
from utils import UserError, check_ranges, jload, printable

# ---- Processes ----


def say(text: str) -> None:
    """Print to stderr, on rank 0 alone."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(text, keep="\n"), file=sys.stderr, flush=True)


def fsdp_on_one_gpu() -> dict:
    """Flags by which one GPU trains as several do, in a process group of its own; {} without a GPU, or with more.

    FSDP rounds the weights to bfloat16 once a step, and keeps the residual stream in bfloat16; autocast rounds them in
    each micro-batch, and keeps it in float32.
    """
    if torch.cuda.device_count() == 0 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return {}
    if "RANK" not in os.environ and torch.cuda.device_count() > 1:  # refused later on
        return {}
    be_a_group_of_one()
    return {"fsdp": "full_shard auto_wrap"}


def be_a_group_of_one() -> None:
    """Without a launcher, say to the libraries what torchrun says to a single process."""
    if "RANK" in os.environ:
        return
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    group = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in group.items()}})


def let_rank_0_alone_speak() -> None:
    """Silence the libraries' messages and bars on the other ranks; errors still show."""
    logging.getLogger("deepspeed").setLevel(logging.ERROR)
    # DeepSpeed calls torch functions under names that torch is about to give up, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if os.environ.get("RANK", "0") != "0":
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        warnings.simplefilter("ignore")


def check_processes(training_args: transformers.TrainingArguments) -> None:
    """Raise UserError where processes and GPUs do not match, or DeepSpeed has no launcher."""
    num_processes, num_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if not training_args.use_cpu and 0 < num_gpus < num_processes:
        raise UserError(f"{num_processes} processes for {num_gpus} GPU(s): set --nproc_per_node={num_gpus}.")
    if training_args.n_gpu > 1:  # the Trainer would split batches over threads, each with a loss of its own
        raise UserError(
            f"one process for {training_args.n_gpu} GPUs: torchrun --nproc_per_node={training_args.n_gpu} train.py ... "
            "uses them all, CUDA_VISIBLE_DEVICES=0 python train.py ... one of them."
        )
    if training_args.deepspeed and training_args.use_cpu:
        if not torch.distributed.is_initialized():
            raise UserError(
                "--deepspeed needs a launcher, for one process too: torchrun --nproc_per_node=1 train.py ..."
            )
        import deepspeed

        # The process group that is there; by itself it would see a world of one process.
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


# ---- Flags ----

# What each number may be, both ends included; NaN and infinity are in no range.
RANGES = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (1, math.inf)),
    **dict.fromkeys(("gradient_accumulation_steps", "model_max_length", "max_examples"), (1, math.inf)),
    **dict.fromkeys(("save_total_limit", "dataloader_prefetch_factor"), (1, math.inf)),
    **dict.fromkeys(("save_steps", "logging_steps", "eval_steps"), (0, math.inf)),
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm"), (0, 1e30)),  # torch stops at 3e38
    **dict.fromkeys(("warmup_steps", "warmup_ratio"), (0, math.inf)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "lora_dropout"), (0, 1 - 1e-9)),
    **dict.fromkeys(("num_train_epochs", "adam_epsilon"), (1e-12, math.inf)),
    **dict.fromkeys(("seed", "data_seed"), (0, 2**32 - 1)),
    **dict.fromkeys(("dataloader_num_workers", "lora_rank", "lora_alpha", "label_smoothing_factor"), (0, math.inf)),
}


@dataclass
class ModelArguments:
    model_name_or_path: str = field(
        default="facebook/opt-125m",
        metadata={
            "help": "The model to start from: a folder with config, weights and tokenizer, or a name on the Hub."
        },
    )
    init_from_config: bool = field(
        default=False,
        metadata={"help": "Start from random weights: --model_name_or_path needs a config and a tokenizer only."},
    )


@dataclass
class DataArguments:
    data_path: list[str] = field(
        default=None,
        metadata={
            "help": "Data with instruction, input, output, or with conversations (messages, or ShareGPT's): a JSON "
            "list, JSON lines or Parquet file, or a dataset name on the Hub such as tatsu-lab/alpaca; or several of "
            "these. Other fields are ignored."
        },
    )
    eval_data_path: list[str] = field(
        default=None, metadata={"help": "Data that is not trained on, for the held-out loss; as --data_path."}
    )
    eval_size: float = field(
        default=0,
        metadata={
            "help": "Hold out so many examples of --data_path, or, below 1, such a share, drawn with --data_seed: not "
            "trained on, for the held-out loss at the start, as --eval_strategy says, and at the end."
        },
    )
    max_examples: int | None = field(
        default=None, metadata={"help": "Train on the first so many examples only, for a quick try."}
    )


@dataclass
class LoraArguments:
    lora_rank: int = field(default=0, metadata={"help": "Rank of the adapters; 0 trains all weights instead."})
    lora_alpha: float = field(
        default=16.0, metadata={"help": "Scale of the adapters: alpha / rank times their output."}
    )
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout on the adapters' input."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj"],
        metadata={"help": "Names of the linear layers that get an adapter, separated by spaces."},
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Keep the frozen weights in 4 bits (QLoRA; needs bitsandbytes)."}
    )
    merge_lora: bool = field(
        default=False,
        metadata={"help": "Write the full model with the adapter added in; the adapter goes to <output_dir>/adapter."},
    )


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads from the Hub are kept."})
    optim: str = field(default="adamw_torch", metadata={"help": "The optimizer; any that the Trainer knows."})
    model_max_length: int = field(
        default=512,
        metadata={"help": "Longest example in tokens, prompt and response together; the rest is cut off at the end."},
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "A checkpoint folder, or True for the newest whole one in --output_dir, if there is one."},
    )
    pack_steps: bool = field(
        default=True,
        metadata={
            "help": "Cut the examples of a step, those that random sampling draws, into as few micro-batches as fit "
            "--per_device_train_batch_size x --model_max_length tokens each, with little or no padding. The loss is "
            "the same. False takes the plain Trainer's micro-batches."
        },
    )
    skip_prompt_logits: bool = field(
        default=True,
        metadata={"help": "Project to the vocabulary only the tokens that carry a loss. The loss is the same."},
    )
    # Flags of 2023, which today's transformers has renamed or dropped.
    evaluation_strategy: str | None = field(default=None, metadata={"help": "Former name of --eval_strategy."})
    warmup_ratio: float | None = field(
        default=None, metadata={"help": "Former name of --warmup_steps below 1: warm-up as a share of all steps."}
    )
    fsdp_transformer_layer_cls_to_wrap: str | None = field(
        default=None, metadata={"help": "The layer class that FSDP shards by; now a key of --fsdp_config."}
    )
    group_by_length: bool = field(
        default=False, metadata={"help": "Former name of --train_sampling_strategy group_by_length."}
    )
    no_cuda: bool = field(default=False, metadata={"help": "Former name of --use_cpu."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Accepted, and no longer needed."})
    save_safetensors: bool = field(default=True, metadata={"help": "Accepted; weights are always safetensors."})

    def __post_init__(self):
        if self.deepspeed and not transformers.integrations.is_deepspeed_available():
            raise ValueError("--deepspeed needs the package of that name: pip install deepspeed.")
        self._translate_former_flags()
        self._fall_back_to_what_the_hardware_has()
        super().__post_init__()

    def _translate_former_flags(self):
        # Not the whole model: that takes minutes, and again for each new shape.
        self.compile_layers, self.torch_compile = self.torch_compile, False
        if self.use_liger_kernel:
            # Its loss would compute the logits of prompts, too: response_loss.py stays.
            own_loss = {"cross_entropy": False, "fused_linear_cross_entropy": False}
            self.liger_kernel_config = own_loss | (self.liger_kernel_config or {})
        if self.evaluation_strategy is not None:
            self.eval_strategy, self.evaluation_strategy = self.evaluation_strategy, None
        if self.warmup_ratio is not None and not self.warmup_steps:  # steps won over the ratio then, too
            self.warmup_steps, self.warmup_ratio = self.warmup_ratio, None
        if self.group_by_length:
            self.train_sampling_strategy = "group_by_length"
        self.use_cpu = self.use_cpu or self.no_cuda
        if self.fsdp:
            self.fsdp_config = self._fsdp_config_of_2023_flags()
            self.fsdp = True
        self.logging_nan_inf_filter = False  # a loss that is not finite ends the run
        self.log_level_replica = "error"  # rank 0 alone speaks
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every parameter of a causal language model is used

    def _fsdp_config_of_2023_flags(self) -> dict:
        """fsdp_config with what --fsdp "full_shard auto_wrap offload" and the layer class say."""
        config = self.fsdp_config or {}
        if isinstance(config, str):
            config = json.loads(config) if config.lstrip().startswith("{") else jload(config)
        # Rank 0 of each machine reads the weights and sends the shards; otherwise every rank would hold them all.
        config = {"cpu_ram_efficient_loading": int(os.environ.get("WORLD_SIZE", 1)) > 1, **config}
        options = self.fsdp.split() if isinstance(self.fsdp, str) else []
        for option in options:
            if option not in ("full_shard", "shard_grad_op", "auto_wrap", "offload"):
                raise ValueError(f"--fsdp {option}: takes full_shard or shard_grad_op, auto_wrap, offload.")
        if options:
            # A single process has nothing to gain from giving whole weights back before the step ends.
            is_alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
            config = {"reshard_after_forward": "shard_grad_op" not in options and not is_alone, **config}
        if "offload" in options:
            config["cpu_offload"] = True
        if self.fsdp_transformer_layer_cls_to_wrap is not None:
            config["transformer_layer_cls_to_wrap"] = self.fsdp_transformer_layer_cls_to_wrap
        return config

    def _fall_back_to_what_the_hardware_has(self):
        has_gpu = torch.cuda.is_available() and not self.use_cpu
        if not has_gpu:
            # DeepSpeed asks this when it is imported; without it, it looks for a GPU's compiler.
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
            self.use_cpu = not torch.backends.mps.is_available()
        if self.bf16 and not (has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)):
            say("warning: no bfloat16 on this hardware: --bf16 True is ignored, training in float32.")
            self.bf16 = False
        if self.fp16 and not has_gpu:
            say("warning: no float16 training without a GPU: --fp16 True is ignored, training in float32.")
            self.fp16 = False
        if self.tf32 and not (has_gpu and torch.cuda.get_device_capability() >= (8, 0)):
            say("warning: no TF32 on this hardware: --tf32 True is ignored.")
            self.tf32 = None
        offloads = isinstance(self.fsdp_config, dict) and self.fsdp_config.get("cpu_offload")
        if has_gpu and self.optim == "adamw_torch" and not offloads:
            self.optim = "adamw_torch_fused"  # the same in one pass over the weights
        if self.fsdp and not has_gpu:
            self.fsdp_config["cpu_offload"] = False  # everything is in CPU memory already


def parse_arguments(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, LoraArguments, TrainingArguments]:
    """Read the flags; those in the YAML file that --config names come first, so that the command line wins.

    Raises UserError for a flag that does not exist, before anything looks at the values of the others.
    """
    parser = transformers.HfArgumentParser(
        (ModelArguments, DataArguments, LoraArguments, TrainingArguments), allow_abbrev=False
    )
    parser.add_argument("--config", help=flags.OTHER["config"][1])
    parser.add_argument("--help_all", action="help", help=flags.OTHER["help_all"][1])
    flags.check_names(argv)

    def refuse(message: str):
        raise UserError(message)

    parser.error = refuse
    config_path = parser.parse_known_args(argv)[0].config
    if config_path:
        argv = [*flags.flags_in(config_path), *argv]
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(f"cannot place {unknown[0]!r}: write --flag value, and quote values with spaces.")
    check_ranges(vars(namespace), RANGES)
    if namespace.max_steps != -1 and namespace.max_steps < 1:
        raise UserError(f"--max_steps {namespace.max_steps}: takes a number from 1, or -1 for --num_train_epochs.")
    on_cpu = namespace.use_cpu or namespace.no_cuda or torch.cuda.device_count() == 0
    if namespace.fsdp and (on_cpu or torch.cuda.device_count() == 1):
        be_a_group_of_one()  # a checkpoint of several processes can then be continued by one
    elif namespace.bf16 and not (namespace.fsdp or on_cpu or namespace.deepspeed or namespace.load_in_4bit):
        argv = [*argv, *(f"--{name}={value}" for name, value in fsdp_on_one_gpu().items())]
    if namespace.data_path is None:
        raise UserError("--data_path is missing: a JSON, JSON lines or Parquet file, or a dataset on the Hub.")
    try:
        return parser.parse_args_into_dataclasses(argv, look_for_args_file=False)[:4]
    except ValueError as error:  # two flags that exclude each other, or a value out of range
        raise UserError(" ".join(str(error).split())) from None
