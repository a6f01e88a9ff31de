"""How OpenMP's worker threads wait for one another on the CPU.

Owns: one setting, made before torch is first imported. Knows nothing of models. GNU OpenMP's threads spin for
milliseconds at every barrier; beside another busy process a spinning thread holds the core that its partner needs. A
short spin keeps the speed of an idle machine and loses less on a busy one (`benchmarks/results/threads.md`).
"""

from __future__ import annotations

import os
import sys

SPIN_TURNS = "4000"
"""Turns of the waiting loop before a thread sleeps (GNU OpenMP's `GOMP_SPINCOUNT`)."""


def wait_briefly() -> None:
    """Make OpenMP's threads wait briefly, unless the user has said how, or torch is loaded already."""
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_TURNS
