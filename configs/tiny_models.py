"""Models small enough for tests and benchmarks, of the shapes that users have: LLaMA, and OPT with tied embeddings."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

from collections.abc import Iterable
from pathlib import Path

TEXT = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: ### Input: ### Response: Name three colours of the rainbow, longest wave first.",
    "The capital of France is Paris, and 12 times 12 is 144. Sort the list: pear, apple, fig, and say why.",
]


def byte_level_tokenizer(special_tokens: list[str], vocab_size: int = 400, texts: Iterable[str] = TEXT):
    """A byte-level BPE tokenizer (tokenizers.Tokenizer): every string can be encoded and decoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def llama_tokenizer(vocab_size: int = 400, texts: Iterable[str] = TEXT, model_max_length: int = 2048):
    """A fast tokenizer with the parts of LLaMA's: <s> before every text, </s>, <unk>, no pad token."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = byte_level_tokenizer(["<unk>", "<s>", "</s>"], vocab_size, texts)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special_tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=model_max_length, **special_tokens)


def save_llama(path: Path, hidden_size: int = 64, num_layers: int = 2, seed: int = 0, **save_options) -> Path:
    """Save a random LLaMA and its tokenizer to path, and return path."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = llama_tokenizer()
    tokenizer.save_pretrained(path)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(path, **save_options)
    return path


def save_opt(path: Path, hidden_size: int = 64, num_layers: int = 2, seed: int = 0, **save_options) -> Path:
    """Save a random OPT (tied embeddings) and its tokenizer (`</s>` begins every text, `<pad>` is there) to path."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

    tokenizer = byte_level_tokenizer(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="</s>",
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=2048,
    )
    fast.save_pretrained(path)
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=len(fast),
        hidden_size=hidden_size,
        word_embed_proj_dim=hidden_size,
        ffn_dim=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        max_position_embeddings=1024,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
    )
    OPTForCausalLM(config).save_pretrained(path, **save_options)
    return path
