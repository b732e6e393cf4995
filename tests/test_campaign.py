"""A short campaign of kills, full disks, hostile files, servers and visitors; a long one: python -m tests.campaign."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import pytest

from tests.helpers.commands import run_script


@pytest.mark.slow  # some 500 tries, minutes
def test_nothing_is_lost_doubled_or_wrongly_accepted_and_nothing_ends_in_a_traceback_or_hangs():
    result = run_script("-m", "tests.campaign", "--scale=0.1", timeout=1800)
    assert result.returncode == 0, result.stdout[-5000:]
