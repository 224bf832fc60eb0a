"""What comes of hostile input, in a process of its own that has two gigabytes to spare, and five minutes."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import subprocess
import sys
from typing import Any, NamedTuple

OPEN = """
import contextlib, io, json, resource, sys, time, warnings
warnings.simplefilter("ignore")
from ptlib import build_model, load_checkpoint, load_task
from ptlib.language import encoder_in
from tests.conftest import Tiny

mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 2 * 2**30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (300, 300))

def resident(which):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(which))

for line in sys.stdin:
    call, given = json.loads(line)
    error, said, start = None, "", time.process_time()
    open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
    before = resident("VmRSS")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            said = eval(call)
    except BaseException as e:
        error, said = type(e).__name__, str(e)
    print(json.dumps([error, said, time.process_time() - start, resident("VmHWM") - before]), flush=True)
"""


class Outcome(NamedTuple):
    """What came of one input: the name of the error or None, what it or the result says, CPU seconds, bytes more."""

    error: str | None
    said: Any
    seconds: float
    peak: int


@functools.cache
def process() -> subprocess.Popen[str]:
    how = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    made = subprocess.Popen([sys.executable, "-c", OPEN], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, env={**os.environ, **how})  # fmt: skip
    atexit.register(made.kill)
    return made


def limited(call: str, inputs: dict[str, Any]) -> dict[str, Outcome]:
    """What becomes of each input, as `given` in the expression `call`, in a process of limited memory and time."""
    found, (asked, told) = {}, (process().stdin, process().stdout)
    for name, given in inputs.items():
        assert asked is not None
        assert told is not None
        asked.write(json.dumps([call, given]) + "\n")
        asked.flush()
        assert select.select([told], [], [], 60)[0], f"{name} takes more than a minute"
        line = told.readline()
        assert line, f"{name} ended the process"
        found[name] = Outcome(*json.loads(line))
    return found
