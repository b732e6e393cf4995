"""Code that the outputs of alpaca_data.json hold, run: instruction -> whether it does what was asked.

A function gets the example (.input, .output) and returns True where its code holds, as in data/verifications.py. Where
code was to be rewritten, the code in the input is run as well, and both have to agree.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import io
import json
import re
import sqlite3
import subprocess
import sys
import types

from data.execution import code, javascript, python, run, shell, sql
from data.verifications import raises


def same(t, name: str, calls: list[tuple]) -> bool:
    """The Python function called name gives the same in the input and in the output, for each call's arguments."""
    before, after = python(t.input)[name], python(t.output)[name]
    return all(before(*arguments) == after(*arguments) for arguments in calls)


def part(text: str, start: str) -> str:
    """The text from the last start on, up to the next empty line: a function in the midst of an explanation."""
    return text[text.rindex(start) :].partition("\n\n")[0]


def _timed(t) -> bool:
    timed, out = python(t.output)["timed"], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(KeyError), timed("sorting"):
        raise KeyError
    return re.fullmatch(r"sorting: 0\.\d{3} s\n", out.getvalue()) is not None


def _retry(t) -> bool:
    calls = []

    def fails_until(number):
        @python(t.output)["retry"](3)
        def function():
            calls.append(number)
            if len(calls) < number:
                raise ValueError
            return "done"

        return function

    succeeds = fails_until(3)() == "done" and len(calls) == 3
    calls.clear()
    return succeeds and raises(ValueError, fails_until(9)) and len(calls) == 3


def _command_line(t) -> bool:
    def run(argument):
        return subprocess.run([sys.executable, "-c", code(t.output), argument], capture_output=True, text=True)

    return run("25").stdout == "298.15 K\n" and run("-300").returncode == 2


def _load_user(t) -> bool:
    replies = ('{json: async () => ({name: "Ada"})}', '{json: async () => { throw new Error("bad"); }}')
    expected = ["Ada", "unknown"]
    for source in (t.input, t.output):
        for reply, name in zip(replies, expected, strict=True):
            program = f"console.error = () => 0; globalThis.fetch = async () => ({reply});\n{source}\n"
            program += "loadUser(7).then((name) => process.stdout.write(name));"
            if run("node", "node example.js", {"example.js": program}) != name:
                return False
    return True


def _find(t) -> bool:
    files = {"old.tmp": "", "new.tmp": "", "old.txt": "", "a b/week.tmp": ""}
    ages = "touch -d '9 days ago' old.tmp old.txt; touch -d '170 hours ago' 'a b/week.tmp'\n"
    listing, deleting = re.findall(r"```bash\n(.*?)```", t.output, re.DOTALL)
    listed = sorted(shell(ages + listing, files).split("\n"))
    left = sorted(shell(ages + deleting + "find . -type f", files).split("\n"))
    return listed == ["./a b/week.tmp", "./old.tmp"] and left == ["./new.tmp", "./old.txt"]


def _ignored(t) -> bool:
    files = {".gitignore": code(t.output), "a.log": "", "important.log": "", "b.txt": ""}
    not_ignored = shell("git init -q; git ls-files --others --exclude-standard", files).split()
    return not_ignored == [".gitignore", "b.txt", "important.log"]


def _query(t) -> bool:
    rows = [("ada",), ("x' OR '1'='1",)]
    for name, expected in (("ada", [("ada",)]), ("' OR '1'='1", [])):
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE users (name)")
            cursor.executemany("INSERT INTO users VALUES (?)", rows)
            exec(part(t.output, "cur.execute("), {"name": name, "cur": cursor})
            if cursor.fetchall() != expected:
                return False
    return True


