"""tokenization.py: one pass gives what two passes give, for any tokenizer and any text; the cache."""

import json

import numpy as np
import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import train
from alpaca.training import tokenization
from configs.tiny_models import TEXT
from utils import format_prompt

TRAINING_TEXT = [*TEXT, "Response:Paris Response:12 :a a:b (a):(b)  two  spaces\n\nlines\n"] * 3


def train_bpe(pre_tokenizer, decoder, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **options))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel) else []
    special = ["<unk>", "<s>", "</s>"] + ([f"<0x{i:02X}>" for i in range(256)] if options else [])
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


def with_bos(tokenizer, template="<s> $A"):
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def metaspace(scheme):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


def llama_of_2023():
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = prepend
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), metaspace("first")
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


def words_looked_up_first(pre_tokenizer):
    """As Llama 3: a whole word of the vocabulary is taken as it is, whatever the merge rules make of it."""
    trained = train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
    state = json.loads(trained.to_str())
    for word in (":Paris", "Response:", "ĊResponse:", ":Ã©", "12"):
        state["model"]["vocab"].setdefault(word, len(state["model"]["vocab"]))
    state["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


MAKERS = {
    "byte level": lambda: with_bos(train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())),
    "byte level without bos": lambda: train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()),
    "byte level with lower case": lambda: with_bos(
        train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), normalizers.Lowercase())
    ),
    "metaspace first": lambda: with_bos(train_bpe(metaspace("first"), decoders.Metaspace())),
    "metaspace always": lambda: with_bos(train_bpe(metaspace("always"), decoders.Metaspace())),
    "LLaMA of 2023": lambda: with_bos(llama_of_2023()),
    "unigram": lambda: with_bos(unigram()),
    "words looked up first": lambda: with_bos(words_looked_up_first(pre_tokenizers.ByteLevel(add_prefix_space=False))),
    "words looked up first, without a border before the colon": lambda: with_bos(
        words_looked_up_first(
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(" ", "merged_with_next"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        )
    ),
    "text end added": lambda: with_bos(
        train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()), "<s> $A </s>"
    ),
}
TWO_PASSES = {"text end added", "words looked up first, without a border before the colon"}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request):
    backend = MAKERS[request.param]()
    backend.add_special_tokens([AddedToken("</s>", normalized=False, special=True)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=100
    )
    fast.maker = request.param
    return fast


def assert_equals_the_definition(sources, targets, tokenizer):
    ids, offsets, source_lens = tokenization.tokenize(sources, targets, tokenizer)
    assert len(offsets) == len(sources) + 1
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        expected = tokenizer(source + target, truncation=True).input_ids
        assert ids[offsets[i] : offsets[i + 1]].tolist() == expected, (source, target)
        assert source_lens[i] == len(tokenizer(source, truncation=True).input_ids), (source, target)


def test_one_pass_is_taken_where_it_can_be(tokenizer):
    one_pass = tokenization.border_shows_source_len(tokenizer, format_prompt("Name it:"))
    assert one_pass == (tokenizer.maker not in TWO_PASSES)


def test_most_examples_are_read_once(tokenizer, monkeypatch):
    read_again = []
    monkeypatch.setattr(tokenization, "read", lambda texts, _: [read_again.append(text) or [] for text in texts])
    if tokenizer.maker not in TWO_PASSES:
        tokenization.tokenize([format_prompt("Name it.")] * 3, ["Paris.</s>", "a</s>", "</s>"], tokenizer)
        assert len(read_again) <= 1  # "Response:Paris" is in the vocabulary of some


def test_typical_responses_equal_the_definition(tokenizer):
    responses = ["Paris.", "12", ":b", "(b)", "", " spaced", "\nline", "a" * 300, "é🙂", "B and b", "</s>", "2 2"]
    sources = [format_prompt("Name it:", "x" * length) for length in (0, 5, 80, 300) for _ in responses]
    assert_equals_the_definition(sources, [r + "</s>" for r in responses] * 4, tokenizer)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text("ab:12 \nR()", max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(examples=st.lists(st.tuples(text, text), min_size=1, max_size=5))
def test_any_text_equals_the_definition(tokenizer, examples):
    sources = [f"{instruction}\nResponse:" for instruction, _ in examples]
    assert_equals_the_definition(sources, [response + "</s>" for _, response in examples], tokenizer)


def test_a_tokenizer_written_in_python_is_read_without_a_cache(tmp_path):
    tokenizer = transformers.ByT5Tokenizer(model_max_length=100)
    assert_equals_the_definition([format_prompt("Say hi.")] * 2, ["Hi.</s>", "</s>"], tokenizer)
    assert tokenization.cache_key(["Say hi:"], ["Hi."], tokenizer) is None
    assert tokenization.cached(None, str(tmp_path), lambda: 1) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_tokenizer_is_saved_without_a_length_limit(tokenizer, tmp_path):
    tokenization.tokenize(["Say hi:"] * 2, ["Hi.</s>", "12</s>"], tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["truncation"] is None


def test_the_result_is_computed_once_for_the_same_texts_and_tokenizer(tokenizer, tmp_path):
    calls = []

    def start(sources, targets):
        def compute():
            calls.append(1)
            return tokenization.tokenize(sources, targets, tokenizer)

        key = tokenization.cache_key(sources, targets, tokenizer)
        return tokenization.cached(key, str(tmp_path), compute)

    first = start(["Say hi:"], ["Hi.</s>"])
    tokenizer("Something else.", truncation=True)
    again = start(["Say hi:"], ["Hi.</s>"])
    assert len(calls) == 1
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    start(["Say hi:"], ["Ho.</s>"])
    tokenizer.model_max_length = 50
    start(["Say hi:"], ["Hi.</s>"])
    tokenizer.model_max_length = 100
    assert len(calls) == 3


def test_a_cache_file_cut_off_is_made_again(tmp_path):
    result = (np.arange(3, dtype=np.int32), np.array([0, 3]), np.array([1], dtype=np.int32))
    tokenization.cached(b"key", str(tmp_path), lambda: result)
    (path,) = (tmp_path / "alpaca-tokenized").iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    again = tokenization.cached(b"key", str(tmp_path), lambda: result)
    assert all(np.array_equal(a, b) for a, b in zip(result, again, strict=True))


def test_a_cache_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "alpaca-tokenized").write_text("a file")
    result = (np.arange(3, dtype=np.int32), np.array([0, 3]), np.array([1], dtype=np.int32))
    again = tokenization.cached(b"key", str(tmp_path), lambda: result)
    assert all(a is b for a, b in zip(again, result, strict=True))


@pytest.mark.parametrize("special_tokens", [("<s>", "</s>", "<unk>"), ("", "", "")], ids=["usual", "empty names"])
def test_a_llama_checkpoint_with_a_sentencepiece_model_only_begins_texts_as_in_2023(special_tokens, tmp_path):
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TRAINING_TEXT), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=400, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    options = dict(zip(("bos_token", "eos_token", "unk_token"), special_tokens, strict=True))
    options["tokenizer_class"] = "LlamaTokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    tokenizer, num_new_tokens = train.load_tokenizer(str(tmp_path), None, 100)
    assert num_new_tokens == 1  # [PAD]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    ids = tokenizer("Name three colours.</s>").input_ids
    assert (ids[0], ids[-1]) == (1, 2)
    assert_equals_the_definition([format_prompt("Say hi.")] * 3, ["Hi.</s>", "12</s>", "</s>"], tokenizer)
