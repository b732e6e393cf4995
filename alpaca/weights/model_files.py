"""Checkpoints as files: where each tensor lies, slices of it in and out, an output directory that appears whole.

Tensors are read and written in slices with plain file reads and writes. The safetensors library maps whole files
instead, and mapped pages count as memory of the process, which here must not grow with the model.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import safetensors

from utils import UserError, atomic_write, lock_or_refuse, os_errors_in_one_line, sync_directory

# Number types as safetensors files call them, and as torch does. Integers are left out: what they hold in a
# checkpoint (quantized weights, masks) has no meaningful difference.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
ITEMSIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}
FORMATS = ("pt", "tf", "flax", "mlx", "np", "jax", "numpy", "torch", "pytorch", "paddle", "paddlepaddle", "candle")

Layout = list[tuple[str, str, tuple[int, ...]]]  # tensor name, dtype, shape, in the order of the file
Shards = dict[str, Layout]  # by file name

INDEX = "model.safetensors.index.json"  # which shard holds which tensor
# Shards of an exact diff carry another name, so that no library takes differences of bit patterns for weights.
EXACT_PREFIX = "exact-"
WEIGHTS = re.compile(r"(exact-)?(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")

# What goes with the weights: all files of the folder, from configuration and tokenizer to processors and modeling
# code, and the further chat templates in a folder of their own. Not other forms of the weights, the state of a training
# run (its checkpoints, too, are folders), or what is hidden.
CHAT_TEMPLATES = "additional_chat_templates"
STAYS_BEHIND = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
MAX_SMALL_BYTES = 1 << 28


def torch_dtype(dtype: str):
    """torch.float16 for "F16", and so on."""
    import torch

    return getattr(torch, DTYPES[dtype])


# A file is flushed to disk whenever so much was written to it. The disk then works from the start, the pages are
# used again instead of filling the memory with a model's worth of them, and there is little to wait for in the end.
FLUSH_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: the file that holds it, from which byte on, and what it is."""

    name: str
    path: Path
    offset: int
    dtype: str  # a key of DTYPES, or another name if it is of no use here
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEMSIZE[self.dtype]

    def read(self, start: int, stop: int):
        """Elements start to stop of the flattened tensor: Tensor[stop - start] in the tensor's own dtype."""
        import torch

        values = torch.empty(stop - start, dtype=torch_dtype(self.dtype))
        view = bytes_of(values)
        with os_errors_in_one_line(self.path), open(self.path, "rb", buffering=0) as f:
            f.seek(self.offset + start * ITEMSIZE[self.dtype])
            while view and (num_bytes := f.readinto(view)):
                view = view[num_bytes:]
        if view:
            raise UserError(f"{self.path}: ends inside tensor {self.name}; the file is truncated. Copy it again.")
        return values


