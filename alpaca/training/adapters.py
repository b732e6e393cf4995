"""Low-rank adapters: train a few million weights beside frozen ones (LoRA, arXiv 2106.09685; QLoRA, 2305.14314).

The adapter is saved in peft's format and names its base. Rows that were added to the embeddings ([PAD]) are not in it:
they are the mean of the others and stay so, and without them the adapter fits the base as it was published.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import os
from pathlib import Path

import torch
import transformers

from alpaca.training.arguments import LoraArguments
from alpaca.training.checkpoints import MAX_SHARD_SIZE, UNFINISHED, move_model, open_to_others
from utils import UserError

NUM_COMPARED = 8


def check(lora_args: LoraArguments, meta_model: torch.nn.Module, init_from_config: bool) -> None:
    """Raise UserError for flags that cannot work with this model or machine, before anything is loaded."""
    if not lora_args.lora_rank:
        if lora_args.load_in_4bit or lora_args.merge_lora:
            raise UserError("--load_in_4bit and --merge_lora are about adapters: add --lora_rank 8, say.")
        return
    if lora_args.lora_rank < 0:
        raise UserError(f"--lora_rank {lora_args.lora_rank}: takes a rank from 1, or 0 to train all weights.")
    if init_from_config:
        raise UserError("--lora_rank adapts weights that exist; --init_from_config True starts from none.")
    names = {name for name, _ in linear_layers(meta_model)}
    for name in lora_args.lora_target_modules:
        if name not in names:
            raise UserError(f"--lora_target_modules {name}: the model's linear layers are {', '.join(sorted(names))}.")
    if lora_args.load_in_4bit and not transformers.utils.is_bitsandbytes_available():
        raise UserError("--load_in_4bit needs bitsandbytes: pip install bitsandbytes.")


def check_quantization(lora_args: LoraArguments, config: transformers.PretrainedConfig) -> None:
    """Raise UserError where the checkpoint's own weights are quantized, and flags ask for more than adapters."""
    quantization = getattr(config, "quantization_config", None)
    if not quantization:
        return
    method = quantization.get("quant_method", "some way") if isinstance(quantization, dict) else "some way"
    if not lora_args.lora_rank:
        raise UserError(
            f"{config.name_or_path}: its weights are quantized ({method}), and such cannot be trained. Name the model "
            "as it was before, or train adapters beside them: --lora_rank 8."
        )
    if lora_args.load_in_4bit:
        raise UserError(f"{config.name_or_path}: its weights are quantized ({method}); leave --load_in_4bit out.")


def linear_layers(model: torch.nn.Module) -> list[tuple[str, torch.nn.Linear]]:
    """("q_proj", the layer) of each linear layer."""
    modules = [(name.rpartition(".")[2], module) for name, module in model.named_modules()]
    return [(name, module) for name, module in modules if isinstance(module, torch.nn.Linear)]


def num_adapter_parameters(lora_args: LoraArguments, meta_model: torch.nn.Module) -> int:
    """rank x (inputs + outputs) for each layer that gets an adapter."""
    adapted = [layer for name, layer in linear_layers(meta_model) if name in lora_args.lora_target_modules]
    return lora_args.lora_rank * sum(layer.in_features + layer.out_features for layer in adapted)


def quantization_config() -> transformers.BitsAndBytesConfig:
    """QLoRA's: 4-bit NormalFloat with its constants quantized too, arithmetic in bfloat16."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def add_adapters(model: transformers.PreTrainedModel, lora_args: LoraArguments, base: str):
    """The model as a peft model, in which only the adapters, in float32, are trained."""
    import peft

    if lora_args.load_in_4bit:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora_args.lora_rank,
        lora_alpha=lora_args.lora_alpha,
        lora_dropout=lora_args.lora_dropout,
        target_modules=lora_args.lora_target_modules,
    )
    model = peft.get_peft_model(model, config)
    # The base is found again from any folder.
    model.peft_config["default"].base_model_name_or_path = os.path.abspath(base) if os.path.isdir(base) else base
    return model


def merge(output_dir: Path, base_model: transformers.PreTrainedModel, tokenizer) -> transformers.PreTrainedModel:
    """Turn an output folder with an adapter into one with the full model, which is returned, the adapter below it in
    adapter/.

    base_model is the model as it was before the adapters, on the CPU and with its added embedding rows; tokenizer goes
    with both.
    """
    import peft

    merged = peft.PeftModel.from_pretrained(base_model, output_dir).merge_and_unload()
    merged.save_pretrained(output_dir / UNFINISHED / "model", max_shard_size=MAX_SHARD_SIZE)
    open_to_others(output_dir / UNFINISHED / "model")
    adapter_dir = output_dir / "adapter"
    adapter_dir.mkdir(exist_ok=True)
    tokenizer.save_pretrained(adapter_dir)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        os.replace(output_dir / name, adapter_dir / name)
    move_model(output_dir / UNFINISHED / "model", output_dir)
    return merged


@torch.no_grad()
def divergence_line(rounded_base: torch.nn.Module, merged: torch.nn.Module, output_dir: Path, dataset) -> str:
    """How far a merged model is from the adapter beside the 4-bit base that it was trained with: the mean over the
    tokens of NUM_COMPARED examples of KL(adapter || merged), in nats."""
    import peft

    adapted = peft.PeftModel.from_pretrained(rounded_base, output_dir / "adapter").eval()
    divergences = []
    for i in range(min(NUM_COMPARED, len(dataset))):
        input_ids = dataset[i]["input_ids"][None]
        p, q = (
            model(input_ids.to(model.device)).logits[0].float().log_softmax(-1).cpu()
            for model in (adapted, merged.eval())
        )
        divergences.append((p.exp() * (p - q)).sum(-1))
    mean = torch.cat(divergences).mean()
    return (
        "the adapter was trained beside 4-bit weights and is merged into whole ones: on "
        f"{len(divergences)} examples, next tokens differ by a KL divergence of {mean:.4f} nats"
    )
