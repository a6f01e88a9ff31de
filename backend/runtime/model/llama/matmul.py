"""`FusedLinear`: y = x W^T with what stands around it (norm, bias, SiLU, residual), fast for few rows and for many.

Owns: launching a product in the way that a table chose (`tuned`). Knows nothing of layers or of measuring.

1. The launches of a call depend on shapes and the table alone. So a call may be captured in a CUDA graph, after one
   call outside, which compiles.
2. A residual is changed in place, never copied.
3. Where a choice says "overlap", weights are read before the launch before has ended. So after weights are written, the
   device must be synchronised before the first product.

Legend: M rows, K columns of x, N columns of y; W wanted rows, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import triton

from .kernels import rms_norm, silu_mul
from .matmul_kernels import rows_kernel, tiles_kernel
from .tuned import KernelChoice, Product, Table

Norm = tuple[torch.Tensor, float]
"""The weight [K] and epsilon of an RMS norm."""
_TILE_COLUMNS = 16
"""Fewest columns of y in a tile of a shared sum; each tile has a counter of arrived programs."""


class FusedLinear:
    """Weights [N, K] ([2N, K] with `silu`: gate above up), bias [N] or [2N]. Options of a call stand at `__call__`."""

    def __init__(
        self,
        weight_NK: torch.Tensor,
        bias_N: torch.Tensor | None = None,
        *,
        silu: bool = False,
        table: Table | None = None,
    ) -> None:
        rows, self.depth = weight_NK.shape
        self.width = rows // 2 if silu else rows
        self.weight_NK = weight_NK.contiguous()
        self.bias_N = bias_N
        self.table = table if table is not None else Table("", "", None)
        dtype = str(weight_NK.dtype).rpartition(".")[2]
        self._products = {
            (norm, add): Product(self.width, self.depth, dtype, norm=norm, silu=silu, add=add)
            for norm in (False, True)
            for add in (False, True)
        }
        tiles = triton.cdiv(self.width, _TILE_COLUMNS)
        self._arrived = torch.zeros(tiles, dtype=torch.int32, device=weight_NK.device)

    def product(self, *, norm: bool, add: bool) -> Product:
        """Return what a call with these options asks of the table."""
        return self._products[norm, add]

    def __call__(
        self, x_MK: torch.Tensor, *, norm: Norm | None = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """y [M, N]; with `norm`, of the normalised x; with `residual` [M, N], `residual += y` in place, returned."""
        rows = x_MK.shape[0]
        product = self.product(norm=norm is not None, add=residual is not None)
        out = x_MK.new_empty(rows, self.width) if residual is None else residual
        if rows:
            choice = self.table.choose(product, rows)
            compute(choice, product, Operands(x_MK, self.weight_NK, out, self.bias_N, norm, self._arrived))
        return out


def head_product(weight_VE: torch.Tensor) -> Product:
    """Return what `logits` asks of the table."""
    width, depth = weight_VE.shape
    return Product(width, depth, str(weight_VE.dtype).rpartition(".")[2], wide=True)


def logits(
    x_WE: torch.Tensor, weight_VE: torch.Tensor, out: torch.Tensor | None = None, *, table: Table | None = None
) -> torch.Tensor:
    """x W^T in float32 [W, V], unrounded; written to `out` if it is given."""
    rows = x_WE.shape[0]
    if out is None:
        out = torch.empty(rows, weight_VE.shape[0], dtype=torch.float32, device=x_WE.device)
    if rows:
        product = head_product(weight_VE)
        choice = (table or Table("", "", None)).choose(product, rows)
        compute(choice, product, Operands(x_WE, weight_VE, out))
    return out


@dataclass(frozen=True)
class Operands:
    """The tensors of one product. `out_MN` is the residual when the product adds. `arrived`: int32 zeros, one for each
    tile, for choices with several parts; a launch leaves zeros there."""

    x_MK: torch.Tensor
    weight_NK: torch.Tensor
    out_MN: torch.Tensor
    bias_N: torch.Tensor | None = None
    norm: Norm | None = None
    arrived: torch.Tensor | None = None


def compute(choice: KernelChoice, product: Product, of: Operands) -> None:
    """Compute a product of at least one row. A choice with "rows" takes at most 4 rows, one with "tiles" 64."""
    if choice.kernel == "library":
        _by_library(product, of)
        return
    if choice.kernel == "tiles" and of.norm is not None:
        x_MK = _normed(of.x_MK, of.norm, choice.overlap)
        of = Operands(x_MK, of.weight_NK, of.out_MN, of.bias_N, None, of.arrived)
    launch = rows_launch(choice, product, of) if choice.kernel == "rows" else tiles_launch(choice, product, of)
    launch.run()


@dataclass(frozen=True)
class Launch:
    """A kernel with all its arguments: to be run, or only compiled (by any thread)."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.options)

    def compile(self) -> None:
        self.kernel.warmup(*self.arguments, grid=self.grid, **self.options)


