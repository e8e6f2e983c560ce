"""Run a script in two processes that find one another as those of ``torchrun`` do.

They are forked from one that has imported everything already, which takes longer than most of what
is tested. Arguments: the script and its own. The exit code is that of the first process to fail,
which ends the other.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
import traceback
from typing import NoReturn

import lightning_fabric  # noqa: F401

import cnsdiff.recommender.fitting
import cnsdiff.recommender.recommender  # noqa: F401

COUNT = 2


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def start(rank: int, port: int) -> int:
    child = os.fork()
    if not child:
        run(rank, port)
    return child


def run(rank: int, port: int) -> NoReturn:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(COUNT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    sys.argv = sys.argv[1:]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    leave(code)


def leave(code: int) -> NoReturn:
    """At once: to take apart what was imported takes seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    port = free_port()
    running = {start(rank, port) for rank in range(COUNT)}
    failed = 0
    while running:
        child, status = os.wait()
        running.remove(child)
        code = os.waitstatus_to_exitcode(status)
        if code and not failed:
            failed = abs(code)
            for other in running:
                os.kill(other, signal.SIGTERM)
    leave(failed)
