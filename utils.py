"""What at least two scripts need: user errors, JSON in and out, the Alpaca prompt, the command line.

Importing this module changes nothing and loads nothing heavy.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import codecs
import contextlib
import difflib
import errno
import fcntl
import inspect
import json
import math
import os
import re
import shutil
import signal
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent  # files that ship with the project are found from any folder

TO_UTF_8 = "Save it as UTF-8, or convert it: iconv -f cp1252 -t utf-8, say. A compressed file has to be unpacked."
# The two training prompts of Stanford Alpaca, character for character: models tuned elsewhere expect them.
PROMPT_DICT = {
    "prompt_input": (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    ),
    "prompt_no_input": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:"
    ),
}


class UserError(Exception):
    """A user's mistake, told in one line: what, where, what to do. Ends a script with exit code 1."""

    def __str__(self) -> str:
        return printable(without_secrets(super().__str__()))  # wherever it is shown


# What a terminal obeys (C0, C1), what ends a line or turns its direction, and halves of surrogate pairs.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
USER_AND_PASSWORD = re.compile(r"(?<=://)[^\s/?#@]*@|[^\s/@'\":]{1,64}:[^\s/@'\"]{0,64}@(?=[\w\[])")
QUERY = re.compile(r"(://[^\s?'\"]{1,256})\?[^\s'\")]*")
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN")
MIN_SECRET_LENGTH = 8  # a server's "none" or "EMPTY" is no secret, but a part of many texts


def printable(text: object, keep: str = "") -> str:
    """Text of others (servers, models, files, raters) as it may be printed: without control characters, except those
    in keep. Line ends become spaces.

    >>> printable("a\\x1b[2Jb\\nc")
    'a[2Jb c'
    """
    return CONTROL.sub(lambda c: c[0] if c[0] in keep else " " if c[0].isspace() else "", str(text))


def without_secrets(text: object) -> str:
    """Text as it may be printed and logged: without keys, and addresses without user, password and query.

    >>> without_secrets("no https://me:pw@host/v1?key=1 there")
    'no https://host/v1 there'
    """
    text = str(text)
    for secret in (os.environ.get(name, "").strip() for name in SECRETS):
        if len(secret) >= MIN_SECRET_LENGTH:
            text = text.replace(secret, "***")
    return QUERY.sub(r"\1", USER_AND_PASSWORD.sub("", text))


def format_prompt(instruction: str, input: str = "") -> str:
    """The prompt of one example; the model's response follows it directly.

    >>> format_prompt("Say hi.").endswith("### Instruction:\\nSay hi.\\n\\n### Response:")
    True
    """
    # str.format leaves braces inside the values alone, so code in an instruction is safe.
    template = PROMPT_DICT["prompt_input" if input else "prompt_no_input"]
    return template.format(instruction=instruction, input=input)


def encoding_of(start: bytes) -> str:
    """The encoding of a file that begins with these bytes: UTF-16 where a byte order mark says so, as some tools of
    Windows write it, and else UTF-8, where a mark is no part of the text."""
    is_utf_16 = len(start) > 2 and start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if is_utf_16 else "utf-8-sig"


def read_text(path: str | os.PathLike) -> str:
    """The content of a text file, UTF-8 or, with a byte order mark, UTF-16. Raises UserError where there is none."""
    check_regular(path)
    try:
        with open(path, "rb") as f:
            encoding = encoding_of(f.read(3))
        return Path(path).read_text(encoding=encoding)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, byte {error.start}: not UTF-8 text. {TO_UTF_8}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def jload(path: str | os.PathLike) -> typing.Any:
    """The content of a JSON file. Raises UserError, with line and column, where there is none."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, place: str, is_line: bool = False) -> typing.Any:
    """What a JSON text holds, a file's or one of its lines. Raises UserError as json_errors_in_one_line does."""
    with json_errors_in_one_line(place, is_line):
        return json.loads(text)


@contextlib.contextmanager
def json_errors_in_one_line(place: str, is_line: bool = False) -> Iterator[None]:
    """A text at place that is not JSON, or more than Python reads: a UserError."""
    try:
        yield
    except json.JSONDecodeError as error:
        where = "" if is_line else f"line {error.lineno}, "
        raise UserError(f"{place}, {where}column {error.colno}: not JSON ({error.msg}).") from None
    except RecursionError:
        raise UserError(f"{place}: not JSON that can be read, since it is nested too deeply.") from None
    except ValueError:  # more than 4,300 digits
        raise UserError(f"{place}: not JSON that can be read, since it holds a number that is too long.") from None


def check_regular(path: str | os.PathLike) -> None:
    """Raise UserError for what could be read for ever or be somebody's link: a device, a pipe, a folder, a link to
    nothing. A missing file is let through."""
    if os.path.lexists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: {'a folder' if os.path.isdir(path) else 'not a regular file'}. Name a file.")


