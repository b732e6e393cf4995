"""Responses of a local causal language model: many prompts in batches, or one as a stream.

`generate` sorts prompts by length, pads them on the left, and takes a response out of its batch when it ends, so that
short ones do not wait for long ones. Greedy responses are those of transformers' `generate`, prompt by prompt.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import inspect
import os
import random
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alpaca.inference.server import chat_message
from utils import UserError, check_ranges, format_prompt, is_hub_name, jload

if typing.TYPE_CHECKING:
    import torch
    import transformers

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
PROMPT_NOTICE = {
    "alpaca": "prompt: Alpaca's (--prompt chat takes the model's own chat template, where it has one)",
    "chat": "prompt: the model's own chat template (--prompt alpaca takes Alpaca's)",
}
# A folder's own code is never run: without this, transformers asks on standard input, where a line may begin with "y".
NO_CODE = {"trust_remote_code": False}
REPLACEMENT = "\ufffd"  # what the first bytes of an unfinished character decode to


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. temperature 0 takes the likeliest; top_p keeps the likeliest ones of that mass. Raises
    UserError for values that mean nothing."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        # As top_p nears 0, the likeliest token alone is left.
        check_ranges(vars(self), {"max_new_tokens": (1, 2**31), "temperature": (0, 10), "top_p": (1e-9, 1)})

    def openai_arguments(self) -> dict:
        """The same for a request to a server, whose own defaults may be others."""
        return {"max_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p}


@dataclass(frozen=True)
class LocalModel:
    """A model on its device, in evaluation mode, its tokenizer, and what ends a response."""

    name: str
    model: "transformers.PreTrainedModel"
    tokenizer: "transformers.PreTrainedTokenizerBase"
    eos_ids: frozenset[int]
    max_length: int  # tokens of prompt and response together
    prompt_form: str = "alpaca"  # or "chat": see find_prompt_form

    def prompt(self, instruction: str, input: str = "") -> str:
        """The text that asks this model for a response to an instruction."""
        if self.prompt_form == "alpaca":
            return format_prompt(instruction, input)
        messages = [{"role": "user", "content": chat_message(instruction, input)}]
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def encode(self, prompt: str) -> list[int]:
        """The prompt's token ids. Raises UserError where it leaves no room for a response."""
        # A chat template writes the special tokens itself.
        ids = self.tokenizer(prompt, add_special_tokens=self.prompt_form == "alpaca").input_ids
        # Some tokenizers end every text; a response could not follow.
        if self.prompt_form == "alpaca" and len(ids) > 1 and ids[-1] in self.eos_ids:
            ids = ids[:-1]
        if len(ids) >= self.max_length:
            beginning = " ".join(prompt.rpartition("### Instruction:")[2].split())[:60]
            raise UserError(
                f"a prompt of {len(ids):,} tokens leaves no room for a response: {self.name} reads "
                f"{self.max_length:,} tokens. The instruction begins: {beginning!r}"
            )
        return ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


# ---- Loading ----


def load_tokenizer(model_name_or_path: str, cache_dir: str | None = None) -> "transformers.PreTrainedTokenizerBase":
    """The tokenizer of a model, or of an adapter folder: its own, or else its base's."""
    base = find_base(model_name_or_path)
    import transformers

    has_tokenizer = any((Path(model_name_or_path) / file).is_file() for file in TOKENIZER_FILES)
    with load_errors_in_one_line(f"--model_name_or_path {model_name_or_path}"):
        source = model_name_or_path if has_tokenizer else base
        return transformers.AutoTokenizer.from_pretrained(source, cache_dir=cache_dir, **NO_CODE)


def find_prompt_form(tokenizer: "transformers.PreTrainedTokenizerBase", prompt: str) -> str:
    """How to ask a model: "alpaca" (utils.PROMPT_DICT) or "chat" (its chat template), for --prompt auto|alpaca|chat.

    auto is chat where the model has a template that is not the Alpaca prompt again, as train.py's is: it was tuned
    on that, and a server would ask it so. Raises UserError for chat without a template.
    """
    if prompt not in ("auto", "alpaca", "chat"):
        raise UserError(f"--prompt {prompt}: takes auto, alpaca or chat.")
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if prompt == "chat" and not template:
        raise UserError("--prompt chat: this model has no chat template. --prompt alpaca asks it with Alpaca's prompt.")
    has_own = bool(template) and "### Response:" not in template
    return {"auto": "chat" if has_own else "alpaca"}.get(prompt, prompt)


def find_base(model_name_or_path: str) -> str:
    """The model to load: another one where the name is an adapter's folder. Raises UserError where there is none."""
    folder = Path(model_name_or_path)
    if not folder.is_dir() and not is_hub_name(model_name_or_path):
        raise UserError(f"--model_name_or_path {model_name_or_path}: no such folder.")
    is_adapter = (folder / "adapter_config.json").is_file()
    if folder.is_dir() and not is_adapter and not (folder / "config.json").is_file():
        raise UserError(f"--model_name_or_path {folder}: neither config.json (a model) nor adapter_config.json in it.")
    return adapter_base(folder) if is_adapter else model_name_or_path


