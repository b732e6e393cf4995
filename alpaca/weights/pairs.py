"""Pairs of tensors: which tensor of the base model belongs to which of the tuned model or of the diff.

The two checkpoints may differ in files, number types and names (with or without the inner model's prefix, tied
embeddings once or twice), and the tuned model may have more tokens, such as [PAD]. Also here: how a pair is read in
slices, and how all pairs are worked on by several threads.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import dataclasses
import functools
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

from alpaca.inference.local import NO_CODE, TOKENIZER_FILES, load_errors_in_one_line, num_rows_of
from alpaca.weights.model_files import DTYPES, EXACT_PREFIX, ITEMSIZE, Shards, StoredTensor, torch_dtype
from utils import UserError, jload

SLICE = 1 << 17  # elements at a time: small enough for the processor's caches
MEAN_BYTES = 1 << 26  # of the embedding's columns, in float32, that are averaged at a time


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the files alone do not tell about a model's tensors."""

    prefix: str  # of the inner model ("model"); some checkpoints leave it out of the names
    tied: dict[str, str]  # tensors that are another one under a second name, such as "lm_head.weight" in OPT
    embeddings: tuple[str, ...] = ()  # input and output embedding
    names: tuple[str, ...] = ()  # all names, in the order of the state dict

    def bare(self, name: str) -> str:
        """A tensor's name without the inner model's, and without that of the text part of a text and vision model."""
        return re.sub(rf"^((?:{re.escape(self.prefix)}|language_model)\.)*", "", name)

    @property
    def twins(self) -> list[tuple[str, str]]:
        """Any two names of one tensor, either way round."""
        return [twins for names in self.tied.items() for twins in (names, names[::-1])]

    def finder(self, tensors: dict[str, StoredTensor]) -> Callable[[str], StoredTensor | None]:
        """A function that finds a tensor by its name, with or without the prefix, or by that of its tied twin."""
        by_bare_name = {self.bare(name): tensor for name, tensor in tensors.items()}
        for name, twin in self.twins:
            if self.bare(twin) in by_bare_name:
                by_bare_name.setdefault(self.bare(name), by_bare_name[self.bare(twin)])
        return lambda name: by_bare_name.get(self.bare(name))


def read_architecture(path: str) -> Architecture:
    """Build the model that path/config.json describes, without weights, and ask it for its names."""
    jload(Path(path) / "config.json")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with load_errors_in_one_line(f"{path}/config.json: not a causal language model"), torch.device("meta"):
        config = AutoConfig.from_pretrained(path, **NO_CODE)
        model = AutoModelForCausalLM.from_config(config, **NO_CODE)
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [module.weight for module in modules if module is not None]
    parameters = model.named_parameters(remove_duplicate=False)
    embeddings = tuple(name for name, parameter in parameters if any(parameter is weight for weight in weights))
    return Architecture(
        model.base_model_prefix, dict(model.all_tied_weights_keys), embeddings, tuple(model.state_dict())
    )