def jdump(obj: typing.Any, path: str | os.PathLike) -> None:
    """Write obj as JSON (UTF-8, indent 4); whoever reads meanwhile gets the old file or the new one, whole."""
    with atomic_write(path) as f:
        json.dump(obj, f, ensure_ascii=False, indent=4)
        f.write("\n")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", advice: str = "") -> Iterator[typing.IO]:
    """A file under a temporary name, which becomes path, flushed to the disk, when the block ends without an error.

    mode is "w" for UTF-8 text or "wb". Raises UserError, with advice, where the disk takes no more.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with os_errors_in_one_line(path, advice):
        try:
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)  # without it, a power cut may take the new name away again
        finally:
            temporary.unlink(missing_ok=True)


def sync_directory(path: str | os.PathLike) -> None:
    """Flush to the disk which names a folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def os_errors_in_one_line(path: str | os.PathLike | None = None, advice: str = "") -> Iterator[None]:
    """A full disk, a missing permission, a quota: a UserError that names path, or else the file that failed."""
    try:
        yield
    except BrokenPipeError:  # whoever read our standard output has left: no file's fault
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and not advice:
            advice = "Free some space and run it again."
        where = path or error.filename or "file system"
        raise UserError(f"{where}: {error.strerror or error}. {advice}".strip()) from error


def lock_or_refuse(descriptor: int, path: str | os.PathLike) -> None:
    """Keep other runs away from an open file or folder as long as this process has it open. Raises UserError where
    another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path}: another run is at work here; wait for it, or name another.") from None


def check_ranges(values: dict[str, typing.Any], ranges: dict[str, tuple[float, float]]) -> None:
    """Raise UserError for a flag whose value is not from lowest to highest, both included; None stands for no value.

    >>> check_ranges({"top_p": math.nan}, {"top_p": (0, 1)})
    Traceback (most recent call last):
    utils.UserError: --top_p nan: takes a number from 0 to 1.
    """
    for name, (lowest, highest) in ranges.items():
        value = values.get(name)
        if value is not None and not (lowest <= value <= highest and math.isfinite(value)):
            limits = f"from {lowest} to {highest}" if highest < math.inf else f"from {lowest}"
            raise UserError(f"--{name} {value}: takes a number {limits}.")


def check_output_path(path: str | os.PathLike) -> None:
    """Raise UserError, before any work, where no file can be written at path: its folder is missing, say."""
    path = Path(path)
    check_regular(path)
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}. Make it, or name another file.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path}: no permission to write there.")


def check_figure_path(path: str | os.PathLike, title: str) -> None:
    """Raise UserError, before any work, where save_figure cannot write, or would replace a file without that title."""
    check_output_path(path)
    if Path(path).suffix not in (".png", ".svg"):
        raise UserError(f"{path}: a figure's name ends in .png or .svg.")
    with os_errors_in_one_line(path):
        if Path(path).exists() and title.encode() not in Path(path).read_bytes():
            raise UserError(f"{path}: not a figure of this script, so it stays. Name another file.")


def save_figure(figure, paths: list[str | os.PathLike], title: str) -> None:
    """Write a matplotlib Figure in the format of each path's suffix, the same bytes in every run. The title, in the
    metadata, is how check_figure_path knows it again."""
    import matplotlib

    for path in paths:
        # Without a salt the ids in an SVG file are random; any will do.
        with matplotlib.rc_context({"svg.hashsalt": "diversity"}), atomic_write(path, "wb") as f:
            figure.savefig(f, format=Path(path).suffix[1:], metadata={"Title": title, "Date": None})


def shipped(path: str) -> str:
    """path, or, where it is a bare name and no such file is here, the file of this name that ships with the project.

    >>> Path(shipped("./judge_prompt.txt")).exists(), shipped("no_prompt.txt"), shipped("no/prompt.txt")
    (True, 'no_prompt.txt', 'no/prompt.txt')
    """
    is_name_only = len(Path(path).parts) == 1 and (ROOT / path).is_file()
    return str(ROOT / path) if is_name_only and not Path(path).exists() else path


def is_hub_name(name: str) -> bool:
    """Whether name can be that of a model or dataset on the Hub, rather than a path.

    >>> [is_hub_name(name) for name in ("gpt2", "tatsu-lab/alpaca", "./gpt2", "models/llama/7b", "alpaca_data.json")]
    [True, True, False, False, False]
    """
    is_file_name = name.endswith((".json", ".jsonl", ".parquet"))
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is not None and not is_file_name


def did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    """' Did you mean X?' for the nearest known name, or ''.

    >>> did_you_mean("--ouput_dir", ["--output_dir", "--seed"])
    ' Did you mean --output_dir?'
    """
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def run_commands(commands: dict[str, Callable], argv: list[str] | None = None) -> None:
    """The command line of a script: `script.py <command> --flag value`, parsed by fire.

    fire alone runs a command to its end before it reports an unknown flag, and reads values as Python (a folder
    named 2024 becomes a number). Here names are compared with the signature first, and each value is read as its
    parameter's annotation says. A UserError becomes one line on stderr and exit code 1.
    """
    argv = (sys.argv[1:] if argv is None else argv) or ["--help"]
    name, script = argv[0], Path(sys.argv[0]).name
    try:
        if name not in (*commands, "-h", "--help"):
            raise UserError(f"no command {name!r}.{did_you_mean(name, commands)} Commands: {', '.join(commands)}.")
        if {"-h", "--help"} & set(argv):
            print(command_help(name, commands[name]) if name in commands else script_help(commands))
            return
        import fire

        run = fire.decorators.SetParseFn(str)(_checked(name, commands[name]))
        with os_errors_in_one_line():  # wherever one comes from
            fire.Fire(run, command=_with_lists_as_one(argv[1:], commands[name]), name=f"{script} {name}")
            sys.stdout.flush()
    except BrokenPipeError:  # `report | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the interpreter's end
        raise SystemExit(128 + signal.SIGPIPE) from None
    except UserError as error:
        print(f"{script}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(f"{script}: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None


def script_help(commands: dict[str, Callable]) -> str:
    """The docstring of the commands' script, and what each of them does."""
    doc = inspect.getdoc(inspect.getmodule(next(iter(commands.values())))) or ""
    lines = [f"  {name:<12} {inspect.getdoc(f).splitlines()[0] if f.__doc__ else ''}" for name, f in commands.items()]
    return "\n".join([doc, "", "Commands, each with a --help of its own:", *lines]).strip()


