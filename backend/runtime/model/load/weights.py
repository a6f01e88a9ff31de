"""`Weights`: how a model takes its tensors out of a checkpoint: by name, checked, on its device, in its dtype.

Owns: the protocol of what holds tensors (`Tensors`, or any mapping), and the errors of a checkpoint that does not fit
its config. Knows nothing of files or of how a model lays its weights out.
Invariant: a tensor that was taken belongs to the taker; nothing here keeps it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from .....lang.errors import ModelLoadError

if TYPE_CHECKING:
    import torch


class Supply(Protocol):
    """Tensors for one device in one dtype, taken one at a time."""

    def take(self, name: str) -> torch.Tensor | None:
        """The tensor on the device, ready for work of the current stream; None if there is none of this name."""

    def close(self) -> None:
        """Stop reading ahead and give back what was read but not taken."""


class Tensors(Mapping[str, "torch.Tensor"]):
    """Tensors by name on the CPU in their own dtype, made or mapped when asked for, with a faster way to a device."""

    @abstractmethod
    def supply(self, device: torch.device, dtype: torch.dtype) -> Supply:
        """Begin to bring the tensors to `device` in `dtype`."""


class Converted:
    """The supply of any mapping: its tensors, moved and converted one by one when taken."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self._tensors = tensors
        self._device = device
        self._dtype = dtype

    def take(self, name: str) -> torch.Tensor | None:
        tensor = self._tensors.get(name)
        return None if tensor is None else tensor.to(self._device, self._dtype)

    def close(self) -> None:
        pass


class Weights:
    """Takes tensors by name and checks their shapes. Use it in a `with` block: leaving it ends the reading ahead.

    `name` is the checkpoint's, for messages.
    """

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype, name: str = "checkpoint"
    ) -> None:
        self._name = name
        self._supply: Supply
        if isinstance(tensors, Tensors):
            self._supply = tensors.supply(device, dtype)
        else:
            self._supply = Converted(tensors, device, dtype)

    def __call__(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor `name`. Raises `ModelLoadError` when it is missing or has another shape."""
        tensor = self.optional(name, *shape)
        if tensor is None:
            raise ModelLoadError(f"{self._name}: the tensor {name!r} is missing; the checkpoint is incomplete")
        return tensor

    def optional(self, name: str, *shape: int) -> torch.Tensor | None:
        """The tensor `name`, or None if the checkpoint has none. Raises `ModelLoadError` for another shape."""
        tensor = self._supply.take(name)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ModelLoadError(
                f"{self._name}: {name!r} has shape {tuple(tensor.shape)}, but the config says {shape}; "
                "config and weights are of different models"
            )
        return tensor

    def close(self) -> None:
        self._supply.close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