ORDERS = """CREATE TABLE customers (id, name); CREATE TABLE orders (id, customer_id, amount);
INSERT INTO customers VALUES (1, 'Ada'), (2, 'Bo'), (3, 'Cy');
INSERT INTO orders VALUES (1, 1, 5), (2, 1, 6), (3, 2, 40);"""
READINGS = """CREATE TABLE readings (station, day, mm);
INSERT INTO readings VALUES ('N', 1, 3), ('N', 2, 8), ('A', 1, 4), ('A', 2, 1);"""
LOANS = """CREATE TABLE loans (member, title, due); INSERT INTO loans VALUES ('Zoe', 'a', '2024-04-01'),
('Zoe', 'b', '2024-04-02'), ('Zoe', 'c', '2024-04-30'), ('Bo', 'd', '2024-04-01'), ('Bo', 'e', '2024-04-02'),
('Bo', 'f', '2024-05-01'), ('Al', 'g', '2023-01-01'), ('Al', 'h', '2023-01-01'), ('Al', 'i', '2023-01-01');"""
LIBRARY = """CREATE TABLE books (id, title, author_id, author, year); CREATE TABLE loans (id, book_id);
CREATE TABLE authors (id, name); INSERT INTO authors VALUES (1, 'Ada'), (2, 'Bo');
INSERT INTO books VALUES (1, 'Emma', 1, 'A', 1815), (2, 'Dracula', 1, 'B', 1897), (3, 'Ulysses', 1, 'C', 1950);
INSERT INTO loans VALUES (1, 1), (2, 1), (3, 3);"""
EMPLOYEES = """CREATE TABLE employees (id, name, dept, salary);
INSERT INTO employees VALUES (1, 'A', 'x', 5), (2, 'B', 'x', 9), (3, 'C', 'y', 7), (4, 'D', 'y', 7);"""
MANY_READINGS = "CREATE TABLE readings (station, mm);" + "".join(
    f"INSERT INTO readings VALUES ('{station}', {value});"
    for station, value in [("N", 2)] * 30 + [("S", 4)] * 29 + [("S", "NULL")] * 5
)
ACCOUNTS = "CREATE TABLE accounts (id, balance); INSERT INTO accounts VALUES (1, {}), (2, 5);"
visitors = [(None,), *((types.SimpleNamespace(age=a, member=m),) for a in (17, 18, 40) for m in (True, False))]

