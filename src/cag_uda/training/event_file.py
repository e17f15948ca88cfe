"""A file of events for TensorBoard, written as it happens.

TensorBoard's own writer is a thread, whose errors on a full disk nobody can catch.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from cag_uda.files import unwritable

_VERSION = "brain.Event:2"
"""What TensorBoard wants to read first in a file of events."""
_RGB = 3


class EventFile:
    """One more file of events in a folder.

    Args:
        folder: which.
        step: after how many steps it begins; what earlier files say of later ones is hidden.

    Raises:
        RunError: here and in every method, if the disk is full or gone.
    """

    def __init__(self, folder: Path, step: int) -> None:
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._append(file_version=_VERSION)
        self._append(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar each."""
        scalars = [Summary.Value(tag=name, simple_value=each) for name, each in values.items()]
        self._append(step=step, summary=Summary(value=scalars))

    def picture(self, step: int, name: str, picture: NDArray[np.uint8]) -> None:
        """One picture (H, W, 3) RGB."""
        height, width = picture.shape[:2]
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "PNG")
        shown = Summary.Image(
            height=height,
            width=width,
            colorspace=_RGB,
            encoded_image_string=encoded.getvalue(),
        )
        self._append(step=step, summary=Summary(value=[Summary.Value(tag=name, image=shown)]))

    def _append(self, **content: Any) -> None:
        event = Event(wall_time=time.time(), **content)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            raise unwritable(self._path, error) from error
