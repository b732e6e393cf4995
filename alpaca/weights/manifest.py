"""The manifest beside a diff, weight_diff.json: what the diff was made from, and what recover has to produce.

{
    "version": 1, "versions": {"python": ..., "torch": ..., "transformers": ...}, "exact": false,
    "prefix": "model", "tied": {},    how the model names its tensors (pairs.Architecture)
    "twins": [...],                   second names of tied tensors: in the diff, but not in the recovered model
    "tensors": {name: {"base_name", "base_dtype", "base_shape", "base_rows",
                       "base_sha256", "diff_sha256", "recovered_sha256", "deviation"}},
    "files": {name: SHA-256},         of the header only, where the file is a shard
    "buffers": {name: SHA-256},       zeros, for the library versions that stored rotary buffers
    "sha256": ...                     of everything above
}
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Callable
from pathlib import Path

from alpaca.weights import model_files
from alpaca.weights.model_files import ITEMSIZE, StoredTensor, bytes_of
from alpaca.weights.pairs import Architecture, Pair, check_layers, stream
from utils import UserError, atomic_write, check_regular

MANIFEST = "weight_diff.json"
VERSION = 1


@dataclasses.dataclass
class Manifest:
    """What weight_diff.json says. The empty one is false, and means that there is none."""

    exact: bool = False
    prefix: str = ""
    tied: dict[str, str] = dataclasses.field(default_factory=dict)
    twins: list[str] = dataclasses.field(default_factory=list)
    tensors: dict[str, dict] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    buffers: dict[str, str] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tensors)

    @property
    def shard_prefix(self) -> str:
        """What the names of the diff's shards begin with."""
        return model_files.EXACT_PREFIX if self.exact else ""

    def write(self, directory: Path, headers: dict[str, str], buffers: dict[str, int]) -> None:
        """Write the manifest of a diff whose other files are in directory already.

        headers: SHA-256 of the shards' headers. buffers: name -> bytes of zeros.
        """
        versions = {"python": platform.python_version()}
        versions |= {package: importlib.metadata.version(package) for package in ("torch", "transformers")}
        small_files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in headers)
        self.files = {str(path.relative_to(directory)): _sha256(path.read_bytes()) for path in small_files} | headers
        self.buffers = {name: _sha256(bytes(num_bytes)) for name, num_bytes in buffers.items()}
        with atomic_write(directory / MANIFEST, "wb") as f:
            f.write(_sealed({"version": VERSION, "versions": versions, **dataclasses.asdict(self)}))

    def check_files(self, path_diff: str) -> None:
        """Raise UserError for a file of the diff that is missing, or damaged outside of its tensors."""
        for name, expected in self.files.items():
            path = Path(path_diff) / name
            if not path.is_file():
                raise UserError(f"{path}: missing. Download it again.")
            is_shard = name.endswith(".safetensors")
            if _sha256(model_files.read_header(path) if is_shard else path.read_bytes()) != expected:
                raise UserError(f"{path}: damaged{' header' if is_shard else ''}. Download it again.")

    def check_buffers(self, buffers: dict[str, StoredTensor]) -> None:
        """Raise UserError for a damaged rotary buffer. They are small, and no part of the recovered model."""
        if missing := sorted(self.buffers.keys() - buffers.keys()):
            raise UserError(f"the diff's tensor {missing[0]} is missing, which {MANIFEST} names. Download both again.")
        for name, expected in self.buffers.items():
            tensor = buffers[name]
            if _sha256(bytes_of(tensor.read(0, tensor.numel))) != expected:
                raise UserError(f"{tensor.path}: tensor {name} is damaged. Download the file again.")

    def pair_up(self, diff: dict[str, StoredTensor], base: dict[str, StoredTensor], path_raw: str) -> list[Pair]:
        """The pairs that make_diff had. Raises UserError where the base model has other tensors or shapes."""
        if diff.keys() != self.tensors.keys():
            name = sorted(diff.keys() ^ self.tensors.keys())[0]
            where = f"is not named by {MANIFEST}" if name in diff else f"is missing, which {MANIFEST} names"
            raise UserError(f"the diff's tensor {name} {where}: they do not belong together. Download both again.")
        architecture = Architecture(self.prefix, self.tied)
        find = architecture.finder(base)
        pairs = []
        for name, record in self.tensors.items():
            other = find(record["base_name"])
            if other is None or list(other.shape) != record["base_shape"] or other.dtype not in model_files.DTYPES:
                found = f"{list(other.shape)} {other.dtype}" if other else "missing"
                raise UserError(
                    f"{path_raw}: not the base model that this diff was made from; tensor {record['base_name']} is "
                    f"{found} instead of {record['base_shape']} {record['base_dtype']}. Nothing was written."
                )
            rows, shape = record["base_rows"], diff[name].shape
            fits = shape[1:] == other.shape[1:] and rows <= min(shape[0], other.shape[0]) if shape else not other.shape
            if not fits:
                raise UserError(f"{diff[name].path}: tensor {name} has not the shape that {MANIFEST} says.")
            is_kept = name not in self.twins
            pairs.append(Pair(name, diff[name], other, record["base_rows"], record["base_dtype"], is_kept=is_kept))
        check_layers(diff, base, architecture)
        return pairs

    def check_base(self, pairs: list[Pair], path_raw: str) -> None:
        """Raise UserError unless the base model holds, bit for bit, what the diff was made from.

        Values count, not files: shards may be cut otherwise, and a wider number type may hold the same values.
        """
        num_bytes = sum(pair.base_numel * ITEMSIZE[pair.base.dtype] for pair in pairs)
        digests = stream(_base_sha256, pairs, "checking the base", num_bytes)
        expected = [self.tensors[pair.name]["base_sha256"] for pair in pairs]
        wrong = [pair for pair, a, b in zip(pairs, digests, expected, strict=True) if a != b]
        if wrong:
            verdict = "another model" if len(wrong) > len(pairs) / 2 else "another version of it, or damaged"
            raise UserError(
                f"{path_raw}: not the base model that this diff was made from but {verdict}; {len(wrong)} of "
                f"{len(pairs)} tensors differ, the first is {wrong[0].base.name} in {wrong[0].base.path.name}. "
                "Nothing was written."
            )

    def check_recovered(self, pair: Pair, diff_sha256: str, recovered_sha256: str) -> None:
        """Raise UserError unless a tensor of the diff, and what it and the base have given, are the right ones."""
        record = self.tensors[pair.name]
        if diff_sha256 != record["diff_sha256"]:
            raise UserError(f"{pair.source.path}: tensor {pair.name} is damaged. Download the file again.")
        if recovered_sha256 != record["recovered_sha256"]:
            raise UserError(
                f"{pair.name}: came out wrong, though {pair.base.path} and {pair.source.path} are intact. Was the base "
                "changed meanwhile? If not, the arithmetic of this device is at fault."
            )