def load_model(model_name_or_path: str, cache_dir: str | None = None, prompt: str = "auto") -> LocalModel:
    """A model folder, an adapter folder (its base is loaded too) or a name on the Hub, on the GPU if there is one.

    In bfloat16 on a GPU, in float32 on the CPU. prompt is as find_prompt_form takes it; what it finds is said on
    stderr. Raises UserError where the model cannot be loaded.
    """
    tokenizer = load_tokenizer(model_name_or_path, cache_dir)
    prompt_form = find_prompt_form(tokenizer, prompt)
    print(PROMPT_NOTICE[prompt_form], file=sys.stderr)
    base = find_base(model_name_or_path)

    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    with load_errors_in_one_line(f"--model_name_or_path {model_name_or_path}"):
        model = transformers.AutoModelForCausalLM.from_pretrained(base, cache_dir=cache_dir, dtype=dtype, **NO_CODE)
        if base != model_name_or_path:
            import peft

            resize_embeddings(model, num_rows_of(tokenizer))  # as they were in training
            model = peft.PeftModel.from_pretrained(model, model_name_or_path).merge_and_unload()
    model.to(device).eval()
    eos_ids = model.generation_config.eos_token_id
    eos_ids = frozenset([tokenizer.eos_token_id, *(eos_ids if isinstance(eos_ids, list) else [eos_ids])]) - {None}
    return LocalModel(model_name_or_path, model, tokenizer, eos_ids, max_length(model.config), prompt_form)


@contextlib.contextmanager
def load_errors_in_one_line(what: str) -> Iterator[None]:
    """Whatever the libraries find wrong with somebody's model, configuration or tokenizer: a UserError. Theirs are of
    any kind, panics of the tokenizers, which are no Exception, included."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "trust_remote_code" in str(error):
            reason = "it brings code of its own (auto_map), which is never run here"
        raise UserError(f"{what}: cannot be loaded ({reason}).") from None


def adapter_base(folder: Path) -> str:
    """The model that an adapter was trained on. Raises UserError where it is missing."""
    config = jload(folder / "adapter_config.json")
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not base or not isinstance(base, str):
        raise UserError(f"{folder}/adapter_config.json: no base_model_name_or_path.")
    if os.path.isabs(base) and not os.path.isdir(base):
        raise UserError(
            f"{folder}: its base {base} is not there. Put it back, or name its new place in adapter_config.json."
        )
    return base


def num_rows_of(tokenizer: "transformers.PreTrainedTokenizerBase") -> int:
    """Rows that embeddings need for all ids of a tokenizer, which may have gaps (len() counts tokens, not ids)."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values(), default=-1) + 1)


def resize_embeddings(model: "transformers.PreTrainedModel", num_tokens: int, num_new_tokens: int = 0) -> None:
    """Give the model a row for each of num_tokens tokens. Those that it gains, and those of the last num_new_tokens,
    input and output, are the mean of the rows before them. None is taken away: some models have more rows than tokens.
    """
    import torch

    num_rows = model.config.get_text_config().vocab_size
    if num_rows < num_tokens:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    num_old = min(num_rows, num_tokens - num_new_tokens)
    # Tied weights: both turns write the same rows, and writing the mean twice changes nothing.
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        if embeddings is not None and num_old < num_tokens:
            with gathered(embeddings.weight), torch.no_grad():
                embeddings.weight[num_old:num_tokens] = embeddings.weight[:num_old].mean(dim=0, keepdim=True)


