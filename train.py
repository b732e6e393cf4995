r"""Fine-tune a causal language model on instruction data with the Hugging Face Trainer.

torchrun --nproc_per_node=4 --master_port=29500 train.py --config configs/llama-7b.yaml \
    --model_name_or_path <llama checkpoint and tokenizer> --data_path ./alpaca_data.json --output_dir <out>
python train.py --model_name_or_path facebook/opt-125m --data_path ./alpaca_data.json --output_dir <out>

Writes to <output_dir> the model and its tokenizer, as from_pretrained loads them, trainer_state.json, and
checkpoint-<step> folders, from which --resume_from_checkpoint True continues. A quick try: --max_examples 100.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import copy
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alpaca.training import flags

if __name__ == "__main__":
    flags.before_the_imports(sys.argv[1:], __doc__)  # which take seconds

import accelerate
import numpy as np
import torch
import transformers
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import Dataset
from tqdm import tqdm

from alpaca.examples import load_examples, sha256_of
from alpaca.inference.local import NO_CODE, load_errors_in_one_line, num_rows_of, resize_embeddings
from alpaca.training import adapters, card, evaluation, memory
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
from alpaca.training.base_model import check_positions, check_wrapped_layer, load_config, skeleton
from alpaca.training.checkpoints import (
    SaveAndStopOnSigterm,
    check_output_dir,
    check_same_data,
    check_same_sharding,
    checkpoint_to_resume,
    locked,
)
from alpaca.training.conversations import chat_template, sources_and_targets
from alpaca.training.packed_steps import compile_layers
from alpaca.training.response_loss import compute_loss_on_response_only
from utils import PROMPT_DICT as PROMPT_DICT  # public here, as in the original
from utils import UserError, os_errors_in_one_line

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


def is_whole(input_ids: np.ndarray, tokenizer: transformers.PreTrainedTokenizerBase) -> bool:
    """Whether a text that ends with the EOS token was not cut off."""
    return len(input_ids) < tokenizer.model_max_length or input_ids[-1] == tokenizer.eos_token_id


class SupervisedDataset(Dataset):
    """Examples as {"input_ids": LongTensor[n], "labels": LongTensor[n]}, unpadded, n <= tokenizer.model_max_length.

    The text is prompt, output and end-of-text token, cut off at the end where it is too long; a conversation is cut off
    behind its last answer that fits. Labels are -100, which the loss skips, but for the answers. data_path names one
    file, or several whose examples follow one another. Raises UserError where no example has a label left.
    """

    def __init__(
        self,
        data_path: str | Sequence[str],
        tokenizer: transformers.PreTrainedTokenizerBase,
        cache_dir: str | None = None,
        max_examples: int | None = None,
    ):
        self.paths = [data_path] if isinstance(data_path, str) else list(data_path)
        files = [load_examples(path, cache_dir) for path in self.paths]
        self.sha256 = [sha256_of(path, examples) for path, examples in zip(self.paths, files, strict=True)]
        self.file_sizes = [len(examples) for examples in files]
        in_files = Counter(text for examples in files for text in {json.dumps(e, sort_keys=True) for e in examples})
        self.num_repeated = sum(count > 1 for count in in_files.values())
        self.model_max_length = tokenizer.model_max_length
        self.input_ids, self.answers, self.num_shortened = [], [], 0
        self.add([example for examples in files for example in examples][:max_examples], tokenizer)
        self.lengths = np.array([len(ids) for ids in self.input_ids])
        # Nothing predicts the first token.
        self.num_labels = np.array([sum(end - max(start, 1) for start, end in spans) for spans in self.answers])
        if self.num_without_label() == len(self):
            raise UserError(
                f"{', '.join(self.paths)}: every example is cut off at {self.model_max_length} tokens before its "
                "response begins. Raise --model_max_length."
            )

    def add(self, examples: list[dict], tokenizer: transformers.PreTrainedTokenizerBase) -> None:
        """Append the token ids of each example, and where in them its answers begin and end."""
        pairs = [sources_and_targets(example, tokenizer.eos_token) for example in examples]
        sources, targets = zip(*(pair for answers in pairs for pair in answers), strict=True)
        input_ids, source_lens = tokenize(sources, targets, tokenizer)
        end = 0
        for num_answers in map(len, pairs):
            start, end = end, end + num_answers
            whole = [i for i in range(start, end) if is_whole(input_ids[i], tokenizer)]
            last = whole[-1] if whole else start
            self.num_shortened += last < end - 1
            self.input_ids.append(input_ids[last])
            spans = [(int(source_lens[i]), len(input_ids[i])) for i in range(start, last + 1)]
            self.answers.append([(begin, end) for begin, end in spans if begin < end])

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(self.input_ids[i].astype(np.int64))
        labels = torch.full_like(input_ids, IGNORE_INDEX)
        for start, end in self.answers[i]:
            labels[start:end] = input_ids[start:end]
        return {"input_ids": input_ids, "labels": labels}

    def select(self, indices: Sequence[int]) -> "SupervisedDataset":
        """The dataset of these examples only."""
        selected = copy.copy(self)
        selected.input_ids, selected.answers = ([x[i] for i in indices] for x in (self.input_ids, self.answers))
        selected.lengths, selected.num_labels = self.lengths[list(indices)], self.num_labels[list(indices)]
        return selected

    def num_without_label(self) -> int:
        """How many examples were cut off before their response begins, so that nothing is learnt from them."""
        return self.answers.count([])

    def summary(self) -> str:
        """What the data lost, since truncation cannot be seen in the loss; first, a line for each of several files."""
        lines = []
        if len(self.paths) > 1:
            lines = [f"{path}: {n:,} examples" for path, n in zip(self.paths, self.file_sizes, strict=True)]
            lines.append(f"{self.num_repeated:,} examples stand in more than one of these files")
        shortened = f", {self.num_shortened:,} conversations lose their last answers" if self.num_shortened else ""
        lines.append(
            f"{len(self):,} examples of {self.lengths.mean():.0f} tokens on average, {self.lengths.max()} at most; "
            f"{(self.lengths == self.model_max_length).sum():,} reach --model_max_length {self.model_max_length}, "
            f"{self.num_without_label():,} have no response left{shortened}"
        )
        return "\n".join(lines)


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
    tokenizer: transformers.PreTrainedTokenizerBase,
    data_args: DataArguments,
    cache_dir: str | None = None,
    seed: int = 42,
) -> dict:
    """The Trainer's arguments about data: train_dataset, eval_dataset (None without the flags), data_collator."""
    train_dataset = SupervisedDataset(data_args.data_path, tokenizer, cache_dir, data_args.max_examples)
    eval_dataset = None
    if data_args.eval_data_path:
        eval_dataset = SupervisedDataset(data_args.eval_data_path, tokenizer, cache_dir)
        evaluation.check_other_data(train_dataset, eval_dataset)
    elif data_args.eval_size:
        train_indices, eval_indices = evaluation.split(len(train_dataset), data_args.eval_size, seed)
        train_dataset, eval_dataset = train_dataset.select(train_indices), train_dataset.select(eval_indices)
    return {
        "train_dataset": train_dataset,
        "eval_dataset": eval_dataset,
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
    """The special tokens that the tokenizer lacks and something uses, for add_special_tokens; early LLaMA tokenizers
    have "" for some. [PAD] and </s> are always used, <s> where texts begin with one, <unk> where a text may hold what
    the tokenizer cannot encode (no byte-level one)."""
    missing = {name: token for name, token in SPECIAL_TOKENS.items() if not getattr(tokenizer, name)}
    if not getattr(tokenizer, "add_bos_token", False):
        missing.pop("bos_token", None)
    rare = tokenizer("\U00013000", add_special_tokens=False).input_ids  # a hieroglyph, in no learnt vocabulary
    if rare and None not in rare:
        missing.pop("unk_token", None)
    return missing


def smart_tokenizer_and_embedding_resize(
    special_tokens_dict: dict[str, str],
    tokenizer: transformers.PreTrainedTokenizerBase,
    model: transformers.PreTrainedModel,
) -> None:
    """Add special tokens to the tokenizer, and to the model a row for each: the mean of the rows that were there."""
    num_new_tokens = tokenizer.add_special_tokens(special_tokens_dict)
    resize_embeddings(model, num_rows_of(tokenizer), num_new_tokens)


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
    resize_embeddings(model, num_rows_of(tokenizer), num_new_tokens)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        # Some LLaMA checkpoints set a temperature without sampling, which would refuse to be saved after training.
        model.generation_config.do_sample = True
    return model


# ---- Training ----


class AlpacaTrainer(evaluation.EvaluatingTrainer):
    """The Trainer, with packed steps, held-out losses, checkpoints that are whole or not there, and FSDP on every kind
    of device."""

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
        if self.training_bar is not None and "eval_loss" in logs:
            self.training_bar.write(
                f"step {state.global_step}/{state.max_steps}  held-out loss {logs['eval_loss']:.4f}", file=sys.stderr
            )
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
    evaluation.check(data_args, training_args)
    check_output_dir(training_args.output_dir, lora_args)
    with locked(training_args.output_dir):
        train_as_told(model_args, data_args, lora_args, training_args)


def train_as_told(
    model_args: ModelArguments, data_args: DataArguments, lora_args: LoraArguments, training_args: TrainingArguments
) -> None:
    """The procedure, from the checks that need no weights to the finished folder."""
    if training_args.should_save:
        card.check(training_args.output_dir)
    config = load_config(model_args, training_args.cache_dir)
    # Until weights are loaded, models are built without memory, which DeepSpeed's stage 3 would spread over the ranks.
    transformers.integrations.unset_hf_deepspeed_config()
    meta_model = skeleton(config)
    check_wrapped_layer(meta_model, training_args)
    adapters.check(lora_args, meta_model, model_args.init_from_config)
    adapters.check_quantization(lora_args, config)
    checkpoint = checkpoint_to_resume(training_args.resume_from_checkpoint, training_args.output_dir, say)
    check_same_sharding(checkpoint, training_args)

    tokenizer, num_new_tokens = load_tokenizer(
        model_args.model_name_or_path, training_args.cache_dir, training_args.model_max_length
    )
    seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
    data_module = make_supervised_data_module(tokenizer, data_args, training_args.cache_dir, seed)
    say(data_module["train_dataset"].summary())
    check_same_data(checkpoint, data_module["train_dataset"])
    check_positions(config, data_module["train_dataset"], data_module["eval_dataset"])
    memory.show(meta_model, lora_args, training_args)
    repository = None
    if training_args.push_to_hub and training_args.should_save:
        repository = card.create_repository(training_args)
    training_args.push_to_hub = False  # the Trainer would upload what is not finished

    if training_args.deepspeed:
        transformers.integrations.set_hf_deepspeed_config(training_args.hf_deepspeed_config)
    transformers.set_seed(training_args.seed)
    model = load_model(model_args, config, tokenizer, num_new_tokens, lora_args, training_args)
    if lora_args.lora_rank:
        model = adapters.add_adapters(model, lora_args, model_args.model_name_or_path)
    if training_args.skip_prompt_logits:
        compute_loss_on_response_only(model)
    if training_args.compile_layers:
        compile_layers(model)
    stop_on_sigterm = SaveAndStopOnSigterm()
    training_args.eval_on_start = data_module["eval_dataset"] is not None and not checkpoint
    trainer = AlpacaTrainer(
        model=model,
        args=training_args,
        processing_class=tokenizer,
        callbacks=[stop_on_sigterm],
        **data_module,
    )
    if data_module["eval_dataset"] is not None:
        trainer.add_callback(evaluation.EvaluateAtTheEnd)
    if trainer.pop_callback(transformers.trainer_callback.ProgressCallback):
        trainer.add_callback(ProgressBar)
    result = trainer.train(resume_from_checkpoint=checkpoint)
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
        merged = adapters.merge(Path(training_args.output_dir), base_model, tokenizer)
        if lora_args.load_in_4bit:
            base_model = load_model(model_args, config, tokenizer, num_new_tokens, lora_args, training_args)
            output_dir, dataset = Path(training_args.output_dir), data_module["train_dataset"]
            say(adapters.divergence_line(base_model, merged, output_dir, dataset))
    if training_args.should_save:
        history = trainer.state.log_history
        card.write(model_args, lora_args, training_args, data_module["train_dataset"], history)
    if repository:
        card.upload(repository, training_args)
    trainer.accelerator.wait_for_everyone()
    say(closing_lines(trainer, result.metrics["train_runtime"], training_args.output_dir))


def closing_lines(trainer: AlpacaTrainer, runtime_sec: float, output_dir: str) -> str:
    """What a run came to: its length, its losses, and the command that talks to the model."""
    state, num_tokens = trainer.state, trainer.total_tokens + int(trainer.num_tokens)
    hours, minutes = divmod(round(runtime_sec) // 60, 60)
    time_text = f"{hours} h {minutes:02} min" if hours else f"{minutes} min {round(runtime_sec) % 60:02} s"
    speed = f"{num_tokens / runtime_sec:,.0f} tokens per second"
    lines = [f"{state.global_step:,} steps, {state.epoch:.2f} epochs in {time_text}, {speed}"]
    for key, name in (("loss", "loss"), ("eval_loss", "held-out loss")):
        if logs := [log for log in state.log_history if key in log]:  # none where --logging_steps exceeds all steps
            ends = (f"{log[key]:.4f} (step {log['step']:,})" for log in (logs[0], logs[-1]))
            lines.append(f"{name} {'  to  '.join(ends)}")
    lines.append(f"model saved to {output_dir}, its card and curve to {card.CARD} and {card.CURVE} there")
    lines.append(f"talk to it: python demo.py chat --model_name_or_path {shlex.quote(output_dir)}")
    return "\n".join(lines)


def main() -> None:
    try:
        with os_errors_in_one_line():  # wherever one comes from
            train()
    except UserError as error:
        for bar in list(tqdm._instances):  # else the line below would not be the last one
            bar.close()
        say(f"train.py: {error}")
        raise SystemExit(1) from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
