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

from alpaca.weights import completion, model_files
from alpaca.weights import manifest as proof
from alpaca.weights.model_files import ITEMSIZE, Shards, ShardWriter, StoredTensor, bytes_of, new_directory, size_text
from alpaca.weights.pairs import (
    Architecture,
    Pair,
    add_twice_where_subtracted_twice,
    count_tokens_without_pad,
    one_torch_thread,
    pair_up,
    read_architecture,
    stream,
)
from utils import UserError, run_commands

# Shards of an exact diff carry another name, so that no library takes differences of bit patterns for weights.
EXACT_PREFIX = "exact-"
# Follows from the configuration. The library versions of spring 2023 stored one such buffer per layer.
ROTARY_BUFFER = "rotary_emb.inv_freq"


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


def announce(pairs: list[Pair], shards: Shards, target: str | None) -> None:
    """Say what is about to be written, and where the base model gains a row."""
    size = f"{size_text(model_files.total_bytes(shards))} to {target}" if target else "nothing (no --path_tuned)"
    print(f"{model_files.total_numel(shards):,} parameters in {len(pairs)} tensors; writing {size}.")
    if longer := [pair.name for pair in pairs if pair.base_numel < pair.source.numel]:
        print(f"The base model has no pad token: {' and '.join(longer)} gain a row for [PAD], the mean of the others.")


def write_small_files(directory: Path, files: dict[str, bytes], shards: Shards, index: bytes | None) -> None:
    """All of a model but its shards; config.json, without which nothing loads, comes last.

    index: the content of one that there is already, to be kept if it fits. Indices do not show EXACT_PREFIX.
    """
    prefix = EXACT_PREFIX if next(iter(shards)).startswith(EXACT_PREFIX) else ""
    if shards.keys() != {f"{prefix}model.safetensors"}:
        new_index = model_files.index_of({name.removeprefix(prefix): layout for name, layout in shards.items()})
        is_same = index is not None and json.loads(index)["weight_map"] == json.loads(new_index)["weight_map"]
        model_files.write_file(directory / f"{prefix}model.safetensors.index.json", index if is_same else new_index)
    for name in sorted(files, key="config.json".__eq__):
        model_files.write_file(directory / name, files[name])


def read_index(path: str, prefix: str = "") -> bytes | None:
    file = Path(path) / f"{prefix}model.safetensors.index.json"
    return file.read_bytes() if file.is_file() else None


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
    with model_files.os_errors_in_one_line(), one_torch_thread():
        check_device(device)
        model_files.check_unused(path_diff)
        base, base_buffers = open_model(path_raw)
        tuned, tuned_buffers = open_model(path_tuned)
        architecture = read_architecture(path_tuned)
        tuned, twins = (tuned, []) if exact else as_in_state_dict(tuned, architecture)
        pairs = pair_up(tuned, base, architecture, count_tokens_without_pad(path_raw))
        shards = lay_out(pairs, exact, EXACT_PREFIX if exact else "")
        # Zeros, which a new file holds anyway: an old library adds the base model's buffers to those of the diff.
        buffers = {} if exact else {name: tensor.shape for name, tensor in {**base_buffers, **tuned_buffers}.items()}
        shards[next(iter(shards))] += [(name, "F32", shape) for name, shape in buffers.items()]
        announce(pairs, shards, path_diff)
        if left_out := sorted((tuned.keys() | tuned_buffers.keys()) - {pair.name for pair in pairs}):
            print(f"{len(left_out)} tensors that are no part of the model are left out: {left_out[0]}, ...")
        with new_directory(path_diff, model_files.total_bytes(shards)) as directory:
            writer = ShardWriter(directory, shards)
            work = functools.partial(subtract_pair, exact=exact, device=device, write=writer.write)
            records = stream(work, pairs, "make_diff", sum(pair.nbytes for pair in pairs))
            headers = writer.finish()
            files = model_files.small_files(path_tuned)
            if not exact:
                files["config.json"] = float32_config(files["config.json"], False if architecture.tied else None)
            write_small_files(directory, files, shards, read_index(path_tuned) if exact else None)
            proof.write_manifest(
                directory,
                headers,
                {name: 4 * math.prod(shape) for name, shape in buffers.items()},
                exact=exact,
                prefix=architecture.prefix,
                tied=architecture.tied,
                twins=twins,
                tensors={pair.name: record for pair, record in zip(pairs, records, strict=True)},
            )
    print(describe_deviation({pair.name: r["deviation"] for pair, r in zip(pairs, records, strict=True)}, exact))
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
    for names in architecture.tied.items():
        for name, other in (names, names[::-1]):
            if name not in tensors and other in tensors:
                tensors[name] = tensors[other]
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
        advance(pair.nbytes_of_slice(start, stop))
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


