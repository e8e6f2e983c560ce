"""Start two processes that find one another as those of ``torchrun`` do, as often as asked.

They are forked from one that has imported everything already, which takes longer than most of what
is tested. Each line of its input is what ``python`` would take (a script, or ``-m`` and a module,
and arguments) and the files for the standard output and error; the answer is the exit code of the
first process to fail, which ends the other a second later.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
import traceback
from typing import NoReturn

import lightning_fabric  # noqa: F401
from torch.distributed import TCPStore

import cnsdiff.recommender.fitting
import cnsdiff.recommender.recommender  # noqa: F401

COUNT = 2
#: Seconds that a launch may take, and that others have once one has failed: to say so as well.
LIMIT, GRACE = 300.0, 1.0


def start(rank: int, port: int, arguments: list[str], files: list[str]) -> int:
    child = os.fork()
    if not child:
        for descriptor, file in zip((1, 2), files, strict=True):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        run(rank, port, arguments)
    return child


def run(rank: int, port: int, arguments: list[str]) -> NoReturn:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(COUNT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        # They meet in a store that outlives each of them.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    code = 0
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    # At once: to take apart what was imported takes seconds.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(arguments: list[str], files: list[str]) -> int:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    running = {start(rank, store.port, arguments, files) for rank in range(COUNT)}
    failed, end, asked = 0, time.monotonic() + LIMIT, False
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            running.remove(child)
            code = os.waitstatus_to_exitcode(status)
            if code and not failed:
                failed, end = abs(code), time.monotonic() + GRACE
        elif time.monotonic() < end:
            time.sleep(0.02)
        else:
            failed = failed or 124
            for other in running:
                os.kill(other, signal.SIGKILL if asked else signal.SIGTERM)
            # Who does not end when asked to is a failure of its own.
            failed, end, asked = 124 if asked else failed, time.monotonic() + 30, True
    return failed


if __name__ == "__main__":
    for line in sys.stdin:
        print(launch(*json.loads(line)), flush=True)