def open_checkpoint(directory: str | os.PathLike, prefix: str = "") -> dict[str, StoredTensor]:
    """Every tensor of a saved model by name, in the order of the files; no weights are read.

    Looks for what transformers looks for, in the same order: model.safetensors, its index with shards, and
    pytorch_model.bin likewise (read with the restricted unpickler). With a prefix, for "<prefix>model.safetensors".
    Raises UserError where a file is missing or truncated, or where index and shards disagree.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(
            f"{directory}: no such directory. It has to be a local folder with a saved model "
            "(`hf download <name> --local-dir <folder>` fetches one from the Hub)."
        )
    names = [f"{prefix}model.safetensors"] + ([] if prefix else ["pytorch_model.bin"])
    for name in names:
        read_tensors = _safetensors_tensors if name.endswith(".safetensors") else _pickled_tensors
        if (directory / name).is_file():
            return read_tensors(directory / name)
        if (directory / f"{name}.index.json").is_file():
            return _sharded_tensors(directory / f"{name}.index.json", prefix, read_tensors)
    raise UserError(f"{directory}: holds no model; expected {' or '.join(names)}, or its index (<name>.index.json).")


def _sharded_tensors(index_path: Path, prefix: str, read_tensors) -> dict[str, StoredTensor]:
    """The tensors of all shards, after a check that the index names each of them once and nothing else."""
    weight_map = _strict_json(index_path.read_bytes(), index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()) or not weight_map:
        raise UserError(f"{index_path}: has no weight_map from tensors to files. Copy the index again.")
    tensors = {}
    for shard in sorted(set(weight_map.values())):
        path = index_path.with_name(prefix + Path(shard).name)
        if Path(shard).name != shard:
            raise UserError(f"{index_path}: names {shard!r}, which is not a file beside it.")
        if not path.is_file():
            raise UserError(f"{path}: missing, but {index_path.name} names it. Copy that shard again.")
        for name, tensor in read_tensors(path).items():
            # Only these buffers are known to lie in shards without being in the index.
            if weight_map.get(name) != shard and not name.endswith("inv_freq"):
                where = f"puts it into {weight_map[name]}" if name in weight_map else "does not name it"
                raise UserError(f"{path}: holds tensor {name}, but {index_path.name} {where}.")
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            raise UserError(f"{index_path}: says that {prefix}{shard} holds tensor {name}, which it does not.")
    return tensors


def _strict_json(text: bytes, path: Path) -> dict:
    """A JSON object in which no key stands twice. json.loads by itself keeps the last of them."""

    def unique(pairs: list[tuple]) -> dict:
        for key, count in collections.Counter(key for key, _ in pairs).items():
            if count > 1:
                raise UserError(f"{path}: names {key!r} twice. Copy the file again.")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or too deep
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged, no JSON object where one has to be. Copy the file again.")
    return content


def read_header(path: Path) -> bytes:
    """The header of a safetensors file with the eight bytes that give its length."""
    with open(path, "rb") as f:
        size = f.read(8)
        length = int.from_bytes(size, "little")
        if len(size) < 8 or length > path.stat().st_size - 8:
            raise UserError(f"{path}: truncated or no safetensors file. Copy it again.")
        return size + f.read(length)


def _safetensors_tensors(path: Path) -> dict[str, StoredTensor]:
    """What the header of a safetensors file says. The library checks that it fits the file to the last byte."""
    header = read_header(path)
    entries = _strict_json(header[8:], path)
    try:
        with safetensors.safe_open(path, framework="np") as f:
            metadata = f.metadata() or {}  # any texts; many writers leave "format" out
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: truncated or damaged ({first_line(error)}). Copy it again.") from None
    if metadata.get("format", "pt") not in FORMATS:
        raise UserError(f"{path}: damaged header, its metadata names no known format. Copy the file again.")
    if "format" not in metadata and (almost := difflib.get_close_matches("format", metadata, 1, cutoff=0.8)):
        raise UserError(f'{path}: damaged header, {almost[0]!r} for "format" in its metadata. Copy the file again.')
    entries.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        offset = len(header) + entry["data_offsets"][0]
        tensors[name] = StoredTensor(name, path, offset, entry["dtype"], tuple(entry["shape"]))
    return tensors


def _pickled_tensors(path: Path) -> dict[str, StoredTensor]:
    """Where the tensors of a pickled shard lie. torch's restricted unpickler builds tensors and runs nothing else."""
    import pickle

    import torch

    dtypes = {getattr(torch, name): dtype for dtype, name in DTYPES.items()}
    _check_zip(path)
    try:
        state_dict = torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused, this pickle is more than tensors and could run code.") from None
    except Exception as error:  # whatever torch finds wrong with somebody's file
        raise UserError(f"{path}: truncated or damaged ({first_line(error)}). Copy it again.") from None
    if not isinstance(state_dict, dict) or not all(isinstance(t, torch.Tensor) for t in state_dict.values()):
        raise UserError(f"{path}: not a state dict, which maps names to tensors and nothing else.")
    tensors, file_bytes = {}, path.stat().st_size
    for name, value in state_dict.items():
        # Set for data that was not loaded (map_location="meta"); absent in the format of torch < 1.6.
        storage_offset = getattr(value.untyped_storage(), "_checkpoint_offset", None)
        if storage_offset is None or not value.is_contiguous():
            raise UserError(f"{path}: tensor {name} is stored in an old or a transposed form. Save the model again.")
        offset = storage_offset + value.storage_offset() * value.element_size()
        tensor = StoredTensor(name, path, offset, dtypes.get(value.dtype, str(value.dtype)), tuple(value.shape))
        if offset + value.numel() * value.element_size() > file_bytes:
            raise UserError(f"{path}: ends before tensor {name} does; truncated? Copy it again.")
        tensors[name] = tensor
    return tensors


