"""A small, fixed share of what the fuzz target does when it is run by hand."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "fuzz" / "ttrpc_frames.py"


def test_a_few_hundred_inputs() -> None:
    command = [sys.executable, "-W", "error", str(FUZZ), "--examples", "300", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("300 inputs")
    assert done.stderr == ""
