"""Whatever user code raises is its owner's error: each owner with each raiser, called, awaited and in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

import sgl
from sgl.backend.runtime.runtime import Runtime
from sgl.lang.choices import token_length_normalized


class Panic(BaseException):
    """As a panic of Rust code comes: no `Exception`."""


RAISERS = [ValueError, SystemExit, KeyboardInterrupt, Panic, StopIteration, GeneratorExit]
SHORT: dict[str, Any] = {"max_tokens": 4, "temperature": 0.0, "ignore_eos": True}

raising: type[BaseException] = ValueError


def fail(*_: Any, **__: Any) -> Any:
    raise raising("a bug")


class Checked(BaseModel):
    digit: int

    @field_validator("digit")
    @classmethod
    def never(cls, value: int) -> int:
        return fail()  # type: ignore[no-any-return]


def decides(**scores: Any) -> Any:
    return fail() if scores["choices"] == ["x", "y"] else token_length_normalized(**scores)


decides.requires_unconditional_logprobs = False  # type: ignore[attr-defined]


class Odd:
    def __repr__(self) -> str:
        return fail()  # type: ignore[no-any-return]


OWNERS: dict[str, Callable[[Any], None]] = {
    "the body": lambda s: fail(),
    "a function of a group": lambda s: s.fork(2).__iadd__(fail),
    "a choice method": lambda s: s.__iadd__(sgl.select("b", choices=["x", "y"], choices_method=decides)),
    "a validator": lambda s: s.__iadd__(sgl.gen("b", schema=Checked, max_tokens=40)),
}


@sgl.function
def program(s: Any, owner: str | None) -> None:
    s += "a text: "
    if owner is not None:
        OWNERS[owner](s)
    s += sgl.gen("a", **SHORT)


@sgl.function
async def aprogram(s: Any, owner: str | None) -> None:
    s += "a text: "
    if owner is not None:
        OWNERS[owner](s)
    s += sgl.gen("a", **SHORT)
    await s["a"]


@pytest.fixture(params=RAISERS, ids=lambda kind: kind.__name__)
def raised(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    monkeypatch.setitem(globals(), "raising", request.param)
    return request.param  # type: ignore[no-any-return]


def expected(kind: type[BaseException], error: BaseException | None) -> bool:
    """Whether `error` is what was raised, or tells of it where Python or Pydantic lets no such error through."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind) or (kind is ValueError and isinstance(error, sgl.SglError)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def usable(runtime: Runtime) -> None:
    assert runtime.engine.closed is None
    assert len(program.run(None, backend=runtime)["a"]) > 0
    runtime.check()


@pytest.mark.parametrize("owner", OWNERS)
def test_called(raised: type[BaseException], owner: str) -> None:
    runtime = Runtime.toy()
    other = program.run(None, backend=runtime)
    try:
        error = program.run(owner, backend=runtime).error()
    except BaseException as own:
        error = own
    assert expected(raised, error), error
    assert len(other["a"]) > 0
    usable(runtime)


@pytest.mark.parametrize("owner", OWNERS)
def test_streamed(raised: type[BaseException], owner: str) -> None:
    runtime = Runtime.toy()
    state = program.run(owner, backend=runtime, stream=True)
    assert expected(raised, state.error())
    with pytest.raises(BaseException) as read:
        state.text()
    assert read.value is state.error()
    usable(runtime)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("batch", [program, aprogram], ids=["plain", "async"])
def test_rows(raised: type[BaseException], owner: str, batch: Any) -> None:
    if raised is GeneratorExit and batch is aprogram:
        pytest.skip("Python closes a coroutine with it")
    runtime = Runtime.toy()
    rows = [{"owner": None}, {"owner": owner}, {"owner": None}]
    states = batch.run_batch(rows, backend=runtime, on_error="keep")
    assert [*states.errors] == [1] and expected(raised, states.errors[1]), states.errors
    assert len(states[0]["a"]) > 0 and len(states[2]["a"]) > 0
    with pytest.raises(BaseException) as whole:
        batch.run_batch(rows, backend=runtime)
    assert expected(raised, whole.value)
    usable(runtime)


@pytest.mark.parametrize("owner", OWNERS)
def test_awaited(raised: type[BaseException], owner: str) -> None:
    if raised is GeneratorExit:
        pytest.skip("Python closes a coroutine with it")
    runtime = Runtime.toy()

    async def main() -> list[Any]:
        async def kept(owner: str | None) -> Any:
            try:
                return await aprogram.arun(owner, backend=runtime)
            except BaseException as error:
                return error

        return await asyncio.wait_for(asyncio.gather(kept(owner), kept(None)), 60)

    bad, good = asyncio.run(main())
    assert expected(raised, bad if isinstance(bad, BaseException) else bad.error()), bad
    assert len(good["a"]) > 0
    usable(runtime)


class Wrong(Mapping[str, Any]):
    """A row whose keys or values raise."""

    def __getitem__(self, name: str) -> Any:
        return fail()

    def __iter__(self) -> Iterator[str]:
        return iter(["owner"])

    def __len__(self) -> int:
        return 1

    def keys(self) -> Any:
        return fail()


@pytest.mark.parametrize("batch", [program, aprogram], ids=["plain", "async"])
def test_a_row_that_cannot_be_read(raised: type[BaseException], batch: Any) -> None:
    runtime = Runtime.toy()
    states = batch.run_batch([{"owner": None}, Wrong(), {"owner": None}], backend=runtime, on_error="keep")
    assert [*states.errors] == [1] and len(states[2]["a"]) > 0
    usable(runtime)


@pytest.mark.parametrize("batch", [program, aprogram], ids=["plain", "async"])
def test_rows_that_end_with_an_error(raised: type[BaseException], batch: Any) -> None:
    if raised is StopIteration or raised is GeneratorExit:
        pytest.skip("so an iterator ends")

    class Rows:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            if self.left:
                self.left -= 1
                return {"owner": None}
            return fail()

        left = 2

    runtime = Runtime.toy()
    states = batch.run_batch(Rows(), backend=runtime, on_error="keep")
    assert [*states.errors] == [2] and expected(raised, states.errors[2])
    usable(runtime)


def test_an_argument_that_cannot_be_shown(raised: type[BaseException], tmp_path: Any) -> None:
    """Neither a trace nor a journal takes the batch with it."""

    @sgl.function
    def takes(s: Any, value: object) -> Any:
        s += "a text: " + sgl.gen("a", **SHORT)
        return Odd()

    runtime = Runtime.toy()
    with sgl.trace() as traced:
        states = takes.run_batch([{"value": Odd()}, {"value": 1}], backend=runtime, on_error="keep")
    assert not states.errors and len(traced.to_dict()["programs"]) == 2
    states = takes.run_batch(
        [{"value": Odd()}, {"value": 1}], backend=runtime, on_error="keep", resume=tmp_path / "rows.jsonl"
    )
    assert [*states.errors] == [0] and len(states[1]["a"]) > 0
    usable(runtime)


def test_an_error_that_cannot_be_printed(raised: type[BaseException]) -> None:
    class Unsaid(Exception):
        def __str__(self) -> str:
            return fail()  # type: ignore[no-any-return]

    def broken(batch: Any) -> Any:
        raise Unsaid

    runtime = Runtime.toy()
    forward = runtime.engine.model.forward
    runtime.engine.model.forward = broken  # type: ignore[method-assign]
    error = program.run(None, backend=runtime).error()
    assert isinstance(error, sgl.BackendError) and isinstance(error.__cause__, Unsaid)
    runtime.engine.model.forward = forward  # type: ignore[method-assign]
    usable(runtime)
