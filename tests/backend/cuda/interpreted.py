"""Triton kernels in tests: on the GPU where there is one, else in Triton's interpreter. Import before any kernel."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
triton = pytest.importorskip("triton")
if not torch.cuda.is_available():
    triton.knobs.runtime.interpret = True

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
