"""Fixtures that several test files share: the reference data, tiny models, examples to train on."""

import json
import os
import random
import signal
from pathlib import Path

import pytest

# Two tests run at a time, and threads of their own would make both wait. Scripts that they start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from configs import tiny_models
from tests.helpers.commands import ROOT
from tests.helpers.generation_data import write_inputs
from utils import jdump

# A shell has what it starts in the background ignore Ctrl-C, and scripts would inherit that, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("test_train_runs.py", "test_pages.py")
REFERENCE_DATA = ROOT.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes first, so that one worker does not do the last of them alone."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference files beside the checkout; tests that read it are skipped where it is absent."""
    if not REFERENCE_DATA.is_dir():
        pytest.skip(f"needs the reference data in {REFERENCE_DATA}")
    return REFERENCE_DATA


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A two-layer LLaMA with random weights and, as the released one, a tokenizer without a pad token."""

    return tiny_models.save_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_opt(tmp_path_factory) -> Path:
    """A two-layer OPT with random weights and tied embeddings."""

    return tiny_models.save_opt(tmp_path_factory.mktemp("tiny-opt"))


@pytest.fixture(scope="session")
def slow_llama(tmp_path_factory) -> Path:
    """A model that is still writing when somebody stops it: 900 tokens take it seconds."""
    return tiny_models.save_llama(tmp_path_factory.mktemp("slow-llama"), hidden_size=512, num_layers=8)


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    """Folders of a LLaMA: original (float32), base, tuned, diff, and exact_diff."""
    from tests.helpers.diff_models import make_diff, save_models

    path = save_models(tmp_path_factory.mktemp("llama"), tiny_models.save_llama)
    make_diff(path / "base", path / "tuned", path / "exact_diff", "--exact", "True")
    return path


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """96 examples with something to learn: the released ones where they are there, else of our own."""
    path = tmp_path_factory.mktemp("data") / "data.json"
    sample = REFERENCE_DATA / "alpaca_sample.json"
    if sample.is_file():
        jdump(json.loads(sample.read_text(encoding="utf-8"))[:96], path)
    else:
        rng = random.Random(0)
        numbers = [(rng.randint(1, 99), rng.randint(1, 99)) for _ in range(96)]
        jdump(
            [{"instruction": f"Add {a} and {b}.", "input": "", "output": f"The sum is {a + b}."} for a, b in numbers],
            path,
        )
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a prompt.txt and a seed_tasks.jsonl, to run the generator in."""
    write_inputs(tmp_path)
    return tmp_path


@pytest.fixture
def environment_as_it_is(monkeypatch) -> None:
    """For tests that parse flags in this process: it does not become a group of one."""
    monkeypatch.setattr("alpaca.training.arguments.be_a_group_of_one", lambda: None)
