"""Fine-tune a causal language model on instruction data with the Hugging Face Trainer.

torchrun --nproc_per_node=4 --master_port=29500 train.py --config configs/llama-7b.yaml \
    --model_name_or_path <llama checkpoint and tokenizer> --data_path ./alpaca_data.json --output_dir <out>
python train.py --model_name_or_path facebook/opt-125m --data_path ./alpaca_data.json --output_dir <out>

Writes to <output_dir> the model and its tokenizer, as from_pretrained loads them, trainer_state.json, and
checkpoint-<step> folders, from which --resume_from_checkpoint True continues. `--help` lists every flag.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import accelerate
import numpy as np
import torch
import transformers
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import Dataset

from alpaca.examples import load_examples
from alpaca.inference.local import NO_CODE, load_errors_in_one_line, resize_embeddings
from alpaca.training import adapters, memory
from alpaca.training.arguments import (
    DataArguments,
    LoraArguments,
    ModelArguments,
    TrainingArguments,
    check_processes,
    let_rank_0_alone_speak,
    parse_arguments,
    say,
)
from alpaca.training.checkpoints import SaveAndStopOnSigterm, check_output_dir, checkpoint_to_resume, lock_output_dir
from alpaca.training.packed_steps import PackedTrainer, compile_layers
from alpaca.training.response_loss import compute_loss_on_response_only
from utils import PROMPT_DICT, UserError, format_prompt, is_hub_name, jload

IGNORE_INDEX = -100
CHUNK = 1000  # examples per call of the tokenizer
# In the order in which the original added them: the ids of published Alpaca models depend on it.
SPECIAL_TOKENS = {"pad_token": "[PAD]", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}


# ---- Data ----


def tokenize(
    sources: list[str], targets: list[str], tokenizer: transformers.PreTrainedTokenizerBase
) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of each source + target, int32[n], and how many tokens each source has by itself, int[number of texts].

    Both are cut off at tokenizer.model_max_length. Targets end with the EOS token; one that the tokenizer adds by
    itself is left out, so that the first token of the target is never taken for the source's end.
    """

    def read(texts: list[str], num_added: int) -> list[list[int]]:
        # Cut off here: the tokenizer's own truncation would be saved with it, and would keep an EOS of its own.
        all_ids = tokenizer(texts, return_attention_mask=False, verbose=False).input_ids
        return [ids[: min(len(ids) - num_added, tokenizer.model_max_length)] for ids in all_ids]

    # Some tokenizers end every text with an EOS, some only a text that has none.
    eos = tokenizer.eos_token_id
    added_to_source = int(tokenizer(sources[0]).input_ids[-1:] == [eos])
    added_to_target = int(tokenizer(sources[0] + tokenizer.eos_token).input_ids[-2:] == [eos, eos])
    input_ids, source_lens = [], []
    for start in range(0, len(sources), CHUNK):  # bounds the memory that the tokenizer's own results take
        chunk = sources[start : start + CHUNK]
        texts = [source + target for source, target in zip(chunk, targets[start : start + CHUNK], strict=True)]
        input_ids += [np.array(ids, dtype=np.int32) for ids in read(texts, added_to_target)]
        source_lens += map(len, read(chunk, added_to_source))
    return input_ids, np.array(source_lens)


