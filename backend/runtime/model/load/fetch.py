"""`Fetch`: tensors from files to a GPU at the speed of the disk.

Knows nothing of models but that they take a layer's tensors together, in order of layers. Reader threads read chunks of
tensors, in order, into page-locked buffers. They copy them to the device on streams of their own. So reading, copying
and the taker's work overlap. A dtype is converted on the device; on the CPU the same code runs without streams (tests).

1. A tensor's memory is taken on the taker's stream. Readers wait for that stream before they write to the memory, and
   the stream waits for the readers before the tensor is handed out.
2. Tensors that are read ahead take at most `window` bytes, or are one tensor.
3. Errors of reading are raised by `take`.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from .....lang.errors import ModelLoadError
from ...device import numbered

READERS = 8
"""Reader threads: one fills neither a fast disk nor the bus from the page cache (7.3 against 47 GB/s, gpu.md)."""
CHUNK_BYTES = 16 << 20
BUFFERS = 2
"""Page-locked buffers of a reader: it fills one while the other is on its way to the device."""
WINDOW_BYTES = 2 << 30


@dataclass(frozen=True)
class TensorPlace:
    """A tensor's bytes in a file: contiguous, from byte `start`."""

    file: Path
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Pending:
    """A tensor on its way, with its chunks; each ends with the event after which its part is there (None: it is)."""

    tensor: torch.Tensor
    chunks: list[Future[torch.cuda.Event | None]]


class Fetch:
    """Tensors at `places`, brought to `device` in `dtype`; a `weights.Supply`.

    They are read ahead in the order of `taking_order`. A tensor that is taken out of order is read then and there.
    """

    def __init__(
        self,
        places: Mapping[str, TensorPlace],
        device: torch.device,
        dtype: torch.dtype,
        *,
        readers: int = READERS,
        chunk: int = CHUNK_BYTES,
        window: int = WINDOW_BYTES,
    ) -> None:
        self._places = places
        self._device = numbered(device)
        self._dtype = dtype
        self._chunk = chunk
        self._window = window
        self._waiting = 0
        self._ahead = deque(taking_order(places))
        self._started: set[str] = set()
        self._pending: dict[str, _Pending] = {}
        self._lanes: list[_ReaderLane] = []
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="sgl-load")

    def take(self, name: str) -> torch.Tensor | None:
        if name not in self._places:
            return None
        self._read_ahead()
        if name not in self._pending:
            self._start(name)
        pending = self._pending.pop(name)
        self._waiting -= pending.tensor.nbytes
        self._read_ahead()  # before waiting: the readers must not run dry
        for chunk in pending.chunks:
            if (there := chunk.result()) is not None:
                torch.cuda.current_stream(self._device).wait_event(there)
        return pending.tensor

    def close(self) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)
        for lane in self._lanes:  # memory of what was not taken goes back to this stream
            lane.join()
        self._pending.clear()
        self._lanes.clear()

    def _read_ahead(self) -> None:
        while self._ahead and (not self._pending or self._waiting < self._window):
            name = self._ahead.popleft()
            if name not in self._started:
                self._start(name)

    def _start(self, name: str) -> None:
        place = self._places[name]
        tensor = torch.empty(place.shape, dtype=self._dtype, device=self._device)
        free = None
        if self._device.type == "cuda":
            free = torch.cuda.current_stream(self._device).record_event()
        step = max(1, self._chunk // place.dtype.itemsize)
        flat = tensor.view(-1)
        chunks = [
            self._readers.submit(self._move, place, first, flat[first : first + step], free)
            for first in range(0, place.count, step)
        ]
        self._started.add(name)
        self._pending[name] = _Pending(tensor, chunks)
        self._waiting += tensor.nbytes

    def _move(
        self, place: TensorPlace, first: int, target: torch.Tensor, free: torch.cuda.Event | None
    ) -> torch.cuda.Event | None:
        lane: _ReaderLane | None = getattr(self._local, "lane", None)
        if lane is None:
            lane = self._local.lane = _ReaderLane(self._device, self._chunk)
            self._lanes.append(lane)
        size = place.dtype.itemsize
        buffer = lane.buffer(target.numel() * size)
        _read(place.file, place.start + first * size, buffer)
        return lane.send(buffer.view(place.dtype), target, free)


class _ReaderLane:
    """The buffers of one reader thread, the events after which each is free again, and its stream."""

    def __init__(self, device: torch.device, size: int) -> None:
        self._device = device
        cuda = device.type == "cuda"
        if cuda:
            torch.cuda.set_device(device)  # of this thread; page-locking would make a context on the first GPU else
        self._buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=cuda) for _ in range(BUFFERS)]
        self._sent: list[torch.cuda.Event | None] = [None] * BUFFERS
        self._turn = 0
        self._stream = torch.cuda.Stream(device) if cuda else None

    def buffer(self, size: int) -> torch.Tensor:
        """The next buffer's first `size` bytes, as soon as they may be written."""
        self._turn = (self._turn + 1) % BUFFERS
        if (sent := self._sent[self._turn]) is not None:
            sent.synchronize()
        return self._buffers[self._turn][:size]

    def send(
        self, source: torch.Tensor, target: torch.Tensor, free: torch.cuda.Event | None
    ) -> torch.cuda.Event | None:
        """Copy the buffer last given out to the device; the event after which it is there."""
        with torch.inference_mode():  # the taker may be in it, and then its tensors may be written in it only
            if self._stream is None:
                target.copy_(source)
                return None
            with torch.cuda.stream(self._stream):
                if free is not None:
                    self._stream.wait_event(free)
                target.copy_(source, non_blocking=True)
                there = self._stream.record_event()
        self._sent[self._turn] = there
        return there

    def join(self) -> None:
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def taking_order(names: Iterable[str]) -> list[str]:
    """The order in which models take tensors: embeddings, layer by layer, then what follows the last."""

    def key(name: str) -> tuple[int, list[tuple[int, str]]]:
        place = 1 if ".layers." in name else 0 if "embed" in name else 2
        parts = re.split(r"(\d+)", name)
        return place, [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(names, key=key)


def _read(file: Path, start: int, buffer: torch.Tensor) -> None:
    """Fill a buffer of bytes from a file. Raises `ModelLoadError` naming it."""
    view = memoryview(buffer.numpy().data)
    try:
        with file.open("rb", buffering=0) as stream:
            if hasattr(os, "posix_fadvise"):  # all of it at once, not a readahead at a time
                os.posix_fadvise(stream.fileno(), start, len(view), os.POSIX_FADV_WILLNEED)
            stream.seek(start)
            while view:
                read = stream.readinto(view)
                if not read:
                    raise OSError(f"{len(view)} bytes are missing at its end")
                view = view[read:]
    except OSError as error:
        raise ModelLoadError(f"{file}: cannot be read ({error}); download it again") from error
