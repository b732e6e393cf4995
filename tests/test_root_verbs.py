"""Root verb and direct object of instructions: by rules, and by a dependency parse."""

import json
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca.generation import root_verbs
from alpaca.generation.root_verbs import parse_by_rules

LABELLED = Path(__file__).parent / "fixtures" / "root_verbs.jsonl"


def pair_of(instruction):
    return root_verbs.root_verbs([instruction], parse_by_rules)[0]


@pytest.mark.parametrize(
    ("instruction", "pair"),
    [
        # imperatives
        ("Write a short story about a fox who sells umbrellas.", ("write", "story")),
        ("Please, briefly explain the rules of curling", ("explain", "rule")),
        ("List synonyms for the word 'cold'.", ("list", "synonym")),
        ("Format the following text as a letter.", ("format", "text")),
        ("Set a monthly budget for two students.", ("set", "budget")),
        ("Strip repeated entries from the list.", ("strip", "entry")),
        ("Listen to the rain.", ("listen", None)),
        ("1. Name three rivers.\n2. Draw a conclusion.", ("name", "river")),
        # the head of the noun phrase
        ("Write a very short and simple English bedtime story.", ("write", "story")),
        ("Summarize the reader's main question.", ("summarize", "question")),
        ('Define the word "serendipity".', ("define", "word")),
        ("Explain one of the reasons for inflation.", ("explain", "reason")),
        ("Describe the effect tides have on harbours.", ("describe", "effect")),
        ("Write a text explaining why bees dance.", ("write", "text")),
        ("Write a function that sorts names.", ("write", "function")),
        ("Create a metric to compare two schools.", ("create", "metric")),
        ("Write a blog post about Oslo.", ("write", "post")),
        ("Write an Excel formula for VAT.", ("write", "formula")),
        ("Classify the tweet as angry or calm.", ("classify", "tweet")),
        ("Compare TCP with UDP.", ("compare", None)),
        ("Visit Norway.", ("visit", None)),
        ("Rewrite it.", ("rewrite", None)),
        ("Explain how volcanoes erupt.", ("explain", None)),
        ("Translate 'Close the door' into Dutch.", ("translate", None)),
        ("Evaluate f(x) for x = 2.", ("evaluate", None)),
        # what may stand between verb and object
        ("Tell me a joke.", ("tell", "joke")),
        ("Give the customer a reason to come back.", ("give", "reason")),
        ("Write down the names of the months.", ("write", "name")),
        ("Describe in your own words the water cycle.", ("describe", "cycle")),
        ("Identify at least two mistakes in the proof.", ("identify", "mistake")),
        ("Compare and contrast the climates of Lima and Quito.", ("compare", "climate")),
        ("Come up with a name for a bakery.", ("come", None)),
        # what may stand in front
        ("Given a list of prices, find the highest price.", ("find", "price")),
        ("Using the words run, jump, and swim, write a poem.", ("write", "poem")),
        ("You are given a recipe, and you need to count its calories.", ("count", "calorie")),
        ("Imagine that you are a judge. Give your verdict.", ("give", "verdict")),
        ("Task: sort the names.", ("sort", "name")),
        # polite requests, wishes
        ("Could you please suggest a title?", ("suggest", "title")),
        ("I need a recipe for lentil soup.", ("need", "recipe")),
        ("I would like you to draft a letter.", ("draft", "letter")),
        ("You should capitalize every noun.", ("capitalize", "noun")),
        ("Your task is to guess the country.", ("guess", "country")),
        ("Help me plan a picnic.", ("plan", "picnic")),
        ("Let's write a song.", ("write", "song")),
        # questions
        ("How do I clean a cast-iron pan?", ("clean", "pan")),
        ("How to bake a loaf of bread", ("bake", "loaf")),
        ("Which rivers cross Ghana?", ("cross", None)),
        ("What steps should we take first?", ("take", "step")),
        ("Which bus do I have to take?", ("take", "bus")),
        ("Does the sentence contain an adverb?", ("contain", "adverb")),
        ("What is the capital of Peru?", (None, None)),
        ("Is Mali a river?", (None, None)),
        # what is no request
        ("The sky over the harbour.", (None, None)),
        ("Correct this: Give me the books yesterday.", ("correct", None)),
        ("Is it true? She made a cake.", (None, None)),
        ("", (None, None)),
        ("?!", (None, None)),
        ("请写一个故事", (None, None)),
        # lemmas
        ("Count the dependencies.", ("count", "dependency")),
        ("Name two cookies.", ("name", "cookie")),
        ("List the criteria.", ("list", "criterion")),
        ("Explain mitosis.", ("explain", "mitosis")),
        ("Suggest captions for these selfies.", ("suggest", "caption")),
    ],
)
def test_rules_find_the_root_verb_and_its_direct_object(instruction, pair):
    assert pair_of(instruction) == pair


def test_rules_agree_with_the_labels_made_by_hand():
    labelled = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    expected = [(entry["verb"], entry["object"]) for entry in labelled]
    found = root_verbs.root_verbs([entry["instruction"] for entry in labelled], parse_by_rules)
    with_object = [pair == label for pair, label in zip(found, expected, strict=True) if pair[1]]
    with_verb = [pair[0] == label[0] for pair, label in zip(found, expected, strict=True) if pair[0]]
    assert len(labelled) == 295
    assert sum(with_object) >= 0.98 * len(with_object)
    assert sum(with_verb) >= 0.98 * len(with_verb)
    assert sum(with_object) >= 0.94 * sum(obj is not None for _, obj in expected)