EXAMPLES = {
    "Fix the bug in this JavaScript function, which should return the largest number of an array but fails when all "
    "numbers are negative.": lambda t: (
        javascript(part(t.output, "function largest"), "[largest([-3, -1, -2]), largest([2, 7, 1])]") == [-1, 7]
    ),
    "Write a SQL query that lists each customer's name with the total of their orders, highest total first, including "
    "customers without orders as 0.": lambda t: sql(ORDERS, t.output) == [("Bo", 40), ("Ada", 11), ("Cy", 0)],
    "Implement a JavaScript function isPalindrome(text) that ignores case, spaces and punctuation.": lambda t: (
        javascript(
            part(t.output, "function isPalindrome"),
            '["Never odd or even", "Hello", "A man, a plan, a canal: Panama!"].map(isPalindrome)',
        )
        == [True, False, True]
    ),
    "My list of hourly temperatures contains None wherever the sensor failed. I need a Python function that fills "
    "every gap with the last known reading.": lambda t: (
        python(t.output)["fill_gaps"]([None, 18.5, None, None, 19.0]) == [None, 18.5, 18.5, 18.5, 19.0]
    ),
    "Repair this Python function so that it returns None for an empty list instead of crashing.": lambda t: (
        same(t, "average", [([1, 2, 6],), ([5],)]) and python(t.output)["average"]([]) is None
    ),
    "Given a table readings(station, day, mm), write SQL that returns the largest daily rainfall of each station, "
    "sorted by station.": lambda t: sql(READINGS, t.output) == [("A", 4), ("N", 8)],
    "Code a Python dataclass Rectangle whose area and perimeter are read-only properties and which refuses sides that "
    "are not positive.": lambda t: (
        ((rectangle := (Rectangle := python(t.output)["Rectangle"])(2, 3)).area, rectangle.perimeter) == (6, 10)
        and raises(ValueError, Rectangle, 0, 1)
        and raises(AttributeError, setattr, rectangle, "area", 1)
    ),
    "Implement a Python class RunningMean that accepts numbers one at a time and knows their mean at any moment "
    "without storing them.": lambda t: (
        (running := python(t.output)["RunningMean"]()) and [running.add(n) for n in (4, 6, 11)] and running.mean == 7.0
    ),
    "Using only Python's csv module, define a function that takes an open text stream with the columns category and "
    "amount and returns the sum of each category.": lambda t: (
        python(t.output)["sums_by_category"](io.StringIO("category,amount\na,1.5\nb,2\na,3\n")) == {"a": 4.5, "b": 2.0}
        and re.findall(r"^(?:import|from) (\w+)", t.output, re.MULTILINE) == ["csv"]
    ),
    "Turn the pseudocode into a working Python function.": lambda t: (
        [python(t.output)["collatz_steps"](n) for n in (1, 6, 27)] == [0, 8, 111]
    ),
    "Merge two Python dictionaries of stock counts so that the counts of shared keys are added up; show a short "
    "function.": lambda t: (
        python(t.output)["merge_counts"]({"bolt": 3}, {"bolt": 2, "nut": 7}) == {"bolt": 5, "nut": 7}
    ),
    "Improve only the variable names of this function so that a reader understands it without comments.": lambda t: (
        (before := python(t.input.split("\n\n")[0])["f"])(68, 1.7) == python(t.output)["f"](68, 1.7) == 23.5
        and before(50, 2) == python(t.output)["f"](50, 2)
    ),
    "Write a Python context manager that prints how many seconds the enclosed block took.": _timed,
    "Add type hints and a one-line docstring to the function, leaving its behaviour alone.": lambda t: (
        same(t, "dilute", [(5, 2, 1), (4, 3, 4)]) and raises(ValueError, python(t.output)["dilute"], 1, 1, 2)
    ),
    'Temperatures reach me as strings such as "23.5C" or "74F". Create a Python function to_celsius that returns a '
    "float rounded to one decimal.": lambda t: (
        [python(t.output)["to_celsius"](text) for text in ("23.5C", "74F", "32f")] == [23.5, 23.3, 0.0]
    ),
    "Develop a Python decorator retry(times) that calls a function again if it raises an exception, and gives up after "
    "the stated number of attempts.": _retry,
    "Restructure the nested conditions with early returns.": lambda t: same(t, "fee", visitors),
    "I would like a Python function transcribe(dna) that checks a coding-strand string for invalid letters and returns "
    "the mRNA.": lambda t: (
        (transcribe := python(t.output)["transcribe"])("ATGC") == "AUGC" and raises(ValueError, transcribe, "AXG")
    ),
    "Sensor data arrive as JSON Lines, one object per line. Present a Python function mean_of(lines, key) that "
    "averages one field and skips records that lack it.": lambda t: (
        python(t.output)["mean_of"](['{"t": 1}', '{"u": 5}', "", '{"t": 4}'], "t") == 2.5
    ),
    "When does an SQL condition belong in HAVING instead of WHERE? Show both in one short query.": lambda t: (
        sql(MANY_READINGS, t.output) == [("N", 2.0)]
    ),
    "Smooth noisy measurements with a moving average: implement moving_average(values, k) in plain Python so that it "
    "returns only complete windows.": lambda t: (
        (moving_average := python(t.output)["moving_average"])([1, 2, 6, 4], 2) == [1.5, 4.0, 5.0]
        and moving_average([1, 2, 6], 3) == [3.0]
        and raises(ValueError, moving_average, [1], 2)
    ),
    "Simulate 100,000 throws of two dice in Python with a fixed seed, and compare the share of sevens with theory.": (
        lambda t: abs((names := python(t.output))["sevens"] / names["n"] - 1 / 6) < 0.005
    ),
    'Swap last and first names with one call of Python\'s re.sub, turning "Curie, Marie" into "Marie Curie" on every '
    "line.": lambda t: python(f"{t.input}\n{t.output.split('Result:')[0]}")["result"] == t.output.split("Result:\n")[1],
    "Make a tiny command-line tool in Python with argparse that converts degrees Celsius to kelvins and rejects values "
    "below absolute zero.": _command_line,
    "Implement a Python function is_isogram(word) that tells whether no letter occurs more than once, ignoring case as "
    "well as hyphens and spaces.": lambda t: (
        [python(t.output)["is_isogram"](word) for word in ("Lumber-jack s", "Alpha", "up-to-date", "")]
        == [True, False, False, True]
    ),
    "With a table loans(member, title, due) where due is an ISO date, select members holding more than two titles due "
    "before 2024-05-01, in alphabetical order.": lambda t: sql(LOANS, t.output) == [("Al",), ("Zoe",)],
    "Code a JavaScript function titleCase(text) that capitalises each word except a, an, and, of, the and to, unless "
    "such a word comes first.": lambda t: (
        javascript(t.output, 'titleCase("the lord of THE rings to go")') == "The Lord of the Rings to Go"
    ),
    'This JavaScript should print the three names but prints three names and then "undefined". Locate the bug and give '
    "the corrected line.": lambda t: (
        javascript(
            "let out = []; console.log = (x) => out.push(x ?? null);\n"
            + re.sub(r"for .*\{", lambda _: code(t.output).strip(), t.input),
            "out",
        )
        == ["Ana", "Bo", "Cy"]
    ),
    "My data.csv has no header and uses commas. With which shell command do I sort it by the third column, "
    "numerically, largest first?": lambda t: (
        shell(t.output, {"data.csv": "a,1,9\nb,2,100\nc,3,20\n"}) == "b,2,100\nc,3,20\na,1,9"
    ),
    "Develop a Python function top_words(text, n) that returns the n most frequent words with their counts, ignoring "
    "case and punctuation.": lambda t: (
        python(t.output)["top_words"]("'Yes,' she said. Yes! Don't, don't; DON'T.", 2) == [("don't", 3), ("yes", 2)]
    ),
    "Sum all numbers in an arbitrarily nested JavaScript array such as [1, [2, [3, 4]], 5] with a short function.": (
        lambda t: javascript(t.output, "[deepSum([1, [2, [3, 4]], 5]), deepSum([])]") == [15, 0]
    ),
    "Which SQL statement lists the titles in books(id, title) that have never been borrowed, given loans(id, "
    "book_id)?": lambda t: sql(LIBRARY, t.output) == [("Dracula",)],
    "Lower-case everything in names.txt with a standard Unix command and save the result as names_lower.txt.": (
        lambda t: shell(code(t.output) + "cat names_lower.txt", {"names.txt": "Ada LOVELACE\n"}) == "ada lovelace"
    ),
    "Git ought to ignore everything that ends in .log, with the exception of important.log. What belongs in "
    ".gitignore?": _ignored,
    "On Linux I want to delete everything below the current folder whose name ends in .tmp and whose last change is "
    "over a week old. What command does that safely?": _find,
    "From a table employees(id, name, dept, salary), fetch the best-paid person or persons of every department with a "
    "single SQL statement.": lambda t: sql(EMPLOYEES, t.output) == [("x", "B", 9), ("y", "C", 7), ("y", "D", 7)],
    "Code a Python function ean13_ok(code) that tells whether a 13-digit string has a valid EAN-13 check digit.": (
        lambda t: (
            [
                python(t.output)["ean13_ok"](n)
                for n in ("9780306406157", "9780306406158", "97803064061", "978030640615x")
            ]
            == [True, False, False, False]
        )
    ),
    "Set up a bash loop that renames every .jpeg in the current folder so that it ends in .jpg instead.": lambda t: (
        shell(code(t.output) + "ls", {"a b.jpeg": "", "c.jpeg": "", "d.txt": ""}) == "a b.jpg\nc.jpg\nd.txt"
    ),
    "Repair the JavaScript function, which should return the cheapest offer but always returns undefined.": lambda t: (
        javascript(t.output, "cheapest([{price: 4}, {price: 2}, {price: 3}])") == {"price": 2}
    ),
    "A table books has the columns title, author and year. Formulate an SQL query for the titles published before "
    "1950, oldest first.": lambda t: sql(LIBRARY, t.output) == [("Emma",), ("Dracula",)],
    "Modernise this JavaScript promise chain with async and await, and keep the error handling.": _load_user,
    "Code a Python function that tells whether two strings are anagrams, ignoring spaces and upper or lower case.": (
        lambda t: (
            (are_anagrams := python(t.output)["are_anagrams"])("Dirty Room", "dormitory")
            and not are_anagrams("aab", "abb")
        )
    ),
    "What is the time complexity of this Python function, and how would you make it linear on average?": lambda t: all(
        python(t.input)["has_duplicate"](items) == python(part(t.output, "def has_duplicate"))["has_duplicate"](items)
        for items in ([1, 2, 1], [1, 2, 3], [])
    ),
    "Replace the chain of conditions with a dictionary lookup that behaves in the same way.": lambda t: same(
        t, "price", [("S",), ("M",), ("L",), ("XL",), (None,)]
    ),
    "In one line of JavaScript, define a function that returns the distinct numbers of an array in ascending order.": (
        lambda t: javascript(t.output, "distinctSorted([10, 9, 1, 9])") == [1, 9, 10]
    ),
    "Document this Python function with a docstring that covers its purpose, parameters, result and exception.": (
        lambda t: (
            same(t, "percent", [(1, 3), (5, 4)])
            and raises(ValueError, percent := python(t.output)["percent"], 1, 0)
            and all(word in percent.__doc__ for word in ("part", "whole", "ValueError", "one decimal"))
        )
    ),
    "Write the SQL statements that move 50 from account 1 to account 2 in a table accounts(id, balance) safely, framed "
    "by a transaction.": lambda t: (
        [sql(ACCOUNTS.format(first), f"{code(t.output)}SELECT balance FROM accounts ORDER BY id") for first in (80, 20)]
        == [[(30,), (55,)], [(20,), (5,)]]
    ),
    "Say what sign(0) and sign(-3) return, and correct the function.": lambda t: (
        [python(t.input)["sign"](n) for n in (0, -3)] == [None, None]
        and "Both return None" in t.output
        and [python(part(t.output, "def sign"))["sign"](n) for n in (2, 0, -3)] == ["positive", "zero", "negative"]
    ),
    "Given authors(id, name) and books(id, author_id, title), which SQL query finds the names of authors without any "
    "book?": lambda t: sql(LIBRARY, t.output) == [("Bo",)],
    "Clear this JavaScript function of code that can never run or has no effect.": lambda t: all(
        javascript(t.input, call) == javascript(t.output, call)
        for call in ("discount(50, true)", "discount(50, false)")
    ),
    "Merge two sorted Python lists into one sorted list without calling a sorting function.": lambda t: all(
        python(t.output)["merge"](left, right) == sorted(left + right)
        for left, right in (([1, 4, 4], [2, 4, 9]), ([], [1]), ([3], []))
    ),
    "Unfold this nested conditional expression into a readable JavaScript function fee(age).": lambda t: (
        [javascript(f"const age = {age};\n{t.input}", "fee") for age in (5, 6, 17, 18, 64, 65)]
        == javascript(t.output, "[5, 6, 17, 18, 64, 65].map(fee)")
    ),
    "Secure this Python database query against SQL injection.": _query,
    "Transform the settings into one JSON object, with numbers and booleans as proper types.": lambda t: (
        json.loads(t.output)
        == {
            key: {"yes": True, "no": False}.get(value, int(value) if value.isdigit() else value)
            for key, value in (line.split(" = ") for line in t.input.split("\n"))
        }
    ),
}
