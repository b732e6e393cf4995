import shutil

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import train
from alpaca.training import packed_steps, response_loss
from alpaca.training.packed_steps import (
    DOCUMENTS_MULTIPLE,
    EpochOfSteps,
    PackedRow,
    Steps,
    attention_for_rows,
    cut,
    step_loader,
)
from tests.helpers import packed_train  # noqa: F401 - registers the attention that stands in for the GPU's
from utils import ROOT, jdump, jload


class Examples(torch.utils.data.Dataset):
    """Random examples of given lengths, the first third of each without a label."""

    def __init__(self, lengths, vocab_size=300, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.lengths = np.array(lengths)
        self.ids = [torch.randint(5, vocab_size, (n,), generator=generator) for n in lengths]
        self.num_labels = np.array([n - max(1, n // 3) for n in lengths])

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        labels = self.ids[i].clone()
        labels[: max(1, len(labels) // 3)] = -100
        return {"input_ids": self.ids[i], "labels": labels}


lengths_and_ranks = {
    "lengths": st.lists(st.integers(1, 64), min_size=1, max_size=80),
    "num_ranks": st.integers(1, 5),
    "max_tokens": st.integers(64, 300),
}


@given(**lengths_and_ranks, is_packed=st.booleans())
def test_every_example_is_in_one_micro_batch_and_none_is_too_large(lengths, num_ranks, max_tokens, is_packed):
    lengths = np.array(lengths)
    ranks = cut(lengths, num_ranks, max_tokens, is_packed)
    groups = [group for rank in ranks for group in rank]
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert len(ranks) == num_ranks
    assert len({len(rank) for rank in ranks}) == 1
    for group in filter(len, groups):
        num_tokens = lengths[group].sum() if is_packed else len(group) * lengths[group].max()
        assert num_tokens <= max_tokens


@given(**lengths_and_ranks)
def test_packing_takes_at_most_half_again_as_many_micro_batches_as_tokens_need(lengths, num_ranks, max_tokens):
    # Best fit, longest first, never takes more than 11/9 of the fewest rows and one more (Johnson 1973).
    lengths = np.array(lengths)
    num_micro_batches = len(cut(lengths, num_ranks, max_tokens, True)[0])
    least = -(-int(lengths.sum()) // (max_tokens * num_ranks))
    fewest_rows_at_most = 2 * least * num_ranks  # two neighbouring rows hold more than one together
    assert num_micro_batches <= -(-(11 * fewest_rows_at_most // 9 + 1) // num_ranks)


def test_examples_of_like_length_share_a_padded_micro_batch():
    [groups] = cut(np.array([10, 100, 12, 98, 11, 50]), 1, 200, False)
    assert [sorted(group.tolist()) for group in groups] == [[1, 3], [0, 2, 4, 5]]


def test_fewer_examples_than_ranks_leave_a_rank_without_labels_to_learn():
    examples = Examples([5, 7])
    steps = [Steps(examples, 2, 64, 3, rank, 0, lambda batch: batch, True)[0] for rank in range(3)]
    assert [len(step["micro_batches"]) for step in steps] == [1, 1, 1]
    labels = [torch.cat([e["labels"] for e in step["micro_batches"][0]]) for step in steps]
    assert sorted(int((label != -100).sum()) for label in labels) == [0, 4, 5]
    assert [step["num_labels"] for step in steps] == [9, 9, 9]


def test_steps_hold_the_examples_that_random_sampling_draws():
    examples = Examples(range(3, 43))
    steps = Steps(examples, 16, 64, 1, 0, 7, lambda batch: batch, True)
    for epoch in (0, 1):
        drawn = torch.randperm(40, generator=torch.Generator().manual_seed(7 + epoch)).tolist()
        found = [steps.examples_of(epoch * len(steps) + k).tolist() for k in range(len(steps))]
        assert found == [drawn[:16], drawn[16:32], drawn[32:]]


def test_all_ranks_together_read_the_step_once_whatever_their_number():
    examples = Examples([int(n) for n in np.random.default_rng(0).integers(5, 60, 50)])
    for num_ranks in (1, 2, 4):
        seen = []
        for rank in range(num_ranks):
            for micro_batch in Steps(examples, 20, 80, num_ranks, rank, 3, lambda batch: batch, True)[4][
                "micro_batches"
            ]:
                seen += [tuple(example["input_ids"].tolist()) for example in micro_batch]
        whole = Steps(examples, 20, 80, 1, 0, 3, lambda batch: batch, True).examples_of(4)
        assert sorted(seen) == sorted(tuple(examples[int(i)]["input_ids"].tolist()) for i in whole)


def test_a_loader_with_workers_goes_on_with_the_next_epoch():
    examples = Examples(range(3, 13))
    steps = Steps(examples, 5, 64, 1, 0, 0, lambda batch: batch, True)
    for num_workers in (0, 1):
        loader = step_loader(steps, num_workers=num_workers)
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            for k, step in enumerate(loader):
                lengths = [len(example["input_ids"]) for batch in step["micro_batches"] for example in batch]
                expected = examples.lengths[steps.examples_of(2 * epoch + k)]
                assert sorted(lengths) == sorted(expected.tolist())
    assert list(EpochOfSteps(2)) == [0, 1]


def test_a_row_holds_examples_one_after_another_each_with_positions_of_its_own():
    row = PackedRow(model_max_length=512)(
        [
            {"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([-100, 6, 7])},
            {"input_ids": torch.tensor([8, 9]), "labels": torch.tensor([8, 9])},
        ]
    )
    assert row["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert row["labels"].tolist() == [[-100, 6, 7, -100, 9]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert row["cu_seq_lens_q"].tolist() == [0, 3] + [5] * (DOCUMENTS_MULTIPLE - 2)


def tiny(config_class, **settings):
    torch.manual_seed(0)
    common = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
    config = config_class(**common | settings)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2}
MODELS = {
    "gemma": (transformers.GemmaConfig, {**GROUPED, "head_dim": 8}),
    "gpt_neox": (transformers.GPTNeoXConfig, {"intermediate_size": 64}),
    "llama": (transformers.LlamaConfig, GROUPED),
    "mistral": (transformers.MistralConfig, {**GROUPED, "sliding_window": 6}),
    "olmo2": (transformers.Olmo2Config, GROUPED),
    "opt": (transformers.OPTConfig, {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "phi3": (transformers.Phi3Config, GROUPED),
    "qwen2": (transformers.Qwen2Config, GROUPED),
    "qwen3": (transformers.Qwen3Config, {**GROUPED, "head_dim": 8}),
}


def loss_and_gradients(model, batches, num_labels):
    model.zero_grad()
    losses = []
    for batch in batches:
        losses.append(model(**batch, num_items_in_batch=num_labels).loss)
        losses[-1].backward()
    return sum(losses).item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_every_model_type_with_a_loss_of_our_own_is_tested_here():
    assert set(MODELS) == set(response_loss.MODEL_TYPES)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_gives_the_loss_and_gradients_of_its_examples_one_by_one(name):
    config_class, config = MODELS[name]
    model = tiny(config_class, **config)
    response_loss.compute_loss_on_response_only(model)
    model.train()
    examples = Examples([23, 9, 31, 3])
    one_by_one = [{key: value[None] for key, value in examples[i].items()} for i in range(len(examples))]
    num_labels = int(examples.num_labels.sum())
    loss, gradients = loss_and_gradients(model, one_by_one, num_labels)
    model.set_attn_implementation("block_diagonal")
    row = PackedRow(64)([examples[i] for i in range(len(examples))])
    packed_loss, packed_gradients = loss_and_gradients(model, [row], num_labels)
    assert packed_loss == pytest.approx(loss, abs=1e-6)
    for key in gradients:
        torch.testing.assert_close(packed_gradients[key], gradients[key], atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_on_a_gpu_the_kernel_keeps_the_documents_of_a_row_apart(name):
    config_class, config = MODELS[name]
    model = tiny(config_class, **config).to("cuda", torch.bfloat16)
    response_loss.compute_loss_on_response_only(model)
    model.train()
    examples = Examples([23, 9, 31, 3])
    row = PackedRow(64)([examples[i] for i in range(len(examples))])
    row = {key: value.cuda() if torch.is_tensor(value) else value for key, value in row.items()}
    one_by_one = [{key: value[None].cuda() for key, value in examples[i].items()} for i in range(len(examples))]
    loss, gradients = loss_and_gradients(model, one_by_one, 10)
    model.set_attn_implementation(attention_for_rows(torch.device("cuda"), torch.bfloat16))
    packed_loss, packed_gradients = loss_and_gradients(model, [row], 10)
    assert packed_loss == pytest.approx(loss, rel=1e-2)
    for key in gradients:
        difference = (packed_gradients[key] - gradients[key]).float().norm() / gradients[key].float().norm()
        assert difference < 0.05, key


@settings(deadline=None, max_examples=10)
@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=6))
def test_rows_of_any_lengths_give_the_loss_of_their_examples(lengths):
    model = tiny(transformers.LlamaConfig, intermediate_size=64, num_key_value_heads=4)
    response_loss.compute_loss_on_response_only(model)
    model.train()
    examples = Examples(lengths)
    losses = [
        model(**{k: v[None] for k, v in examples[i].items()}, num_items_in_batch=1).loss for i in range(len(lengths))
    ]
    row = PackedRow(64)([examples[i] for i in range(len(lengths))])
    assert model(**row, num_items_in_batch=1).loss.item() == pytest.approx(sum(losses).item(), rel=1e-5)


# ---- Whole runs, beside the plain Trainer ----


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return train.load_tokenizer(str(tiny_llama), None, 256)[0]


@pytest.fixture(scope="module")
def dataset(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.json"
    jdump(jload(ROOT / "alpaca_data.json")[:45], path)
    return train.SupervisedDataset(str(path), tokenizer)


def run(trainer_class, arguments_class, name, tokenizer, dataset, output_dir, **flags):
    config_class, config = MODELS[name]
    model = tiny(config_class, **{**config, "vocab_size": len(tokenizer)})
    flags = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "num_train_epochs": 2,
        "learning_rate": 1e-3, "max_grad_norm": 0.5, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, **flags,
    }  # fmt: skip
    args = arguments_class(output_dir=str(output_dir), **flags)
    if arguments_class is train.TrainingArguments:
        response_loss.compute_loss_on_response_only(model)
    collator = train.DataCollatorForSupervisedDataset(tokenizer)
    keywords = {"train_dataset": dataset, "data_collator": collator, "processing_class": tokenizer}
    trainer = trainer_class(model, args, **keywords)
    trainer.train(resume_from_checkpoint=flags.get("resume_from_checkpoint"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, trainer


@pytest.mark.parametrize("name", ["llama", "opt", "mistral"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_losses_are_those_of_the_plain_trainer(name, is_packed, tokenizer, dataset, tmp_path, monkeypatch):
    plain, _ = run(transformers.Trainer, transformers.TrainingArguments, name, tokenizer, dataset, tmp_path / "plain")
    monkeypatch.setattr(
        packed_steps, "attention_for_rows", lambda device, dtype: "block_diagonal" if is_packed else None
    )
    ours, trainer = run(
        train.AlpacaTrainer, train.TrainingArguments, name, tokenizer, dataset, tmp_path / "ours", model_max_length=256
    )
    assert trainer.is_packed == is_packed
    assert len(plain) == 6
    assert ours == pytest.approx(plain, abs=1e-6)


def test_a_run_resumed_inside_an_epoch_ends_with_the_same_weights(tokenizer, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(packed_steps, "attention_for_rows", lambda device, dtype: "block_diagonal")
    classes = (train.AlpacaTrainer, train.TrainingArguments, "opt", tokenizer, dataset)
    flags = {"model_max_length": 256, "save_strategy": "steps", "save_steps": 2}
    _, whole = run(*classes, tmp_path / "whole", **flags)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    again = {**flags, "resume_from_checkpoint": str(tmp_path / "resumed" / "checkpoint-2")}
    _, resumed = run(*classes, tmp_path / "resumed", **again)
    for (key, expected), found in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected), key


@pytest.fixture(scope="module", params=["alpaca_data.json", "alpaca_sample.json"])
def real_data(request):
    own = ROOT / request.param
    path = own if own.is_file() else request.getfixturevalue("reference_data") / request.param
    return train.SupervisedDataset(str(path), train.load_tokenizer(str(ROOT / "configs" / "tiny-llama"), None, 512)[0])


@pytest.mark.parametrize("micro_batch", [4, 16])
@pytest.mark.parametrize("num_ranks", [1, 4])
def test_real_data_takes_no_more_than_one_micro_batch_above_the_least(micro_batch, num_ranks, real_data):
    steps = Steps(real_data, 128, micro_batch * 512, num_ranks, 0, 42, lambda batch: batch, True)
    for k in range(len(steps)):
        lengths = real_data.lengths[steps.examples_of(k)]
        least = -(-int(lengths.sum()) // (micro_batch * 512 * num_ranks))
        assert len(cut(lengths, num_ranks, micro_batch * 512, True)[0]) <= least + 1
