"""Processes that train together: starting them by torchrun, and being one: `torchrun ... -m ptlib.worker FOLDER`."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ptlib import together
from ptlib.errors import InputError
from ptlib.files import write_whole

PATIENCE = 30.0  # seconds that the processes have to save and to leave; then torchrun kills them


def launch(
    devices: int, function: Callable[..., Any], arguments: Mapping[str, Any], log: Callable[[str], None],
    restarts: int = 0,
) -> None:  # fmt: skip
    """Call `function(**arguments, log=print)` in so many processes of this machine, by torchrun; `log` hears the first.

    If one of them dies all end, and are started anew up to `restarts` times. InputError and FloatingPointError are
    raised as in the process; RuntimeError with its last words for all else. The processes are told to stop when this
    one is, and have half a minute to save.
    """
    threads = max(1, torch.get_num_threads() // devices)
    with tempfile.TemporaryDirectory(prefix="ptlib-") as name:  # only this user may read it
        folder = Path(name)
        try:
            torch.save((function, dict(arguments)), folder / "job.pt")
        except (pickle.PicklingError, AttributeError, TypeError) as e:
            raise InputError(
                f"devices is {devices}, and this model or data can't be sent to other processes ({e}); take classes "
                "and functions from a module, or devices=1"
            ) from None
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}",
                   f"--max-restarts={restarts}", "-m", "ptlib.worker", str(folder)]  # fmt: skip
        around = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with (folder / "errors.txt").open("w+b") as errors:
            how: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
            how |= {"stderr": errors, "text": True, "env": around, "start_new_session": True}
            with subprocess.Popen(command, **how) as process, _relayed():
                try:
                    _listen(process, log)
                except BaseException:
                    process.send_signal(signal.SIGTERM)
                    late = threading.Timer(1.5 * PATIENCE, process.kill)
                    late.start()
                    try:
                        _listen(process, log)
                    finally:
                        late.cancel()
                    raise
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        if process.returncode:
            _raise(folder / "error.json", said)


def _listen(process: subprocess.Popen[str], log: Callable[[str], None]) -> None:
    assert process.stdout
    for line in process.stdout:
        log(line.rstrip("\n"))


@contextlib.contextmanager
def _relayed() -> Iterator[None]:
    """A context in which SIGTERM, as an interrupt does, raises what the processes can be told of."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def told(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise(path: Path, said: str) -> None:
    """The error that a process told of, or the last words of all, torchrun's word of who was killed included."""
    if path.exists():
        error = json.loads(path.read_bytes())
        raise {"InputError": InputError}.get(error["type"], FloatingPointError)(error["message"])
    last = "\n".join(said.splitlines()[-30:])
    raise RuntimeError(f"a process of the training was killed, or failed; the last words:\n{last}")


def _tell(path: Path, error: InputError | FloatingPointError) -> None:
    """Leave an error for the process that launched this one."""
    write_whole(path, json.dumps({"type": type(error).__name__, "message": str(error)}).encode())


def main() -> None:
    """Do the job that the launching process left in the folder, which is its own."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_orphaned, args=(folder,), daemon=True).start()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    # A pickle, but one that this user wrote a moment ago to a folder that only he may write to.
    function, arguments = torch.load(folder / "job.pt", weights_only=False, mmap=True)
    try:
        function(**arguments, log=_say if os.environ["RANK"] == "0" else lambda line: None)
    except (InputError, FloatingPointError) as error:
        _tell(folder / "error.json", error)
        raise
    together.leave()
    sys.stdout.flush()
    os._exit(0)  # all is saved, and the interpreter's end may meet what of the group still lives, and abort


def _orphaned(folder: Path) -> None:
    """Save and leave once the launching process is gone, and with it the other end of this one's input."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more: see _orphaned
        print(line, flush=True)


if __name__ == "__main__":
    main()
