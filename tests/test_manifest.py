"""weight_diff.py's manifest: a damaged diff, a wrong or damaged base and a changed manifest are named, not used."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import random
import shutil

import pytest
import torch

import weight_diff
from alpaca.weights import manifest
from alpaca.weights.model_files import open_checkpoint
from configs import tiny_models
from tests.helpers.diff_models import (
    as_type,
    command,
    contents,
    fails,
    flip_bit,
    pickle_model,
    recover,
    rewrite_tensors,
)


def damage(path, count, rng, is_noticed):
    """Flip count random bits, one at a time, in the files of a folder; return those that were not noticed."""
    files = sorted(file for file in path.iterdir() if file.is_file())
    unnoticed = []
    for i in range(count):
        file = files[i % len(files)]  # so that small files get as many as large ones
        position = rng.randrange(8 * file.stat().st_size)
        flip_bit(file, position)
        if not is_noticed():
            unnoticed.append((file.name, position))
        flip_bit(file, position)
    return unnoticed


@pytest.mark.parametrize("diff", ["diff", "exact_diff"])
def test_every_flipped_bit_of_the_diff_and_its_manifest_is_detected(llama, tmp_path, diff):
    shutil.copytree(llama / diff, tmp_path / diff)
    recover_it = ["recover", "--path_raw", llama / "base", "--path_diff", tmp_path / diff, "--test_inference", "False"]
    unnoticed = damage(tmp_path / diff, 1000, random.Random(0), lambda: tmp_path.name in fails(*recover_it))
    assert unnoticed == []
    assert command(*recover_it)[0] == 0  # all bits are as they were


def test_every_flipped_bit_of_the_base_models_weights_is_detected_before_anything_is_written(
    llama, tmp_path, monkeypatch
):
    (tmp_path / "base").mkdir()
    shutil.copy(llama / "base" / "model.safetensors", tmp_path / "base")
    monkeypatch.setattr(weight_diff, "new_directory", lambda *_: pytest.fail("began to write"))
    arguments = [
        "recover",
        "--path_raw",
        tmp_path / "base",
        "--path_diff",
        llama / "diff",
        "--path_tuned",
        tmp_path / "o",
    ]
    assert damage(tmp_path / "base", 500, random.Random(1), lambda: "base" in fails(*arguments)) == []


def test_every_bit_of_the_bases_header_counts(llama, tmp_path):
    (tmp_path / "base").mkdir()
    file = shutil.copy(llama / "base" / "model.safetensors", tmp_path / "base")
    arguments = ["recover", "--path_raw", tmp_path / "base", "--path_diff", llama / "diff", "--test_inference", "False"]
    for position in random.Random(2).sample(range(8 * 40), 60) + random.Random(3).sample(range(8 * 2000), 100):
        flip_bit(file, position)
        fails(*arguments)
        flip_bit(file, position)


def test_the_damaged_tensor_and_its_file_are_named(llama, tmp_path):
    shutil.copytree(llama / "diff", tmp_path / "diff")
    shard = tmp_path / "diff" / "model-00002-of-00005.safetensors"
    flip_bit(shard, 8 * (shard.stat().st_size - 1))
    last = [tensor.name for tensor in open_checkpoint(tmp_path / "diff").values() if tensor.path == shard][-1]
    line = fails(
        "recover", "--path_raw", llama / "base", "--path_diff", tmp_path / "diff", "--path_tuned", tmp_path / "o"
    )
    assert f"{shard}: tensor {last} is damaged" in line
    assert not (tmp_path / "o").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "diff"]


def test_a_wrong_base_is_named_before_anything_is_written(llama, tmp_path, monkeypatch):
    other = as_type(tiny_models.save_llama(tmp_path / "seed1", seed=1), tmp_path / "other", torch.float16)
    monkeypatch.setattr(weight_diff, "new_directory", lambda *_: pytest.fail("began to write"))
    line = fails("recover", "--path_raw", other, "--path_diff", llama / "diff", "--path_tuned", tmp_path / "out")
    assert f"{other}: not the base model that this diff was made from but another model" in line
    wider = tiny_models.save_llama(tmp_path / "wider", hidden_size=128)
    line = fails("recover", "--path_raw", wider, "--path_diff", llama / "diff", "--path_tuned", tmp_path / "out")
    assert "[400, 128] F32 instead of [400, 64] F16" in line


def test_one_wrong_tensor_of_the_base_is_named_with_its_file(llama, tmp_path):
    shutil.copytree(llama / "base", tmp_path / "base")
    rewrite_tensors(tmp_path / "base", lambda tensors: tensors["model.norm.weight"].neg_())
    line = fails(
        "recover", "--path_raw", tmp_path / "base", "--path_diff", llama / "diff", "--path_tuned", tmp_path / "o"
    )
    assert "1 of 21 tensors differ, the first is model.norm.weight in model.safetensors" in line


def test_a_base_in_other_files_and_a_wider_type_is_the_same_base(llama, tmp_path):
    base = as_type(llama / "base", tmp_path / "base", torch.float32, max_shard_size="50KB")
    for diff in ("diff", "exact_diff"):
        recover(base, llama / diff, tmp_path / diff)
    assert contents(tmp_path / "exact_diff") == contents(llama / "tuned")
    pickled = pickle_model(base, tmp_path / "pickled", num_shards=2, buffers=True)
    recover(pickled, llama / "diff", None)


def test_the_manifest_says_what_it_was_made_from(llama):
    entries = json.loads((llama / "diff" / "weight_diff.json").read_text())
    assert entries["versions"]["torch"] == torch.__version__
    assert entries["tensors"]["lm_head.weight"]["base_shape"] == [400, 64]
    assert entries["tensors"]["lm_head.weight"]["base_rows"] == 400
    assert entries["tensors"]["lm_head.weight"]["base_dtype"] == "F16"
    assert entries["files"].keys() == {p.name for p in (llama / "diff").iterdir()} - {"weight_diff.json"}


def test_a_manifest_of_a_newer_format_is_refused(llama, tmp_path):
    shutil.copytree(llama / "diff", tmp_path / "diff")
    entries = json.loads((tmp_path / "diff" / "weight_diff.json").read_text())
    del entries["sha256"]
    (tmp_path / "diff" / "weight_diff.json").write_bytes(manifest._sealed({**entries, "version": 2}))
    assert "newer" in fails("recover", "--path_raw", llama / "base", "--path_diff", tmp_path / "diff")


def leave_out_a_tensor(entries):
    del entries["tensors"]["lm_head.weight"]


def reach_out(entries):
    entries["files"]["../config.json"] = "0" * 64


def misname_a_hash(entries):
    entries["tensors"]["lm_head.weight"]["diff_sha256"] = 5


def leave_out_a_part(entries):
    del entries["twins"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (leave_out_a_tensor, "lm_head.weight is not named by weight_diff.json"),
        (reach_out, "damaged, its files"),
        (misname_a_hash, "damaged, its diff_sha256 of lm_head.weight"),
        (leave_out_a_part, "damaged, its twins"),
    ],
)
def test_a_manifest_that_was_changed_and_sealed_again_is_refused(change, words, llama, tmp_path):
    shutil.copytree(llama / "diff", tmp_path / "diff")
    entries = json.loads((tmp_path / "diff" / "weight_diff.json").read_text())
    del entries["sha256"]
    change(entries)
    (tmp_path / "diff" / "weight_diff.json").write_bytes(manifest._sealed(entries))
    assert words in fails("recover", "--path_raw", llama / "base", "--path_diff", tmp_path / "diff")


def test_an_exact_diff_without_its_manifest_is_refused(llama, tmp_path):
    shutil.copytree(llama / "exact_diff", tmp_path / "diff", ignore=shutil.ignore_patterns("weight_diff.json"))
    assert "weight_diff.json" in fails("recover", "--path_raw", llama / "base", "--path_diff", tmp_path / "diff")


def test_a_file_missing_from_the_diff_is_named(llama, tmp_path):
    shutil.copytree(llama / "diff", tmp_path / "diff", ignore=shutil.ignore_patterns("tokenizer.json"))
    line = fails("recover", "--path_raw", llama / "base", "--path_diff", tmp_path / "diff")
    assert f"{tmp_path / 'diff' / 'tokenizer.json'}: missing" in line
