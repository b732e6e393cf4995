"""Root verb and direct object of instructions."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca.generation.root_verbs import root_verb, root_verbs

LABELLED = Path(__file__).parent / "fixtures" / "root_verbs.jsonl"


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
        ("Fix it: Sell the car.", ("fix", None)),
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
    assert root_verb(instruction) == pair


def test_rules_agree_with_the_labels_made_by_hand():
    labelled = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    expected = [(entry["verb"], entry["object"]) for entry in labelled]
    found = root_verbs([entry["instruction"] for entry in labelled])
    with_object = [pair == label for pair, label in zip(found, expected, strict=True) if pair[1]]
    with_verb = [pair[0] == label[0] for pair, label in zip(found, expected, strict=True) if pair[0]]
    assert len(labelled) == 295
    assert sum(with_object) >= 0.98 * len(with_object)
    assert sum(with_verb) >= 0.98 * len(with_verb)
    assert sum(with_object) >= 0.94 * sum(obj is not None for _, obj in expected)


def test_several_processes_find_what_one_finds():
    instructions = [f"Name {n} rivers." if n % 2 else f"Explain why {n} is even." for n in range(4100)]
    assert root_verbs(instructions, num_processes=2) == root_verbs(instructions)


WORDS = ["let", "us", "help", "me", "do", "have", "to", "the", "a", "of", "how", "is", ",", ".", '"', "'", "(", ":"]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_gives_a_pair_in_lower_case_with_an_object_only_beside_a_verb(text):
    verb, obj = root_verb(text)
    assert verb is None or (verb and verb == verb.lower())
    assert obj is None or (verb and obj and obj == obj.lower())


@pytest.mark.timeout(10)  # of milliseconds that it takes; without limits, it would be minutes
def test_long_words_and_long_texts_are_cut():
    assert root_verb("Write " + "x" * 100_000)[0] == "write"
    assert root_verb("a" * 100_000) == (None, None)
    assert root_verb("Write a song" + " very" * 100_000) == ("write", "song")
    assert root_verb("Write a song" + " " * 100_000 + "now") == ("write", "song")