def _check_zip(path: Path) -> None:
    """Raise UserError for a zip file that does not hold its tensors as they are read: as they are, little end first."""
    if not zipfile.is_zipfile(path):
        return  # the format of torch < 1.6, or damaged
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"{path}: a compressed archive. Save the model again with torch.save.")
            for name in archive.namelist():
                if name.endswith("/byteorder") and archive.read(name) != b"little":
                    raise UserError(f"{path}: of a big-endian machine. Save the model again as safetensors.")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise UserError(f"{path}: damaged archive ({first_line(error)}). Copy it again.") from None


def first_line(error: Exception) -> str:
    """What a library's error says, as a part of one line."""
    return (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")


def size_text(num_bytes: float) -> str:
    """Bytes for people, such as "26.95 GB"."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.2f} MB"


def check_unused(target: str | os.PathLike) -> None:
    """Raise UserError if target cannot become a new folder."""
    target = Path(target).resolve()
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file. Name a new folder.")
    if target.is_dir() and (os.path.ismount(target) or any(target.iterdir())):
        raise UserError(f"{target}: in use; nothing in it was touched. Name a new or an empty folder.")


@contextlib.contextmanager
def new_directory(target: str | os.PathLike, num_bytes: int) -> Iterator[Path]:
    """A folder beside target that becomes target when the block ends without an error, and is removed otherwise.

    A target that is in use is refused, and so is a disk with less than num_bytes free. What a killed run has left
    behind is removed by the next one, which knows from the lock that no process writes there.
    """
    check_unused(target)
    target = Path(target).resolve()
    partial = target.with_name(f"{target.name}.weight_diff-partial")
    if partial.is_symlink():
        raise UserError(f"{partial}: a link, and no place to write. Remove it.")
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        lock_or_refuse(lock, partial)
        _clear(partial)
        try:
            free = shutil.disk_usage(partial).free
            if num_bytes > free:
                raise UserError(
                    f"{target.parent}: {size_text(num_bytes)} needed, {size_text(free)} free. "
                    "Free some space, or name a folder on another disk."
                )
            yield partial
            os.fsync(lock)
            os.rename(partial, target)
            sync_directory(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _clear(partial: Path) -> None:
    shutil.rmtree(partial / CHAT_TEMPLATES, ignore_errors=True)
    if any(not entry.is_file() for entry in partial.iterdir()):
        raise UserError(f"{partial}: not what an interrupted run leaves behind. Move it away.")
    for entry in list(partial.iterdir()):
        entry.unlink()


class ShardWriter:
    """Safetensors files of known layout, whose tensors may be written in slices, in any order, by many threads.

    The header comes last: until finish, no library takes what is there for a model.
    """

    def __init__(self, directory: Path, shards: Shards):
        self.headers, self.tensors = {}, {}
        self.lock, self.unflushed = threading.Lock(), collections.Counter()
        for file_name, layout in shards.items():
            path = directory / file_name
            header = _safetensors_header(layout)
            offset = len(header)
            for name, dtype, shape in layout:
                self.tensors[name] = StoredTensor(name, path, offset, dtype, tuple(shape))
                offset += self.tensors[name].nbytes
            with os_errors_in_one_line(path), open(path, "xb") as f:
                f.truncate(offset)
            self.headers[path] = header

    def write(self, name: str, start: int, values) -> None:
        """Write values, Tensor[n] of the tensor's dtype, to the elements from start on."""
        tensor = self.tensors[name]
        _write_at(tensor.path, tensor.offset + start * ITEMSIZE[tensor.dtype], bytes_of(values))
        with self.lock:
            self.unflushed[tensor.path] += values.nbytes
            if self.unflushed[tensor.path] < FLUSH_BYTES:
                return
            self.unflushed[tensor.path] = 0
        _flush(tensor.path)

    def finish(self) -> dict[str, str]:
        """Write the headers and wait for the disk. Returns the SHA-256 of each file's header by file name."""
        for path, header in self.headers.items():
            _write_at(path, 0, memoryview(header))
            _flush(path)
        return {path.name: hashlib.sha256(header).hexdigest() for path, header in self.headers.items()}


def bytes_of(values) -> memoryview:
    """The memory of a flat CPU tensor, for files and hashes."""
    import torch

    return memoryview(values.view(torch.uint8).numpy())


def _write_at(path: Path, offset: int, data: memoryview) -> None:
    with os_errors_in_one_line(path), open(path, "r+b", buffering=0) as f:
        f.seek(offset)
        while data:
            data = data[f.write(data) :]


def _safetensors_header(layout: Layout) -> bytes:
    """The same bytes as the safetensors library writes for tensors in this order."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape in layout:
        start, end = end, end + math.prod(shape) * ITEMSIZE[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _flush(path: Path) -> None:
    """Wait until a file is on disk, and give the memory of its pages back."""
    with os_errors_in_one_line(path), open(path, "rb") as f:
        os.fsync(f.fileno())
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def total_numel(shards: Shards) -> int:
    return sum(math.prod(shape) for layout in shards.values() for _, _, shape in layout)


def total_bytes(shards: Shards) -> int:
    return sum(math.prod(shape) * ITEMSIZE[dtype] for layout in shards.values() for _, dtype, shape in layout)


def small_files(directory: str | os.PathLike) -> tuple[dict[str, bytes], list[str]]:
    """What a saved model's folder holds beside the weights: file name -> content, and the names of what stays behind,
    weights that are no part of the model excepted."""
    files, left_behind = {}, []
    directory = Path(directory)
    for path in sorted([*directory.iterdir(), *directory.glob(f"{CHAT_TEMPLATES}/*")]):
        name = str(path.relative_to(directory))
        if path.is_dir():
            left_behind += [f"{name}/"] if name != CHAT_TEMPLATES else []
        elif name.startswith(".") or name.endswith(STAYS_BEHIND) or path.stat().st_size > MAX_SMALL_BYTES:
            left_behind += [] if WEIGHTS.fullmatch(name) else [name]
        else:
            files[name] = path.read_bytes()
    return files, left_behind


def write_small_files(directory: Path, files: dict[str, bytes], shards: Shards, index_path: Path) -> None:
    """All of a model but its shards; config.json, without which nothing loads, comes last.

    index_path: an index that may be there already; it is kept, to the byte, where it says the same.
    """
    prefix = EXACT_PREFIX if next(iter(shards)).startswith(EXACT_PREFIX) else ""
    if shards.keys() != {f"{prefix}model.safetensors"}:
        index = _index_of({name.removeprefix(prefix): layout for name, layout in shards.items()}, index_path)
        files = {prefix + INDEX: index, **files}
    for name in sorted(files, key="config.json".__eq__):
        (directory / name).parent.mkdir(exist_ok=True)
        with atomic_write(directory / name, "wb") as f:
            f.write(files[name])


def _index_of(shards: Shards, old_path: Path) -> bytes:
    """The index of a sharded model, as transformers reads it. Those of exact diffs do not show EXACT_PREFIX."""
    weight_map = {name: file_name for file_name, layout in shards.items() for name, _, _ in layout}
    index = {"metadata": {"total_size": total_bytes(shards)}, "weight_map": weight_map}
    if old_path.is_file():
        content = old_path.read_bytes()
        old = _strict_json(content, old_path)
        if old["weight_map"] == weight_map and (old.get("metadata") or {}).get("total_size") == total_bytes(shards):
            return content
    return (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()
