"""A watch over the processes of a run: none waits for one that has died.

The first process watches all others, and they watch it: each waits for a message of its peer, which
comes at the end of a sound run; a connection that breaks before is the death of the peer.
"""

import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from cag_uda.errors import UserError

_PATIENCE = timedelta(days=7)
_FAREWELL = 0
"""The message of a process whose work is done; others are ranks that have died, from 1."""
_SOON_S, _AT_LAST_S = 2.0, 60.0


class Watch:
    """Watches from its creation on, in the process `rank` of `count`."""

    def __init__(self, rank: int, count: int) -> None:
        self._rank, self._count = rank, count
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._is_over = False
        self._peers = range(1, count) if rank == 0 else range(1)
        self._threads = [
            threading.Thread(target=self._wait_for, args=(peer,), daemon=True)
            for peer in self._peers
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Take leave of the others, whose work is done too."""
        self._is_over = True
        for peer in self._peers:
            self._send(_FAREWELL, peer)
        self._join(_AT_LAST_S)

    def outlive_first(self) -> None:
        """Wait until the first process has ended, which tells what all of them end of.

        Launchers end the others as soon as one has failed.
        """
        self._is_over = True
        self._join(_AT_LAST_S)

    def leave(self, *, hesitates: bool) -> None:
        """Take no notice any more of others that end; who hesitates waits for news of one first."""
        if hesitates:
            time.sleep(_SOON_S)
        self._is_over = True

    def _wait_for(self, peer: int) -> None:
        message = torch.zeros(1, dtype=torch.int64)
        try:
            dist.recv(message, peer, group=self._group)
            dead = int(message)
        except RuntimeError:
            dead = 1 + peer
        if dead != _FAREWELL and not self._is_over:
            self._end(dead)

    def _end(self, dead: int) -> None:
        """End this process because another has died, after what that one had to say."""
        self._is_over = True
        if self._rank == (1 if dead == 1 else 0):
            sys.stderr.write(
                f"error: process {dead - 1} of {self._count} has ended before its work was done: "
                "its own message says why, or it was killed, perhaps for want of memory; go on "
                "with --resume\n"
            )
            sys.stderr.flush()
        for peer in self._peers:
            if 1 + peer != dead:
                self._send(dead, peer)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(UserError.exit_code)

    def _send(self, message: int, peer: int) -> None:
        with suppress(RuntimeError):  # It may have ended, too.
            dist.send(torch.tensor([message]), peer, group=self._group)

    def _join(self, time_s: float) -> None:
        deadline = time.monotonic() + time_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