def count_tokens(path: str) -> int | None:
    """How many rows a model's tokenizer needs, None where no tokenizer is."""
    if not any((Path(path) / name).is_file() for name in TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    with load_errors_in_one_line(f"{path}: its tokenizer"):
        return num_rows_of(AutoTokenizer.from_pretrained(path, **NO_CODE))


@dataclasses.dataclass
class Pair:
    """A tensor of the tuned model, or of the diff, and the tensor of the base model that belongs to it."""

    name: str
    source: StoredTensor
    base: StoredTensor
    base_rows: int  # as many rows come from the base; each further one that source has is their mean
    base_dtype: str  # to which base values are converted before anything else
    times: int = 1  # how often recover adds the base
    is_kept: bool = True  # whether the recovered model has this tensor

    @property
    def base_numel(self) -> int:
        return self.base_rows * math.prod(self.base.shape[1:])

    def slices(self) -> Iterator[tuple[int, int]]:
        """Ranges of elements, none of which holds elements both of the base and of its mean."""
        for first, last in ((0, self.base_numel), (self.base_numel, self.source.numel)):
            for start in range(first, last, SLICE):
                yield start, min(start + SLICE, last)

    def read_base(self, start: int, stop: int):
        """Tensor[stop - start] in base_dtype or, where rows are the mean, in float32."""
        if start >= self.base_numel:
            import torch

            return self.mean_row[torch.arange(start - self.base_numel, stop - self.base_numel) % len(self.mean_row)]
        return self.base.read(start, stop).to(torch_dtype(self.base_dtype))

    @functools.cached_property
    def mean_row(self):
        """Tensor[columns], the mean of the base's rows, to the bit the tensor.float().mean(dim=0) of all of it.

        Each column's mean depends on that column alone, but torch takes what is left over after all multiples of 32
        columns in another order. Blocks of a multiple of 64 columns leave the same columns over.
        """
        import torch

        num_columns = math.prod(self.base.shape[1:])
        block = max(64, MEAN_BYTES // 4 // max(1, self.base_rows) // 64 * 64)
        means, rows_per_read = [], max(1, SLICE // num_columns)
        for first in range(0, num_columns, block):
            columns = torch.empty(self.base_rows, min(block, num_columns - first))
            for row in range(0, self.base_rows, rows_per_read):
                stop = min(row + rows_per_read, self.base_rows)
                values = self.read_base(row * num_columns, stop * num_columns).view(-1, num_columns)
                columns[row:stop] = values[:, first : first + block].float()
            means.append(columns.mean(dim=0))
        return torch.cat(means)


def pair_up(
    source: dict[str, StoredTensor],
    base: dict[str, StoredTensor],
    architecture: Architecture,
    source_tokens: int | None,
    base_tokens: int | None,
) -> list[Pair]:
    """The base tensor of every tensor of source (the tuned model or the diff).

    source_tokens, base_tokens: rows that their tokenizers need, None where there is none. Where source's tokenizer is
    the longer one, or longer than the base's embeddings, the base gains rows as in
    smart_tokenizer_and_embedding_resize: both embeddings keep the rows of the base's tokens, and their mean follows.
    Raises UserError where names, shapes or number types do not fit.
    """
    in_source, in_base = architecture.finder(source), architecture.finder(base)
    known = {architecture.bare(name) for name in architecture.names}
    embeddings = {architecture.bare(name) for name in architecture.embeddings}
    missing = [name for name in architecture.names if in_source(name) is None]
    # A few architectures have other names in files than in memory. Theirs can only be compared with each other.
    if all(architecture.bare(name) in known for name in source):
        problems = [f"tensor {name} is missing in {_folder(source)}" for name in missing]
    else:
        problems = [f"tensor {name} is missing in {_folder(source)}" for name in missing if in_base(name)]
    pairs = []
    for name, tensor in source.items():
        if not missing and architecture.bare(name) not in known:
            continue  # no part of the model: transformers ignores it, too
        other = in_base(name)
        if other is None:
            problems.append(f"tensor {name} is missing in {_folder(base)}")
            continue
        tokens = (source_tokens, base_tokens) if architecture.bare(name) in embeddings else None
        rows = _base_rows(tensor, other, tokens)
        if rows is None:
            problems.append(_misfit(tensor, other))
        else:
            pairs.append(Pair(name, tensor, other, rows, other.dtype))
    if problems:
        more = f" {len(problems)} tensors do not fit." if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}.{more}")
    check_layers(source, base, architecture)
    return pairs


def check_layers(source: dict[str, StoredTensor], base: dict[str, StoredTensor], architecture: Architecture) -> None:
    """Raise UserError where the base has layers that source, the tuned model or the diff, has not.

    Names that source has in no layer at all (masks, position ids, a tied twin) are of no concern.
    """

    def count(tensors: dict[str, StoredTensor]) -> collections.Counter:
        return collections.Counter(re.sub(r"\b\d+\b", "*", architecture.bare(name)) for name in tensors)

    in_source, in_base = count(source), count(base)
    for name, number in in_source.items():
        if in_base[name] > number:
            raise UserError(
                f"{_folder(base)}: holds {in_base[name]} tensors {name}, and {_folder(source)} only {number}: a base "
                "with more layers. Name the base that the model was tuned from."
            )


def _folder(tensors: dict[str, StoredTensor]) -> Path:
    return next(iter(tensors.values())).path.parent


def _base_rows(tensor: StoredTensor, other: StoredTensor, tokens: tuple[int | None, int | None] | None) -> int | None:
    """How many rows of the base tensor are used; None if the two do not fit. tokens, for embeddings: as in pair_up."""
    if not {tensor.dtype, other.dtype} <= DTYPES.keys():
        return None
    if tokens and tensor.shape[1:] == other.shape[1:]:
        rows, base_rows = tensor.shape[0], other.shape[0]
        source_tokens, base_tokens = tokens[0] or rows, tokens[1] or base_rows
        known = min(base_rows, base_tokens)
        # The tuned model has a row for each token, or more, filled up to a round number.
        if known < rows == source_tokens or (base_rows < rows and known < source_tokens < rows):
            return known
    if tensor.shape == other.shape:
        return other.shape[0] if other.shape else 1
    return None


def _misfit(tensor: StoredTensor, other: StoredTensor) -> str:
    """What is wrong with a pair, in words."""
    if tensor.shape == other.shape:
        return (
            f"tensor {tensor.name} holds {other.dtype} in {other.path} and {tensor.dtype} in {tensor.path}; "
            "only floating point weights have a difference"
        )
    advice = ""
    if tensor.shape[1:] == other.shape[1:] and tensor.shape[0] > other.shape[0]:
        advice = " (rows are added only where the tuned model's tokenizer is longer than the base's)"
    return (
        f"tensor {tensor.name} is {list(other.shape)} in {other.path} and {list(tensor.shape)} in "
        f"{tensor.path}: another architecture or vocabulary{advice}"
    )


def lay_out(pairs: list[Pair], exact: bool, prefix: str) -> Shards:
    """One shard for each file that the pairs come from."""
    shards: Shards = {}
    for pair in pairs:
        stem = pair.source.path.stem.removeprefix(EXACT_PREFIX).replace("pytorch_model", "model")
        layout = shards.setdefault(f"{prefix}{stem}.safetensors", [])
        layout.append((pair.name, pair.source.dtype if exact else "F32", pair.source.shape))
    for layout in shards.values():  # as safetensors itself does: large types first, so that all are aligned
        layout.sort(key=lambda entry: -ITEMSIZE[entry[1]])
    return shards


def stream(work: Callable, pairs: list[Pair], label: str, num_bytes: int, *arguments) -> list:
    """[work(pair, advance, *arguments) for pair in pairs], by several threads, with a progress bar in bytes.

    Reading, arithmetic (torch), hashing and writing release the interpreter lock, so that threads which each take a
    whole tensor overlap them. work calls advance(bytes) after each slice. The first error ends all.
    """
    import torch
    from tqdm import tqdm

    lock, stop = threading.Lock(), threading.Event()
    bar = tqdm(total=num_bytes, desc=label, unit="B", unit_scale=True, smoothing=0.05)

    def advance(count: int) -> None:
        if stop.is_set():
            raise futures.CancelledError
        with lock:
            bar.update(count)

    # One thread for each core, eight at most: then memory or disk are the limit. torch's own would get in their way.
    num_threads = max(2, min(8, os.cpu_count() or 2))
    with bar, futures.ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = [pool.submit(work, pair, advance, *arguments) for pair in pairs]
        try:
            for job in futures.as_completed(jobs):
                job.result()  # raises the error, if it was this one
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        return [job.result() for job in jobs]