def test_several_processes_find_what_one_finds():
    sentences = [f"Name {n} rivers." if n % 2 else f"Explain why {n} is even." for n in range(4100)]
    assert parse_by_rules(sentences, num_processes=2) == parse_by_rules(sentences)


def test_material_does_not_replace_the_verb_in_front_of_it():
    parse = {"Fix it:": ("fix", None), "Sell the car.": ("sell", "car")}.get
    found = root_verbs.root_verbs(
        ["Fix it: Sell the car."], lambda sentences: [parse(s, ("fix", None)) for s in sentences]
    )
    assert found == [("fix", None)]


WORDS = ["let", "us", "help", "me", "do", "have", "to", "the", "a", "of", "how", "is", ",", ".", '"', "'", "(", ":"]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_gives_a_pair_in_lower_case_with_an_object_only_beside_a_verb(text):
    verb, obj = pair_of(text)
    assert verb is None or (verb and verb == verb.lower())
    assert obj is None or (verb and obj and obj == obj.lower())


@pytest.mark.timeout(10)  # of milliseconds that it takes; without limits, it would be minutes
def test_long_words_and_long_texts_are_cut():
    assert pair_of("Write " + "x" * 100_000)[0] == "write"
    assert pair_of("a" * 100_000) == (None, None)
    assert pair_of("Write a song" + " very" * 100_000) == ("write", "song")
    assert pair_of("Write a song" + " " * 100_000 + "now") == ("write", "song")


# --- the dependency parse: tokens as spaCy's, built by hand, since its models cannot be installed from the registry ---


def parsed(text):
    """A parsed sentence, written as word/lemma/part of speech/relation/number of its head."""
    tokens = []
    for i, item in enumerate(text.split()):
        word, lemma, pos, dep, head = item.split("/")
        tokens.append(
            types.SimpleNamespace(i=i, text=word, lemma_=lemma, pos_=pos, dep_=dep, head=int(head), children=[])
        )
    for token in tokens:
        if token.head != token.i:
            tokens[token.head].children.append(token)
    return tokens


@pytest.mark.parametrize(
    ("sentence", "pair"),
    [
        ("Write/write/VERB/ROOT/0 a/a/DET/det/2 Story/Story/NOUN/dobj/0 ././PUNCT/punct/0", ("write", "story")),
        ("Write/write/VERB/ROOT/0 stories/story/NOUN/obj/0", ("write", "story")),
        ("Visit/visit/VERB/ROOT/0 Norway/Norway/PROPN/dobj/0", ("visit", None)),
        (
            "Name/name/VERB/ROOT/0 one/one/NUM/dobj/0 of/of/ADP/prep/1 the/the/DET/det/4 rivers/river/NOUN/pobj/2",
            ("name", "river"),
        ),
        (
            "Compare/compare/VERB/ROOT/0 and/and/CCONJ/cc/0 contrast/contrast/VERB/conj/0 apes/ape/NOUN/dobj/2",
            ("compare", "ape"),
        ),
        (
            "You/you/PRON/nsubj/1 need/need/VERB/ROOT/1 to/to/PART/aux/3 sort/sort/VERB/xcomp/1 names/name/NOUN/dobj/3",
            ("sort", "name"),
        ),
        ("You/you/PRON/nsubj/2 should/should/AUX/aux/2 sort/sort/VERB/ROOT/2 names/name/NOUN/dobj/2", ("sort", "name")),
        ("I/I/PRON/nsubj/1 need/need/VERB/ROOT/1 names/name/NOUN/dobj/1", ("need", "name")),
        ("Dogs/dog/NOUN/nsubj/1 chase/chase/VERB/ROOT/1 cats/cat/NOUN/dobj/1", (None, None)),
        ("Dogs/dog/NOUN/nsubj/1 chase/chase/VERB/ROOT/1 cats/cat/NOUN/dobj/1 ?/?/PUNCT/punct/1", ("chase", "cat")),
        ("What/what/PRON/attr/1 is/be/AUX/ROOT/1 it/it/PRON/nsubj/1 ?/?/PUNCT/punct/1", (None, None)),
        ("", (None, None)),
    ],
)
def test_a_dependency_parse_gives_the_same_kind_of_pair(sentence, pair):
    assert root_verbs._pair_of_parse(parsed(sentence)) == pair


def fake_spacy(models, loaded=None):
    """The two functions of spaCy that are called, for a pipeline that knows one sentence."""
    pipeline = types.SimpleNamespace(
        pipe=lambda sentences, n_process: (parsed("Write/write/VERB/ROOT/0 poems/poem/NOUN/dobj/0") for _ in sentences)
    )

    def load(name, exclude):
        loaded.append(name)
        return pipeline

    return types.SimpleNamespace(util=types.SimpleNamespace(get_installed_models=lambda: models), load=load)


def test_spacy_is_used_with_an_english_model_that_is_installed(monkeypatch):
    loaded = []
    monkeypatch.setitem(sys.modules, "spacy", fake_spacy(["de_core_news_sm", "en_core_web_sm"], loaded))
    parse, name = root_verbs.load_spacy_parser()
    assert loaded == ["en_core_web_sm"]
    assert name == "spaCy's en_core_web_sm"
    assert root_verbs.root_verbs(["Write poems", "Write poems"], parse) == [("write", "poem")] * 2


@pytest.mark.parametrize("spacy", [None, fake_spacy([]), fake_spacy(["de_core_news_sm"])])
def test_there_is_no_spacy_parser_without_an_english_model(monkeypatch, spacy):
    monkeypatch.setitem(sys.modules, "spacy", spacy)  # None: the import fails
    assert root_verbs.load_spacy_parser() is None
