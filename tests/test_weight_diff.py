"""weight_diff.py: the same numbers as a plain script that loads both models, a completion, and one way to fail."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import shutil

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config

import weight_diff
from alpaca.inference.local import resize_embeddings
from alpaca.training import memory
from alpaca.weights import manifest, pairs
from alpaca.weights.model_files import open_checkpoint
from benchmarks import plain_weight_diff
from configs import tiny_models
from tests.helpers import forks
from tests.helpers.commands import ROOT, assert_fails_in_one_line, run_script
from tests.helpers.diff_models import (
    as_type,
    assert_same_bits,
    command,
    contents,
    fails,
    flip_bit,
    load,
    load_files,
    make_diff,
    pickle_model,
    recover,
    rewrite_tensors,
    save_models,
)

FLOAT_TYPES = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


@pytest.fixture(scope="session")
def opt(tmp_path_factory):
    """Folders of an OPT, whose output embedding is its input embedding: as those of llama, without exact_diff."""
    return save_models(tmp_path_factory.mktemp("opt"), tiny_models.save_opt)


# ---- The numbers ----


@pytest.mark.parametrize("base_type", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tuned_type", [torch.float32, torch.bfloat16])
def test_diff_and_recovered_equal_the_plain_script_bit_for_bit(llama, tmp_path, base_type, tuned_type):
    base = as_type(llama / "original", tmp_path / "base", base_type, max_shard_size="100KB")
    tuned = as_type(llama / "tuned", tmp_path / "tuned", tuned_type, max_shard_size="150KB")
    plain_weight_diff.make_diff(base, tuned, tmp_path / "plain_diff")
    plain_weight_diff.recover(base, tmp_path / "plain_diff", tmp_path / "plain_recovered")
    make_diff(base, tuned, tmp_path / "diff")
    recover(base, tmp_path / "diff", tmp_path / "recovered")
    assert_same_bits(load(tmp_path / "diff"), load(tmp_path / "plain_diff"))
    assert_same_bits(load(tmp_path / "recovered"), load(tmp_path / "plain_recovered"))
    assert {tensor.dtype for tensor in load(tmp_path / "diff").values()} == {torch.float32}


def test_the_plain_script_recovers_our_diff_and_we_recover_its_diff(llama, tmp_path):
    base, ours = llama / "base", load_files(llama / "diff")
    plain_weight_diff.recover(base, llama / "diff", tmp_path / "by_plain")
    plain_weight_diff.make_diff(base, llama / "tuned", tmp_path / "plain_diff")
    recover(base, tmp_path / "plain_diff", tmp_path / "by_us")
    assert_same_bits(load(tmp_path / "by_plain"), load(tmp_path / "by_us"))
    assert_same_bits(ours, load_files(tmp_path / "plain_diff"))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_pickled_diff_with_rotary_buffers_is_recovered(llama, tmp_path, num_shards):
    old_diff = pickle_model(llama / "diff", tmp_path / "old_diff", num_shards, buffers=True)
    recover(llama / "base", llama / "diff", tmp_path / "recovered")
    recover(llama / "base", old_diff, tmp_path / "from_old_diff")
    assert_same_bits(load_files(tmp_path / "from_old_diff"), load_files(tmp_path / "recovered"))
    assert AutoTokenizer.from_pretrained(tmp_path / "from_old_diff").pad_token == "[PAD]"


@pytest.mark.parametrize("num_shards", [1, 2])
def test_a_pickled_base_gives_the_same_diff_and_zeros_for_its_rotary_buffers(llama, tmp_path, num_shards):
    base = pickle_model(llama / "base", tmp_path / "base", num_shards, buffers=True)
    make_diff(base, llama / "tuned", tmp_path / "diff")
    diff = load_files(tmp_path / "diff")
    # An old library computes the buffer when the diff has none; the original script then adds the base's to it.
    buffers = [diff.pop(f"model.layers.{layer}.self_attn.rotary_emb.inv_freq") for layer in range(2)]
    assert all(torch.equal(buffer, torch.zeros(64)) for buffer in buffers)
    assert_same_bits(diff, load_files(llama / "diff"))
    recover(llama / "base", tmp_path / "diff", tmp_path / "recovered")
    assert load_files(tmp_path / "recovered").keys() == load_files(llama / "tuned").keys()


def test_tied_embeddings_are_subtracted_and_added_once(opt, tmp_path):
    base, tuned, diff = load(opt / "base"), load(opt / "tuned"), load(opt / "diff")
    assert_same_bits(diff, {name: tuned[name] - base[name].float() for name in tuned})
    recover(opt / "base", opt / "diff", tmp_path / "recovered")
    recovered = load(tmp_path / "recovered")
    assert_same_bits(recovered, {name: diff[name] + base[name].float() for name in tuned})
    assert AutoConfig.from_pretrained(tmp_path / "recovered").tie_word_embeddings
    assert load_files(tmp_path / "recovered").keys() == load_files(opt / "tuned").keys()


def test_a_diff_that_is_larger_than_the_model_by_its_tied_embeddings_says_why(opt, tmp_path):
    sizes = {}
    for exact in ("False", "True"):
        out = make_diff(opt / "base", opt / "tuned", tmp_path / exact, "--exact", exact)
        assert ("lm_head.weight, which the tuned model ties to another tensor" in out) == (exact == "False")
        sizes[exact] = sum(tensor.nbytes for tensor in load_files(tmp_path / exact).values())
    embedding = load(opt / "tuned")["lm_head.weight"]  # both are float32
    assert sizes["False"] - sizes["True"] == embedding.nbytes


def test_the_plain_script_recovers_our_diff_of_tied_embeddings(opt, tmp_path):
    plain_weight_diff.recover(opt / "base", opt / "diff", tmp_path / "by_plain")
    recover(opt / "base", opt / "diff", tmp_path / "by_us")
    assert_same_bits(load(tmp_path / "by_plain"), load(tmp_path / "by_us"))


def test_a_diff_that_the_plain_script_made_of_tied_embeddings_is_recovered_as_it_does(opt, tmp_path):
    plain_weight_diff.make_diff(opt / "base", opt / "tuned", tmp_path / "diff")
    plain_weight_diff.recover(opt / "base", tmp_path / "diff", tmp_path / "by_plain")
    assert "it is added twice" in recover(opt / "base", tmp_path / "diff", tmp_path / "by_us")
    assert_same_bits(load(tmp_path / "by_plain"), load(tmp_path / "by_us"))


def test_names_without_the_inner_models_prefix_are_understood(opt, tmp_path):
    def drop_prefix(name):
        return name.removeprefix("model.")

    base = pickle_model(opt / "base", tmp_path / "base", rename=drop_prefix)
    tuned = pickle_model(opt / "tuned", tmp_path / "tuned", rename=drop_prefix)
    make_diff(base, tuned, tmp_path / "diff")
    assert_same_bits(load(tmp_path / "diff"), load(opt / "diff"))
    recover(opt / "base", tmp_path / "diff", tmp_path / "recovered")


@pytest.mark.parametrize("num_columns", [1, 31, 64, 130, 300])
def test_the_mean_row_is_torchs_mean_of_the_whole_embedding(tmp_path, monkeypatch, num_columns):
    values = torch.randn(1003, num_columns, generator=torch.Generator().manual_seed(0)).half()
    save_file({"short": values, "long": torch.zeros(1004, num_columns)}, tmp_path / "model.safetensors")
    tensors = open_checkpoint(tmp_path)
    monkeypatch.setattr(pairs, "MEAN_BYTES", 1 << 20)  # 256 columns at a time
    monkeypatch.setattr(pairs, "SLICE", 10_000)
    pair = pairs.Pair("x", tensors["long"], tensors["short"], 1003, "F16")
    assert torch.equal(pair.mean_row, values.float().mean(dim=0))


def test_a_base_whose_embedding_is_longer_than_its_tokenizer_is_cut_as_the_plain_script_cuts_it(llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama / "base", dtype=torch.float16)
    model.resize_token_embeddings(448, mean_resizing=False)
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(llama / "base").save_pretrained(tmp_path / "base")
    plain_weight_diff.make_diff(tmp_path / "base", llama / "tuned", tmp_path / "plain_diff")
    make_diff(tmp_path / "base", llama / "tuned", tmp_path / "diff")
    assert_same_bits(load_files(tmp_path / "diff"), load_files(tmp_path / "plain_diff"))
    recover(tmp_path / "base", tmp_path / "diff", None)


@pytest.mark.parametrize("exact", ["False", "True"])
@pytest.mark.parametrize(
    ("num_rows", "num_added", "num_filled"),
    [(400, 3, 0), (400, 0, 8), (399, 0, 0), (390, 1, 0), (410, 2, 0), (400, 1, 47)],
    ids=[
        *("three tokens more", "rows that no token needs", "a base shorter than its tokenizer", "both"),
        *("a base longer than its tokenizer", "filled up to 448"),
    ],
)
def test_rows_are_added_wherever_the_tuned_tokenizer_is_longer(llama, tmp_path, exact, num_rows, num_added, num_filled):
    """As train.py adds them, whatever their number and whether or not the base has a pad token."""
    base = shutil.copytree(llama / "base", tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(num_rows, mean_resizing=False)
    model.save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<added{i}>" for i in range(num_added)])
    resize_embeddings(model, len(tokenizer) + num_filled, num_added + num_filled)
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    arguments = (base, tmp_path / "tuned", tmp_path / "diff", "--exact", exact)
    if num_added == 0 and num_filled:
        assert "only where the tuned model's tokenizer is longer" in fails(
            "make_diff", "--path_raw", base, "--path_tuned", tmp_path / "tuned", "--path_diff", tmp_path / "diff"
        )
        return
    make_diff(*arguments)
    diff = load_files(tmp_path / "diff", "exact-" if exact == "True" else "")
    if num_rows <= 400:  # rows that the base has already are subtracted as they are
        assert not any(tensor.any() for tensor in diff.values())  # untrained: the base and its mean, in every row
    recover(base, tmp_path / "diff", tmp_path / "out")
    recovered, tuned = load_files(tmp_path / "out"), load_files(tmp_path / "tuned")
    if exact == "True":
        assert_same_bits(recovered, tuned)
    for name, tensor in tuned.items():
        torch.testing.assert_close(recovered[name], tensor, rtol=0, atol=1e-7, msg=name)


def test_every_file_of_the_tuned_folder_comes_back_or_is_named(llama, tmp_path):
    tuned = shutil.copytree(llama / "tuned", tmp_path / "tuned")
    kept = ["preprocessor_config.json", "processor_config.json", "modeling_alpaca.py", "chat_template.jinja"]
    kept += ["additional_chat_templates/tools.jinja", "README.md", "LICENSE", "tokenizer.model", "trainer_state.json"]
    left_behind = ["training_args.bin", "onnx/", ".env", "pytorch_model.pt"]
    (tuned / "additional_chat_templates").mkdir()
    (tuned / "onnx").mkdir()
    for name in [*kept, "training_args.bin", "onnx/model.onnx", ".env", "pytorch_model.pt"]:
        (tuned / name).write_text(name)
    out = make_diff(llama / "base", tuned, tmp_path / "diff", "--exact", "True")
    assert f"Of {tuned}, this stays behind: {', '.join(sorted(left_behind))}." in out
    recover(llama / "base", tmp_path / "diff", tmp_path / "out")
    expected = {name: content for name, content in contents(tuned).items() if name.split("/")[0] in {
        *(name.split("/")[0] for name in kept), *(path.name for path in (llama / "tuned").iterdir())
    }}  # fmt: skip
    assert contents(tmp_path / "out") == expected
    flip_bit(tmp_path / "diff" / kept[4], 3)
    assert "tools.jinja: damaged" in fails("recover", "--path_raw", llama / "base", "--path_diff", tmp_path / "diff")


def test_without_a_pad_token_on_either_side_nothing_is_added(llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama / "base", dtype=torch.float32)
    model.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(llama / "base").save_pretrained(tmp_path / "tuned")
    assert "equal to the tuned model in every value" in make_diff(llama / "base", tmp_path / "tuned", tmp_path / "diff")
    assert all(not tensor.any() for tensor in load_files(tmp_path / "diff").values())


def half_step(values):
    """Half the distance from each value to the next larger one, in float64: the most that rounding to it changes."""
    return (torch.nextafter(values.abs(), torch.tensor(torch.inf)).double() - values.abs().double()) / 2


@hypothesis.given(st.lists(st.tuples(*2 * [st.floats(-(2.0**100), 2.0**100, width=32)]), min_size=1))
def test_recovered_is_within_the_rounding_of_one_difference_and_one_sum(values):
    tuned, base = torch.tensor(values).T.contiguous()
    diff = weight_diff.subtract(tuned, base, exact=False)
    recovered = weight_diff.add(diff, base, exact=False)
    error = (recovered.double() - tuned.double()).abs()
    assert (error <= half_step(diff) + half_step(recovered)).all()


@pytest.mark.parametrize("tuned_type", FLOAT_TYPES)
@pytest.mark.parametrize("base_type", FLOAT_TYPES)
def test_exact_arithmetic_brings_any_bit_pattern_back(base_type, tuned_type):
    generator = torch.Generator().manual_seed(0)

    def random_bits(dtype):  # infinities, NaN and subnormal numbers among them
        bits = FLOAT_TYPES[dtype]
        low, high = torch.iinfo(bits).min, torch.iinfo(bits).max
        return torch.randint(low, high + 1, (100_000,), generator=generator).to(bits).view(dtype)

    tuned, base = random_bits(tuned_type), random_bits(base_type)
    diff = weight_diff.subtract(tuned, base, exact=True)
    assert diff.dtype == tuned_type
    assert_same_bits({"x": weight_diff.add(diff, base, exact=True)}, {"x": tuned})


@pytest.mark.parametrize("tuned_type", FLOAT_TYPES)
def test_exact_mode_gives_the_tuned_folder_back_byte_for_byte(llama, tmp_path, tuned_type):
    tuned = as_type(llama / "tuned", tmp_path / "tuned", tuned_type, max_shard_size="80KB")
    assert "bit for bit" in make_diff(llama / "base", tuned, tmp_path / "diff", "--exact", "True")
    assert "identical to the tuned model, bit for bit" in recover(llama / "base", tmp_path / "diff", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tuned)
    size = {path: sum(f.stat().st_size for f in path.glob("*.safetensors")) for path in (tuned, tmp_path / "diff")}
    assert size[tuned] == size[tmp_path / "diff"]  # so half of float32 for bfloat16


def test_exact_mode_takes_mixed_types_and_pickled_shards(llama, tmp_path):
    shutil.copytree(llama / "tuned", tmp_path / "mixed", ignore=shutil.ignore_patterns("*safetensors*"))

    def mix(tensors):
        for i, (name, tensor) in enumerate(load_files(llama / "tuned").items()):
            tensors[name] = tensor.to(list(FLOAT_TYPES)[i % 3])

    rewrite_tensors(tmp_path / "mixed", mix)
    tuned = pickle_model(tmp_path / "mixed", tmp_path / "tuned", num_shards=2, buffers=True)
    make_diff(llama / "base", tuned, tmp_path / "diff", "--exact", "True")
    recover(llama / "base", tmp_path / "diff", tmp_path / "out")
    assert_same_bits(load_files(tmp_path / "out"), load_files(tmp_path / "mixed"))


def test_tensors_that_are_no_part_of_the_model_are_left_out_and_named(llama, tmp_path):
    """Such as the masks of old GPT-2 checkpoints, or rotary buffers in the exact diff of an old tuned model."""
    shutil.copytree(llama / "tuned", tmp_path / "tuned")
    shard = tmp_path / "tuned" / "model-00002-of-00005.safetensors"
    names = ["model.mask", "model.layers.0.self_attn.rotary_emb.inv_freq"]
    save_file(
        load_file(shard) | dict(zip(names, [torch.ones(3).bool(), torch.ones(64)], strict=True)),
        shard,
        {"format": "pt"},
    )
    index = json.loads((tmp_path / "tuned" / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(names, shard.name)
    (tmp_path / "tuned" / "model.safetensors.index.json").write_text(json.dumps(index))
    for exact in ("True", "False"):
        out = make_diff(llama / "base", tmp_path / "tuned", tmp_path / exact, "--exact", exact)
        assert "2 tensors that are no part of the model are left out: model.layers.0.self_attn.rotary_emb" in out
        recover(llama / "base", tmp_path / exact, tmp_path / f"out{exact}")
    assert_same_bits(load_files(tmp_path / "outTrue"), load_files(llama / "tuned"))


def test_no_library_takes_an_exact_diff_for_a_model(llama):
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(llama / "exact_diff")


def test_the_largest_deviation_is_that_of_the_recovered_model(llama, tmp_path):
    tuned = load_files(llama / "tuned")
    out = make_diff(llama / "base", llama / "tuned", tmp_path / "diff")
    recover(llama / "base", tmp_path / "diff", tmp_path / "out")
    recovered = load_files(tmp_path / "out")
    deviations = {name: (recovered[name] - tuned[name]).abs().max().item() for name in tuned}
    name = max(deviations, key=deviations.get)
    assert 0 < deviations[name] < 1e-8
    assert f"deviation of the recovered from the tuned model: {deviations[name]:.2g}, in {name} " in out


def test_values_that_are_not_finite_are_reported_and_only_exact_mode_keeps_them(llama, tmp_path):
    shutil.copytree(llama / "tuned", tmp_path / "tuned")
    shard = tmp_path / "tuned" / "model-00001-of-00005.safetensors"
    tensors = load_file(shard)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = torch.inf
    save_file(tensors, shard, metadata={"format": "pt"})
    assert f"Warning: {name} holds values" in make_diff(llama / "base", tmp_path / "tuned", tmp_path / "diff")
    make_diff(llama / "base", tmp_path / "tuned", tmp_path / "exact", "--exact", "True")
    recover(llama / "base", tmp_path / "exact", tmp_path / "out")
    assert_same_bits(load_files(tmp_path / "out"), load_files(tmp_path / "tuned"))


# ---- A completion ----


def test_a_completion_is_printed_with_and_without_an_output_folder(opt, tmp_path):
    arguments = ["recover", "--path_raw", opt / "base", "--path_diff", opt / "diff"]
    code, in_memory, _ = command(*arguments)
    assert code == 0
    _, from_disk, _ = command(*arguments, "--path_tuned", tmp_path / "out")
    completion = in_memory[in_memory.index("Instruction:") :]
    assert "Completion (float32): " in completion
    assert from_disk.endswith(completion)
    shutil.copytree(opt / "diff", tmp_path / "diff")
    entries = json.loads((tmp_path / "diff" / "weight_diff.json").read_text())
    del entries["sha256"]
    for name in [name for name in entries["files"] if "token" in name or name in ("vocab.json", "merges.txt")]:
        (tmp_path / "diff" / name).unlink()
        del entries["files"][name]
    (tmp_path / "diff" / "weight_diff.json").write_bytes(manifest._sealed(entries))
    arguments[-1] = tmp_path / "diff"
    code, printed, complained = command(*arguments, "--path_tuned", tmp_path / "without")
    assert code == 0, complained
    assert "No completion from the recovered model:" in printed.splitlines()[-1]
    assert (tmp_path / "without" / "config.json").is_file()


def test_where_memory_is_short_the_completion_is_in_bfloat16_or_left_out_with_a_line(llama, tmp_path, monkeypatch):
    arguments = ["recover", "--path_raw", llama / "base", "--path_diff", llama / "diff"]
    monkeypatch.setattr(memory, "available_cpu_bytes", lambda: weight_diff.WORKING_BYTES + 300_000)
    assert "Completion (bfloat16): " in command(*arguments)[1]
    monkeypatch.setattr(memory, "available_cpu_bytes", lambda: weight_diff.WORKING_BYTES)
    code, out, _ = command(*arguments, "--path_tuned", tmp_path / "out")
    assert code == 0
    assert "No completion from the recovered model: it needs" in out
    assert load_files(tmp_path / "out")


@pytest.mark.parametrize("num_positions", [32, 120])  # the prompt takes 60 tokens
def test_a_model_with_few_positions_is_asked_for_as_many_tokens_as_it_has_left(num_positions, tmp_path, capsys):
    tokenizer = tiny_models.llama_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=num_positions, n_embd=32, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    if num_positions == 32:
        with pytest.raises(weight_diff.UserError, match=r"no room for a response: .* reads 32 tokens"):
            weight_diff.print_completion(str(tmp_path), torch.float32, {}, False)
    else:
        weight_diff.print_completion(str(tmp_path), torch.float32, {}, False)
        assert "Completion (float32): " in capsys.readouterr().out


# ---- The command line ----


def test_the_commands_run_as_the_readme_shows_them(llama, tmp_path):
    script = ROOT / "weight_diff.py"
    made = forks.run(
        script,
        "make_diff",
        "--path_raw",
        llama / "base",
        "--path_tuned",
        llama / "tuned",
        "--path_diff",
        "diff",
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    assert "B/s" in made.stderr  # the progress bar
    done = forks.run(
        script, "recover", "--path_raw", llama / "base", "--path_diff", "diff", "--path_tuned", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"diff", "out"}
    assert (tmp_path / "out").joinpath("config.json").read_text() == (llama / "tuned" / "config.json").read_text()


@pytest.mark.parametrize("arguments", [("--help",), ("make_diff", "--help"), ("recover", "--help")])
def test_help_answers_without_torch(arguments):
    code = f"import sys; sys.argv = ['weight_diff.py', *{arguments!r}]; import weight_diff, utils\n"
    code += "try: utils.run_commands({'make_diff': weight_diff.make_diff, 'recover': weight_diff.recover})\n"
    code += "finally: assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    result = run_script("-c", code)
    assert ("--path_raw" if len(arguments) > 1 else "make_diff") in result.stdout + result.stderr
    assert result.returncode == 0, result.stderr


def test_user_mistakes_are_one_line_without_a_traceback(llama, tmp_path):
    script = ROOT / "weight_diff.py"
    assert_fails_in_one_line(
        forks.run(script, "recover", "--path_raw", tmp_path / "nowhere", "--path_diff", llama / "diff"),
        "nowhere: no such directory",
    )
    assert_fails_in_one_line(
        forks.run(script, "recover", "--path_raw", llama / "base", "--path_dif", llama / "diff"), "--path_diff"
    )


def test_a_device_that_is_not_here_is_one_line(llama, tmp_path):
    paths = ["--path_raw", llama / "base", "--path_tuned", llama / "tuned", "--path_diff", tmp_path / "diff"]
    assert "has to be cpu, cuda" in fails("make_diff", *paths, "--device", "tpu")
    if not torch.cuda.is_available():
        assert "no such GPU" in fails("make_diff", *paths, "--device", "cuda")


@pytest.mark.gpu
def test_on_a_gpu_the_results_are_the_same(llama, tmp_path):
    make_diff(llama / "base", llama / "tuned", tmp_path / "diff", "--device", "cuda")
    assert contents(tmp_path / "diff") == contents(llama / "diff")
    recover(llama / "base", llama / "exact_diff", tmp_path / "out", "--device", "cuda")
    assert contents(tmp_path / "out") == contents(llama / "tuned")
