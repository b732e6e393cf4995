"""Publish a tuned model as its difference to the base model, and recover the tuned model from the two.

  python weight_diff.py make_diff --path_raw <base> --path_tuned <tuned> --path_diff <diff>
  python weight_diff.py recover --path_raw <base> --path_diff <diff> --path_tuned <recovered>

Each writes one new folder that loads as a model. Tensors pass through memory in slices, so that any model needs
less than 1 GB. With --exact True the tuned model comes back bit for bit, in its own number type.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

from alpaca.inference.local import NO_CODE, Decoding, LocalModel, generate, load_errors_in_one_line, max_length
from alpaca.weights import model_files
from alpaca.weights.known_sum import check_sum, is_alpaca_7b, rotary_sums
from alpaca.weights.manifest import MANIFEST, Manifest, read_manifest
from alpaca.weights.model_files import INDEX, Shards, ShardWriter, StoredTensor, bytes_of, new_directory, size_text
from alpaca.weights.pairs import Architecture, Pair, count_tokens, lay_out, pair_up, read_architecture, stream
from utils import UserError, format_prompt, os_errors_in_one_line, printable, run_commands

# Follows from the configuration. The library versions of spring 2023 stored one such buffer per layer.
ROTARY_BUFFER = "rotary_emb.inv_freq"

INSTRUCTION = "Name three things that people use every day."
NEW_TOKENS = 64
WORKING_BYTES = 1 << 29  # what inference takes beside the weights


# ---- What both commands need ----


def subtract(tuned, base, exact: bool):
    """The difference of two flat tensors: in float32 or, if exact, of their bits, modulo 2^n, in tuned's dtype."""
    if exact:
        return (_bits(tuned) - _bits(base.float().to(tuned.dtype))).view(tuned.dtype)
    return tuned.float() - base.float()


def add(diff, base, exact: bool):
    """What undoes subtract: exactly, or up to the rounding of the difference and of the sum."""
    if exact:
        return (_bits(diff) + _bits(base.float().to(diff.dtype))).view(diff.dtype)
    return diff.float() + base.float()


def _bits(values):
    import torch

    return values.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()])


def check_device(device: str) -> None:
    """Raise UserError for a device that is not here."""
    if device == "cpu":
        return
    import torch

    if not device.startswith("cuda"):
        raise UserError(f"--device {device}: has to be cpu, cuda, or a certain GPU such as cuda:0.")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        raise UserError(f"--device {device}: no such GPU here. Leave --device out; the result is the same.") from None


def open_model(path: str, prefix: str = "") -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """The tensors of a checkpoint, and its rotary buffers apart."""
    tensors = model_files.open_checkpoint(path, prefix)
    buffers = {name: tensor for name, tensor in tensors.items() if name.endswith(ROTARY_BUFFER)}
    return {name: tensor for name, tensor in tensors.items() if name not in buffers}, buffers


def announce(pairs: list[Pair], shards: Shards, target: str | None) -> None:
    """Say what is about to be written, and where the base model gains rows."""
    size = f"{size_text(model_files.total_bytes(shards))} to {target}" if target else "nothing (no --path_tuned)"
    print(f"{model_files.total_numel(shards):,} parameters in {len(pairs)} tensors; writing {size}.")
    if longer := [pair.name for pair in pairs if pair.base_numel < pair.source.numel]:
        names = printable(" and ".join(longer))
        print(f"The base model has fewer tokens: {names} gain rows, each the mean of the base's.")


def float32_config(content: bytes, is_tied: bool | None) -> bytes:
    """config.json for float32 weights and, unless is_tied is None, for embeddings that are tied or not."""
    config = json.loads(content)
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = "float32"
    if is_tied is not None:
        config["tie_word_embeddings"] = is_tied
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


# ---- make_diff ----


