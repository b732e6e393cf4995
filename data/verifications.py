"""What can be computed in the data, computed: instruction -> what its output must contain.

A function gets the example (.input, .output) and returns True where the output holds; or a value, or a list of
values, each of which must occur in the output (numbers up to the rounding that the output shows). Nothing in this
file was copied from an output: the numbers come from the question.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import ast
import calendar
import datetime
import fractions
import itertools
import json
import math
import re
import statistics
import string

import yaml

from data.execution import c, javascript, printed, python, shell, sql


def raises(error: type[Exception], function, *arguments) -> bool:
    try:
        function(*arguments)
    except error:
        return True
    return False


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def roman(n: int) -> str:
    """n in Roman numerals.

    >>> roman(1999)
    'MCMXCIX'
    """
    numerals = ""
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    letters = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")
    for value, letter in zip(values, letters, strict=True):
        numerals += letter * (n // value)
        n %= value
    return numerals


def shifted(text: str, by: int) -> str:
    """A Caesar cipher over the capital letters.

    >>> shifted("XYZ!", 3)
    'ABC!'
    """
    letters = string.ascii_uppercase
    return text.translate(str.maketrans(letters, letters[by % 26 :] + letters[: by % 26]))


def balanced(equation: str) -> bool:
    """A chemical equation has the same atoms on both sides.

    >>> balanced("2 H2 + O2 → 2 H2O"), balanced("H2 + O2 → H2O")
    (True, False)
    """
    sides = []
    for side in equation.split("→"):
        atoms = {}
        for term in side.split(" + "):
            factor, formula = re.fullmatch(r"\s*(\d*)\s*([A-Za-z0-9]+)\s*", term).groups()
            for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula):
                atoms[element] = atoms.get(element, 0) + int(factor or 1) * int(count or 1)
        sides.append(atoms)
    return sides[0] == sides[1]


def in_order(parts: list[str], text: str) -> bool:
    """The parts occur in text one after another."""
    return re.search(".*?".join(map(re.escape, parts)), text, flags=re.DOTALL) is not None


def numbers_in(text: str) -> list[float]:
    """
    >>> numbers_in("1,200 g and -0.5 %")
    [1200.0, -0.5]
    """
    return [float(n.replace(",", "")) for n in re.findall(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?", text)]


def _clamp_tests(t) -> bool:
    cases = re.search(r"\[\n(.*?)\n    \]", t.output, re.DOTALL).group(1)
    pairs = ast.literal_eval(f"[\n{cases}\n]")
    clamp = python(t.input)["clamp"]
    return len(pairs) >= 4 and all(clamp(value, 0, 10) == expected for value, expected in pairs)


def _timetable(t) -> bool:
    """The times in the output follow from the minutes in the input, whatever the order of the topics."""
    minutes = {name.strip(): int(n) for name, n in re.findall(r"([\w ]+) \((\d+)(?: min)?\)", t.input)}
    clock = 19 * 60
    for time, topic in re.findall(r"(\d\d:\d\d) (.+)", t.output):
        if time != f"{clock // 60}:{clock % 60:02}":
            return False
        clock += minutes.pop(topic.lower(), 0)
    return not minutes and clock <= 19 * 60 + 75


def _binary_search(t) -> bool:
    values, low, high, lines = json.loads(re.search(r"\[.*\]", t.instruction).group()), 0, 9, []
    while True:
        middle = (low + high) // 2
        lines.append(f"low = {low}, high = {high}, middle = {middle}: value {values[middle]}")
        if values[middle] == 23:
            break
        low, high = (middle + 1, high) if values[middle] < 23 else (low, middle - 1)
    return in_order(lines, t.output) and f"position {middle}" in t.output and t.output.count("\n") + 1 == len(lines)


ORDERS = """CREATE TABLE orders (id, customer_id, total, placed_on);
INSERT INTO orders VALUES (1, 7, 10.0, '2022-12-31'), (2, 7, 20.0, '2023-01-01'), (3, 7, 5.0, '2023-12-31'),
                          (4, 8, 30.0, '2023-06-01'), (5, 9, 99.0, '2024-01-01');"""
DEPARTMENTS = """CREATE TABLE departments (id, name); CREATE TABLE employees (id, department_id);
INSERT INTO departments VALUES (1, 'Sales'), (2, 'Archive'); INSERT INTO employees VALUES (1, 1), (2, 1);"""

# Seed tasks ----------------------------------------------------------------------------------------------------------
SEED_TASKS = {
    "State the Gregorian leap-year rule, then say which of the years 1900, 2000, 2024 and 2100 are leap years.": (
        lambda t: " and ".join(str(y) for y in (1900, 2000, 2024, 2100) if calendar.isleap(y)) + " are leap years"
    ),
    "Define a Python generator function chunks(items, n) that yields successive pieces of length n from a list; "
    "the last piece may be shorter.": (
        lambda t: list(python(t.output)["chunks"]([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    ),
    "Given a table orders(id, customer_id, total, placed_on) with ISO dates as text, query the number of orders and "
    "the total spending of each customer in 2023, biggest spender first.": (
        lambda t: sql(ORDERS, t.output) == [(8, 1, 30.0), (7, 2, 25.0)]
    ),
    "How would you explain compound interest to a twelve-year-old who has 100 dollars in a savings account at 5% a "
    "year?": lambda t: [100 * 1.05**years for years in (1, 2, 3)],
    "Two cyclists set out towards each other at the same moment from towns 84 km apart, one riding at 18 km/h and the "
    "other at 24 km/h. After how long do they meet, and how far has each ridden?": (
        lambda t: [f"{84 // (18 + 24)} hours", f"{84 * 18 // 42} km", f"{84 * 24 // 42} km"]
    ),
    "Give a regular expression that matches a 24-hour clock time from 00:00 to 23:59 and nothing else.": (
        lambda t: (
            all(
                bool(re.search(t.output, f"{h:02}:{m:02}")) == (h < 24 and m < 60)
                for h in range(100)
                for m in range(100)
            )
            and not re.search(t.output, "7:30")
            and not re.search(t.output, "07:305")
        )
    ),
    "Convert 72 kilometres per hour to metres per second and show the steps.": lambda t: f"{72 * 1000 // 3600} m/s",
    "Make up a sentence whose words help me remember the order of the eight planets, starting nearest the Sun.": (
        lambda t: [w[0] for w in t.output.split(".")[0].split()] == list("MVEMJSUN")
    ),
    "List the first ten prime numbers greater than 100.": (
        lambda t: ", ".join(map(str, itertools.islice(filter(is_prime, itertools.count(101)), 10))) == t.output
    ),
    "Which shell command shows the five largest directories directly under the current one, with readable sizes?": (
        lambda t: (
            re.findall(
                r"(\d)/$",
                shell(t.output.split("\n\n")[0], {f"{n}/data": "x" * 10_000 * n for n in range(1, 8)}),
                flags=re.MULTILINE,
            )
            == list("76543")
        )
    ),
    "Differentiate f(x) = x^3 ln x for x > 0.": lambda t: all(
        math.isclose(
            x**2 * (3 * math.log(x) + 1), ((x + h) ** 3 * math.log(x + h) - (x - h) ** 3 * math.log(x - h)) / (2 * h)
        )
        and "= x^2 (3 ln x + 1)" in t.output
        for x, h in ((0.5, 1e-5), (2.0, 1e-5))
    ),
    "If I roll two fair six-sided dice, how likely is a total of at least 9?": lambda t: [
        fractions.Fraction(sum(a + b >= 9 for a in range(1, 7) for b in range(1, 7)), 36),
        1000 / 36,
    ],
    "Write a JavaScript function groupBy(items, key) that turns an array of objects into an object of arrays, keyed "
    "by the value of one property.": lambda t: (
        javascript(t.output, 'groupBy([{k: "a", v: 1}, {k: "toString", v: 2}, {k: "a", v: 3}], "k")')
        == {"a": [{"k": "a", "v": 1}, {"k": "a", "v": 3}], "toString": [{"k": "toString", "v": 2}]}
    ),
    "Balance the equation for the complete combustion of propane, C3H8, in oxygen.": lambda t: balanced(t.output),
    "Represent a pancake recipe with a title, a number of servings and three ingredients as JSON.": (
        lambda t: (
            (recipe := json.loads(t.output)).keys() == {"title", "servings", "ingredients"}
            and len(recipe["ingredients"]) == 3
        )
    ),
    "A farmer keeps chickens and goats. He counts 30 heads and 86 legs; how many of each does he have?": lambda t: [
        f"{g} goats and 30 - {g} = {30 - g} chickens" for g in range(31) if 4 * g + 2 * (30 - g) == 86
    ],
    "On an island every inhabitant is either a knight, who always tells the truth, or a knave, who always lies. Ana "
    'says, "Ben and I are both knaves." What are Ana and Ben?': lambda t: (
        [(a, b) for a in (True, False) for b in (True, False) if a == (not a and not b)] == [(False, True)]
        and "Ana is a knave" in t.output
        and "Ben must be a knight" in t.output
    ),
    "How many seconds are there in a week?": lambda t: 7 * 24 * 60 * 60,
    "Retell the myth of Icarus in exactly three sentences.": lambda t: t.output.count(".") == 3,
    "Tell a ghost story in two sentences.": lambda t: len(re.findall(r"[.!?](?=\"?(?:\s|$))", t.output)) == 2,
    "In two sentences, how does weather differ from climate?": lambda t: t.output.count(".") == 2,
    "I committed to git too early. How can I undo the commit but keep my changes staged?": lambda t: (
        shell(
            "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a "
            "GIT_COMMITTER_EMAIL=a@example.com\n"
            "git init -q && git commit -q --allow-empty -m one && touch new && git add new && git commit -q -m two\n"
            + t.output.split("\n")[0]
            + "\ngit status --short && git log --format=%s"
        )
        == "A  new\none"
    ),
    "Estimate how many litres of water a family of four uses for showers in a year, and state your assumptions.": (
        lambda t: [8 * 9, 4 * 8 * 9, 4 * 8 * 9 * 365]
    ),
    "Implement a C function gcd that returns the greatest common divisor of two unsigned integers without "
    "recursion.": lambda t: (
        c(t.output, r'printf("%u %u %u %u", gcd(84, 36), gcd(36, 84), gcd(0, 5), gcd(17, 4));') == "12 12 5 1"
    ),
    "Express 2024, 1999 and 444 in Roman numerals.": lambda t: [f"{n} = {roman(n)}" for n in (2024, 1999, 444)],
    "Compute the 20th Fibonacci number, where the first two are both 1.": lambda t: (
        (f := [1, 1]) and [f.append(f[-1] + f[-2]) for _ in range(18)] and ", ".join(map(str, f))
    ),
    "Trace a binary search for 23 in the sorted list [2, 5, 8, 12, 16, 23, 38, 56, 72, 91], using zero-based "
    "positions and rounding the middle down.": _binary_search,
    "What is the decimal number 255 in hexadecimal, octal and binary?": lambda t: [f"{255:X}", f"{255:o}", f"{255:b}"],
    "A baker uses 500 g of flour and 350 g of water. What is the hydration of the dough in baker's percentage, and "
    "how much water would 75% need?": lambda t: [f"{100 * 350 // 500}%", f"{75 * 500 // 100} g"],
    "Pull the supplier, the invoice number, the date and the total out of the text and return them as JSON, with the "
    "date in ISO format and the total as a number.": lambda t: (
        (found := json.loads(t.output))["date"] == str(datetime.datetime.strptime("3 March 2024", "%d %B %Y").date())
        and found["invoice_number"] in t.input
        and found["supplier"] in t.input
        and f"£{found['total']:.2f}" in t.input
    ),
    "Lay out the comma-separated values as a Markdown table, with the numbers aligned to the right.": lambda t: (
        [re.split(r" ?\| ?", line)[1:-1] for line in t.output.split("\n") if "---" not in line]
        == [line.split(",") for line in t.input.split("\n")]
        and "|---|---|---:|" in t.output
    ),
    "Put these people in alphabetical order of their last names, one per line.": lambda t: "\n".join(
        sorted(t.input.split(", "), key=lambda name: name.split()[::-1])
    ),
    'How many times does the letter "e" occur in the sentence? Count per word before giving the total.': lambda t: [
        ", ".join(f"{w}: {w.count('e')}" for w in t.input.strip(".").split()),
        f"Total: {t.input.count('e')}",
    ],
    "The function should return the mean of a list but fails for some inputs and gives wrong results for others. "
    "Find the mistakes and repair them.": (
        lambda t: (
            python(t.output[t.output.index("def ") :])["average"]([1, 2, 3, 4]) == 2.5
            and python(t.input)["average"]([1, 2, 3, 4]) != 2.5
        )
    ),
    "What does this Python code print?": lambda t: t.output == printed(t.input),
    "Scale the ingredients from 4 to 6 servings.": lambda t: (
        [1.5 * n for n in numbers_in(t.input)] == numbers_in(t.output.replace("1 1/2", "1.5"))
    ),
    "Change each temperature from degrees Celsius to degrees Fahrenheit.": lambda t: ", ".join(
        f"{n:g} °C = {n * 9 / 5 + 32:g} °F" for n in numbers_in(t.input)
    ),
    "Find a newspaper headline of at most eight words for the report.": lambda t: len(t.output.split()) <= 8,
    "Work out the rule and supply the next two terms of the sequence.": lambda t: (
        all(b == 2 * a - 1 for a, b in itertools.pairwise(numbers_in(t.input)))
        and f"= {2 * 33 - 1} and {2 * 33 - 1} × 2 - 1 = {2 * (2 * 33 - 1) - 1}." in t.output
    ),
    "Strip repeated entries from the list and leave the first occurrence of each in place.": lambda t: (
        ", ".join(dict.fromkeys(t.input.split(", "))) == t.output
    ),
    "Rewrite all dates in the form YYYY-MM-DD; they were written in Britain.": lambda t: (
        t.output.split("\n")
        == [
            str(datetime.datetime.strptime(line.split(" (")[0], form).date())
            for line, form in zip(t.input.split("\n"), ("%d/%m/%Y", "%d %b %Y", "%d %B %Y", "%d/%m/%y"), strict=True)
        ]
    ),
    "Collect the e-mail addresses that occur in the text, in lower case, without repetitions.": lambda t: (
        "\n".join(dict.fromkeys(a.lower() for a in re.findall(r"[\w.]+@[\w.]+\w", t.input))) == t.output
    ),
    "Answer from the passage alone: how long was the bridge closed, and what reopened first?": lambda t: (
        f"{(datetime.date(2024, 4, 18) - datetime.date(2024, 4, 4)).days} days"
    ),
    "Port this Python function to JavaScript.": lambda t: all(
        javascript(t.output, f"initials({json.dumps(name)})") == python(t.input)["initials"](name)
        for name in ("ada lovelace", " Grace  Brewster\tHopper ", "")
    ),
    "Supply a pytest test with at least four cases for the function.": _clamp_tests,
    "Say in everyday words what the query returns.": lambda t: sql(DEPARTMENTS, t.input) == [("Archive",)],
    "Calculate the mean, the median and the range of the values.": lambda t: (
        (values := sorted(map(int, numbers_in(t.input))))
        and [
            ", ".join(map(str, values)),
            f"= {sum(values)} / {len(values)} = {sum(values) // len(values)}",
            f"Median: {statistics.median(values)}",
            f"= {values[-1] - values[0]}",
        ]
    ),
    "Three friends share a restaurant bill: each pays for their own dishes, and a 10% tip is added to every share. How "
    "much does each of them owe?": lambda t: [
        *(f"with tip {1.1 * sum(numbers_in(line)):.2f}" for line in t.input.split("\n")),
        f"Total: {1.1 * sum(numbers_in(t.input)):.2f}",
    ],
    "A beginner gets this error message and does not understand it. Explain the cause and a way to solve it.": (
        lambda t: (
            'print(f"Next year you will be {age + 1}")' in t.output
            and printed('age = int("41")\n' + t.output.split("\n")[-1]) == "Next year you will be 42"
        )
    ),
    "Make one shopping list out of these meals and add up the same ingredients.": lambda t: [
        f"- {sum(int(n) for n in re.findall(pattern, t.input))}{rest}"
        for pattern, rest in (
            (r"(\d+) eggs", " eggs"),
            (r"(\d+) g cheese", " g cheese"),
            (r"(\d+) tomato", " tomatoes"),
        )
    ],
    "Which bus do I have to take to be at the hospital by 9:15, and how long is the ride?": lambda t: (
        f"{60 + 6 - 45} minutes"
    ),
    "Cut the sentence to twenty words or fewer and keep what matters.": lambda t: len(t.output.split()) <= 20,
    "Every letter of this message was shifted three places forward in the alphabet. Decipher it.": lambda t: shifted(
        t.input, -3
    ),
    "Render this JSON as YAML.": lambda t: yaml.safe_load(t.output) == json.loads(t.input),
    "Which fruit is hidden in these scrambled letters?": lambda t: (
        sorted(t.input.replace(" ", "")) == sorted(t.output.upper())
    ),
    "Arrange these topics into an agenda for a sports club meeting that starts at 19:00 and may last no more than 75 "
    "minutes.": _timetable,
    "Is the number prime or composite? If it is composite, give its factors.": lambda t: (
        f"{t.input} = {(d := next(d for d in range(2, 221) if 221 % d == 0))} × {221 // d}"
    ),
    "Tell whether the text is valid JSON. Reply with valid or invalid and, if it is invalid, name the reason.": (
        lambda t: (
            t.output.startswith("invalid")
            and raises(json.JSONDecodeError, json.loads, t.input)
            and not raises(json.JSONDecodeError, json.loads, t.input.replace(",]", "]"))
        )
    ),
    "Determine whether the triangle with these sides is acute, right or obtuse.": lambda t: (
        "obtuse",
        "right",
        "acute",
    )[1 + ((s := sorted(numbers_in(t.input)))[0] ** 2 + s[1] ** 2 > s[2] ** 2) - (s[0] ** 2 + s[1] ** 2 < s[2] ** 2)],
    "Which of the two fractions is larger?": lambda t: max(map(fractions.Fraction, t.input.split(" and "))),
    "Does the password satisfy all the rules? Answer yes, or no with the broken rule.": lambda t: (
        (p := t.input.split()[-1])
        and len(p) >= 10
        and bool(re.search(r"\d", p))
        and p == p.lower()
        and "no upper-case letter" in t.output
    ),
    "Which of the numbers 144, 169, 200 and 225 is not a perfect square?": lambda t: next(
        n for n in (144, 169, 200, 225) if math.isqrt(n) ** 2 != n
    ),
    "Is 1,001 divisible by 7? Answer yes or no.": lambda t: ("no", "yes")[1001 % 7 == 0],
    "To which century does the year belong?": lambda t: f"{-(-int(t.input) // 100)}th century",
    'Is "Pack my box with five dozen liquor jugs" a pangram, that is, does it contain every letter of the alphabet?': (
        lambda t: ("no", "yes")[set(string.ascii_lowercase) <= set(t.instruction.split('"')[1].lower())]
    ),
}