class SupervisedDataset(Dataset):
    """Examples as {"input_ids": LongTensor[n], "labels": LongTensor[n]}, unpadded, n <= tokenizer.model_max_length.

    The text is prompt, output and end-of-text token, cut off at the end where it is too long. Labels are -100, which
    the loss skips, over the tokens of the prompt. Raises UserError where no example has a label left.
    """

    def __init__(self, data_path: str, tokenizer: transformers.PreTrainedTokenizerBase, cache_dir: str | None = None):
        examples = load_examples(data_path, cache_dir)
        sources = [format_prompt(example["instruction"], example["input"]) for example in examples]
        targets = [example["output"] + tokenizer.eos_token for example in examples]
        self.input_ids, self.source_lens = tokenize(sources, targets, tokenizer)
        self.lengths = np.array([len(ids) for ids in self.input_ids])
        self.num_labels = self.lengths - np.clip(self.source_lens, 1, self.lengths)  # nothing predicts the first token
        self.model_max_length = tokenizer.model_max_length
        if self.num_without_label() == len(self):
            raise UserError(
                f"{data_path}: every example is cut off at {self.model_max_length} tokens before its response begins. "
                "Raise --model_max_length."
            )

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(self.input_ids[i].astype(np.int64))
        labels = input_ids.clone()
        labels[: self.source_lens[i]] = IGNORE_INDEX
        return {"input_ids": input_ids, "labels": labels}

    def num_without_label(self) -> int:
        """How many examples were cut off before their response begins, so that nothing is learnt from them."""
        return int((self.source_lens >= self.lengths).sum())

    def summary(self) -> str:
        """One line on what the data lost, since truncation cannot be seen in the loss."""
        return (
            f"{len(self):,} examples of {self.lengths.mean():.0f} tokens on average, {self.lengths.max()} at most; "
            f"{(self.lengths == self.model_max_length).sum():,} reach --model_max_length {self.model_max_length}, "
            f"{self.num_without_label():,} have no response left"
        )


