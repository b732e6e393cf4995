"""Proof that a recovered model is the right one: the manifest beside a diff and, without it, the sum of all values.

The manifest, weight_diff.json, says what the diff was made from and what recover has to produce:
{
    "version": 1, "exact": false, "versions": {"python": ..., "torch": ..., "transformers": ...},
    "prefix": "model", "tied": {},    how the model names its tensors (tensor_pairs.Architecture)
    "twins": [...],                   second names of tied tensors: in the diff, but not in the recovered model
    "files": {name: SHA-256},         of the header only, where the file is a shard
    "buffers": {name: SHA-256},       zeros, for the library versions that stored rotary buffers
    "tensors": {name: {"base_name", "base_dtype", "base_shape", "base_rows",
                       "base_sha256", "diff_sha256", "recovered_sha256", "deviation"}},
    "sha256": ...                     of everything above
}
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path

from alpaca.weights import model_files
from alpaca.weights.model_files import ITEMSIZE, StoredTensor, bytes_of
from alpaca.weights.pairs import Architecture, Pair, stream
from utils import UserError

MANIFEST = "weight_diff.json"
VERSION = 1

# The published Alpaca-7B is LLaMA-7B with one more row, for [PAD], in both embeddings.
ALPACA_7B_PARAMETERS = 6_738_423_808
ALPACA_7B_EMBEDDING = (32001, 4096)
# The original script's sum and tolerance.
ALPACA_7B_SUM, SUM_TOLERANCE = 50637.1836, 1e-2
# In the state dict that the sum was taken over, each layer's tensors came in this order.
LAYER_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "inv_freq", "gate_proj", "down_proj", "up_proj")
LAYER_ORDER += ("input_layernorm", "post_attention_layernorm")


# ---- The manifest ----


def write_manifest(directory: Path, headers: dict[str, str], buffers: dict[str, int], **content) -> None:
    """Write the manifest of a diff whose other files are in directory already.

    headers: SHA-256 of the shards' headers. buffers: name -> bytes of zeros. content: the entries not made here.
    """
    files = {path.name: _sha256(path.read_bytes()) for path in directory.iterdir() if path.name not in headers}
    versions = {"python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in ("torch", "transformers")}
    manifest = {"version": VERSION, "versions": versions, **content, "files": {**files, **headers}}
    manifest["buffers"] = {name: _sha256(bytes(num_bytes)) for name, num_bytes in buffers.items()}
    model_files.write_file(directory / MANIFEST, _sealed(manifest))


def _sealed(manifest: dict) -> bytes:
    digest = _sha256(json.dumps(manifest).encode())
    return (json.dumps({**manifest, "sha256": digest}, indent=4) + "\n").encode()


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def read_manifest(path_diff: str) -> dict | None:
    """The manifest of a diff, or None if it has none. Raises UserError unless every bit is as it was written."""
    path = Path(path_diff) / MANIFEST
    if not path.exists():
        return None
    content = path.read_bytes()
    try:
        manifest = json.loads(content)
        del manifest["sha256"]
        is_intact = _sealed(manifest) == content
    except (ValueError, TypeError, KeyError, RecursionError):
        is_intact = False
    if not is_intact:
        raise UserError(f"{path}: damaged. Download it again.")
    if manifest["version"] != VERSION:
        raise UserError(f"{path}: format {manifest['version']}, of a newer weight_diff.py. Use that one.")
    return manifest


def check_files(path_diff: str, manifest: dict) -> None:
    """Raise UserError for a file of the diff that is missing, or damaged outside of its tensors."""
    for name, expected in manifest["files"].items():
        path = Path(path_diff) / name
        if not path.is_file():
            raise UserError(f"{path}: missing. Download it again.")
        is_shard = name.endswith(".safetensors")
        if _sha256(model_files.read_header(path) if is_shard else path.read_bytes()) != expected:
            raise UserError(f"{path}: damaged{' header' if is_shard else ''}. Download it again.")


def check_buffers(buffers: dict[str, StoredTensor], manifest: dict) -> None:
    """Raise UserError for a damaged rotary buffer. They are small, and no part of the recovered model."""
    for name, expected in manifest["buffers"].items():
        tensor = buffers[name]
        if _sha256(bytes_of(tensor.read(0, tensor.numel))) != expected:
            raise UserError(f"{tensor.path}: tensor {name} is damaged. Download the file again.")


def pairs_of_manifest(
    manifest: dict, diff: dict[str, StoredTensor], base: dict[str, StoredTensor], path_raw: str
) -> list[Pair]:
    """The pairs that make_diff had. Raises UserError where the base model has other tensors or shapes."""
    find = Architecture(manifest["prefix"], manifest["tied"]).finder(base)
    pairs = []
    for name, record in manifest["tensors"].items():
        other = find(record["base_name"])
        if other is None or list(other.shape) != record["base_shape"] or other.dtype not in model_files.DTYPES:
            found = f"{list(other.shape)} {other.dtype}" if other else "missing"
            raise UserError(
                f"{path_raw}: not the base model that this diff was made from; tensor {record['base_name']} is "
                f"{found} instead of {record['base_shape']} {record['base_dtype']}. Nothing was written."
            )
        is_kept = name not in manifest["twins"]
        pairs.append(Pair(name, diff[name], other, record["base_rows"], record["base_dtype"], is_kept=is_kept))
    return pairs


def check_base(pairs: list[Pair], manifest: dict, path_raw: str) -> None:
    """Raise UserError unless the base model holds, bit for bit, what the diff was made from.

    Values count, not files: shards may be cut otherwise, and a wider number type may hold the same values.
    """

    def is_intact(pair: Pair, advance: Callable[[int], None]) -> bool:
        digest = hashlib.sha256()
        for start, stop in pair.slices():
            if start < pair.base_numel:
                digest.update(bytes_of(pair.read_base(start, stop)))
                advance((stop - start) * ITEMSIZE[pair.base.dtype])
        return digest.hexdigest() == manifest["tensors"][pair.name]["base_sha256"]

    results = stream(is_intact, pairs, "checking the base", sum(pair.base_nbytes for pair in pairs))
    wrong = [pair for pair, intact in zip(pairs, results, strict=True) if not intact]
    if wrong:
        verdict = "another model" if len(wrong) > len(pairs) / 2 else "another version of it, or damaged"
        raise UserError(
            f"{path_raw}: not the base model that this diff was made from but {verdict}; {len(wrong)} of {len(pairs)} "
            f"tensors differ, the first is {wrong[0].base.name} in {wrong[0].base.path.name}. Nothing was written."
        )


# ---- The sum ----


def is_alpaca_7b(pairs: list[Pair]) -> bool:
    """Whether these are the shapes of the published Alpaca-7B."""
    return sum(pair.source.numel for pair in pairs) == ALPACA_7B_PARAMETERS and any(
        pair.source.shape == ALPACA_7B_EMBEDDING for pair in pairs
    )


def check_sum(buffers: dict[str, float], sums: dict[str, float]) -> str:
    """Compare the sum of all values with that of the published Alpaca-7B; say what it is, or raise UserError.

    buffers, sums: name -> float64 sum, of the rotary buffers and of all other tensors. The published number is a
    float32 running total, one tensor after the other. Near 50,000 such a total moves in steps of 0.004, so that its
    323 additions may end some hundredths beside the sum in float64, which is more than the tolerance. Hence both are
    formed, the sum in float64 and the total as the original formed it, and one of them has to be right.
    """
    import numpy

    without = math.fsum(sums.values())
    total = without + math.fsum(buffers.values())
    running, sums = numpy.float32(0), sums | buffers
    for name in sorted(sums, key=_place_in_state_dict):
        running += numpy.float32(sums[name])
    found = f"{total:.4f} ({without:.4f} without the inv_freq buffers, which today's state dict lacks)"
    if min(abs(total - ALPACA_7B_SUM), abs(float(running) - ALPACA_7B_SUM)) > SUM_TOLERANCE:
        raise UserError(
            f"the sum of all values is {found}, not Alpaca-7B's {ALPACA_7B_SUM}: a file of the base or of the diff is "
            "damaged, or they do not belong together. --check_integrity_naively False recovers in spite of it."
        )
    return f"The sum of all values is {found}, as it has to be for Alpaca-7B ({ALPACA_7B_SUM})."


def _place_in_state_dict(name: str) -> tuple:
    """A key that sorts LLaMA's tensors as the original's state dict had them."""
    parts = name.split(".")
    if "layers" in parts:
        return 1, int(parts[parts.index("layers") + 1]), next(i for i, n in enumerate(LAYER_ORDER) if n in parts)
    return (0,) if "embed_tokens" in parts else (2, parts[0] == "lm_head")


def rotary_sums(diff: dict[str, StoredTensor], base: dict[str, StoredTensor]) -> dict[str, float]:
    """The sum of every layer's inv_freq buffer as the original recovered it: from the files, or else computed.

    RoPE, arXiv 2104.09864: inv_freq[i] = 10000^(-2i/128) for heads of 128.
    """
    import torch

    computed = 1.0 / (10000 ** (torch.arange(0, 128, 2).float() / 128))
    sums = {}
    for layer in range(32):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        values = base[name].read(0, base[name].numel).float() if name in base else computed
        if name in diff:
            values = values + diff[name].read(0, diff[name].numel).float()
        sums[name] = values.sum(dtype=torch.float64).item()
    return sums
