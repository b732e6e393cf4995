"""Who may import whom: the scripts stand alone, the rooms of alpaca/ do not know each other."""

import ast
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

SCRIPTS = {"compare", "demo", "generate_instruction", "plot_diversity", "train", "weight_diff"}
SHARED = {"alpaca.examples", "alpaca.row_files"}
FOLDERS = ("alpaca", "benchmarks", "configs", "data", "tests")
PATHS = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
FILES = sorted(path.relative_to(ROOT) for path in PATHS)
OURS = {path.with_suffix("").parts[0] for path in FILES}


def module_of(path: Path) -> str:
    """alpaca/weights/pairs.py is alpaca.weights.pairs."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports_in(source: str) -> set[str]:
    """The modules of this project that a source imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write the whole name of a module"
            names |= {node.module if is_module(node.module) else f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in OURS}


def is_module(name: str) -> bool:
    """Not a package, whose names are modules themselves."""
    return (ROOT / name.replace(".", "/")).with_suffix(".py").is_file() or name.split(".")[0] not in OURS


def allowed(importer: str, imported: str) -> bool:
    """May the module importer import the module imported?"""
    place, target = importer.split("."), imported.split(".")
    if imported == "utils":
        return importer != "utils"
    if place[0] == "tests":
        return True
    if target[0] == "tests":
        return False
    if place[0] in ("data", "benchmarks"):
        return True
    if importer in SCRIPTS:
        return target[0] == "alpaca"
    if importer in SHARED:
        return imported in SHARED
    if place[0] == "alpaca":
        return imported in SHARED or target[:2] in (place[:2], ["alpaca", "inference"])
    return place[0] == "configs" and target[0] in ("alpaca", "configs")


def test_the_root_holds_the_seven_scripts_and_no_other_python_file():
    assert {path.stem for path in FILES if len(path.parts) == 1} == SCRIPTS | {"utils"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_module_imports_only_what_it_may(path):
    imported = imports_in((ROOT / path).read_text(encoding="utf-8"))
    assert sorted(name for name in imported if not allowed(module_of(path), name)) == []


@pytest.mark.parametrize(
    ("importer", "imported", "answer"),
    [
        ("train", "alpaca.training.memory", True),
        ("train", "generate_instruction", False),
        ("train", "configs.tiny_models", False),
        ("utils", "alpaca.examples", False),
        ("alpaca.evaluation.rating_page", "alpaca.inference.web_page", True),
        ("alpaca.evaluation.win_rate", "alpaca.generation.novelty", False),
        ("alpaca.inference.local", "alpaca.row_files", True),
        ("alpaca.inference.local", "compare", False),
        ("alpaca.row_files", "alpaca.inference.local", False),
        ("benchmarks.training", "configs.tiny_models", True),
        ("benchmarks.generation", "tests.helpers.generation_data", False),
        ("configs.make_tiny_llama", "train", False),
    ],
)
def test_the_rules_say_what_is_meant(importer, imported, answer):
    assert allowed(importer, imported) == answer


def test_imports_inside_functions_and_of_modules_as_names_are_seen():
    source = "import os, utils\ndef f():\n from alpaca.weights import pairs\n from alpaca.examples import load_examples"
    assert imports_in(source) == {"utils", "alpaca.weights.pairs", "alpaca.examples"}