def gathered(parameter: "torch.nn.Parameter") -> contextlib.AbstractContextManager:
    """Under ZeRO stage 3, which partitions parameters when it loads them: whole for the block, then written back."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def max_length(config: "transformers.PretrainedConfig") -> int:
    """Positions that the model was made for; models with relative positions and no limit get 2,048."""
    config = config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048


# ---- Decoding ----


def generate(
    local: LocalModel, prompts: dict[int, str], decoding: Decoding, batch_size: int = 32, seed: int | None = None
) -> Iterator[tuple[int, str, str]]:
    """(index of the prompt, response, "stop" or "length") of every prompt, as each response ends; longest prompts
    first, so that memory runs out at once or not at all. Raises UserError, before any work, where one is too long.

    What is drawn depends on the seed and the index alone, not on the batch: without some prompts, or with another
    batch_size, the responses to the others stay the same, as far as the rounding of the logits does."""
    encoded = {index: local.encode(prompt) for index, prompt in prompts.items()}
    batch_size = batch_size if takes_batches(local.model) else 1
    order = sorted(encoded, key=lambda index: -len(encoded[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        responses: list[list[int]] = [[] for _ in batch]
        for row, token, ended in decode_batch(local, {index: encoded[index] for index in batch}, decoding, seed):
            if token not in local.eos_ids:
                responses[row].append(token)
            if ended:
                yield batch[row], local.decode(responses[row]).strip(), ended


def stream(local: LocalModel, prompt: str, decoding: Decoding, seed: int | None = None) -> Iterator[tuple[str, str]]:
    """The response so far, longer each time, with "", and at last the whole one with "stop" or "length"."""
    ids: list[int] = []
    for _, token, ended in decode_batch(local, {0: local.encode(prompt)}, decoding, seed):
        if token not in local.eos_ids:
            ids.append(token)
            text = local.decode(ids).lstrip()
            if not text.endswith(REPLACEMENT):
                yield text, ""
        if ended:
            yield local.decode(ids).strip(), ended


def decode_batch(
    local: LocalModel, prompts: dict[int, list[int]], decoding: Decoding, seed: int | None = None
) -> Iterator[tuple[int, int, str]]:
    """(row, token, "" or why the row ends: "stop" or "length"), step by step for all rows that have not ended.

    prompts: the token ids of each row, by the index that its draws depend on.
    """
    import torch

    device, encoded = local.model.device, list(prompts.values())
    cache_name = cache_argument(local.model)
    generators = [torch.Generator(device).manual_seed(seed_of(seed, index)) for index in prompts]
    accepted = inspect.signature(local.model.forward).parameters
    rows, lengths = list(range(len(encoded))), [len(ids) for ids in encoded]
    longest, step = max(lengths), 0
    # Padded on the left, so that every response begins in the same column. Any id will do where the mask is 0.
    input_ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids in encoded], device=device)
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths], device=device)
    cache = None
    while rows:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        arguments = {"position_ids": positions, "logits_to_keep": 1}  # not every architecture takes them
        if cache_name == "past_key_values":  # Mamba's would put a whole row's mask on the one new token
            arguments["attention_mask"] = mask
        arguments = {name: value for name, value in arguments.items() if name in accepted}
        with torch.inference_mode():
            caching = {cache_name: cache, "use_cache": True} if cache_name else {"use_cache": False}
            output = local.model(input_ids=input_ids, **caching, **arguments)
            logits = output.logits[:, -1].float()
            tokens = choose_tokens(logits, decoding, [generators[row] for row in rows])
        cache, step = cache_name and getattr(output, cache_name), step + 1
        kept = []
        for i, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            is_full = step == decoding.max_new_tokens or lengths[row] + step == local.max_length
            ended = "stop" if token in local.eos_ids else "length" if is_full else ""
            if not ended:
                kept.append(i)
            yield row, token, ended
        if len(kept) < len(rows):
            rows, index = [rows[i] for i in kept], torch.tensor(kept, dtype=torch.long, device=device)
            tokens, mask, input_ids = tokens[index], mask[index], input_ids[index]
            if rows and cache_name:
                # Made for beam search: unlike batch_select_indices, all layers know it in transformers 5.23, those of
                # convolutions and linear attention among them.
                cache.reorder_cache(index)
        input_ids = tokens[:, None] if cache_name else torch.cat([input_ids, tokens[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


def cache_argument(model) -> str | None:
    """What a model calls the cache that it takes and gives back; None where it keeps one to itself (RecurrentGemma)."""
    if model.config.model_type == "recurrent_gemma":
        return None
    names = inspect.signature(model.forward).parameters
    return next((name for name in ("past_key_values", "cache_params", "state") if name in names), None)


def takes_batches(model) -> bool:
    """Whether prompts of different lengths can stand in one batch, and rows be taken out of it. Not in models without
    attention (Mamba, RWKV, xLSTM) or that keep their cache to themselves, whose state goes on over padding, and not in
    MiniMax, whose cache, in transformers 5.23, cannot take rows out."""
    accepted = inspect.signature(model.forward).parameters
    is_attentive = cache_argument(model) == "past_key_values" and "attention_mask" in accepted
    return is_attentive and model.config.model_type != "minimax"


def seed_of(seed: int | None, index: int) -> int:
    """The seed of one response's draws, in the range of torch; another one each time where seed is None."""
    return (random.SystemRandom() if seed is None else random.Random(f"{seed} {index}")).getrandbits(63)


def choose_tokens(logits: "torch.Tensor", decoding: Decoding, generators: list["torch.Generator"]) -> "torch.Tensor":
    """LongTensor[b], one token for each row of the logits, FloatTensor[b, vocabulary], drawn by its own generator."""
    import torch

    if decoding.temperature == 0:
        return logits.argmax(dim=-1)
    probs, ids = (logits / decoding.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    # Nucleus sampling (arXiv 1904.09751): the fewest tokens that reach top_p, so those before which it is not reached.
    probs[probs.cumsum(dim=-1) - probs >= decoding.top_p] = 0
    probs = torch.zeros_like(probs).scatter(-1, ids, probs)  # by id, since rounding decides the order of near ties
    draws = [torch.multinomial(row, 1, generator=draw) for row, draw in zip(probs, generators, strict=True)]
    return torch.cat(draws)
