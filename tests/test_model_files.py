"""Checkpoints on disk: what is damaged, incomplete or dangerous is refused in one line; outputs are whole or absent."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import fcntl
import json
import os
import pickle
import shutil
import signal
import subprocess
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpaca.weights import model_files
from configs import tiny_models
from tests.helpers import forks
from tests.helpers.commands import assert_fails_in_one_line
from tests.helpers.diff_models import (
    contents,
    fails,
    load_files,
    make_diff,
    pickle_model,
    recover,
    recover_arguments,
    rewrite_tensors,
    tune,
)
from utils import UserError


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A base in several safetensors shards, the same in pickled shards, a tuned model and a diff."""
    path = tmp_path_factory.mktemp("models")
    tiny_models.save_llama(path / "base", max_shard_size="150KB")
    pickle_model(path / "base", path / "pickled", num_shards=2)
    tune(path / "base", path / "tuned", max_shard_size="150KB")
    make_diff(path / "base", path / "tuned", path / "diff")
    return path


@pytest.fixture
def base(models, tmp_path):
    """A copy of the base, to be damaged."""
    return shutil.copytree(models / "base", tmp_path / "base")


@pytest.fixture
def refused(models, tmp_path):
    """A function that runs make_diff with a bad base, checks that inputs and disk stay as they were, gives the line."""

    def run(path_raw, *more):
        before = contents(tmp_path)
        line = fails(
            *("make_diff", "--path_raw", path_raw, "--path_tuned", models / "tuned", "--path_diff", tmp_path / "out"),
            *more,
        )
        assert contents(tmp_path) == before
        assert not (tmp_path / "out").exists()
        return line

    return run


# ---- Bad input ----


def test_a_missing_directory_is_named(refused, tmp_path):
    assert f"{tmp_path / 'nowhere'}: no such directory" in refused(tmp_path / "nowhere")


