"""Runs of the command line in processes that are forked with everything imported.

A fresh interpreter takes seconds to import the package; a test that kills dozens of runs cannot
wait for it. Several processes find each other by the variables that torchrun sets.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any, Literal

_FORKSERVER = get_context("forkserver")
_FORKSERVER.set_forkserver_preload(
    ["tests.support.forked", "cag_uda.cli.adapt", "cag_uda.runs.runner"]
)


class Run:
    """`cag-uda adapt` in one forked process or several.

    Args:
        arguments: of the command line, after `adapt`.
        processes: how many.
        launcher: whose variables tell them of each other.
        log: receives what they print.
        act: called in each process before the command, for what a test wants to break.
    """

    def __init__(
        self,
        *arguments: object,
        processes: int = 1,
        launcher: Launcher = "torchrun",
        log: Path | None = None,
        act: Callable[[], None] | None = None,
    ) -> None:
        command = [str(argument) for argument in arguments]
        port = _free_port()
        self._processes: list[Any] = []
        for rank in range(processes):
            environment = _LAUNCHERS[launcher](rank, processes, port) if processes > 1 else {}
            target = (command, environment, log, act)
            process = _FORKSERVER.Process(target=_adapt, args=target)
            process.start()
            self._processes.append(process)

    @property
    def pids(self) -> list[int]:
        """Of the processes, by rank."""
        return [int(process.pid) for process in self._processes]

    @property
    def is_alive(self) -> bool:
        """Whether any of them still runs."""
        return any(process.is_alive() for process in self._processes)

    def send(self, number: int, rank: int | None = None) -> None:
        """Send a signal to all of them, or to one."""
        for pid in self.pids if rank is None else [self.pids[rank]]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, timeout_s: float = 240) -> list[int | None]:
        """Exit codes by rank; None for one that had to be killed after the time was over."""
        codes = []
        for process in self._processes:
            process.join(timeout_s)
            codes.append(process.exitcode)
            if process.exitcode is None:
                process.kill()
                process.join()
        return codes


def _adapt(
    command: list[str],
    environment: dict[str, str],
    log: Path | None,
    act: Callable[[], None] | None,
) -> None:
    import torch

    from cag_uda.cli.app import main

    # Loaders are forked, as those of a fresh interpreter are.
    set_start_method("fork", force=True)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    # What a killed process has written is there for the next one, on the disk or not.
    os.fsync = lambda fd: None
    output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if act is not None:
        act()
    sys.argv = ["cag-uda", "adapt", *command]
    code: Any = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    # As an interpreter ends, and not as a process of `multiprocessing`.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


def _as_torchrun(rank: int, processes: int, port: int) -> dict[str, str]:
    """All on one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
    }


def _as_two_machines(rank: int, processes: int, port: int) -> dict[str, str]:
    """Each on a machine of its own, as far as torchrun tells."""
    alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": str(rank)}
    return {**_as_torchrun(rank, processes, port), **alone}


def _as_slurm(rank: int, processes: int, port: int) -> dict[str, str]:
    """All tasks of one node."""
    return {
        "SLURM_JOB_ID": "1234",
        "SLURM_JOB_NAME": "adapt",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": str(processes),
        "SLURM_NTASKS_PER_NODE": str(processes),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


Launcher = Literal["torchrun", "two machines", "slurm"]
_LAUNCHERS = {"torchrun": _as_torchrun, "two machines": _as_two_machines, "slurm": _as_slurm}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