@dataclass
class DataCollatorForSupervisedDataset:
    """Pads a list of examples on the right to the longest: input_ids, labels, attention_mask, LongTensor[b, n]."""

    tokenizer: transformers.PreTrainedTokenizerBase

    def __call__(self, examples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        def pad(tensors, value):
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

        return {
            "input_ids": pad([example["input_ids"] for example in examples], self.tokenizer.pad_token_id),
            "labels": pad([example["labels"] for example in examples], IGNORE_INDEX),
            # Not input_ids != pad_token_id: in models whose pad token is another token, that hides real tokens.
            "attention_mask": pad([torch.ones_like(example["input_ids"]) for example in examples], 0),
        }


def make_supervised_data_module(
    tokenizer: transformers.PreTrainedTokenizerBase, data_args: DataArguments, cache_dir: str | None = None
) -> dict:
    """The Trainer's arguments about data: train_dataset, eval_dataset (none), data_collator."""
    return {
        "train_dataset": SupervisedDataset(data_args.data_path, tokenizer, cache_dir),
        "eval_dataset": None,
        "data_collator": DataCollatorForSupervisedDataset(tokenizer),
    }


# ---- Tokenizer and model ----


def load_tokenizer(model_name_or_path: str, cache_dir: str | None, model_max_length: int):
    """The tokenizer with every special token and a chat template, and how many tokens had to be added for that."""
    options = {"cache_dir": cache_dir, "model_max_length": model_max_length, **NO_CODE}
    options |= {"padding_side": "right", "truncation_side": "right"}
    with load_errors_in_one_line(f"{model_name_or_path}: no tokenizer"):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(model_name_or_path, **options)
        except RecursionError:
            # The first LLaMA conversions have "" for the names of these tokens; transformers 5.23 loops on that.
            options |= {name: token for name, token in SPECIAL_TOKENS.items() if name != "pad_token"}
            tokenizer = transformers.AutoTokenizer.from_pretrained(model_name_or_path, **options)
    num_new_tokens = tokenizer.add_special_tokens(missing_special_tokens(tokenizer))
    if isinstance(tokenizer, transformers.LlamaTokenizer) and "add_bos_token" not in tokenizer.init_kwargs:
        # transformers 5.23 forgets this default of LLaMA's where a checkpoint has a tokenizer.model only.
        tokenizer.add_bos_token = True
    tokenizer.chat_template = chat_template(tokenizer)
    return tokenizer, num_new_tokens


def missing_special_tokens(tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, str]:
    """The special tokens that the tokenizer lacks, for add_special_tokens; early LLaMA tokenizers have "" for some."""
    return {name: token for name, token in SPECIAL_TOKENS.items() if not getattr(tokenizer, name)}


def smart_tokenizer_and_embedding_resize(
    special_tokens_dict: dict[str, str],
    tokenizer: transformers.PreTrainedTokenizerBase,
    model: transformers.PreTrainedModel,
) -> None:
    """Add special tokens to the tokenizer, and to the model a row for each: the mean of the rows that were there."""
    num_new_tokens = tokenizer.add_special_tokens(special_tokens_dict)
    resize_embeddings(model, len(tokenizer), num_new_tokens)


def chat_template(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """A Jinja template by which servers turn a chat message into the training prompt, token for token.

    A user's message is the instruction; one that holds "\n\n### Input:\n" brings its own input and gets the prompt for
    that. A system message goes before the first instruction. apply_chat_template adds no special tokens, so the
    template starts with the one that the tokenizer put before every training example, if it did.
    """
    first_id = tokenizer("a").input_ids[0]
    bos = "{{- bos_token }}" if first_id == tokenizer.bos_token_id else ""
    with_input, without_input = (prompt.split("### Instruction:")[0] for prompt in PROMPT_DICT.values())
    return (
        "{%- macro text(content) %}{% if content is string %}{{ content }}{% else %}"
        "{% for part in content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}{% endmacro %}"
        f"{bos}{{%- set turn = namespace(system='', first=true) %}}"
        "{%- for message in messages %}"
        "{%- if message.role == 'system' %}{%- set turn.system = text(message.content) + '\\n\\n' %}"
        "{%- elif message.role == 'assistant' %}{{- text(message.content) + eos_token }}"
        "{%- else %}{%- set instruction = turn.system + text(message.content) %}"
        "{%- if not turn.first %}{{- '\\n\\n' }}"
        f"{{%- elif '\\n\\n### Input:\\n' in instruction %}}{{{{- {json.dumps(with_input)} }}}}"
        f"{{%- else %}}{{{{- {json.dumps(without_input)} }}}}{{%- endif %}}"
        "{{- '### Instruction:\\n' + instruction + '\\n\\n### Response:' }}"
        "{%- set turn.first = false %}{%- set turn.system = '' %}{%- endif %}{%- endfor %}"
    )


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
            with load_errors_in_one_line(index):
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
    """The model without memory for its weights. Raises UserError where it is no causal language model."""
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in mapping:
        raise UserError(f"{config.name_or_path}: a {config.model_type} model, which is no causal language model.")
    with load_errors_in_one_line(f"--model_name_or_path {config.name_or_path}"), torch.device("meta"):
        return mapping[type(config)](config)


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


def load_model(
    model_args: ModelArguments,
    config: transformers.PretrainedConfig,
    tokenizer: transformers.PreTrainedTokenizerBase,
    num_new_tokens: int,
    lora_args: LoraArguments,
    training_args: TrainingArguments,
) -> transformers.PreTrainedModel:
    """The model with a row for each new token, in float32: the optimizer's copy, which mixed precision rounds for the
    arithmetic only. Frozen weights may be kept in 4 bits."""
    with load_errors_in_one_line(f"--model_name_or_path {model_args.model_name_or_path}"):
        if model_args.init_from_config:
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, **NO_CODE)
        else:
            if training_args.fsdp:
                os.environ["ACCELERATE_USE_FSDP"] = "true"  # what cpu_ram_efficient_loading asks for while it loads
            model = transformers.AutoModelForCausalLM.from_pretrained(
                model_args.model_name_or_path,
                config=config,
                cache_dir=training_args.cache_dir,
                dtype=torch.float32,
                quantization_config=adapters.quantization_config() if lora_args.load_in_4bit else None,
                **NO_CODE,
            )
    resize_embeddings(model, len(tokenizer), num_new_tokens)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        # Some LLaMA checkpoints set a temperature without sampling, which would refuse to be saved after training.
        model.generation_config.do_sample = True
    return model


# ---- Training ----


class AlpacaTrainer(PackedTrainer):
    """The Trainer, with packed steps, checkpoints that are whole or not there, and FSDP on every kind of device."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args and not self.is_fsdp_enabled:
            # accelerate 1.15 shards on every kind of accelerator and silently replicates on the CPU, where
            # torch's FSDP over gloo works as well.
            state = self.accelerator.state
            state.fsdp_plugin = accelerate.utils.FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = accelerate.utils.DistributedType.FSDP
            accelerate.PartialState._shared_state["distributed_type"] = state.distributed_type
            self.is_fsdp_enabled = True
        if self.is_fsdp_enabled and self.args.bf16:
            # Weights are rounded once per gathering and gradients summed in float32; autocast would round the weights
            # again in each micro-batch, and accelerate sum in bfloat16.
            policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
            self.accelerator.native_amp = False


class ProgressBar(transformers.trainer_callback.ProgressCallback):
    """The Trainer's bar, with one readable line per log entry."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.write(
                f"step {state.global_step}/{state.max_steps}  epoch {logs['epoch']:.2f}  loss {logs['loss']:.4f}  "
                f"lr {logs['learning_rate']:.2e}  {logs['tokens_per_sec']:,} tokens/s",
                file=sys.stderr,
            )