def test_a_folder_without_a_model_is_named(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: holds no model; expected model.safetensors" in refused(tmp_path / "empty")


def test_a_model_of_another_shape_is_named_with_both_shapes(refused, tmp_path):
    tiny_models.save_llama(tmp_path / "wide", hidden_size=128)
    line = refused(tmp_path / "wide")
    assert "lm_head.weight is [400, 128]" in line
    assert "[401, 64]" in line


def test_a_tuned_model_with_more_layers_is_refused(models, tmp_path):
    deep = tiny_models.save_llama(tmp_path / "deep", num_layers=3)
    line = fails("make_diff", "--path_raw", models / "base", "--path_tuned", deep, "--path_diff", tmp_path / "out")
    assert f"tensor model.layers.2.input_layernorm.weight is missing in {models / 'base'}. 9 tensors do not fit" in line


def test_a_base_with_more_layers_is_refused_with_both_numbers(models, refused, tmp_path):
    deep = tiny_models.save_llama(tmp_path / "deep", num_layers=3)
    numbers = "holds 3 tensors layers.*.input_layernorm.weight"
    assert f"{deep}: {numbers}, and {models / 'tuned'} only 2" in refused(deep)
    shallow = load_files(models / "base")
    rewrite_tensors(deep, lambda tensors: tensors.update(shallow))  # all that the diff was made from, and more
    for shard in deep.glob("model-*"):
        shard.unlink()
    shutil.copytree(models / "diff", tmp_path / "without", ignore=shutil.ignore_patterns("weight_diff.json"))
    for diff in (models / "diff", tmp_path / "without"):
        line = fails(*recover_arguments(deep, diff, tmp_path / "out"))
        assert f"{deep}: {numbers}, and {diff} only 2" in line
    assert not (tmp_path / "out").exists()


def test_buffers_of_an_old_base_and_a_twin_that_it_alone_holds_are_no_more_layers(models, tmp_path):
    old = pickle_model(models / "base", tmp_path / "old", buffers=True)
    make_diff(old, models / "tuned", tmp_path / "diff")
    recover(old, tmp_path / "diff", None)
    opt = tiny_models.save_opt(tmp_path / "opt")
    tune(opt, tmp_path / "tuned")

    def add_twin_and_position_ids(tensors):
        tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()
        tensors["model.decoder.position_ids"] = torch.arange(3)

    rewrite_tensors(opt, add_twin_and_position_ids)
    make_diff(opt, tmp_path / "tuned", tmp_path / "opt_diff")
    recover(opt, tmp_path / "opt_diff", None)


def test_another_vocabulary_is_refused_with_both_shapes(models, refused, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(models / "base")
    tokenizer = AutoTokenizer.from_pretrained(models / "base")
    tokenizer.add_tokens([f"word{i}" for i in range(50)])
    model.resize_token_embeddings(450)
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    line = refused(tmp_path / "other")
    assert "lm_head.weight is [450, 64] in" in line
    assert "and [401, 64] in" in line
    assert "2 tensors do not fit" in line


def test_one_more_token_is_refused_if_the_base_has_a_pad_token(tmp_path):
    base = tiny_models.save_opt(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(401)
    shutil.copytree(base, tmp_path / "tuned")
    model.save_pretrained(tmp_path / "tuned")
    line = fails("make_diff", "--path_raw", base, "--path_tuned", tmp_path / "tuned", "--path_diff", tmp_path / "out")
    assert "model.decoder.embed_tokens.weight is [400, 64] in" in line
    assert "and [401, 64] in" in line


def test_quantized_weights_are_refused(base, refused):
    name = "model.layers.0.mlp.up_proj.weight"
    shard = base / json.loads((base / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(shard)
    save_file({**tensors, name: tensors[name].to(torch.int8)}, shard, metadata={"format": "pt"})
    assert f"tensor {name} holds I8 in {shard}" in refused(base)


@pytest.mark.parametrize("kind", ["base", "pickled"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_shard_is_named(models, refused, tmp_path, kind, kept):
    path = shutil.copytree(models / kind, tmp_path / "base")
    shard = sorted([*path.glob("model-*.safetensors"), *path.glob("*.bin")])[1]
    os.truncate(shard, int(kept * shard.stat().st_size))
    assert str(shard) in refused(path)


@pytest.mark.parametrize("kind", ["base", "pickled"])
def test_a_missing_shard_is_named(models, refused, tmp_path, kind):
    path = shutil.copytree(models / kind, tmp_path / "base")
    shard = sorted([*path.glob("model-*.safetensors"), *path.glob("*.bin")])[1]
    shard.unlink()
    assert f"{shard}: missing" in refused(path)


def edit_index(path, change):
    index_path = path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    change(index["weight_map"])
    index_path.write_text(json.dumps(index))


def test_a_tensor_that_the_index_leaves_out_is_named(base, refused):
    edit_index(base, lambda weight_map: weight_map.pop("model.norm.weight"))
    assert "holds tensor model.norm.weight, but model.safetensors.index.json does not name it" in refused(base)


def test_a_tensor_that_is_not_where_the_index_says_is_named(base, refused):
    edit_index(base, lambda weight_map: weight_map.update({"lm_head.bias": weight_map["lm_head.weight"]}))
    assert "holds tensor lm_head.bias, which it does not" in refused(base)


def test_a_tensor_that_the_index_names_twice_is_named(base, refused):
    index = base / "model.safetensors.index.json"
    text = index.read_text().replace('"weight_map": {', '"weight_map": {"lm_head.weight": "elsewhere.safetensors",')
    index.write_text(text)
    assert "names 'lm_head.weight' twice" in refused(base)


def test_a_tensor_in_two_shards_is_named(base, refused):
    first, second = (base / f"model-0000{i}-of-00004.safetensors" for i in (1, 2))
    tensors = load_file(second)
    name, tensor = next(iter(load_file(first).items()))
    save_file({**tensors, name: tensor}, second, metadata={"format": "pt"})
    assert f"{second}: holds tensor {name}" in refused(base)


def test_an_index_that_leaves_its_folder_is_refused(base, refused):
    edit_index(base, lambda weight_map: weight_map.update({"lm_head.weight": "../model.safetensors"}))
    assert "not a file beside it" in refused(base)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"weight_map": []}', b'{"weight_map": {}}'])
def test_an_index_that_is_none_is_refused(base, refused, content):
    (base / "model.safetensors.index.json").write_bytes(content)
    assert "model.safetensors.index.json" in refused(base)


def test_a_tensor_that_neither_index_nor_shards_have_is_named(models, tmp_path, refused):
    shutil.copytree(models / "base", tmp_path / "base", ignore=shutil.ignore_patterns("*safetensors*"))

    def all_but_one(tensors):
        tensors.update(load_files(models / "base"))
        del tensors["model.norm.weight"]

    rewrite_tensors(tmp_path / "base", all_but_one)
    assert f"tensor model.norm.weight is missing in {tmp_path / 'base'}" in refused(tmp_path / "base")


HEADERS = {
    "longer than the file": b"\xff" * 8 + b"{}",
    "no JSON": (8).to_bytes(8, "little") + b"not JSON",
    "holes": (72).to_bytes(8, "little")
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'.ljust(72)
    + bytes(8),
    "too long": (72).to_bytes(8, "little")
    + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'.ljust(72)
    + bytes(4),
    "negative": (72).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}'.ljust(72),
    "unknown type": (72).to_bytes(8, "little")
    + b'{"a":{"dtype":"X","shape":[1],"data_offsets":[0,4]}}'.ljust(72)
    + bytes(4),
    "twice": (72).to_bytes(8, "little") + b'{"__metadata__":{"format":"pt"},"__metadata__":{}}'.ljust(72),
    "shorter than the file": (72).to_bytes(8, "little") + b"{}".ljust(72) + b"more",
    "no tensor": (72).to_bytes(8, "little") + b'{"a":3}'.ljust(72),
}


def with_header(entries: dict, data: bytes = b"") -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


FLOATS = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
VALID = {
    "no format in the metadata": ({"__metadata__": {"step": "100"}, "a": FLOATS}, 8),
    "empty metadata": ({"__metadata__": {}, "a": FLOATS}, 8),
    "null for metadata": ({"__metadata__": None, "a": FLOATS}, 8),
    "another library's format": ({"__metadata__": {"format": "jax"}, "a": FLOATS}, 8),
    "empty tensors": ({"z": {**FLOATS, "shape": [0, 4], "data_offsets": [8, 8]}, "a": FLOATS}, 8),
    "numbers of 4 bits": ({"q": {"dtype": "F4", "shape": [2, 4], "data_offsets": [8, 12]}, "a": FLOATS}, 12),
    "numbers of 6 bits": ({"q": {"dtype": "F6_E2M3", "shape": [8], "data_offsets": [8, 14]}, "a": FLOATS}, 14),
    "exponents alone": ({"q": {"dtype": "F8_E8M0", "shape": [3], "data_offsets": [8, 11]}, "a": FLOATS}, 11),
    "complex numbers": ({"q": {"dtype": "C64", "shape": [1], "data_offsets": [8, 16]}, "a": FLOATS}, 16),
}


@pytest.mark.parametrize(("entries", "num_bytes"), VALID.values(), ids=VALID.keys())
def test_what_the_format_allows_and_libraries_write_is_read(tmp_path, entries, num_bytes):
    (tmp_path / "model.safetensors").write_bytes(with_header(entries, bytes(num_bytes)))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as f:  # the library takes it
        names = set(f.keys())
    tensors = model_files.open_checkpoint(tmp_path)
    assert tensors.keys() == names
    assert tensors["a"].read(0, 2).tolist() == [0, 0]


def test_an_index_whose_metadata_is_null_and_a_shard_without_any_give_a_diff(models, base, tmp_path):
    index = json.loads((base / "model.safetensors.index.json").read_text())
    (base / "model.safetensors.index.json").write_text(json.dumps({**index, "metadata": None}))
    for shard in base.glob("model-*.safetensors"):
        save_file(load_file(shard), shard)
    make_diff(base, base, tmp_path / "diff", "--exact", "True")
    recover(base, tmp_path / "diff", tmp_path / "out")


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_damaged_safetensors_header_is_refused(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(header)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        model_files.open_checkpoint(tmp_path)


def test_headers_are_written_as_the_safetensors_library_writes_them(tmp_path):
    tensors = {"b": torch.ones(3, 2), "é": torch.zeros(()), "a": torch.ones(5, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    stored = model_files.open_checkpoint(tmp_path)
    writer = model_files.ShardWriter(tmp_path, {"copy": [(t.name, t.dtype, t.shape) for t in stored.values()]})
    for tensor in stored.values():
        writer.write(tensor.name, 0, tensor.read(0, tensor.numel))
    writer.finish()
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


# ---- Pickles ----


class Dangerous:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_malicious_pickle_is_refused_and_not_run(models, refused, tmp_path):
    path = shutil.copytree(models / "pickled", tmp_path / "base")
    shard = path / "pytorch_model-00002-of-00002.bin"
    state_dict = torch.load(shard, weights_only=True)
    torch.save({**state_dict, "trap": Dangerous(str(tmp_path / "owned"))}, shard)
    assert f"{shard}: refused, this pickle is more than tensors" in refused(path)
    shard.write_bytes(pickle.dumps(Dangerous(str(tmp_path / "owned"))))
    with pytest.warns(UserWarning, match="pickle protocol"):
        assert str(shard) in refused(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [[torch.ones(2)], {"model": {"a": torch.ones(2)}}, torch.ones(2)])
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="not a state dict"):
        model_files.open_checkpoint(tmp_path)


def test_an_empty_tensor_in_a_pickle_is_read(tmp_path):
    torch.save({"none": torch.ones(0, 3), "a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert model_files.open_checkpoint(tmp_path)["none"].read(0, 0).tolist() == []


def test_pickled_tensors_are_read_where_they_lie(tmp_path):
    whole = torch.arange(24, dtype=torch.float16).view(6, 4)
    torch.save({"whole": whole, "rows": whole[2:4], "scalar": torch.tensor(7.0)}, tmp_path / "pytorch_model.bin")
    tensors = model_files.open_checkpoint(tmp_path)
    assert tensors["rows"].read(1, 8).tolist() == list(range(9, 16))
    assert tensors["scalar"].read(0, 1).tolist() == [7.0]
    assert tensors["whole"].read(20, 24).tolist() == [20, 21, 22, 23]


@pytest.mark.parametrize("kind", ["compressed", "big-endian"])
def test_an_archive_whose_tensors_do_not_lie_there_as_they_are_is_refused(kind, tmp_path):
    torch.save({"weight": torch.arange(64.0)}, tmp_path / "saved.bin")
    compression = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
    with (
        zipfile.ZipFile(tmp_path / "saved.bin") as saved,
        zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", compression) as changed,
    ):
        for name in saved.namelist():
            is_changed = kind == "big-endian" and name.endswith("/byteorder")
            changed.writestr(name, b"big" if is_changed else saved.read(name))
    with pytest.raises(UserError, match=f"{kind}|archive"):
        model_files.open_checkpoint(tmp_path)


@pytest.mark.parametrize("old_format", [True, False], ids=["before torch 1.6", "transposed"])
def test_pickles_that_cannot_be_read_in_slices_are_refused(tmp_path, old_format):
    tensor = torch.ones(2, 3) if old_format else torch.ones(2, 3).T
    torch.save({"a": tensor}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UserError, match="Save the model again"):
        model_files.open_checkpoint(tmp_path)


# ---- The output directory ----


def test_an_output_directory_in_use_is_left_alone(models, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for command in (
        ("make_diff", "--path_raw", models / "base", "--path_tuned", models / "tuned", "--path_diff", tmp_path / "out"),
        recover_arguments(models / "base", models / "diff", tmp_path / "out"),
    ):
        assert f"{tmp_path / 'out'}: in use; nothing in it was touched" in fails(*command)
    assert contents(tmp_path) == {"out/notes.txt": b"mine"}
    (tmp_path / "file").write_text("mine")
    assert "is a file" in fails(*command[:-1], tmp_path / "file")


def test_an_empty_output_directory_and_one_behind_a_link_are_used(models, tmp_path):
    (tmp_path / "real" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    recover(models / "base", models / "diff", tmp_path / "link")
    assert (tmp_path / "real" / "out" / "config.json").exists()
    recover(models / "base", models / "diff", tmp_path / "new" / "folder" / "2024")
    assert contents(tmp_path / "new" / "folder" / "2024") == contents(tmp_path / "real" / "out")


def test_two_runs_do_not_write_to_one_place(models, tmp_path):
    partial = tmp_path / "out.weight_diff-partial"
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    arguments = recover_arguments(models / "base", models / "diff", tmp_path / "out")
    assert "another run is at work here" in fails(*arguments)
    assert partial.exists()
    os.close(lock)
    recover(models / "base", models / "diff", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_another_user_keeps_where_a_run_would_write_is_left_alone(models, tmp_path):
    arguments = recover_arguments(models / "base", models / "diff", tmp_path / "out")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("theirs")
    partial = tmp_path / "out.weight_diff-partial"
    partial.symlink_to(tmp_path / "theirs")
    assert "a link" in fails(*arguments)
    partial.unlink()
    (partial / "folder").mkdir(parents=True)
    (partial / "file").write_text("theirs")
    assert "not what an interrupted run leaves behind" in fails(*arguments)
    assert contents(tmp_path) == {"out.weight_diff-partial/file": b"theirs", "theirs/file": b"theirs"}


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(models, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(model_files, "ShardWriter", lambda *_: pytest.fail("began to write"))
    line = fails(*recover_arguments(models / "base", models / "diff", tmp_path / "out"))
    assert f"{tmp_path}: 0.53 MB needed, 0.10 MB free" in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KB, less than any of the models needs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_meanwhile_is_one_line_and_leaves_nothing(models, small_disk, monkeypatch):
    usage = shutil.disk_usage(small_disk)._replace(free=10**9)  # as if another process took the rest
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    line = fails(*recover_arguments(models / "base", models / "diff", small_disk / "out"))
    assert "No space left on device. Free some space and run it again." in line
    assert list(small_disk.iterdir()) == []


def test_a_limit_on_file_sizes_is_one_line_and_leaves_nothing(models, tmp_path):
    arguments = recover_arguments(models / "base", models / "diff", tmp_path / "out")
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    result = forks.run("-c", limit + "runpy.run_path('weight_diff.py', run_name='__main__')", *arguments)
    assert_fails_in_one_line(result, "out.weight_diff-partial", "File too large")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
import weight_diff
from alpaca.weights import model_files

original, calls = model_files.{function}, 0

def killed(*arguments):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

model_files.{function} = killed
weight_diff.{command}(*{arguments!r})
"""


@pytest.mark.parametrize(
    ("function", "call"),
    [("_write_at", 1), ("_write_at", 12), ("_write_at", 21), ("_write_at", 25), ("atomic_write", 2)],
)
@pytest.mark.parametrize("command", ["make_diff", "recover"])
def test_what_a_killed_run_leaves_never_loads_and_a_second_run_succeeds(models, tmp_path, command, function, call):
    arguments = [models / "base", models / ("tuned" if command == "make_diff" else "diff"), tmp_path / "out"]
    paths = [str(path) for path in arguments]
    result = forks.run("-c", KILLED.format(function=function, call=call, command=command, arguments=paths))
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.weight_diff-partial"]
    with pytest.raises(Exception, match=r"config\.json|safetensors|no file named|model_type"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out.weight_diff-partial")
    (make_diff if command == "make_diff" else recover)(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    expected = contents(models / "diff") if command == "make_diff" else None
    assert expected is None or contents(tmp_path / "out") == expected
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
