"""The flags of train.py without anything heavy: help in a second, and a mistyped flag refused before the imports.

Names, defaults and help are read from the source of the dataclasses that declare them, ours and transformers' own.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import ast
import functools
import importlib.util
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from utils import UserError, did_you_mean, read_text

# Flags of transformers that people use most, in our words.
COMMON = {
    "output_dir": "Folder for the model, its tokenizer and the checkpoints.",
    "num_train_epochs": "Passes over the data.",
    "max_steps": "Stop after so many steps; -1 goes by --num_train_epochs.",
    "per_device_train_batch_size": "Examples at a time in each process; with --model_max_length, the memory.",
    "gradient_accumulation_steps": "Batch = processes x --per_device_train_batch_size x this.",
    "learning_rate": "At the end of the warm-up.",
    "lr_scheduler_type": "linear, cosine, constant, constant_with_warmup, ...",
    "warmup_steps": "Steps in which the learning rate rises, or, below 1, their share of all.",
    "weight_decay": "Pull of the weights towards zero.",
    "bf16": "Compute in bfloat16; the optimizer keeps float32.",
    "tf32": "Multiply float32 matrices in TensorFloat-32, on GPUs since Ampere.",
    "gradient_checkpointing": "Compute activations twice, to keep few of them.",
    "fsdp": 'Shard over the processes: "full_shard auto_wrap", with " offload" into CPU memory.',
    "deepspeed": "A file of DeepSpeed's settings, such as configs/default_offload_opt_param.json.",
    "torch_compile": "Compile each layer.",
    "logging_steps": "Show the loss every so many steps.",
    "save_strategy": "When to save a checkpoint: no, steps, epoch.",
    "save_steps": "Steps between checkpoints.",
    "save_total_limit": "Keep so many checkpoints, and remove older ones.",
    "report_to": "none, tensorboard, wandb, ...",
    "seed": "Of the order of the examples, of random weights and dropout.",
}
OURS = ("ModelArguments", "DataArguments", "LoraArguments", "TrainingArguments")
FORMER = ("Former name", "Accepted")  # how the help of the flags of 2023 begins
OTHER = {
    "config": (None, "A YAML file of flags, such as configs/llama-7b.yaml; the command line wins."),
    "help": (None, "These flags."),
    "help_all": (None, "Every flag, those of transformers' TrainingArguments included."),
}


@functools.cache
def declared(path: Path, class_names: Sequence[str]) -> dict[str, tuple[object, str]]:
    """Default and help of every field of these dataclasses in a Python file, which is read and not imported."""
    fields = {}
    for node in ast.parse(read_text(path)).body:
        if isinstance(node, ast.ClassDef) and node.name in class_names:
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    fields[item.target.id] = _default_and_help(item.value)
    return fields


def _default_and_help(value: ast.expr | None) -> tuple[object, str]:
    """Of `= default`, or of `= field(default=..., metadata={"help": ...})`."""
    arguments = {keyword.arg: keyword.value for keyword in getattr(value, "keywords", [])}
    try:
        factory = arguments.get("default_factory")
        default = ast.literal_eval(factory.body if factory else arguments.get("default", value))
        return default, ast.literal_eval(arguments["metadata"])["help"] if "metadata" in arguments else ""
    except (ValueError, AttributeError, TypeError):  # a default that is computed
        return None, ""


def ours() -> dict[str, tuple[object, str]]:
    return declared(Path(__file__).with_name("arguments.py"), OURS)


def of_transformers() -> dict[str, tuple[object, str]]:
    package = importlib.util.find_spec("transformers").submodule_search_locations[0]
    return declared(Path(package) / "training_args.py", ("TrainingArguments",))


def help_text(doc: str) -> str:
    """What `train.py --help` prints: doc, the script's docstring; our flags, and those of transformers most used."""
    theirs, width = of_transformers(), min(shutil.get_terminal_size().columns, 110)
    used_most = {name: (theirs.get(name, (None, ""))[0], text) for name, text in COMMON.items()}
    current = {name: flag for name, flag in ours().items() if name != "optim" and not flag[1].startswith(FORMER)}
    lines = [doc.strip(), "", f"Flags, with their defaults; --help_all shows the other {len(theirs) - len(COMMON)}."]
    for name, (default, text) in {**current, **used_most, **OTHER}.items():
        default = " ".join(map(str, default)) if isinstance(default, list) else default
        shown = "" if default in (None, "") else f" ({default})"
        start, indent = f"  --{name} ", " " * 32
        lines += [] if len(start) <= len(indent) else [start.rstrip()]
        start = f"{start:<32}" if len(start) <= len(indent) else indent
        lines += textwrap.wrap(text + shown, width, initial_indent=start, subsequent_indent=indent)
    return "\n".join(lines)


def check_names(argv: Sequence[str]) -> None:
    """Raise UserError for a flag, on the command line or in the file that --config names, that does not exist."""
    known = {**ours(), **of_transformers(), **OTHER}
    for flag in (text.split("=")[0] for text in argv if text.startswith("--")):
        name = flag[2:].replace("-", "_")
        if not {name, name.removeprefix("no_")} & known.keys():
            hint = did_you_mean(flag, [f"--{name}" for name in known])
            raise UserError(f"no flag {flag}.{hint} `--help` lists them.")
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        if flag == "--config" or flag.startswith("--config="):
            check_names(flags_in(flag.partition("=")[2] or value))


def flags_in(config_path: str) -> list[str]:
    """The flags of a YAML file of `name: value` lines, as they would stand on the command line."""
    import yaml

    try:
        config = yaml.load(read_text(config_path), Loader=yaml.BaseLoader)  # every value stays the text that it is
    except yaml.YAMLError as error:
        raise UserError(f"--config {config_path}: not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(config, dict) or not all(isinstance(value, str) for value in config.values()):
        raise UserError(f"--config {config_path}: needs one `flag: value` per line.")
    return [text for name, value in config.items() for text in (f"--{name}", value)]


def before_the_imports(argv: Sequence[str], doc: str) -> None:
    """Answer --help, and end with one line where a flag does not exist; from here on, Ctrl-C is one line, too."""
    signal.signal(signal.SIGINT, interrupted)
    is_first = os.environ.get("RANK", "0") == "0"
    if {"-h", "--help"} & set(argv):
        if is_first:
            print(help_text(doc))
        raise SystemExit(0)
    try:
        check_names(argv)
    except UserError as error:
        raise SystemExit(f"train.py: {error}" if is_first else 1) from None


def interrupted(signum, frame) -> None:
    """Ctrl-C, at any instant: whole checkpoints are safe, and nothing else is worth an orderly end."""
    if os.environ.get("RANK", "0") == "0":
        text = "interrupted. --resume_from_checkpoint True goes on from the newest checkpoint, if there is one."
        os.write(sys.stderr.fileno(), f"\ntrain.py: {text}\n".encode())
    os._exit(130)