def train() -> None:
    model_args, data_args, lora_args, training_args = parse_arguments(sys.argv[1:])
    let_rank_0_alone_speak()
    check_processes(training_args)
    check_output_dir(training_args.output_dir, lora_args)
    lock_output_dir(training_args.output_dir)
    config = load_config(model_args, training_args.cache_dir)
    meta_model = skeleton(config)
    check_wrapped_layer(meta_model, training_args)
    adapters.check(lora_args, meta_model, model_args.init_from_config)
    checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint, training_args.output_dir, say)

    tokenizer, num_new_tokens = load_tokenizer(
        model_args.model_name_or_path, training_args.cache_dir, training_args.model_max_length
    )
    data_module = make_supervised_data_module(tokenizer, data_args, training_args.cache_dir)
    say(data_module["train_dataset"].summary())
    show_memory_table(meta_model, lora_args, training_args)

    transformers.set_seed(training_args.seed)
    model = load_model(model_args, config, tokenizer, num_new_tokens, lora_args, training_args)
    if lora_args.lora_rank:
        model = adapters.add_adapters(model, lora_args, model_args.model_name_or_path)
    if training_args.skip_prompt_logits:
        compute_loss_on_response_only(model)
    if training_args.compile_layers:
        compile_layers(model)
    stop_on_sigterm = SaveAndStopOnSigterm()
    trainer = AlpacaTrainer(
        model=model,
        args=training_args,
        processing_class=tokenizer,
        callbacks=[stop_on_sigterm],
        **data_module,
    )
    if trainer.pop_callback(transformers.trainer_callback.ProgressCallback):
        trainer.add_callback(ProgressBar)
    trainer.train(resume_from_checkpoint=checkpoint)
    if stop_on_sigterm.stopped:
        say(
            f"stopped by SIGTERM after step {trainer.state.global_step} of {trainer.state.max_steps}. "
            "A checkpoint is saved: --resume_from_checkpoint True goes on from it."
        )
        return
    trainer.save_final_model()
    if lora_args.merge_lora and training_args.should_save:
        transformers.integrations.unset_hf_deepspeed_config()  # ZeRO would spread the base over all ranks again
        base_model = load_model(model_args, config, tokenizer, num_new_tokens, LoraArguments(), training_args)
        adapters.merge(Path(training_args.output_dir), base_model, tokenizer)
    trainer.accelerator.wait_for_everyone()
    say(f"model saved to {training_args.output_dir}")


def show_memory_table(meta_model, lora_args: LoraArguments, training_args: TrainingArguments) -> None:
    num_parameters = sum(parameter.numel() for parameter in meta_model.parameters())
    num_adapters = adapters.num_adapter_parameters(lora_args, meta_model)
    text, warning = memory.table(
        num_parameters=num_parameters + num_adapters,
        num_trained=num_adapters or num_parameters,
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        training_args=training_args,
        frozen_bytes=0.5 if lora_args.load_in_4bit else 4,
        config=meta_model.config,
    )
    say(text)
    if warning:
        say(f"warning: {warning}")


def interrupted(signum, frame) -> None:
    """Ctrl-C, at any instant: whole checkpoints are safe, and nothing else is worth an orderly end."""
    say("train.py: interrupted. --resume_from_checkpoint True goes on from the newest checkpoint, if there is one.")
    os._exit(130)


def main() -> None:
    signal.signal(signal.SIGINT, interrupted)
    try:
        train()
    except UserError as error:
        say(f"train.py: {error}")
        raise SystemExit(1) from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
