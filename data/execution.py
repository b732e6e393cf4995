"""Run the code in an example's output: Python here, the rest with SQLite, Node.js, compilers, Java or a shell.

An output's code is the text of its fenced blocks if it has any, and its whole text if not.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import io
import json
import re
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path


class ToolMissing(Exception):
    """The program that a verification runs is not installed."""


def code(text: str) -> str:
    """The fenced blocks of text, one after another, or all of it where there is none.

    >>> code("Use this:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    """
    blocks = re.findall(r"^```[\w+#-]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(blocks) if blocks else text


def python(text: str) -> dict:
    """The names that the Python code in text defines."""
    namespace = {"__name__": "example"}
    exec(code(text), namespace)
    return namespace


def printed(text: str) -> str:
    """What the Python code in text prints, without the last line's end."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code(text), {"__name__": "__main__"})
    return out.getvalue().rstrip("\n")


def sql(set_up: str, text: str) -> list[tuple]:
    """The rows that the SQL in text returns from a SQLite database made by set_up.

    >>> sql("CREATE TABLE t (n); INSERT INTO t VALUES (1), (2)", "SELECT sum(n) FROM t;")
    [(3,)]
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(set_up)
        rows = []
        for statement in filter(str.strip, code(text).split(";")):
            rows = connection.execute(statement).fetchall()
        return rows


def javascript(text: str, expression: str):
    """The value of a JavaScript expression after the code in text has run, by way of JSON."""
    source = f"{code(text)}\nprocess.stdout.write(JSON.stringify({expression}));"
    return json.loads(run("node", "node example.js", {"example.js": source}))


def c(text: str, main: str) -> str:
    """What a C program prints that consists of the code in text and the statements of its main."""
    source = f"#include <stdio.h>\n{code(text)}\nint main(void) {{ {main} return 0; }}\n"
    return run("cc", "cc example.c && exec ./a.out", {"example.c": source})


def cpp(text: str, main: str) -> str:
    """What a C++ program prints that consists of the code in text and the statements of its main."""
    source = f"#include <iostream>\n{code(text)}\nint main() {{ {main} return 0; }}\n"
    return run("c++", "c++ -std=c++17 example.cpp && exec ./a.out", {"example.cpp": source})


def java(text: str, main: str) -> str:
    """What the statements of a main method print, beside the classes in text."""
    imports = "\n".join(re.findall(r"^import .*;$", code(text), re.M))
    classes = re.sub(
        r"^import .*;$|^public (?=(?:final |abstract )?(?:class|record|interface|enum))", "", code(text), flags=re.M
    )
    start = f"public static void main(String[] args) throws Exception {{ {main} }}"
    source = f"{imports}\nclass Example {{ {start} }}\n{classes}\n"
    # The two options make it start sooner.
    return run("java", "java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC Example.java", {"Example.java": source})


def shell(text: str, files: dict[str, str] | None = None) -> str:
    """What the shell commands in text print in a folder that holds the given files (path: content)."""
    return run("bash", code(text), files or {})


def run(program: str, command: str, files: dict[str, str]) -> str:
    """What a shell command, which needs a program, prints in a folder that holds the given files (path: content)."""
    if shutil.which(program) is None:
        raise ToolMissing(program)
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_text(content, encoding="utf-8")
        result = subprocess.run(
            ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
    return result.stdout.rstrip("\n")