def rows_launch(choice: KernelChoice, product: Product, of: Operands) -> Launch:
    rows = of.x_MK.shape[0]
    gain, eps = of.norm if of.norm is not None else (of.x_MK, 0.0)
    sizes = rows, product.N, product.K, of.x_MK.stride(0), of.out_MN.stride(0)
    options = _options(choice, product, of) | {"BM": triton.next_power_of_2(rows), "NORM": product.norm}
    arguments = (of.x_MK, of.weight_NK, _or(of.bias_N, of.x_MK), gain, of.out_MN, *sizes, eps)
    return Launch(rows_kernel, (triton.cdiv(product.N, choice.block_n),), arguments, options)


def tiles_launch(choice: KernelChoice, product: Product, of: Operands) -> Launch:
    rows = of.x_MK.shape[0]
    block_m = max(16, triton.next_power_of_2(rows))
    tiles = triton.cdiv(product.N, choice.block_n)
    partial, arrived = of.x_MK, of.x_MK
    if choice.parts > 1:
        if of.arrived is None or choice.block_n < _TILE_COLUMNS:
            raise ValueError(f"{choice}: a sum in parts needs counters, and tiles of {_TILE_COLUMNS} columns or more")
        each = (2 if product.silu else 1) * choice.block_n * block_m
        partial = torch.empty(choice.parts * tiles * each, dtype=torch.float32, device=of.x_MK.device)
        arrived = of.arrived
    sizes = rows, product.N, product.K, of.x_MK.stride(0), of.out_MN.stride(0), choice.parts
    blocks = triton.cdiv(product.K, choice.block_k)
    least = blocks - (choice.parts - 1) * triton.cdiv(blocks, choice.parts)  # of the last part
    early = choice.early if least >= choice.early else 0
    options = _options(choice, product, of) | {"BM": block_m, "SPLIT": choice.parts > 1, "EARLY": early}
    arguments = (of.x_MK, of.weight_NK, _or(of.bias_N, of.x_MK), partial, arrived, of.out_MN, *sizes)
    return Launch(tiles_kernel, (tiles, choice.parts), arguments, options)


def _options(choice: KernelChoice, product: Product, of: Operands) -> dict[str, Any]:
    options = {
        "BN": choice.block_n,
        "BK": choice.block_k,
        "WHOLE": product.K % choice.block_k == 0,
        "SILU": product.silu,
        "BIAS": of.bias_N is not None,
        "ADD": product.add,
        "OVERLAP": choice.overlap,
        "num_warps": choice.warps,
        "num_stages": choice.stages,
    }
    return options | {"launch_pdl": True} if choice.overlap else options


def _or(tensor: torch.Tensor | None, unused: torch.Tensor) -> torch.Tensor:
    """Return an argument for a kernel's optional tensor: without one, some other tensor, which is never read."""
    return unused if tensor is None else tensor


def _normed(x_MK: torch.Tensor, norm: Norm, overlap: bool = False) -> torch.Tensor:
    out_MK = torch.empty_like(x_MK)
    rms_norm(x_MK, norm[0], norm[1], out_MK, overlap=overlap)
    return out_MK


def _by_library(product: Product, of: Operands) -> None:
    x_MK = of.x_MK if of.norm is None else _normed(of.x_MK, of.norm)
    weight_KN = of.weight_NK.t()
    if product.wide:
        _wide_product(x_MK, weight_KN, of.out_MN)
        return
    if product.add and not product.silu:
        of.out_MN.addmm_(x_MK, weight_KN)
        if of.bias_N is not None:
            of.out_MN.add_(of.bias_N)
        return
    multiply: Callable[..., torch.Tensor] = torch.mm if of.bias_N is None else torch.addmm
    arguments = (x_MK, weight_KN) if of.bias_N is None else (of.bias_N, x_MK, weight_KN)
    if not product.silu:
        multiply(*arguments, out=of.out_MN)
        return
    both_M2N = multiply(*arguments)
    y_MN = torch.empty_like(of.out_MN) if product.add else of.out_MN
    silu_mul(both_M2N, y_MN)
    if product.add:
        of.out_MN.add_(y_MN)


def _wide_product(x_MK: torch.Tensor, weight_KN: torch.Tensor, out_MN: torch.Tensor) -> None:
    """Float32 sums as they are, not rounded to x's type in between (the CPU has no such product: it widens first)."""
    if x_MK.dtype == torch.float32:
        torch.mm(x_MK, weight_KN, out=out_MN)
    elif x_MK.is_cuda:
        torch.mm(x_MK, weight_KN, out_dtype=torch.float32, out=out_MN)
    else:
        torch.mm(x_MK.float(), weight_KN.float(), out=out_MN)