def describe_deviation(deviations: dict[str, float | None], exact: bool) -> str:
    """How far a recovered model is from the tuned one, by the largest deviation of each tensor (None: no number)."""
    name, worst = max(deviations.items(), key=lambda item: (item[1] is None, item[1]))
    if exact:
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
    with model_files.os_errors_in_one_line(), one_torch_thread():
        check_device(device)
        if path_tuned is not None:
            model_files.check_unused(path_tuned)
        manifest = proof.read_manifest(path_diff)
        pairs, check_sum = plan_recovery(path_raw, path_diff, manifest, check_integrity_naively)
        exact = manifest is not None and manifest["exact"]
        shards = lay_out([pair for pair in pairs if pair.is_kept], exact, "")
        announce(pairs, shards, path_tuned)
        dtype = completion.dtype_that_fits(shards) if test_inference else None
        state_dict = {}
        if path_tuned is None:
            state_dict = completion.empty_state_dict(shards, dtype)
            write = functools.partial(completion.copy_into, state_dict)
            add_pairs(pairs, manifest, device, write, check_sum)
        else:
            with new_directory(path_tuned, model_files.total_bytes(shards)) as directory:
                writer = ShardWriter(directory, shards)
                add_pairs(pairs, manifest, device, writer.write, check_sum)
                writer.finish()
                index = read_index(path_diff, EXACT_PREFIX) if exact else None
                write_small_files(directory, recovered_files(path_diff, manifest), shards, index)
    print(describe_recovery(pairs, manifest))
    if path_tuned is not None:
        print(f"Wrote {path_tuned}.")
    if dtype is not None:
        completion.print_completion(path_tuned or path_diff, dtype, state_dict, bool(manifest and manifest["tied"]))


def plan_recovery(
    path_raw: str, path_diff: str, manifest: dict | None, check_integrity_naively: bool
) -> tuple[list[Pair], Callable[[dict[str, float]], str] | None]:
    """Pair the diff with the base model, after all checks that can be made before anything is written.

    The second value is a check of the sums of the recovered tensors, or None where their sum is not known.
    """
    base, base_buffers = open_model(path_raw)
    if manifest:
        proof.check_files(path_diff, manifest)
        diff, diff_buffers = open_model(path_diff, EXACT_PREFIX if manifest["exact"] else "")
        proof.check_buffers(diff_buffers, manifest)
        pairs = proof.pairs_of_manifest(manifest, diff, base, path_raw)
        proof.check_base(pairs, manifest, path_raw)
        return pairs, None
    if any(Path(path_diff).glob(f"{EXACT_PREFIX}*")):
        raise UserError(f"{path_diff}: an exact diff without its manifest. Get {proof.MANIFEST}, too.")
    diff, diff_buffers = open_model(path_diff)
    architecture = read_architecture(path_diff)
    pairs = pair_up(diff, base, architecture, count_tokens_without_pad(path_raw))
    add_twice_where_subtracted_twice(pairs, architecture)
    if not check_integrity_naively:
        return pairs, None
    if not proof.is_alpaca_7b(pairs):
        print("No manifest, and not the published Alpaca-7B, the one model whose sum is known: nothing to check it by.")
        return pairs, None
    return pairs, functools.partial(proof.check_sum, proof.rotary_sums(diff_buffers, base_buffers))


def add_pairs(
    pairs: list[Pair], manifest: dict | None, device: str, write: Callable, check_sum: Callable | None
) -> None:
    """Recover every tensor. Raises UserError if the manifest, or else the sum of all values, says it is wrong."""

    def work(pair: Pair, advance: Callable[[int], None]) -> float:
        return add_pair(pair, advance, manifest, device, write, check_sum is not None)

    sums = stream(work, pairs, "recover", sum(pair.nbytes for pair in pairs))
    if check_sum:
        print(check_sum({pair.name: value for pair, value in zip(pairs, sums, strict=True)}))


def add_pair(
    pair: Pair, advance: Callable[[int], None], manifest: dict | None, device: str, write: Callable, with_sum: bool
) -> float:
    """Recover one tensor. Returns the float64 sum of its values if that is wanted."""
    import torch

    exact = manifest is not None and manifest["exact"]
    of_diff, of_recovered, total = hashlib.sha256(), hashlib.sha256(), 0.0
    for start, stop in pair.slices():
        base, diff = pair.read_base(start, stop), pair.source.read(start, stop)
        if manifest:
            of_diff.update(bytes_of(diff))
        base, recovered = base.to(device), diff.to(device)
        for _ in range(pair.times):
            recovered = add(recovered, base, exact)
        recovered = recovered.cpu()
        if manifest:
            of_recovered.update(bytes_of(recovered))
        if with_sum:
            total += recovered.sum(dtype=torch.float64).item()
        if pair.is_kept:
            write(pair.name, start, recovered)
        advance(pair.nbytes_of_slice(start, stop))
    if manifest:
        record = manifest["tensors"][pair.name]
        if of_diff.hexdigest() != record["diff_sha256"]:
            raise UserError(f"{pair.source.path}: tensor {pair.name} is damaged. Download the file again.")
        if of_recovered.hexdigest() != record["recovered_sha256"]:
            raise UserError(
                f"{pair.name}: came out wrong, though {pair.base.path} and {pair.source.path} are intact. Was the base "
                "changed meanwhile? If not, the arithmetic of this device is at fault."
            )
    return total


def recovered_files(path_diff: str, manifest: dict | None) -> dict[str, bytes]:
    """Configuration and tokenizer of the recovered model: the tuned model's."""
    files = model_files.small_files(path_diff)
    if not (manifest and manifest["exact"]):
        files["config.json"] = float32_config(files["config.json"], True if manifest and manifest["tied"] else None)
    return files


def describe_recovery(pairs: list[Pair], manifest: dict | None) -> str:
    if manifest is None:
        return f"Recovered {len(pairs)} tensors."
    kept = sum(pair.is_kept for pair in pairs)
    deviations = {name: record["deviation"] for name, record in manifest["tensors"].items()}
    return (
        f"Recovered {kept} tensors; base, diff and result have the SHA-256 that the manifest says. "
        + describe_deviation(deviations, manifest["exact"])
    )


if __name__ == "__main__":
    run_commands({"make_diff": make_diff, "recover": recover})
