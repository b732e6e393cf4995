"""Base and tuned models for the tests of weight_diff.py, and what reads, rewrites and damages them."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import io
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import weight_diff
from utils import run_commands


def tune(base: Path, path: Path, dtype=torch.float32, step: float = 0.01, **save_options) -> Path:
    """Save what training might make of a base model: [PAD] if there was no pad token, all weights a little changed."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=step)
    model.to(dtype).save_pretrained(path, **save_options)
    tokenizer.save_pretrained(path)
    return path


def as_type(source: Path, path: Path, dtype, **save_options) -> Path:
    """Save a model again in another number type, with its tokenizer."""
    AutoModelForCausalLM.from_pretrained(source, dtype=dtype).save_pretrained(path, **save_options)
    AutoTokenizer.from_pretrained(source).save_pretrained(path)
    return path


def load(path: Path, **options) -> dict[str, torch.Tensor]:
    """The state dict of the model that transformers loads from path."""
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto", **options).state_dict()


def load_files(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors in a folder's safetensors files."""
    tensors = {}
    for file in sorted(path.glob(f"{prefix}*.safetensors")):
        tensors |= load_file(file)
    return tensors


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name].flatten().view(torch.uint8), b[name].flatten().view(torch.uint8)), name


def pickle_model(
    source: Path, path: Path, num_shards: int = 1, buffers: bool = False, rename=lambda name: name
) -> Path:
    """Save a model as the library did in spring 2023: pickled shards, each layer with its inv_freq buffer."""
    shutil.copytree(source, path, ignore=shutil.ignore_patterns("*.safetensors*", "weight_diff.json"))
    tensors = {rename(name): tensor for name, tensor in load_files(source).items()}
    if buffers:
        num_layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
        for layer in range(num_layers):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.zeros(64)
    if num_shards == 1:
        torch.save(tensors, path / "pytorch_model.bin")
        return path
    weight_map = {}
    for i in range(num_shards):
        shard = f"pytorch_model-{i + 1:05}-of-{num_shards:05}.bin"
        names = list(tensors)[i::num_shards]
        torch.save({name: tensors[name] for name in names}, path / shard)
        weight_map |= dict.fromkeys(names, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return path


def rewrite_tensors(path: Path, change) -> None:
    """Change a model's tensors in place, in a single safetensors file. change(tensors) edits the dictionary."""
    tensors = load_files(path)
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def flip_bit(path: Path, position: int) -> None:
    """Flip one bit of a file; position counts bits. The same call again undoes it."""
    with open(path, "r+b") as f:
        f.seek(position // 8)
        byte = f.read(1)[0]
        f.seek(position // 8)
        f.write(bytes([byte ^ (1 << position % 8)]))


def command(*arguments) -> tuple[int, str, str]:
    """Run weight_diff.py's command line in this process: exit code, stdout, stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_commands(
                {"make_diff": weight_diff.make_diff, "recover": weight_diff.recover}, [str(a) for a in arguments]
            )
        except SystemExit as error:
            code = error.code
    return code, out.getvalue(), err.getvalue()


def make_diff(raw: Path, tuned: Path, diff: Path, *more) -> str:
    """Run make_diff, which has to succeed; return what it printed."""
    code, out, err = command("make_diff", "--path_raw", raw, "--path_tuned", tuned, "--path_diff", diff, *more)
    assert code == 0, err
    return out


def save_models(path: Path, save) -> Path:
    """Save base (float16), tuned (float32, several shards) and the diff between them in folders of path."""
    as_type(save(path / "original"), path / "base", torch.float16)
    tune(path / "base", path / "tuned", max_shard_size="150KB")
    make_diff(path / "base", path / "tuned", path / "diff")
    return path


def recover_arguments(raw: Path, diff: Path, recovered: Path | None) -> tuple:
    """The command line of recover."""
    where = () if recovered is None else ("--path_tuned", recovered)
    return "recover", "--path_raw", raw, "--path_diff", diff, *where


def recover(raw: Path, diff: Path, recovered: Path | None, *more) -> str:
    """Run recover without a completion, which has to succeed; return what it printed."""
    code, out, err = command(*recover_arguments(raw, diff, recovered), "--test_inference", "False", *more)
    assert code == 0, err
    return out


def fails(*arguments) -> str:
    """Run a command that has to fail in one line, which is returned."""
    code, _, err = command(*arguments)
    assert code == 1, "it did not fail"
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


def contents(path: Path) -> dict[str, bytes]:
    """All files below path."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
