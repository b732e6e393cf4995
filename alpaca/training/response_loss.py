"""The training loss of a causal language model, without work on tokens that carry no loss.

About half of an Alpaca example is prompt, and a batch has padding: their labels are -100, and yet a model projects
every position to the vocabulary. Here the output projection sees the response tokens only, in chunks that are
computed again in the backward pass, so that logits never take more memory than one chunk. Padding is on the right,
where no token attends to it, so the attention mask is left out too: torch's flash kernel takes none, and looking
whether a mask hides anything makes a GPU wait for the CPU.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

# Models whose forward hands hidden states to the output projection and its result to loss_function, with nothing in
# between (some models scale or cap their logits there).
MODEL_TYPES = ("gemma", "gpt_neox", "llama", "mistral", "olmo2", "opt", "phi3", "qwen2", "qwen3")
# 4,194 tokens x 32,000 words, or 1,046 x 128,256: as many labels as a micro-batch of 4 x 512 has, of which half is
# prompt. A second chunk costs half again as much time, measured on an H200 (benchmarks/results/gpu_recipe.txt).
CHUNK_LOGITS = 2**27  # 0.54 GB in float32


def compute_loss_on_response_only(model: torch.nn.Module) -> bool:
    """Make model(input_ids, attention_mask, labels), in training or with num_items_in_batch, return the same loss for
    less work, for batches padded on the right; its logits are then no longer logits. Inference is as before. Returns
    False, and changes nothing, for an unknown model type.
    """
    if model.config.model_type not in MODEL_TYPES:
        return False
    if hasattr(model, "peft_config"):  # adapters around the model; its own forward computes the loss
        model = model.get_base_model()
    head = model.get_output_embeddings()
    project, plain_loss = head.forward, model.loss_function
    chunk_tokens = max(1, CHUNK_LOGITS // model.config.vocab_size)
    labels_of_loss = None

    def remember_labels(module, args, kwargs):
        nonlocal labels_of_loss
        is_for_loss_only = module.training or kwargs.get("num_items_in_batch") is not None
        labels_of_loss = kwargs.get("labels") if is_for_loss_only else None
        return args, kwargs if labels_of_loss is None else {**kwargs, "attention_mask": None}

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits, or in training the summed loss: computed here, where DeepSpeed has the partitioned weight whole."""
        if labels_of_loss is None:
            return project(hidden_states)
        return summed_cross_entropy(hidden_states, labels_of_loss, project, chunk_tokens)

    def loss_function(logits, labels, vocab_size, num_items_in_batch=None, **kwargs):
        if labels_of_loss is None:
            return plain_loss(logits, labels, vocab_size, num_items_in_batch=num_items_in_batch, **kwargs)
        summed_loss = logits
        return summed_loss / ((labels[:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch)

    model.register_forward_pre_hook(remember_labels, with_kwargs=True)
    head.forward = forward
    model.loss_function = loss_function
    return True


def summed_cross_entropy(hidden_states: torch.Tensor, labels: torch.Tensor, project, chunk_tokens: int) -> torch.Tensor:
    """Sum over all i with labels[i + 1] != -100 of -log softmax(project(hidden_states[i]))[labels[i + 1]].

    hidden_states is Tensor[batch, n, d], labels LongTensor[batch, n]; returns a float32 scalar.
    """
    targets = labels[:, 1:]
    selected = targets != -100
    hidden_states, targets = hidden_states[:, :-1][selected], targets[selected]

    def chunk_loss(hidden, target):
        return cross_entropy(project(hidden).float(), target, reduction="sum")

    if len(targets) <= chunk_tokens:  # one chunk: nothing is saved by computing it again
        return chunk_loss(hidden_states, targets)
    chunks = zip(hidden_states.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    return torch.stack([checkpoint(chunk_loss, h, t, use_reentrant=False) for h, t in chunks]).sum()
