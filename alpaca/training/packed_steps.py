"""Optimizer steps cut into as few micro-batches as their memory allows, with hardly any padding.

The examples of a step are those that random sampling draws; how they are cut into micro-batches changes no loss, since
the loss is a mean over all labels of the step. Every rank knows all lengths and makes the same cut, so that all take
equally many micro-batches without asking one another. Where attention can end at a document's end, a micro-batch is one
row: examples one after another, positions from 0 for each (Krell et al. 2021, arXiv 2107.02027). Elsewhere examples
of like length are padded to the longest of their micro-batch.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import copy
import itertools
import operator
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import transformers

from alpaca.training.checkpoints import CheckpointingTrainer
from alpaca.training.response_loss import MODEL_TYPES

CPU_TOKENS = 2048  # larger micro-batches gain nothing on a CPU (two cores: 18.7 examples/s at 2,048, 14.8 at 3,000)
DOCUMENTS_MULTIPLE = 64  # a row's list of document ends is filled up to a multiple of this, so that its shapes are few


# ---- The cut ----


def cut(lengths: np.ndarray, num_ranks: int, max_tokens: int, is_packed: bool) -> list[list[np.ndarray]]:
    """The micro-batches of each rank, as positions in lengths: as few as fit, equally many for all ranks.

    A micro-batch holds at most max_tokens tokens, padding included where not is_packed; a longer example has one of its
    own. Some micro-batches are empty where there are fewer examples than ranks.
    """
    order = np.argsort(-lengths, kind="stable")
    group = rows if is_packed else like_lengths
    least = -(-int(lengths.sum()) // max_tokens)
    for num_micro_batches in itertools.count(max(1, -(-least // num_ranks))):
        groups = group(lengths, order, num_ranks * num_micro_batches, max_tokens)
        if groups is not None:
            # Dealt by turns, the ranks' micro-batches of a turn are alike: nobody waits long for another.
            return [groups[rank::num_ranks] for rank in range(num_ranks)]
    raise AssertionError("as many groups as examples always fit")


def rows(lengths: np.ndarray, order: np.ndarray, num_groups: int, max_tokens: int) -> list[np.ndarray] | None:
    """num_groups rows of at most max_tokens, or None. Each example, longest first, goes into the row that is shortest
    so far, which makes rows alike (Graham 1969); where that fails, into the fullest row with room for it."""
    return place(lengths, order, num_groups, max_tokens, min) or place(lengths, order, num_groups, max_tokens, max)


def place(lengths, order, num_groups, max_tokens, choose: Callable) -> list[np.ndarray] | None:
    members, num_tokens = [[] for _ in range(num_groups)], [0] * num_groups
    for example in order.tolist():
        length = int(lengths[example])
        open_rows = [i for i in range(num_groups) if num_tokens[i] + length <= max_tokens or not members[i]]
        if not open_rows:
            return None
        row = choose(open_rows, key=num_tokens.__getitem__)
        members[row].append(example)
        num_tokens[row] += length
    fullest_first = sorted(range(num_groups), key=lambda row: -num_tokens[row])
    return [np.array(members[row], dtype=np.int64) for row in fullest_first]


def like_lengths(lengths: np.ndarray, order: np.ndarray, num_groups: int, max_tokens: int) -> list[np.ndarray] | None:
    """num_groups neighbours in the order of lengths, padded to about the same size, or None if one gets too large."""
    low, high = int(lengths[order[0]]), max(max_tokens, int(lengths[order[0]]))
    if len(runs_of(lengths[order], high)) > num_groups:
        return None
    while low < high:  # the smallest size that will do
        middle = (low + high) // 2
        low, high = (low, middle) if len(runs_of(lengths[order], middle)) <= num_groups else (middle + 1, high)
    groups = np.split(order, runs_of(lengths[order], low)[1:])
    while len(groups) < min(num_groups, len(order)):  # halve the largest
        i = max(range(len(groups)), key=lambda i: len(groups[i]))
        half = len(groups[i]) // 2
        groups[i : i + 1] = [groups[i][:half], groups[i][half:]]
    return groups + [order[:0]] * (num_groups - len(groups))


def runs_of(descending: np.ndarray, size: int) -> list[int]:
    """Where the runs begin that number of examples x longest example keeps at or below size."""
    starts = [0]
    while (end := starts[-1] + max(1, size // int(descending[starts[-1]]))) < len(descending):
        starts.append(end)
    return starts


# ---- The steps as a data set ----


@dataclass(eq=False)
class Steps(torch.utils.data.Dataset):
    """The steps of a run as one rank reads them. Item number epoch * len(self) + k, the k-th step of that epoch, is
    {"micro_batches": a list of a model's inputs, "num_labels": that of all ranks together, "num_tokens": likewise}.

    dataset has lengths, int[n], and num_labels, int[n], of its examples. collate makes a model's inputs of a list
    of examples. Epochs are drawn as the Trainer draws them: seed + epoch.
    """

    dataset: torch.utils.data.Dataset
    examples_per_step: int
    max_tokens: int
    num_ranks: int
    rank: int
    seed: int
    collate: Callable[[list[dict]], dict]
    is_packed: bool
    drop_last: bool = False

    def __len__(self) -> int:
        num_examples = len(self.dataset)
        return num_examples // self.examples_per_step if self.drop_last else -(-num_examples // self.examples_per_step)

    def examples_of(self, step: int) -> np.ndarray:
        """Indices of the examples of all ranks in a step."""
        epoch, k = divmod(step, len(self))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        drawn = torch.randperm(len(self.dataset), generator=generator).numpy()
        return drawn[k * self.examples_per_step : (k + 1) * self.examples_per_step]

    def __getitem__(self, step: int) -> dict:
        examples = self.examples_of(step)
        lengths = self.dataset.lengths[examples]
        ranks = cut(lengths, self.num_ranks, self.max_tokens, self.is_packed)
        return {
            "micro_batches": [self.micro_batch(examples[members], examples) for members in ranks[self.rank]],
            "num_labels": int(self.dataset.num_labels[examples].sum()),
            "num_tokens": int(lengths.sum()),
        }

    def micro_batch(self, members: np.ndarray, examples: np.ndarray) -> dict:
        if len(members):
            return self.collate([self.dataset[int(i)] for i in members])
        # This rank has nothing left, but the others count on it in the exchange of gradients.
        example = self.dataset[int(examples[-1])]
        return self.collate([{**example, "labels": torch.full_like(example["labels"], -100)}])


def step_loader(steps: Steps, num_workers: int = 0, **options) -> torch.utils.data.DataLoader:
    """Batches of one step each. Its sampler is a list, the numbers of an epoch's steps, which begin_epoch fills: they
    hold the epoch, so that a worker process need not be told it."""
    numbers = list(range(len(steps)))
    only = operator.itemgetter(0)
    return torch.utils.data.DataLoader(
        steps, batch_size=1, sampler=numbers, collate_fn=only, num_workers=num_workers, **options
    )


def begin_epoch(loader: torch.utils.data.DataLoader, epoch: int) -> None:
    num_steps = len(loader)
    loader.sampler[:] = range(epoch * num_steps, (epoch + 1) * num_steps)


# ---- One row of several documents ----


class PackedRow:
    """Collates examples into one row: input_ids, labels, position_ids, LongTensor[1, n], and where documents end.

    cu_seq_lens_q and _k, IntTensor[m], begin with 0, hold the end of every document, and repeat n up to a length that
    is a multiple of DOCUMENTS_MULTIPLE. They and max_length_q and _k are called as transformers' FlashAttentionKwargs.
    """

    def __init__(self, model_max_length: int):
        self.model_max_length = model_max_length

    def __call__(self, examples: list[dict[str, torch.Tensor]]) -> dict:
        lengths = [len(example["input_ids"]) for example in examples]
        input_ids = [example["input_ids"] for example in examples]
        # No document predicts the first token of the next.
        labels = [torch.cat([torch.tensor([-100]), example["labels"][1:]]) for example in examples]
        ends = [0, *itertools.accumulate(lengths)]
        ends += [ends[-1]] * (-len(ends) % DOCUMENTS_MULTIPLE)
        cu_seq_lens = torch.tensor(ends, dtype=torch.int32)
        return {
            "input_ids": torch.cat(input_ids)[None],
            "labels": torch.cat(labels)[None],
            "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
            "cu_seq_lens_q": cu_seq_lens,
            "cu_seq_lens_k": cu_seq_lens,
            "max_length_q": self.model_max_length,  # the same for every row, so that compiled layers are kept
            "max_length_k": self.model_max_length,
            "use_cache": False,  # with a cache, masks would take the row for one document
        }


VARLEN = "varlen"  # the name of the attention below in transformers' registry


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document of a row, by torch's own flash kernel.

    query is Tensor[1, heads, n, d], key and value Tensor[1, key heads, n, d]; returns Tensor[1, n, heads, d].
    """
    from torch.nn.attention.varlen import varlen_attn

    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    # Under autocast, rotary embeddings leave query and key in float32, which the kernel does not take.
    query, key, value = (x.transpose(1, 2)[0].contiguous().to(value.dtype) for x in (query, key, value))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    lengths = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    return varlen_attn(query, key, value, *lengths, scale=scaling, window_size=window)[None], None


def attention_for_rows(device: torch.device, dtype: torch.dtype) -> str | None:
    """What attention keeps the documents of a row apart on this device in this number type: the name of its
    implementation in transformers, or None where there is none."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None
    transformers.AttentionInterface.register(VARLEN, varlen_attention)
    return VARLEN


# ---- The trainer ----


def max_tokens(args, num_examples: int) -> int:
    """The most tokens that a micro-batch may hold, padding included: those of so many of the longest examples."""
    allowed = num_examples * args.model_max_length
    return min(allowed, CPU_TOKENS) if args.device.type == "cpu" and args.pack_steps else allowed


def exchanges_each_micro_batch(args) -> bool:
    """Whether FSDP shards the gradients of each micro-batch at once: with offload, where whole gradients would not fit,
    and where the user says so, in --accelerator_config. Else a rank's are kept whole until the step's last one."""
    asked = (args.accelerator_config.gradient_accumulation_kwargs or {}).get("sync_each_batch", False)
    return bool(args.fsdp and args.fsdp_config.get("cpu_offload")) or asked


class PackedTrainer(CheckpointingTrainer):
    """A Trainer that takes a step in micro-batches cut as above, with one exchange of gradients.

    What the Trainer takes for a batch is a step: it counts, skips and resumes whole steps. args.pack_steps False leaves
    everything to the Trainer, and so do other sampling strategies than random, and models that cannot be told over
    how many labels their loss is a mean.
    """

    def __init__(self, model, args, **keywords):
        args = copy.copy(args)  # what the user asked for stays as it is
        super().__init__(model, args, **keywords)
        self.num_tokens, self.total_tokens, self.logged_at = 0, 0, None
        self.is_cut = args.pack_steps and args.train_sampling_strategy == "random" and self.model_accepts_loss_kwargs
        self.is_packed, self.collate = False, self.data_collator
        if not self.is_cut:
            return
        self.max_tokens = max_tokens(args, args.per_device_train_batch_size)
        args.per_device_train_batch_size *= args.gradient_accumulation_steps
        args.gradient_accumulation_steps = 1
        self._train_batch_size = args.train_batch_size
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        attention = attention_for_rows(args.device, dtype) if model.config.model_type in MODEL_TYPES else None
        self.is_packed = attention is not None
        if self.is_packed:
            model.set_attn_implementation(attention)
            self.collate = PackedRow(args.model_max_length)

    def steps_of(self, dataset, examples_per_rank: int, max_tokens: int, **options) -> Steps:
        """This rank's part of the steps of a dataset."""
        args = self.args
        return Steps(
            dataset, examples_per_rank * args.world_size, max_tokens, num_ranks=args.world_size,
            rank=args.process_index, collate=self.collate, is_packed=self.is_packed, **options,
        )  # fmt: skip

    def get_train_dataloader(self):
        if not self.is_cut:
            return super().get_train_dataloader()
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        steps = self.steps_of(
            self.train_dataset, args.train_batch_size, self.max_tokens, seed=seed, drop_last=args.dataloader_drop_last
        )
        pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
        return step_loader(steps, args.dataloader_num_workers, pin_memory=pin_memory)

    def num_examples(self, dataloader):
        return len(self.train_dataset) if self.is_cut else super().num_examples(dataloader)

    def _run_epoch(self, epoch, train_dataloader, **keywords):
        if self.state.global_step >= self.state.max_steps:  # transformers 5.23 would go on from such a checkpoint
            self.control.should_training_stop = True
            return
        if self.is_cut:
            begin_epoch(train_dataloader, epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **keywords)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.logged_at = self.logged_at or time.perf_counter()
        if self.is_cut:
            num_labels = batches[0]["num_labels"]
            self.num_tokens += batches[0]["num_tokens"]
        else:
            own = sum(batch["attention_mask"].sum() for batch in batches)  # on the device: no waiting
            self.num_tokens += self.accelerator.reduce(own.to(device))
        return batches, num_labels

    def training_step(self, model, inputs, num_items_in_batch=None):
        if not self.is_cut:
            return super().training_step(model, inputs, num_items_in_batch)
        *others, last = inputs["micro_batches"]
        losses = []
        with self.without_exchange(model):
            for micro_batch in others:
                losses.append(super().training_step(model, micro_batch, num_items_in_batch))
        losses.append(super().training_step(model, last, num_items_in_batch))
        return torch.stack(losses).sum()

    @contextlib.contextmanager
    def without_exchange(self, model) -> Iterator[None]:
        """Gradients stay on their rank inside. Weights that FSDP keeps whole after the forward pass, it keeps there for
        the next micro-batch as well."""
        if exchanges_each_micro_batch(self.args):
            yield
            return
        config = self.args.fsdp_config if self.is_fsdp_enabled else {}
        keeps_whole = self.is_fsdp_enabled and not config.get("reshard_after_forward", True)
        self.accelerator.gradient_state._set_sync_gradients(False)  # DeepSpeed asks this
        if keeps_whole:
            model.set_reshard_after_backward(False)
        try:
            # DeepSpeed refuses no_sync where it partitions gradients.
            with contextlib.nullcontext() if self.is_deepspeed_enabled else self.accelerator.no_sync(model):
                yield
        finally:
            if keeps_whole:
                model.set_reshard_after_backward(True)
            self.accelerator.gradient_state._set_sync_gradients(True)

    def floating_point_ops(self, inputs):
        return sum(map(super().floating_point_ops, inputs["micro_batches"] if self.is_cut else [inputs]))

    def _track_num_input_tokens(self, inputs):
        for micro_batch in inputs["micro_batches"] if self.is_cut else [inputs]:
            super()._track_num_input_tokens(micro_batch)

    def log(self, logs, start_time=None):
        if "loss" in logs:
            now = time.perf_counter()
            logs["tokens_per_sec"] = round(int(self.num_tokens) / (now - self.logged_at))
            self.total_tokens += int(self.num_tokens)
            self.num_tokens, self.logged_at = 0, now
        super().log(logs, start_time)


def compile_layers(model: torch.nn.Module, dynamic: bool | None = True) -> None:
    """torch.compile each decoder layer by itself: they share one compilation, of seconds, for rows of any length."""
    for module in model.modules():
        if type(module).__name__ in (model._no_split_modules or ()):
            module.compile(dynamic=dynamic)