def command_help(name: str, command: Callable) -> str:
    """How a command is called in its script's docstring, what it does, and its flags: first those that it needs."""
    script_doc = inspect.getdoc(inspect.getmodule(command)) or ""
    examples = re.findall(rf"^ *(.*python\S* .*\b{name}\b(?:.*\\\n)*.*)$", script_doc, re.MULTILINE)
    text, _, arguments = (inspect.getdoc(command) or name).partition("\nArgs:\n")
    texts = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE))
    width = min(shutil.get_terminal_size().columns, 110)
    required, optional = ["Needed:"], ["Flags, with their defaults:"]
    for p in inspect.signature(command).parameters.values():
        default = "" if p.default in (p.empty, None) else f" ({p.default})"
        text_of_flag = " ".join(texts.get(p.name, "").split()) + default
        lines = textwrap.fill(text_of_flag, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
        (required if p.default is p.empty else optional).append(f"  --{p.name}\n{lines}")
    groups = [examples, [text.strip()], *(group for group in (required, optional) if len(group) > 1)]
    return "\n\n".join("\n".join(group) for group in groups if group)


LIST_SEPARATOR = "\0"  # which no argument of a command line can hold


def _with_lists_as_one(argv: list[str], command: Callable) -> list[str]:
    """argv with the values of each flag that takes several, --flag a b c, as one: fire takes one per flag."""
    parameters = inspect.signature(command).parameters.values()
    takes_several = {f"--{p.name}" for p in parameters if "list" in str(p.annotation)}
    joined, is_list = [], False
    for text in argv:
        if text.startswith("-") or not is_list:
            is_list = text.split("=")[0] in takes_several
            joined.append(text)
        else:
            joined[-1] += (LIST_SEPARATOR if "=" in joined[-1] else "=") + text
    return joined


def _checked(name: str, command: Callable) -> Callable:
    """command as one that takes any value and flag, as texts, so that fire hands over all; what does not fit raises."""
    parameters = inspect.signature(command).parameters

    def run(*values: str, **flags: str) -> None:
        given = {}
        for flag, text in flags.items():
            fitting = [p for p in parameters if flag in (p, p[0])]  # -x is the one flag that starts with x
            if len(fitting) != 1:
                hint = did_you_mean(f"--{flag}", [f"--{p}" for p in parameters])
                raise UserError(f"{name} has no flag --{flag}.{hint}")
            given[fitting[0]] = text
        free = [p for p in parameters if p not in given]
        if len(values) > len(free):
            raise UserError(f"{name} cannot place {values[-1]!r}: write --flag value, and quote values with spaces.")
        given.update(zip(free, values, strict=False))
        missing = [f"--{p}" for p in free[len(values) :] if parameters[p].default is inspect.Parameter.empty]
        if missing:
            raise UserError(f"{name} needs {' and '.join(missing)}.")
        command(**{p: _read_value(p, parameters[p].annotation, text) for p, text in given.items()})

    # The names, too, since fire reads --noisy as "--isy False" where it does not know noisy.
    values, flags = inspect.signature(run).parameters.values()
    named = [p.replace(kind=p.KEYWORD_ONLY, default=None) for p in parameters.values()]
    run.__signature__ = inspect.Signature([values, *named, flags])
    return run


def _read_value(flag: str, annotation: typing.Any, text: str) -> typing.Any:
    """A flag's text read as its annotation says: str, int, float, bool, list[X], or one of these or None."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if types.NoneType in kinds and text == "None":
        return None
    kind = kinds[0]
    if typing.get_origin(kind) is list:
        [one] = typing.get_args(kind)
        return [_read_value(flag, one, value) for value in text.split(LIST_SEPARATOR)]
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        names = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise UserError(f"--{flag} takes {names}, not {text[:100]!r}.") from None
