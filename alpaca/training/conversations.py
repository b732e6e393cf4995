"""Conversations as training text, and the chat template by which servers make the same text, token for token.

The first instruction stands in the training prompt, a later one follows after an empty line without the preamble, and
every answer ends with the end-of-text token.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json

import transformers

from alpaca.examples import INPUT_BEGINS
from utils import PROMPT_DICT, format_prompt

WITH_INPUT, WITHOUT_INPUT = (prompt.split("### Instruction:")[0] for prompt in PROMPT_DICT.values())  # the preambles


def sources_and_targets(example: dict, eos_token: str) -> list[tuple[str, str]]:
    """(source, target) for each answer of an example as load_examples gives it: the text before it, and the answer with
    the end-of-text token. The last two together are the whole text.

    >>> [(source, target)] = sources_and_targets({"instruction": "Add.", "input": "1, 2", "output": "3"}, "</s>")
    >>> source == format_prompt("Add.", "1, 2"), target
    (True, '3</s>')
    """
    if "messages" not in example:
        return [(format_prompt(example["instruction"], example["input"]), example["output"] + eos_token)]
    texts = [message["content"] for message in example["messages"]]
    if example["messages"][0]["role"] == "system":
        texts[:2] = [f"{texts[0]}\n\n{texts[1]}"]
    before = WITH_INPUT if INPUT_BEGINS in texts[0] else WITHOUT_INPUT
    pairs = []
    for instruction, answer in zip(texts[::2], texts[1::2], strict=True):
        source = f"{before}### Instruction:\n{instruction}\n\n### Response:"
        pairs.append((source, answer + eos_token))
        before = f"{source}{answer}{eos_token}\n\n"
    return pairs


def chat_template(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """A Jinja template by which servers turn a chat message into the training prompt, token for token.

    A user's message is the instruction; one that holds "\n\n### Input:\n" brings its own input and gets the prompt for
    that. A system message goes before the first instruction. apply_chat_template adds no special tokens, so the
    template starts with the one that the tokenizer put before every training example, if it did.
    """
    bos, ids = "", tokenizer(WITHOUT_INPUT).input_ids
    if ids[0] == tokenizer.bos_token_id:
        joined = tokenizer(tokenizer.bos_token + WITHOUT_INPUT, add_special_tokens=False).input_ids
        # Some tokenizers put a space before the first word of a text only where no other token stands before it.
        bos = "{{- bos_token }}" if joined[:2] == ids[:2] else "{{- bos_token + ' ' }}"
    return (
        "{%- macro text(content) %}{% if content is string %}{{ content }}{% else %}"
        "{% for part in content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}{% endmacro %}"
        f"{bos}{{%- set turn = namespace(system='', first=true) %}}"
        "{%- for message in messages %}"
        "{%- if message.role == 'system' %}{%- set turn.system = text(message.content) + '\\n\\n' %}"
        "{%- elif message.role == 'assistant' %}{{- text(message.content) + eos_token }}"
        "{%- else %}{%- set instruction = turn.system + text(message.content) %}"
        "{%- if not turn.first %}{{- '\\n\\n' }}"
        f"{{%- elif '\\n\\n### Input:\\n' in instruction %}}{{{{- {json.dumps(WITH_INPUT)} }}}}"
        f"{{%- else %}}{{{{- {json.dumps(WITHOUT_INPUT)} }}}}{{%- endif %}}"
        "{{- '### Instruction:\\n' + instruction + '\\n\\n### Response:' }}"
        "{%- set turn.first = false %}{%- set turn.system = '' %}{%- endif %}{%- endfor %}"
    )
