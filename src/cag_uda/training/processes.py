"""The processes that share a run: how they exchange results, agree on errors, and end together.

What is exchanged here is small and lies on the host, so it goes by its own gloo group: it never
waits for a device, and it is patient while the first process renders or scores.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor

from cag_uda.errors import UserError
from cag_uda.training.interrupt import Interrupted, StopRequest
from cag_uda.training.watch import Watch

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
_PROBLEM = 1 << 30
"""Value that a process with a problem sends in place of its number; larger than any signal's."""


def speaks() -> bool:
    """Tell whether this process is alone or the first of several: the one that prints."""
    return not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0


class Processes:
    """The processes of a run; as a context, they end together or watch over each other's end."""

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.count = fabric.global_rank, fabric.world_size
        self.is_first = self.rank == 0
        """True if this is the process that writes files and prints for the run."""
        self.is_first_here = fabric.local_rank == 0
        """True if this is the first process of its machine."""
        self._group, self._watch = None, None
        if self.count > 1:
            self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
            self._watch = Watch(self.rank, self.count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._watch is None:
            return
        if kind is None:
            self._watch.close()
        else:
            self._watch.leave(hesitates=not issubclass(kind, UserError | Interrupted | SystemExit))

    def gather(self, value: T) -> list[T]:
        """Gather a small value, on the host, of every process, by rank, on every process."""
        if self._group is None:
            return [value]
        everywhere: list[T | None] = [None] * self.count
        dist.all_gather_object(everywhere, value, group=self._group)
        return everywhere  # type: ignore[return-value]  # torch has put a T in each place

    def largest(self, number: int) -> int:
        """Find the largest of every process's numbers."""
        if self._group is None:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._group)
        return int(largest)

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self._group is None:
            return tensor
        dist.all_reduce(tensor, group=self._group if tensor.device.type == "cpu" else None)
        return tensor

    @contextmanager
    def agreed(self) -> Iterator[StopRequest]:
        """Let every process do its part of something; all of them wait for each other at the end.

        The part itself must not need the other processes.

        Yields:
            A request that the part may make; afterwards all processes have it.

        Raises:
            UserError: in the first process, for what was raised in any; the others end with the
                status that it has on the command line.
            Interrupted: likewise.
        """
        problem: UserError | Interrupted | None = None
        request = StopRequest()
        try:
            yield request
        except (UserError, Interrupted) as error:
            if self._group is None:
                raise
            problem = error
        largest = self.largest((request.number or 0) if problem is None else _PROBLEM)
        if largest == _PROBLEM:
            self._end_together(problem)
        request.number = largest or None

    def _end_together(self, problem: UserError | Interrupted | None) -> None:
        """End every process: the first raises, the others have nothing to add."""
        found = [each for each in self.gather(problem) if each is not None]
        if self._watch is not None and not self.is_first:
            self._watch.outlive_first()
            stopped = [each.exit_code for each in found if isinstance(each, Interrupted)]
            raise SystemExit(stopped[0] if stopped else UserError.exit_code)
        for each in found:
            if isinstance(each, Interrupted):
                raise each
        if problem is not None and len(found) == 1:
            raise problem
        errors = [each for each in found if isinstance(each, UserError)]
        lines = dict.fromkeys(line for each in errors for line in each.problems)
        raise type(errors[0])(list(lines))
