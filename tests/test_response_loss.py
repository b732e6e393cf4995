"""The loss on response tokens only equals the model's own, and leaves inference as it was."""

import pytest
import torch
import transformers

from alpaca.training import response_loss


def tiny_model(model_type):
    """A random two-layer model of any type, with dropout off."""
    config = transformers.AutoConfig.for_model(model_type)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "ffn_dim": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "word_embed_proj_dim": 32}
    for name, value in sizes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    config.pad_token_id = config.eos_token_id = config.bos_token_id = 1
    config.dropout = config.hidden_dropout = config.attention_dropout = 0.0
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.mark.parametrize("model_type", response_loss.MODEL_TYPES)
@pytest.mark.parametrize("chunk_logits", [2**26, 3 * 50, 1], ids=["one chunk", "3 tokens", "1 token"])
def test_loss_and_gradients_equal_the_models_own(model_type, chunk_logits, monkeypatch):
    monkeypatch.setattr(response_loss, "CHUNK_LOGITS", chunk_logits)
    input_ids = torch.randint(2, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.arange(9) < torch.tensor([[9], [1], [7]])  # padded on the right
    labels = input_ids.masked_fill(~attention_mask, -100)
    labels[0, :4] = labels[1, :] = labels[2, 2:5] = -100
    losses, gradients = [], []
    for fast in (False, True):
        model = tiny_model(model_type).train()
        assert not fast or response_loss.compute_loss_on_response_only(model)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask.long(), "labels": labels}
        loss = model(**batch, num_items_in_batch=torch.tensor(7)).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for slow, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)


def test_without_a_count_the_loss_is_the_mean_over_response_tokens():
    model = tiny_model("llama").train()
    input_ids = torch.arange(2, 12).reshape(2, 5)
    labels = torch.where(input_ids > 4, input_ids, -100)
    expected = model(input_ids=input_ids, labels=labels).loss.item()
    response_loss.compute_loss_on_response_only(model)
    assert model(input_ids=input_ids, labels=labels).loss.item() == pytest.approx(expected, rel=1e-6)


def test_inference_and_evaluation_are_as_before():
    model = tiny_model("llama").eval()
    input_ids = torch.arange(2, 12).reshape(2, 5)
    padded_on_the_left = {"input_ids": input_ids, "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1] * 5])}
    before = model(**padded_on_the_left, labels=input_ids)
    response_loss.compute_loss_on_response_only(model)
    after = model(**padded_on_the_left, labels=input_ids)
    assert torch.equal(before.logits, after.logits)
    assert before.loss == after.loss
    assert torch.equal(model(**padded_on_the_left).logits, before.logits)


def test_training_takes_the_attention_kernel_without_a_mask(monkeypatch):
    calls = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, is_causal=False, **kwargs):
        calls.append((attn_mask is None, is_causal))
        return attention(*args, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model = tiny_model("llama").train()
    response_loss.compute_loss_on_response_only(model)
    input_ids = torch.arange(2, 12).reshape(2, 5)
    model(input_ids=input_ids, attention_mask=torch.tensor([[1, 1, 1, 0, 0], [1] * 5]), labels=input_ids)
    assert calls == [(True, True)] * model.config.num_hidden_layers


def test_an_unknown_model_keeps_its_own_loss():
    model = tiny_model("cohere")
    assert not response_loss.compute_loss_on_response_only(model)
    assert "forward" not in vars(model.get_output_embeddings())