def make_diff(path_raw: str, path_tuned: str, path_diff: str, device: str = "cpu", exact: bool = False) -> None:
    """Write the difference of a tuned model to its base model, from which others recover the tuned model.

    The diff loads as a model, of float32 numbers that mean nothing by themselves, and the original Alpaca script
    recovers from it, too. Its manifest, weight_diff.json, lets recover prove what it does.

    Args:
        path_raw: folder of the base model: safetensors or pickled, in shards or not, any floating point type.
        path_tuned: folder of the tuned model, likewise.
        path_diff: new folder for the diff.
        device: cpu or cuda: where the arithmetic is done.
        exact: store differences of bit patterns in the tuned model's own type; it will be recovered bit for bit.
    """
    with os_errors_in_one_line():
        check_device(device)
        model_files.check_unused(path_diff)
        base, base_buffers = open_model(path_raw)
        tuned, tuned_buffers = open_model(path_tuned)
        architecture = read_architecture(path_tuned)
        tuned, twins = (tuned, []) if exact else as_in_state_dict(tuned, architecture)
        pairs = pair_up(tuned, base, architecture, count_tokens(path_tuned), count_tokens(path_raw))
        shards = lay_out(pairs, exact, model_files.EXACT_PREFIX if exact else "")
        # Zeros, which a new file holds anyway: an old library adds the base model's buffers to those of the diff.
        buffers = {} if exact else {name: tensor.shape for name, tensor in {**base_buffers, **tuned_buffers}.items()}
        shards[next(iter(shards))] += [(name, "F32", shape) for name, shape in buffers.items()]
        announce(pairs, shards, path_diff)
        if left_out := sorted((tuned.keys() | tuned_buffers.keys()) - {pair.name for pair in pairs}):
            print(f"{len(left_out)} tensors that are no part of the model are left out: {printable(left_out[0])}, ...")
        with new_directory(path_diff, model_files.total_bytes(shards)) as directory:
            writer = ShardWriter(directory, shards)
            num_bytes = sum(pair.source.nbytes for pair in pairs)
            records = stream(subtract_pair, pairs, "make_diff", num_bytes, exact, device, writer.write)
            headers = writer.finish()
            files, left_behind = model_files.small_files(path_tuned)
            if not exact:
                files["config.json"] = float32_config(files["config.json"], False if architecture.tied else None)
            model_files.write_small_files(directory, files, shards, Path(path_tuned) / INDEX)
            tensors = {pair.name: record for pair, record in zip(pairs, records, strict=True)}
            manifest = Manifest(exact, architecture.prefix, architecture.tied, twins, tensors)
            manifest.write(directory, headers, {name: 4 * math.prod(shape) for name, shape in buffers.items()})
    print(printable(describe_deviation(manifest)))
    if twins:
        print(
            f"{' and '.join(twins)}, which the tuned model ties to another tensor, is in the difference a second time: "
            "the original script adds the base to each name. --exact True writes it once."
        )
    if left_behind:
        print(f"Of {path_tuned}, this stays behind: {printable(', '.join(left_behind))}.")
    print(f"Wrote {path_diff}.")


