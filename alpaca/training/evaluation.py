"""The loss on examples that are not trained on: a mean over all their labels, however many processes and micro-batches
read them, in rows or padded.

train.py takes it at the start, as --eval_strategy says, and at the end.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import time

import torch
import transformers
from transformers.trainer_utils import EvalLoopOutput

from alpaca.training.arguments import DataArguments, TrainingArguments
from alpaca.training.packed_steps import PackedTrainer, max_tokens
from utils import UserError

MICRO_BATCHES_PER_CUT = 16  # so many examples are cut at once that rows fill up and like lengths find each other


def check(data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Raise UserError for flags about held-out data that do not go together."""
    size = data_args.eval_size
    if not (size >= 0 and (size < 1 or size == int(size))):
        raise UserError(f"--eval_size {size}: takes a number of examples, or a share below 1.")
    if size and data_args.eval_data_path:
        raise UserError("--eval_data_path and --eval_size exclude each other: name the file, or hold out examples.")
    if training_args.eval_strategy != "no" and not size and not data_args.eval_data_path:
        raise UserError(
            f"--eval_strategy {training_args.eval_strategy.value} needs examples that are not trained on: "
            "--eval_data_path with a file of them, or --eval_size 200, say, to hold out some of --data_path."
        )


def split(num_examples: int, eval_size: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the examples to train on, and of those held out: eval_size of them, or, below 1, such a share.

    >>> [len(indices) for indices in split(10, 3, seed=0)], [len(indices) for indices in split(10, 0.25, seed=0)]
    ([7, 3], [8, 2])
    """
    num_held_out = int(eval_size) if eval_size >= 1 else max(1, round(eval_size * num_examples))
    if num_held_out >= num_examples:
        raise UserError(f"--eval_size {eval_size:g}: leaves none of the {num_examples:,} examples to train on.")
    order = torch.randperm(num_examples, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[num_held_out:]), sorted(order[:num_held_out])


def check_other_data(train_dataset, eval_dataset) -> None:
    """Raise UserError where a file is to be trained on and held out at once."""
    for path, sha256 in zip(eval_dataset.paths, eval_dataset.sha256, strict=True):
        if sha256 in train_dataset.sha256:
            raise UserError(
                f"--eval_data_path {path}: the same data as --data_path. --eval_size 200 holds out some of it."
            )


class EvaluateAtTheEnd(transformers.TrainerCallback):
    """After the last step as well, where --eval_strategy no would leave it out."""

    def on_step_end(self, args, state, control, **kwargs):
        if args.eval_strategy == "no" and state.global_step >= state.max_steps:
            control.should_evaluate = True


class EvaluatingTrainer(PackedTrainer):
    """A Trainer whose eval_loss is the mean over all labels of eval_dataset, cut like its steps. It draws no random
    number, so that a run trains alike with it and without it."""

    def get_eval_dataloader(self, eval_dataset=None):
        """Steps, of which a mean needs no order."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        micro_batch = self.args.per_device_eval_batch_size
        num_tokens = max_tokens(self.args, micro_batch)
        return self.steps_of(dataset, MICRO_BATCHES_PER_CUT * micro_batch, num_tokens, seed=0)

    def evaluation_loop(self, dataloader, description, metric_key_prefix="eval", **keywords):
        start, model = time.perf_counter(), self.model_wrapped
        model.eval()
        total = 0.0
        for step in range(len(dataloader)):
            for micro_batch in dataloader[step]["micro_batches"]:
                total += self.summed_loss(model, micro_batch)
        if self.args.world_size > 1:
            total = self.accelerator.reduce(torch.tensor(total, dtype=torch.float64, device=self.args.device)).item()
        if self.logged_at:  # no part of the time that training takes
            self.logged_at += time.perf_counter() - start
        loss = total / int(dataloader.dataset.num_labels.sum())
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, len(dataloader.dataset))

    @torch.no_grad()
    def summed_loss(self, model, micro_batch: dict) -> float:
        num_labels = int((micro_batch["labels"][:, 1:] != -100).sum())
        count = {"num_items_in_batch": 1} if self.model_accepts_loss_kwargs else {}
        with self.compute_loss_context_manager():
            mean_or_sum = model(**self._prepare_inputs(micro_batch), **count).loss.item()
        if num_labels == 0:  # a rank that only keeps step with the others
            return 0.0
        return mean_or_sum if count else mean_or_sum * num_labels
