"""A process that writes rows is killed, before any one of its file operations; each row is there once."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("how", ["each_operation", "again_and_again"])
def test_a_process_that_is_killed_loses_no_row_and_writes_none_twice(how, tmp_path):
    script = Path(__file__).with_name("windows_killed.py")
    run = subprocess.run(
        [sys.executable, str(script), how, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