def read_manifest(path_diff: str) -> Manifest:
    """The manifest of a diff, empty if it has none. Raises UserError unless every bit is as it was written."""
    path = Path(path_diff) / MANIFEST
    check_regular(path)
    if not path.exists():
        return Manifest()
    content = path.read_bytes()
    try:
        entries = json.loads(content)
        del entries["sha256"]
        is_intact = _sealed(entries) == content
    except (ValueError, TypeError, KeyError, RecursionError):
        is_intact = False
    if not is_intact:
        raise UserError(f"{path}: damaged. Download it again.")
    if entries["version"] != VERSION:
        raise UserError(f"{path}: format {entries['version']}, of a newer weight_diff.py. Use that one.")
    if problem := _misfit(entries):
        raise UserError(f"{path}: damaged, its {problem} is not what weight_diff.py writes. Download it again.")
    return Manifest(**{field.name: entries[field.name] for field in dataclasses.fields(Manifest)})


def _misfit(entries: dict) -> str | None:
    """The first part of a manifest that is not of the form above, by its name, or None."""

    def is_hash(value: object) -> bool:
        return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None

    def is_inside(name: str) -> bool:
        return not Path(name).is_absolute() and ".." not in Path(name).parts

    parts = {
        "exact": lambda value: isinstance(value, bool),
        "prefix": lambda value: isinstance(value, str),
        "tied": lambda value: isinstance(value, dict) and all(isinstance(name, str) for name in value.values()),
        "twins": lambda value: isinstance(value, list),
        "tensors": lambda value: isinstance(value, dict) and value,
        "files": lambda value: isinstance(value, dict) and all(map(is_inside, value)),
        "buffers": lambda value: isinstance(value, dict),
    }
    record_parts = {
        "base_name": lambda value: isinstance(value, str),
        "base_dtype": lambda value: str(value) in model_files.DTYPES,
        "base_shape": lambda value: isinstance(value, list),
        "base_rows": lambda value: type(value) is int and value >= 0,
        **dict.fromkeys(("base_sha256", "diff_sha256", "recovered_sha256"), is_hash),
        "deviation": lambda value: isinstance(value, float | int | None),
    }
    if wrong := [part for part, is_right in parts.items() if not is_right(entries.get(part))]:
        return wrong[0]
    for name, record in entries["tensors"].items():
        if not isinstance(record, dict) or record.keys() != record_parts.keys():
            return f"record of {name}"
        if wrong := [part for part, is_right in record_parts.items() if not is_right(record[part])]:
            return f"{wrong[0]} of {name}"
    return None


def _sealed(entries: dict) -> bytes:
    digest = _sha256(json.dumps(entries).encode())
    return (json.dumps({**entries, "sha256": digest}, indent=4) + "\n").encode()


def _sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def _base_sha256(pair: Pair, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    for start, stop in pair.slices():
        if start < pair.base_numel:
            digest.update(bytes_of(pair.read_base(start, stop)))
            advance((stop - start) * ITEMSIZE[pair.base.dtype])
    return digest.hexdigest()
