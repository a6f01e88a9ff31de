"""Names that are not there yet: a clear error in each way to ask for them, and nothing else breaks."""

from __future__ import annotations

import inspect
import pickle
import unittest.mock

import pytest

import sgl
from sgl.lang.later import LATER


@pytest.mark.parametrize("name", LATER)
def test_a_later_name_says_so(name: str) -> None:
    with pytest.raises(sgl.NotYet, match=rf"sgl.{name} \(.*\) is not supported by this version of sgl yet; ") as caught:
        getattr(sgl, name)
    assert isinstance(caught.value, AttributeError)
    assert not hasattr(sgl, name)
    assert getattr(sgl, name, None) is None
    assert name not in dir(sgl)


def test_a_later_name_says_so_when_it_is_imported() -> None:
    with pytest.raises(sgl.NotYet, match=r"sgl.VertexAI \(.*\) is not supported") as caught:
        from sgl import VertexAI
    assert isinstance(caught.value, ImportError)
    with pytest.raises(ImportError, match=r"sgl.VertexAI \(.*\) is not supported .*; use sgl.LiteLLM"):
        from sgl import VertexAI, gen  # noqa: F401
    try:
        from sgl import ServerArgs
    except ImportError:
        ServerArgs = None
    assert ServerArgs is None


def test_a_misspelt_name_has_a_hint() -> None:
    with pytest.raises(AttributeError, match="did you mean 'assistant'"):
        sgl.assistent  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'fonction'"):
        from sgl import fonction  # noqa: F401


def test_tools_that_look_into_a_module_go_on_working() -> None:
    assert not [name for name, _ in inspect.getmembers(sgl) if name in LATER]
    assert unittest.mock.create_autospec(sgl).gen is not None
    with pytest.raises(AttributeError), unittest.mock.patch("sgl.Crusoe"):
        pass
    with unittest.mock.patch("sgl.Crusoe", create=True):
        assert hasattr(sgl, "Crusoe")
    assert not hasattr(sgl, "Crusoe")
    assert not hasattr(sgl, "__wrapped__")
    error = pickle.loads(pickle.dumps(sgl.NotYet("x")))
    assert str(error) == "x"


def test_engine_is_sglangs_name_of_the_runtime() -> None:
    assert sgl.Engine is sgl.Runtime


def test_a_misspelt_name_of_a_state() -> None:
    state = sgl.function(lambda s: s.user("x")).run(backend=sgl.Runtime.toy())
    with pytest.raises(AttributeError, match="no attribute 'forkk'"):
        state.forkk(2)
