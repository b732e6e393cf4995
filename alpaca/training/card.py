"""What the output folder says of a finished run: README.md, a model card in the Hub's format, and loss.png, its curve.

train.py writes both beside the model, and uploads the folder where --push_to_hub asks for it.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import importlib.metadata
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from alpaca.training.arguments import LoraArguments, ModelArguments, TrainingArguments
from utils import UserError, atomic_write, is_hub_name, read_text

CARD, CURVE = "README.md", "loss.png"
MARK = "<!-- written by train.py -->"  # in our cards, which the next run may replace


def check(output_dir: str) -> None:
    """Raise UserError where a card or a curve would take the place of a file that is not a run's."""
    card, curve = Path(output_dir) / CARD, Path(output_dir) / CURVE
    is_ours = card.is_file() and MARK in read_text(card)
    for path in (card, curve):
        if path.exists() and not is_ours:
            raise UserError(f"{path}: not written by train.py, which would write its own. Name another --output_dir.")


def write(
    model_args: ModelArguments, lora_args: LoraArguments, training_args: TrainingArguments, train_dataset, log: list
) -> None:
    """Write card and curve to the output folder. log is the Trainer's log_history."""
    output_dir = Path(training_args.output_dir)
    with atomic_write(output_dir / CURVE, "wb") as f:
        draw_losses(log, f)
    with atomic_write(output_dir / CARD) as f:
        f.write(text_of(model_args, lora_args, training_args, train_dataset, log))


def draw_losses(log: list[dict], file) -> None:
    """Training and held-out loss over the steps, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "held out", "o-")):
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set(xlabel="step", ylabel="loss per label (nats)")
    if axes.lines:
        axes.legend()
    figure.savefig(file, format="png", dpi=120)


def text_of(model_args, lora_args, training_args, train_dataset, log: list[dict]) -> str:
    from huggingface_hub import ModelCardData

    base, is_adapter = model_args.model_name_or_path, lora_args.lora_rank > 0 and not lora_args.merge_lora
    is_on_hub = is_hub_name(base) and not Path(base).exists()
    metadata = ModelCardData(
        base_model=base if is_on_hub else None,  # the Hub takes no local path here
        datasets=[path for path in train_dataset.paths if not Path(path).exists()] or None,
        license="other",
        license_name="that-of-base-model-and-data",
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["alpaca"],
    )
    versions = [("Python", platform.python_version())]
    versions += [(name, importlib.metadata.version(name)) for name in ("torch", "transformers", "accelerate")]
    rows = zip(train_dataset.paths, train_dataset.file_sizes, train_dataset.sha256, strict=True)
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n{MARK}",
        f"# {Path(training_args.output_dir).resolve().name}",
        f"{'Adapters for' if is_adapter else 'Fine-tuned from'} `{base}`"
        f"{' (from random weights)' if model_args.init_from_config else ''}, trained to answer instructions in the "
        "Alpaca prompt, which the tokenizer's chat template makes.",
        "## Data",
        table(("data", "examples", "SHA-256"), rows),
        f"Trained on {len(train_dataset):,} examples.",
        "## Losses",
        table(("", "first", "last", "lowest"), loss_rows(log)),
        f"![Losses over the steps]({CURVE})",
        "## Hyperparameters",
        table(("flag", "value"), hyperparameters(lora_args, training_args)),
        "## Versions and command",
        ", ".join(f"{name} {version}" for name, version in versions),
        f"```\n{command_line()}\n```",
        "## Licence",
        "A model tuned from another one falls under the licence of that model, and under the terms of the data it was "
        "trained on. Both apply here.",
    ]
    return "\n\n".join(parts) + "\n"


def table(header: tuple, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def loss_rows(log: list[dict]) -> list[tuple]:
    rows = []
    for key, name in (("loss", "training"), ("eval_loss", "held out")):
        losses = [entry[key] for entry in log if key in entry]
        if losses:
            rows.append((name, *(f"{loss:.4f}" for loss in (losses[0], losses[-1], min(losses)))))
    return rows


def hyperparameters(lora_args: LoraArguments, args: TrainingArguments) -> list[tuple]:
    names = (
        "num_train_epochs max_steps learning_rate lr_scheduler_type warmup_steps weight_decay max_grad_norm optim "
        "per_device_train_batch_size gradient_accumulation_steps world_size model_max_length bf16 fp16 seed"
    ).split()
    rows = [(name, getattr(getattr(args, name), "value", getattr(args, name))) for name in names]
    if lora_args.lora_rank:
        rows += vars(lora_args).items()
    return rows


def command_line() -> str:
    """The command as it was typed, without the secret that it may hold."""
    return re.sub(r"(--hub[_-]token[ =])\S+", r"\1...", shlex.join(["train.py", *sys.argv[1:]]))


def create_repository(args: TrainingArguments) -> str:
    """The Hub's repository for the model, made if need be: before the training, which would else be for nothing."""
    from huggingface_hub import HfApi

    name = args.hub_model_id or Path(args.output_dir).resolve().name
    with hub_errors_in_one_line(f"--push_to_hub {name}", "Log in with `hf auth login`, or name --hub_model_id."):
        return HfApi(token=args.hub_token).create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id


def upload(repo_id: str, args: TrainingArguments) -> None:
    """Upload the output folder as it is, without checkpoints, in one commit. Raises UserError where the Hub refuses."""
    from huggingface_hub import HfApi

    again = f"The model is whole in {args.output_dir}: `hf upload {repo_id} {args.output_dir}` tries again."
    with hub_errors_in_one_line(f"--push_to_hub {repo_id}", again):
        HfApi(token=args.hub_token).upload_folder(
            repo_id=repo_id,
            folder_path=args.output_dir,
            commit_message="Fine-tuned model",
            ignore_patterns=["checkpoint-*", "unfinished/*", "runs/*", "*.tmp"],
            revision=args.hub_revision,
        )


@contextlib.contextmanager
def hub_errors_in_one_line(where: str, advice: str) -> Iterator[None]:
    import httpx2

    try:
        yield
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise UserError(f"{where}: the Hub did not take it ({' '.join(str(error).split())}). {advice}") from None
