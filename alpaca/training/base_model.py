"""The model to start from, looked at before any of its weights are loaded: what cannot work is said within seconds."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

from pathlib import Path

import torch
import transformers

from alpaca.inference.local import NO_CODE, load_errors_in_one_line, max_length
from alpaca.training.arguments import ModelArguments, TrainingArguments, say
from utils import UserError, is_hub_name, jload


def load_config(model_args: ModelArguments, cache_dir: str | None) -> transformers.PretrainedConfig:
    """The model's configuration. Raises UserError for a folder without one, or without weights to go with it."""
    name, folder = model_args.model_name_or_path, Path(model_args.model_name_or_path)
    if not folder.is_dir() and not is_hub_name(name):
        raise UserError(f"--model_name_or_path {name}: no such folder.")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"--model_name_or_path {name}: no config.json in it.")
        if not model_args.init_from_config:
            check_weights(folder)
    with load_errors_in_one_line(f"--model_name_or_path {name}"):
        return transformers.AutoConfig.from_pretrained(name, cache_dir=cache_dir, **NO_CODE)


def check_weights(folder: Path) -> None:
    """Raise UserError unless the folder holds weights, with every shard that their index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return
        index = folder / f"{name}.index.json"
        if index.is_file():
            with load_errors_in_one_line(str(index)):
                shards = sorted(set(jload(index)["weight_map"].values()))
            for shard in shards:
                if not (folder / shard).is_file():
                    raise UserError(f"{folder}: {shard} is missing, which {index.name} names.")
            return
    raise UserError(
        f"{folder}: no weights in it (model.safetensors, pytorch_model.bin, or their index). "
        "To start from random weights on purpose: --init_from_config True."
    )


def skeleton(config: transformers.PretrainedConfig) -> torch.nn.Module:
    """The model without memory for its weights: of a text and vision checkpoint, what AutoModelForCausalLM takes.
    Raises UserError where it is no causal language model."""
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{config.name_or_path}: a {config.model_type} model, which is no causal language model.")
    load_errors = load_errors_in_one_line(f"--model_name_or_path {config.name_or_path}")
    with load_errors, torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, **NO_CODE)


def check_positions(config: transformers.PretrainedConfig, *datasets) -> None:
    """Raise UserError where an example is longer than a model with a table of positions can read. Rotary positions
    have no end; beyond those of its training, the model is only told to be out of its depth. A dataset may be None."""
    dataset = max(filter(None, datasets), key=lambda dataset: dataset.lengths.max())
    positions, longest = max_length(config), int(dataset.lengths.max())
    if longest <= positions or not {"max_position_embeddings", "n_positions"} & set(dir(config.get_text_config())):
        return
    if getattr(config.get_text_config(), "rope_parameters", None):
        say(f"warning: examples of up to {longest:,} tokens, and the model was made for {positions:,}.")
        return
    raise UserError(
        f"--model_max_length {dataset.model_max_length}: the model has {positions:,} positions, and an example has "
        f"{longest:,} tokens. Set --model_max_length {positions}; what is longer is cut off at the end."
    )


def check_wrapped_layer(model: torch.nn.Module, training_args: TrainingArguments) -> None:
    """Raise UserError where FSDP is told to shard by a layer that the model does not have."""
    if training_args.fsdp:
        classes = {type(module).__name__ for module in model.modules()}
        for name in training_args.fsdp_config.get("transformer_layer_cls_to_wrap") or ():
            if name not in classes:
                raise UserError(
                    f"--fsdp_transformer_layer_cls_to_wrap {name}: {type(model).__name__} has no such layer. "
                    f"Its layers: {', '.join(sorted(model._no_split_modules or classes))}."
                )
