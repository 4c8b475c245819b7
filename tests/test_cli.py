"""How a process of the command line begins and ends."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from mss.cli import program

def late():
    time.sleep(0.2)
    print("thread")

def main():
    atexit.register(print, "registered")
    threading.Thread(target=late).start()
    print("main")
    {end}

program(main)
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('lost')", 1, "lost"),
        ("raise RuntimeError('lost')", 1, "RuntimeError: lost"),
    ],
)
def test_a_program_ends_with_its_code_when_all_else_has_ended(end, code, said):
    done = python(PROGRAM.format(end=end))
    assert done.returncode == code
    assert done.stdout.split() == ["main", "thread", "registered"]
    assert said in done.stderr
    assert bool(done.stderr) == bool(said)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 10000])  # the latter more than is kept until the end
def test_results_that_cannot_be_written_are_a_failure(lines, unbuffered):
    code = "from mss.cli import exit_code, program\n"
    code += f"program(lambda: exit_code(lambda: print('results\\n' * {lines}) or 0))"
    quiet = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, env=quiet, timeout=120
        )
    assert done.returncode == 1
    assert done.stderr == "error: standard output cannot be written ([Errno 28] No space left on device)\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_code_that_importing_torch_ran_is_let_go_and_runs_again():
    done = python(
        """
import re
from mss import cli
def mapped():
    return int(re.search(r"RssFile:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
let_go, cli.let_go_of_code = cli.let_go_of_code, lambda: None
cli.start_torch()
before = mapped()
let_go()
after = mapped()
import torch
x = torch.linspace(0, 1, 1000, dtype=torch.float64)
assert abs(float(x @ x) - 333.5) < 1e-3
assert torch.fft.irfft(torch.fft.rfft(x)).allclose(x)
print(before, after)
"""
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after < 0.6 * before