def as_in_state_dict(
    tuned: dict[str, StoredTensor], architecture: Architecture
) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors by their names in the model's state dict, and the second names of tied tensors, added among them.

    The original script adds the base model to every name in the state dict. Were embeddings tied in the diff, it
    would add it twice to the same memory; so they are not, and each name has a difference of its own.
    """
    full_names = {architecture.bare(name): name for name in architecture.names}
    tensors = {full_names.get(architecture.bare(name), name): tensor for name, tensor in tuned.items()}
    twins = []
    for name, twin in architecture.twins:
        if name not in tensors and twin in tensors:
            tensors[name] = tensors[twin]
            twins.append(name)
    return tensors, twins


def subtract_pair(pair: Pair, advance: Callable[[int], None], exact: bool, device: str, write: Callable) -> dict:
    """Write the difference of one pair. Returns its entry in the manifest."""
    import torch

    of_base, of_diff, of_recovered = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    deviation = torch.zeros((), device=device)
    for start, stop in pair.slices():
        base, tuned = pair.read_base(start, stop), pair.source.read(start, stop)
        if start < pair.base_numel:
            of_base.update(bytes_of(base))
        base, tuned = base.to(device), tuned.to(device)
        diff = subtract(tuned, base, exact)
        recovered = add(diff, base, exact)
        if not exact:
            deviation = torch.maximum(deviation, (recovered - tuned).abs_().max())  # hands NaN on
        diff, recovered = diff.cpu(), recovered.cpu()
        write(pair.name, start, diff)
        of_diff.update(bytes_of(diff))
        of_recovered.update(bytes_of(recovered))
        advance(tuned.nbytes)
    return {
        "base_name": pair.base.name,
        "base_dtype": pair.base.dtype,
        "base_shape": list(pair.base.shape),
        "base_rows": pair.base_rows,
        "base_sha256": of_base.hexdigest(),
        "diff_sha256": of_diff.hexdigest(),
        "recovered_sha256": of_recovered.hexdigest(),
        "deviation": None if deviation.isnan() else deviation.item(),
    }


def describe_deviation(manifest: Manifest) -> str:
    """How far a recovered model is from the tuned one."""
    deviations = {name: record["deviation"] for name, record in manifest.tensors.items()}  # the largest; None: NaN
    name, worst = max(deviations.items(), key=lambda item: (item[1] is None, item[1]))
    if manifest.exact:
        return "The recovered model is identical to the tuned model, bit for bit."
    if worst is None:
        return f"Warning: {name} holds values that are not finite; only --exact True recovers them."
    if worst == 0:
        return "The recovered model is equal to the tuned model in every value."
    return f"Largest deviation of the recovered from the tuned model: {worst:.2g}, in {name} (rounding)."


# ---- recover ----


def recover(
    path_raw: str,
    path_diff: str,
    path_tuned: str | None = None,
    device: str = "cpu",
    test_inference: bool = True,
    check_integrity_naively: bool = True,
) -> None:
    """Recover a tuned model from its base model and its published difference.

    For Alpaca-7B: have LLaMA-7B as a Hugging Face checkpoint in one folder, the published difference in another and
    27 GB free for a third, and give the three as path_raw, path_diff and path_tuned.

    Args:
        path_raw: folder of the base model: safetensors or pickled, in shards or not.
        path_diff: folder of the diff, made here or by the original script.
        path_tuned: new folder for the recovered model; without it, all is checked and nothing written.
        device: cpu or cuda: where the arithmetic is done.
        test_inference: print how the recovered model completes an instruction, if there is memory to load it.
        check_integrity_naively: for the published Alpaca-7B diff, compare the sum of all values with the known one.
            A diff with a manifest is checked by SHA-256 in any case.
    """
    with os_errors_in_one_line():
        check_device(device)
        if path_tuned is not None:
            model_files.check_unused(path_tuned)
        manifest = read_manifest(path_diff)
        pairs, buffer_sums = plan_recovery(path_raw, path_diff, manifest, check_integrity_naively)
        shards = lay_out([pair for pair in pairs if pair.is_kept], manifest.exact, "")
        announce(pairs, shards, path_tuned)
        dtype = dtype_that_fits(shards) if test_inference else None
        state_dict = {}
        if path_tuned is None:
            state_dict = empty_state_dict(shards, dtype)
            add_pairs(pairs, manifest, buffer_sums, device, functools.partial(copy_into, state_dict))
        else:
            with new_directory(path_tuned, model_files.total_bytes(shards)) as directory:
                writer = ShardWriter(directory, shards)
                add_pairs(pairs, manifest, buffer_sums, device, writer.write)
                writer.finish()
                files, _ = model_files.small_files(path_diff)
                files.pop(MANIFEST, None)
                if not manifest.exact:
                    files["config.json"] = float32_config(files["config.json"], True if manifest.tied else None)
                index_path = Path(path_diff) / (manifest.shard_prefix + INDEX)
                model_files.write_small_files(directory, files, shards, index_path)
    print(printable(describe_recovery(pairs, manifest)))
    if path_tuned is not None:
        print(f"Wrote {path_tuned}.")
    if dtype is not None:
        try:
            print_completion(path_tuned or path_diff, dtype, state_dict, bool(manifest.tied))
        except UserError as error:  # what was recovered is right all the same
            print(f"No completion from the recovered model: {error}")


def plan_recovery(
    path_raw: str, path_diff: str, manifest: Manifest, check_integrity_naively: bool
) -> tuple[list[Pair], dict[str, float]]:
    """Pair the diff with the base model, after all checks that can be made before anything is written.

    The second value is the sums of the rotary buffers where the sum of all values is known, or else empty.
    """
    base, base_buffers = open_model(path_raw)
    if manifest:
        manifest.check_files(path_diff)
        diff, diff_buffers = open_model(path_diff, manifest.shard_prefix)
        manifest.check_buffers(diff_buffers)
        pairs = manifest.pair_up(diff, base, path_raw)
        manifest.check_base(pairs, path_raw)
        return pairs, {}
    if any(Path(path_diff).glob(f"{model_files.EXACT_PREFIX}*")):
        raise UserError(f"{path_diff}: an exact diff without its manifest. Get {MANIFEST}, too.")
    diff, diff_buffers = open_model(path_diff)
    architecture = read_architecture(path_diff)
    pairs = pair_up(diff, base, architecture, count_tokens(path_diff), count_tokens(path_raw))
    add_twice_where_tied(pairs, architecture)
    if not check_integrity_naively:
        return pairs, {}
    if not is_alpaca_7b(pairs):
        print("No manifest, and not the published Alpaca-7B, the one model whose sum is known: nothing to check it by.")
        return pairs, {}
    return pairs, rotary_sums(diff_buffers, base_buffers)


def add_twice_where_tied(pairs: list[Pair], architecture: Architecture) -> None:
    """Undo what the original script does to tied embeddings.

    It subtracts the base from every name in the state dict, and where two names are one tensor, that is twice. Diffs
    made here have a manifest, and are untied unless exact: one without, whose configuration ties, is of its making.
    """
    tied = {architecture.bare(name) for name, _ in architecture.twins}
    for pair in pairs:
        if architecture.bare(pair.name) in tied:
            pair.times = 2
            name = printable(pair.name)
            print(f"The base was subtracted twice from {name}, as the original script does; it is added twice.")


def add_pairs(
    pairs: list[Pair], manifest: Manifest, buffer_sums: dict[str, float], device: str, write: Callable
) -> None:
    """Recover every tensor. Raises UserError if the manifest, or else the sum of all values, says it is wrong."""
    num_bytes = sum(pair.source.nbytes for pair in pairs)
    sums = stream(add_pair, pairs, "recover", num_bytes, manifest, device, write)
    if buffer_sums:
        print(check_sum(buffer_sums, {pair.name: value for pair, value in zip(pairs, sums, strict=True)}))


def add_pair(pair: Pair, advance: Callable[[int], None], manifest: Manifest, device: str, write: Callable) -> float:
    """Recover one tensor. Returns the float64 sum of its values, or 0.0 where the manifest checks it instead."""
    import torch

    of_diff, of_recovered, total = hashlib.sha256(), hashlib.sha256(), 0.0
    for start, stop in pair.slices():
        base, diff = pair.read_base(start, stop), pair.source.read(start, stop)
        base, recovered = base.to(device), diff.to(device)
        for _ in range(pair.times):
            recovered = add(recovered, base, manifest.exact)
        recovered = recovered.cpu()
        if manifest:
            of_diff.update(bytes_of(diff))
            of_recovered.update(bytes_of(recovered))
        else:
            total += recovered.sum(dtype=torch.float64).item()
        if pair.is_kept:
            write(pair.name, start, recovered)
        advance(diff.nbytes)
    if manifest:
        manifest.check_recovered(pair, of_diff.hexdigest(), of_recovered.hexdigest())
    return total


def describe_recovery(pairs: list[Pair], manifest: Manifest) -> str:
    if not manifest:
        return f"Recovered {len(pairs)} tensors."
    num_kept = sum(pair.is_kept for pair in pairs)
    return (
        f"Recovered {num_kept} tensors; base, diff and result have the SHA-256 that the manifest says. "
        f"{describe_deviation(manifest)}"
    )


# ---- The completion at the end ----


def dtype_that_fits(shards: Shards):
    """float32 or bfloat16, whichever the memory has room for, or None, after a line that says so."""
    import torch

    from alpaca.training import memory

    numel = model_files.total_numel(shards)
    available = memory.available_cpu_bytes()
    for dtype in (torch.float32, torch.bfloat16):
        if numel * dtype.itemsize + WORKING_BYTES <= available:
            return dtype
    print(
        f"No completion from the recovered model: it needs {size_text(numel * 2 + WORKING_BYTES)} of memory, "
        f"{size_text(available)} are available."
    )
    return None


def empty_state_dict(shards: Shards, dtype) -> dict:
    import torch

    if dtype is None:
        return {}
    return {name: torch.empty(shape, dtype=dtype) for layout in shards.values() for name, _, shape in layout}


def copy_into(state_dict: dict, name: str, start: int, values) -> None:
    """Keep a slice of a recovered tensor, if it is wanted."""
    if name in state_dict:
        state_dict[name].view(-1)[start : start + len(values)] = values


def print_completion(path: str, dtype, state_dict: dict, is_tied: bool) -> None:
    """Print a model's answer to INSTRUCTION. Raises UserError where it cannot be loaded, or reads too few tokens.

    path holds the model or, where there is a state_dict, what else belongs to it; is_tied then says that its
    embeddings are tied, whatever the configuration there says.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with load_errors_in_one_line(path):
        tokenizer = AutoTokenizer.from_pretrained(path, **NO_CODE)
        if state_dict:
            config = AutoConfig.from_pretrained(path, **NO_CODE)
            if is_tied:
                config.tie_word_embeddings = True
            with torch.device("meta"):  # only to learn its class
                model_class = type(AutoModelForCausalLM.from_config(config, **NO_CODE))
            model = model_class.from_pretrained(None, config=config, state_dict=state_dict, dtype=dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **NO_CODE)
        local = LocalModel(path, model, tokenizer, frozenset({tokenizer.eos_token_id}), max_length(model.config))
        [(_, completion, _)] = generate(local, {0: format_prompt(INSTRUCTION)}, Decoding(NEW_TOKENS))
    completion = printable(completion, keep="\n\t")
    print(f"Instruction: {INSTRUCTION}\nCompletion ({str(dtype).removeprefix('torch.')}): {completion}")


if __name__ == "__main__":
    run_commands({"make_diff": make_diff, "recover": recover})
