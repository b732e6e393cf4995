"""What several test files share: where things are, how a script is run, tiny models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep what tests cache out of the user's own cache folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference files beside the checkout; tests that read it are skipped where it is absent."""
    if not REFERENCE_DATA.is_dir():
        pytest.skip(f"needs the reference data in {REFERENCE_DATA}")
    return REFERENCE_DATA


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A two-layer LLaMA with random weights and, as the released one, a tokenizer without a pad token."""
    import tiny_models

    return tiny_models.save_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_opt(tmp_path_factory) -> Path:
    """A two-layer OPT with random weights and tied embeddings."""
    import tiny_models

    return tiny_models.save_opt(tmp_path_factory.mktemp("tiny-opt"))


def run_script(*arguments, cwd: Path = ROOT, timeout: float = 300, **environment) -> subprocess.CompletedProcess:
    """Run `python <arguments>` as a user would and return what it printed."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def assert_fails_in_one_line(result: subprocess.CompletedProcess, *parts: str) -> None:
    """The run failed, its last line of stderr holds every part, and nowhere is there a traceback."""
    assert result.returncode not in (0, None), result.stdout + result.stderr
    assert "Traceback" not in result.stderr + result.stdout, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in last, f"{part!r} is not in {last!r}"
