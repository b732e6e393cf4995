"""The tiny model of the quick start: a LLaMA of 3 million parameters with a tokenizer trained on our data.

python -m configs.make_tiny_llama config
python -m configs.make_tiny_llama base --output_dir out/base

The first writes configs/tiny-llama: configuration and tokenizer, no weights; `train.py --init_from_config True` starts
from random ones. The second writes the model with the very weights that it starts from. The tokenizer has the parts
of LLaMA's: <s> before every text, </s>, <unk>, no pad token.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import os

from utils import ROOT, format_prompt, run_commands

FOLDER = ROOT / "configs" / "tiny-llama"


def config() -> None:
    """Write configs/tiny-llama anew, after a change of alpaca_data.json."""
    import transformers

    from alpaca.examples import load_examples
    from configs.tiny_models import llama_tokenizer

    examples = load_examples(str(ROOT / "alpaca_data.json"))
    texts = [format_prompt(example["instruction"], example["input"]) + example["output"] for example in examples]
    llama_tokenizer(vocab_size=3000, texts=texts, model_max_length=512).save_pretrained(FOLDER)
    transformers.LlamaConfig(
        vocab_size=3000,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        initializer_range=0.05,  # about 1 / sqrt(hidden_size)
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(FOLDER)


def base(output_dir: str, seed: int = 42) -> None:
    """Write the model with the random weights from which train.py --init_from_config True starts.

    Args:
        output_dir: Folder for weights, configuration and tokenizer.
        seed: That of the training run; 42 is the Trainer's default.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, if installed, would warn that it looked for one
    import torch
    import transformers

    transformers.set_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(FOLDER), dtype=torch.float32
    )
    model.save_pretrained(output_dir)
    transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(output_dir)


if __name__ == "__main__":
    run_commands({"config": config, "base": base})
