"""inference.py: the responses of transformers' own generate, faster; adapters; streams."""

import json
import shutil

import pytest
import torch
import transformers

from alpaca.inference.local import Decoding, LocalModel, choose_tokens, generate, load_model, stream
from alpaca.weights.pairs import read_architecture
from tests.helpers import forks
from tests.helpers.commands import run_script
from utils import UserError, format_prompt

PROMPTS = [format_prompt("Say why. " * n, "pear, apple" if n % 2 else "") for n in (3, 1, 9, 5, 2, 7, 1)]


def lively(path, folder):
    """A copy of a random model whose next token depends on every token and position before, and in which so many
    tokens end the text that some responses end early."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    model.config.tie_word_embeddings = False
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layers." in name or "positions" in name:
                weight *= 8 if weight.dim() == 2 else 1
        # Not the transposed embeddings: those repeat the last token for ever.
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(torch.randn_like(head.weight))
    model.generation_config.eos_token_id = [2, *range(5, 300, 20)]
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return folder


def one_by_one(local: LocalModel, prompt: str, num_tokens: int) -> str:
    """The reference: transformers' generate for a single prompt."""
    ids = torch.tensor([local.encode(prompt)])
    local.model.generation_config.pad_token_id = 0
    output = local.model.generate(ids, max_new_tokens=num_tokens, do_sample=False, eos_token_id=list(local.eos_ids))
    response = [token for token in output[0, ids.shape[1] :].tolist() if token not in local.eos_ids]
    return local.tokenizer.decode(response, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_opt"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_batches_give_the_greedy_responses_of_generate(kind, batch_size, request, tmp_path):
    local = load_model(str(lively(request.getfixturevalue(kind), tmp_path / "model")))
    results = list(generate(local, dict(enumerate(PROMPTS)), Decoding(max_new_tokens=40), batch_size))
    assert sorted(i for i, _, _ in results) == list(range(len(PROMPTS)))
    for i, response, _ in results:
        assert response == one_by_one(local, PROMPTS[i], 40)
    assert {"stop", "length"} == {why for _, _, why in results}  # both ways out were taken
    assert len({response for _, response, _ in results}) == len(PROMPTS) - 1  # two prompts are the same


def test_a_response_ends_where_the_model_has_no_more_positions(tiny_opt):
    local = load_model(str(tiny_opt))
    long = "x! " * 340
    num_prompt_tokens = len(local.encode(long))
    assert 1000 < num_prompt_tokens < 1024
    [(_, _, why)] = generate(local, {0: long}, Decoding(max_new_tokens=500))
    assert why == "length"
    with pytest.raises(UserError, match="leaves no room"):
        list(generate(local, {0: "ok", 1: "x! " * 400}, Decoding()))


def test_top_p_keeps_the_fewest_likely_tokens_that_reach_it():
    logits = torch.log(torch.tensor([[0.5, 0.1, 0.3, 0.1]])).repeat(2000, 1)
    draw = torch.Generator().manual_seed(0)
    tokens = choose_tokens(logits, Decoding(temperature=1.0, top_p=0.6), [draw] * 2000)
    assert set(tokens.tolist()) == {0, 2}
    assert torch.bincount(tokens)[0] / 2000 == pytest.approx(0.5 / 0.8, abs=0.04)


def test_a_stream_grows_to_the_response(tiny_llama):
    local = load_model(str(tiny_llama))
    parts = list(stream(local, PROMPTS[0], Decoding(max_new_tokens=20)))
    [(_, response, _)] = generate(local, {0: PROMPTS[0]}, Decoding(max_new_tokens=20))
    assert parts[-1] == (response, "length")
    assert {ended for _, ended in parts[:-1]} == {""}
    assert len(parts) > 5


def test_a_seed_and_the_place_of_a_prompt_decide_what_is_drawn(tiny_llama):
    local = load_model(str(tiny_llama))

    def responses(prompts: dict[int, str], batch_size: int, seed: int | None) -> dict[int, str]:
        return {i: text for i, text, _ in generate(local, prompts, Decoding(20, 1.0, 0.9), batch_size, seed)}

    prompts = dict(enumerate(PROMPTS))
    first = responses(prompts, 3, seed=1)
    assert first == responses(prompts, 3, seed=1) == responses(prompts, 32, seed=1)
    assert first != responses(prompts, 3, seed=2)
    assert responses(prompts, 3, None) != responses(prompts, 3, None)
    assert first[1] != first[6]  # the same prompt
    # What was answered before does not change what is drawn for the rest.
    assert responses({i: prompts[i] for i in (5, 2)}, 3, seed=1) == {i: first[i] for i in (2, 5)}


def test_an_adapter_is_loaded_with_its_base_and_the_row_of_its_pad_token(tiny_llama, tmp_path):
    import peft

    base = shutil.copytree(tiny_llama, tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    adapter = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapter.peft_config["default"].base_model_name_or_path = str(base)
    adapter.save_pretrained(tmp_path / "adapter")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "adapter")
    local = load_model(str(tmp_path / "adapter"))
    plain = load_model(str(base))
    ids = torch.tensor([local.encode(PROMPTS[0])])
    weight = local.model.get_input_embeddings().weight
    assert len(weight) == len(tokenizer) == len(plain.model.get_input_embeddings().weight) + 1
    torch.testing.assert_close(weight[-1], weight[:-1].mean(dim=0))
    with torch.no_grad():
        expected = adapter(input_ids=ids).logits
        torch.testing.assert_close(local.model(ids).logits[..., :-1], expected, atol=1e-4, rtol=1e-4)
        assert (plain.model(ids).logits - expected).abs().max() > 1e-3
    for path in [*(tmp_path / "adapter").glob("tokenizer*"), *(tmp_path / "adapter").glob("special_tokens*")]:
        path.unlink()
    local = load_model(str(tmp_path / "adapter"))
    assert len(local.tokenizer) == len(local.model.get_input_embeddings().weight) == len(tokenizer) - 1
    shutil.rmtree(base)
    with pytest.raises(UserError, match=r"its base .* is not there"):
        load_model(str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model_name_or_path", "./nowhere"), "./nowhere: no such folder"),
        (("--model_name_or_path", "tests"), "neither config.json"),
        (("--model_name_or_path", "tests", "--temperature", "-1"), "--temperature -1.0"),
        (("--model_name_or_path", "tests", "--top_p", "0"), "--top_p 0.0"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(flags, message):
    from tests.helpers.commands import assert_fails_in_one_line

    assert_fails_in_one_line(run_script("demo.py", "chat", *flags), message)


def test_the_code_that_a_model_brings_is_not_run_whatever_standard_input_says(tiny_llama, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    own = {"auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}, "model_type": "mine"}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for load in (load_model, read_architecture):
        with pytest.raises(UserError, match="never run here"):
            load(str(folder))
    assert not (tmp_path / "was_run").exists()


def test_instructions_on_standard_input_are_answered_one_per_line(tiny_llama):
    flags = ("--model_name_or_path", tiny_llama, "--max_new_tokens", 5)
    result = forks.run("demo.py", "chat", *flags, stdin="Say hi.\n\nAdd up.\t1 2\n")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line for line in lines if line.startswith(("Instruction:", "Input:"))] == [
        "Instruction: Say hi.",
        "Instruction: Add up.",
        "Input: 1 2",
    ]
    assert sum(line.startswith("Response:") for line in lines) == 2
