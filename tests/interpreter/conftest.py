"""Nothing in these tests may hang: a test that takes 20 seconds ends the run with every thread's traceback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sgl.interpreter.defaults import set_default_backend

from ..watchdog import rest, watch

TEST_SECONDS = 20


@pytest.fixture(autouse=True)
def no_hangs_and_no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    watch(request.config, TEST_SECONDS)
    yield
    rest()
    set_default_backend(None)
