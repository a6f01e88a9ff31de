"""The journal of a batch: what is kept of a row, which rows count as the same, kills and damage, and a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import datetime
import decimal
import enum
import errno
import functools
import gc
import inspect
import json
import math
import os
import pathlib
import pickle
import resource
import subprocess
import sys
import textwrap
import threading
import time
import typing
import zlib
from array import array

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import sgl
from sgl.backend.base import Usage
from sgl.interpreter.arguments import Arguments
from sgl.interpreter.journal.fingerprint import fingerprint
from sgl.interpreter.journal.finished import Finished, Kept, NotKept, read_back
from sgl.interpreter.journal.finished import _spelled as spelled
from sgl.interpreter.journal.journal import Journal
from sgl.interpreter.journal.restored import RestoredState
from sgl.interpreter.run import Instance, run_here
from sgl.interpreter.state import ProgramState
from sgl.interpreter.usage import Call, UsageTree
from sgl.lang.errors import JournalError, OptionError, VariableError

from ...watchdog import rest, slowness
from ..fake import FakeBackend


def call(*args: object, **kwargs: object) -> Arguments:
    return Arguments(args, kwargs)


def row(i: int, text: str = "text", **more: object) -> Finished:
    return Finished(i, text, **more)


def key(*args: object, **kwargs: object) -> str:
    return fingerprint(call(*args, **kwargs), "row 3")


def rewritten(path: pathlib.Path, program: str = "p") -> list[int]:
    """Which of rows 0 to 99 a journal has."""
    with Journal.open(path, program) as journal:
        return [i for i in range(100) if i in journal]


# -- values

floats = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(st.characters(exclude_categories=()))  # lone surrogates too
scalars = st.none() | st.booleans() | st.integers() | st.just(-(7**1300)) | floats | texts | st.binary(max_size=9)
hashable = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(texts | st.sampled_from(["!str", "!tuple", "!"]), inner, max_size=3)
        | st.sets(hashable, max_size=3)
    ),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    """Equal, of equal types, and NaN is NaN."""
    return fingerprint(call(a), "") == fingerprint(call(b), "")


@given(values)
def test_a_plain_value_comes_back_as_it_was(value: object) -> None:
    line = json.dumps(spelled(value), ensure_ascii=False, allow_nan=False).encode()
    assert b"\n" not in line
    assert same(read_back(json.loads(line)), value)


def test_what_has_no_spelling_is_lost_and_told() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    for value, said in ((object(), "a object"), ([1, {"x": 1j}], "a complex"), (cycle, "holds itself")):
        lost = read_back(spelled(value))
        assert isinstance(lost, NotKept) and said in lost.what
    assert read_back(spelled(NotKept("Truncated: cut", failed=True))) == NotKept("Truncated: cut", failed=True)


# -- fingerprints


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int
    note: str = "at 0x7f00aa ..."


class Model(BaseModel):
    x: int
    points: list[Point] = []

    @functools.cached_property
    def derived(self) -> int:
        return self.x + 1


class Pair(typing.NamedTuple):
    a: int
    b: int


class Word(str):
    pass


class Bare:
    pass


DISTINCT = [
    *(None, True, False, 1, 0, 1.0, 0.0, -0.0, math.inf, math.nan, "1", "", b"1", b"", [], (), {}, set(), frozenset()),
    *(
        [1],
        (1,),
        [[1]],
        [1, 1],
        {1},
        frozenset([1]),
        {1: 1},
        {"1": 1},
        {"a": 1, "b": 2},
        {"a": 2, "b": 1},
        10**4000 + 1,
    ),
    *([1, [2]], [[1], 2], [[1, 2]], ["ab"], ["a", "b"], "\ud800", "é", "e\u0301", "\n", ("a", ("b", ("c",)))),
    *(Colour.RED, Level.ONE, Point(1), Point(2), Model(x=1), Model(x=1, points=[Point(1)]), Pair(1, 2), (1, 2)),
    *(Word("1"), Word("..."), Word(" at 0x7fffff"), datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1)),
    *(decimal.Decimal("1.0"), decimal.Decimal("1.00"), pathlib.PurePosixPath("/a"), print, len, int, Colour, range(3)),
    *(
        bytearray(b"1"),
        array("i", [1]),
        np.zeros(5000),
        np.ones(5000),
        np.zeros((50, 100)),
        np.float32(1),
        np.float64(1),
    ),
]


def test_different_arguments_have_different_fingerprints_and_equal_ones_the_same() -> None:
    keys = [key(x=value) for value in DISTINCT]
    for i, one in enumerate(keys):
        assert keys.index(one) == i, (DISTINCT[i], DISTINCT[keys.index(one)])
    assert [key(x=copy.deepcopy(value)) for value in DISTINCT] == keys
    assert key(1) != key(x=1) != key(y=1) and key(1, 2) != key((1, 2)) and key("a", b=1) != key("ab", b=1)
    assert key(x={"a": 1, "b": {"c": 2, "d": 3}}, y=0) == key(y=0, x={"b": {"d": 3, "c": 2}, "a": 1})
    model = Model(x=1)
    assert model.derived == 2 and key(model) == key(Model(x=1))  # what is derived is not what it is


@given(values, values)
def test_fingerprints_tell_values_apart(a: object, b: object) -> None:
    if repr(a) != repr(b) and "{" not in repr(a) + repr(b):  # without sets and dicts, repr tells them apart too
        assert key(a) != key(b)
    assert key(a) == key(copy.deepcopy(a))


def test_fingerprints_are_the_same_in_another_process() -> None:
    script = (
        "from sgl.interpreter.journal.fingerprint import fingerprint as f\n"
        "from sgl.interpreter.arguments import Arguments as A\n"
        "import sys; v = {'b': {'z', 'y', 'x'}, 'a': [1, (2.5, None, True, b'q')], 'é': 10**30};"
        "sys.stdout.write(f(A((v,), {'k': frozenset('abc')}), ''))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    value = {"a": [1, (2.5, None, True, b"q")], "é": 10**30, "b": {"x", "y", "z"}}
    assert found == {key(value, k=frozenset("abc"))}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Bare(), "memory address"),
        ([{"deep": Bare()}], "memory address"),
        (lambda: 0, "does not tell what it does"),
        (Bare().__init__, "does not tell what it does"),
        (functools.partial(lambda: 0), "memory address"),
        (np.array([Bare()], dtype=object), "array of objects"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "rounded"),
        (type("Long", (), {"__repr__": lambda self: "[1, 2, ..., 9]"})(), "leaves something out"),
        (type("Rude", (), {"__repr__": lambda self: 1 / 0})(), "raises"),
    ],
)
def test_an_argument_that_cannot_be_recognised_is_refused(value: object, why: str) -> None:
    with pytest.raises(OptionError, match=f"row 3: 'question' holds a .*{why}.*plain data"):
        key(question=value)


def test_an_argument_that_holds_itself_is_refused() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(OptionError, match="nested too deeply"):
        key(cycle)


# -- the file


def test_rows_come_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    usage = UsageTree("p", Usage(2, 10, 5, running=0.5), [Call("gen at p.py:1", Usage(1))], [UsageTree("b", Usage(1))])
    done = Finished(
        7,
        "té\nxt\u2028",
        [{"role": "user", "content": "q"}],
        {"a": Kept("1", 1, {"n": (1, b"")})},
        (1, 2),
        usage,
        None,
        2.5,
    )
    with Journal.open(path, "p") as journal:
        assert journal.restored(7, call(q="x")) is None
        journal.write(call(q="x"), done)
        journal.write(call(q="y"), row(8, "half", error="ValueError: no"))
        assert journal.restored(7, call(q="x")) == done
    with Journal.open(str(path), "p") as journal:
        assert journal.restored(7, call(q="x")) == done
        assert journal.restored(7, call(q="y")) is None, "other arguments"
        assert journal.restored(7, call("x")) is None
        assert journal.restored(8, call(q="y")) is None, "it failed"
        assert journal.restored(9, call(q="z")) is None
        assert 7 in journal and 8 not in journal
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert lines[0] == {"sgl_journal": 1, "program": "p"}
    assert lines[1]["text"] == done.text and lines[1]["named_arguments"] == {"q": "x"}
    assert lines[2]["error"] == "ValueError: no" and lines[2]["ok"] is False


def test_a_row_is_known_by_the_arguments_it_began_with(tmp_path: pathlib.Path) -> None:
    given_ = call(q=[1])
    with Journal.open(tmp_path / "j", "p") as journal:
        assert journal.restored(0, given_) is None
        given_.kwargs["q"].append(2)  # the program changes its argument
        journal.write(given_, row(0))
    with Journal.open(tmp_path / "j", "p") as journal:
        assert journal.restored(0, call(q=[1])) is not None
        assert journal.restored(0, call(q=[1, 2])) is None


def test_a_file_that_was_changed_meanwhile_gives_no_wrong_row(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, "p") as journal:
        journal.write(call(0), row(0))
        journal.write(call(1), row(1))
        lines = path.read_bytes().splitlines(True)
        path.write_bytes(lines[0] + lines[2] + lines[1])  # of one length
        assert journal.restored(0, call(0)) is None
        path.unlink()
        assert journal.restored(1, call(1)) is None


def test_a_typed_value_that_only_equals_its_text(tmp_path: pathlib.Path) -> None:
    with Journal.open(tmp_path / "j", "p") as journal:
        journal.write(call(0), row(0, variables={"a": Kept([1], [True]), "b": Kept("1", "1")}))
        found = journal.restored(0, call(0))
    assert found is not None and found.variables["a"].typed[0] is True and found.variables["b"].typed == "1"


def test_the_last_success_of_a_row_counts(tmp_path: pathlib.Path) -> None:
    with Journal.open(tmp_path / "j", "p") as journal:
        journal.write(call(1), row(0, "old"))
        journal.write(call(2), row(0, "new"))
        journal.write(call(2), row(0, "failed", error="E"))
    with Journal.open(tmp_path / "j", "p") as journal:
        assert journal.restored(0, call(1)) is None
        found = journal.restored(0, call(2))
        assert found is not None and found.text == "new"


@pytest.fixture(scope="module")
def three_rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[int]]:
    """A journal of three rows, and where its lines end."""
    path = tmp_path_factory.mktemp("journal") / "j"
    with Journal.open(path, "p") as journal:
        for i, text in enumerate(("é\n", '\ud800 {"crc": ', "x" * 50)):
            journal.write(call(i), row(i, text))
    content = path.read_bytes()
    return content, [i + 1 for i, byte in enumerate(content) if byte == 10]


def test_killed_at_every_byte(tmp_path: pathlib.Path, three_rows: tuple[bytes, list[int]]) -> None:
    content, ends = three_rows
    path = tmp_path / "j"
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        with Journal.open(path, "p") as journal:
            whole = sum(end - 1 <= cut for end in ends[1:])  # a row may lack its newline
            for i, text in enumerate(("é\n", '\ud800 {"crc": ', "x" * 50)):
                found = journal.restored(i, call(i))
                assert (found.text if found else None) == (text if i < whole else None), (cut, i)
            journal.write(call(3), row(3, "after"))
        assert rewritten(path) == [*range(whole), 3]
        assert all(json.loads(line) for line in path.read_bytes().splitlines())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_random_rows_and_kills(tmp_path: pathlib.Path, data: st.DataObject) -> None:
    path = tmp_path / "random"
    path.unlink(missing_ok=True)
    known: dict[int, tuple[object, Finished]] = {}
    for _ in range(data.draw(st.integers(1, 4))):  # processes
        lines: list[tuple[int, int, object, Finished]] = []  # end, row
        with Journal.open(path, "p") as journal:
            for i in data.draw(st.lists(st.integers(0, 600), unique=True, max_size=5)):
                argument = data.draw(values)
                done = row(i, data.draw(texts), ret_value=data.draw(values), error=data.draw(st.none() | texts))
                journal.write(call(argument), done)
                lines.append((path.stat().st_size, i, argument, done))
        size = path.stat().st_size
        cut = data.draw(st.integers(lines[0][0] if lines else size, size))
        os.truncate(path, cut)
        for end, i, argument, done in lines:
            if end - 1 <= cut and done.error is None:
                known[i] = argument, done
        with Journal.open(path, "p") as journal:
            for i, (argument, done) in known.items():
                found = journal.restored(i, call(argument))
                assert found is not None and found.text == done.text and same(found.ret_value, done.ret_value)
            assert [i for i in range(601) if i in journal] == sorted(known)


def test_zeros_at_the_end_are_cut_off(tmp_path: pathlib.Path, three_rows: tuple[bytes, list[int]]) -> None:
    (tmp_path / "j").write_bytes(three_rows[0] + bytes(5000))  # what some file systems leave after a power cut
    assert rewritten(tmp_path / "j") == [0, 1, 2]
    assert (tmp_path / "j").read_bytes() == three_rows[0]


def test_damage_in_the_middle_names_the_line(tmp_path: pathlib.Path, three_rows: tuple[bytes, list[int]]) -> None:
    content, ends = three_rows
    path = tmp_path / "j"
    for damaged in (
        content[: ends[0] + 30] + content[ends[1] :],  # torn, and another line goes on in it
        content[: ends[0] + 30] + b"X" + content[ends[0] + 31 :],
        content[: ends[0]] + b"\n" + content[ends[0] :],
        content[: ends[0]] + b"{}\n" + content[ends[0] :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(OptionError, match=r"line 2 of .*damaged.*remove that line"):
            Journal.open(path, "p")
        assert path.read_bytes() == damaged, "it is left as it is"
        path.write_bytes(b"".join(line for n, line in enumerate(damaged.splitlines(True), 1) if n != 2))
        assert 2 in rewritten(path), "the fix that the message gives"


def test_what_is_no_journal_of_this_program(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "j"
    Journal.open(path, "other").close()
    before = path.read_bytes()
    with pytest.raises(OptionError, match=r"journal of the program 'other', not of 'p'.*path of its own"):
        Journal.open(path, "p")
    assert path.read_bytes() == before
    for content, said in (
        (b"important notes\n", "not a journal"),
        (b"important", "not a journal"),
        (b"\x80\xff\n" * 10, "not a journal"),
        (b'{"a": 1}\n', "not a journal"),
        (b"[1]\n", "not a journal"),
        (b'{"sgl_journal": 1}\n', "not a journal"),
        (b"[" * 60_000 + b"\n", "not a journal"),
        (b"x" * 200_000, "not a journal"),
        (b'{"sgl_journal": 2, "program": "p"}\n', "version 2"),
    ):
        path.write_bytes(content)
        with pytest.raises(OptionError, match=said):
            Journal.open(path, "p")
        assert path.read_bytes() == content, "it is left as it is"


def test_paths_that_cannot_be_one(tmp_path: pathlib.Path) -> None:
    for path, said in (
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "j", "no directory .*make it first"),
        ("/dev/full", "not an ordinary file"),
        ("", "empty path"),
        (b"bytes", "path of a file"),
        (3, "path of a file"),
        (True, "path of a file"),
        ("a\0b", "path of a file"),
        ("x" * 5000, "cannot be read and written"),
    ):
        with pytest.raises(OptionError, match=said):
            Journal.open(path, "p")  # type: ignore[arg-type]
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OptionError, match="not an ordinary file"):
        Journal.open(tmp_path / "fifo", "p")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OptionError, match="cannot be read and written"):
        Journal.open(tmp_path / "loop", "p")
    (tmp_path / "mine").touch(0o000)
    if os.geteuid() != 0:
        with pytest.raises(OptionError, match="cannot be read and written: Permission denied"):
            Journal.open(tmp_path / "mine", "p")
    (tmp_path / "notdir" / "j").parent.touch()
    with pytest.raises(OptionError, match="no directory"):
        Journal.open(tmp_path / "notdir" / "j", "p")


def test_one_writer_at_a_time(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, "p"), pytest.raises(OptionError, match="batch that runs now in this process; wait"):
        Journal.open(path, "p")
    Journal.open(path, "p").close()
    script = (
        "import sys, time; from sgl.interpreter.journal.journal import Journal; j = Journal.open(sys.argv[1], 'p');"
        "print('open', flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    other = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, env=env)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        with pytest.raises(OptionError, match=rf"batch that runs now( in process {other.pid})?; wait"):
            Journal.open(path, "p")
    finally:
        other.kill()
        other.wait()
    Journal.open(path, "p").close()


def test_a_journal_that_nobody_closed_is_free_again(tmp_path: pathlib.Path) -> None:
    journal = Journal.open(tmp_path / "j", "p")
    journal.write(call(0), row(0))
    del journal
    gc.collect()
    assert rewritten(tmp_path / "j") == [0]


def test_many_threads(tmp_path: pathlib.Path) -> None:
    with Journal.open(tmp_path / "j", "p") as journal:

        def work(first: int) -> None:
            for i in range(first, 100, 8):
                assert journal.restored(i, call(i)) is None
                journal.write(call(i), row(i, "x" * (i * 997)))

        threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Journal.open(tmp_path / "j", "p") as journal:
        for i in range(100):
            found = journal.restored(i, call(i))
            assert found is not None and found.text == "x" * (i * 997)


# -- a disk that is full


def test_a_failing_write_is_told_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    journal = Journal.open(path, "p")
    journal.write(call(0), row(0))
    room = [40]

    def some(content: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(journal._fd, content[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(journal, "_write_some", some)
    with pytest.raises(JournalError, match=r"row 1 could not be written to '.*j': No space left.*make room"):
        journal.write(call(1), row(1))
    assert isinstance(JournalError("x"), sgl.SglError)
    for i in range(2, 5):
        assert journal.restored(i, call(i)) is None
        journal.write(call(i), row(i))
    assert journal.restored(0, call(0)) is not None and not journal._began
    journal.close()
    assert rewritten(path) == [0]


def test_a_device_that_is_really_full(tmp_path: pathlib.Path) -> None:
    journal = Journal.open(tmp_path / "j", "p")
    journal.write(call(0), row(0))
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, journal._fd)
    os.close(full)
    with pytest.raises(JournalError, match=r"row 1 could not be written.*No space left on device"):
        journal.write(call(1), row(1))
    journal.write(call(2), row(2))
    journal.close()
    assert rewritten(tmp_path / "j") == [0]


def test_a_file_that_may_not_grow(tmp_path: pathlib.Path) -> None:
    """The kernel writes a part of the line and then refuses: the part is taken back."""
    path = tmp_path / "j"
    script = """
        import resource, sys
        from sgl.interpreter.journal.journal import Journal
        from sgl.interpreter.journal.finished import Finished
        from sgl.interpreter.arguments import Arguments
        journal = Journal.open(sys.argv[1], "p")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        failed = []
        for i in range(50):
            try:
                journal.write(Arguments((i,), {}), Finished(i, "x" * 300))
            except Exception as error:
                failed.append(f"{type(error).__name__} {i}")
        print(failed)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], env=env, capture_output=True, text=True, check=True
    )
    (failed,) = eval(ran.stdout)
    assert failed.startswith("JournalError ")
    assert path.read_bytes().endswith(b"}\n")
    assert rewritten(path) == list(range(int(failed.split()[1])))


def test_no_room_for_the_first_line(tmp_path: pathlib.Path) -> None:
    script = (
        "import resource, sys; from sgl.interpreter.journal.journal import Journal\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); Journal.open(sys.argv[1], 'p')"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path / "j")], env=env, capture_output=True, text=True)
    assert "OptionError: resume: " in ran.stderr and "File too large; give it permissions and room" in ran.stderr
    assert rewritten(tmp_path / "j") == []


def test_killed_while_it_writes(tmp_path: pathlib.Path) -> None:
    script = """
        import sys
        from sgl.interpreter.journal.journal import Journal
        from sgl.interpreter.journal.finished import Finished
        from sgl.interpreter.arguments import Arguments
        journal = Journal.open(sys.argv[1], "p")
        for i in range(10**9):
            journal.write(Arguments((i,), {}), Finished(i, f"{i}" * 5000))
            print(i, flush=True)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "j")], stdout=subprocess.PIPE, env=env
    )
    assert other.stdout is not None
    for _ in range(200):
        other.stdout.readline()
    other.kill()
    told = 200 + len(other.stdout.read().splitlines())
    other.wait()
    with Journal.open(tmp_path / "j", "p") as journal:
        for i in range(told - 1):  # the last number may be torn itself
            found = journal.restored(i, call(i))
            assert found is not None and found.text == f"{i}" * 5000
        assert told + 2 not in journal


def test_a_failing_end_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path / "j", "p")

    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(JournalError, match="Input/output error"):
        journal.close()
    journal.close()
    monkeypatch.undo()
    assert rewritten(tmp_path / "j") == []


# -- real programs


class Ticket(BaseModel):
    title: str


@sgl.function
def program(s, q):
    s += sgl.user(q)
    s += sgl.assistant("A: " + sgl.gen("a", max_tokens=5) + sgl.select("c", ["x", "y"]))
    with s.var_scope("scope"):
        s += "said " + sgl.gen("both", n=2)
    fork = s.fork(2)
    fork += sgl.gen("f")
    fork.join()
    s["number"] = 4
    s["object"] = Ticket(title="t")
    return {"q": q, "pair": (1, 2)}


def ended(program: sgl.SglFunction, backend: FakeBackend, **arguments: object) -> Instance:
    instance, _ = program._instance((), {"backend": backend, **arguments})
    with contextlib.suppress(Exception):
        run_here(instance)
    instance.state.sync()
    return instance


def restored(tmp_path: pathlib.Path, instance: Instance) -> RestoredState:
    path = tmp_path / "program"
    with Journal.open(path, instance.name) as journal:
        assert journal.restored(0, instance.call) is None
        journal.note(0, instance, instance.body.error or instance.line.branch.error)
    with Journal.open(path, instance.name) as journal:
        found = journal.restored(0, instance.call)
        assert found is not None
        assert 0 <= found.seconds < 20
        return RestoredState(found)


def test_a_restored_state_reads_as_the_one_it_was(tmp_path: pathlib.Path) -> None:
    live = ended(program, FakeBackend("ok"), q="Q\ud83d?").state
    state = restored(tmp_path, ended(program, FakeBackend("ok"), q="Q\ud83d?"))
    assert isinstance(state, ProgramState) and state.restored is True
    assert state.text() == live.text() and repr(state) == repr(live) and "Q" in state.text()
    assert state.messages() == live.messages() and state.messages()[0]["role"] == "user"
    for name in ("a", "c", "scope", "both", "f", "number"):
        assert name in live and name in state
        assert state[name] == live[name] == state.get_var(name) and state.value(name) == live.value(name)
        assert type(state[name]) is type(live[name])
        infos = []
        for info in (state.get_meta_info(name), live.get_meta_info(name)):
            for each in info if isinstance(info, list) else [info] if info else []:
                each.pop("id")  # names one call
            infos.append(info)
        assert infos[0] == infos[1]
    assert state.ret_value == live.ret_value == {"q": "Q\ud83d?", "pair": (1, 2)}
    assert repr(state.usage) == repr(live.usage) and state.usage.total.calls == live.usage.total.calls > 0
    assert state.error() is None and state.sync() is None
    for name in (None, "a", "c", "scope", "number"):
        assert "".join(state.text_iter(name)) == "".join(live.text_iter(name))
    for name in ("both", "f"):
        for stream in (state.text_iter, state.value_iter, live.text_iter):
            with pytest.raises(OptionError, match="no single text to stream"):
                list(stream(name))
    assert list(state.value_iter("a")) == [live.value("a")] == list(live.value_iter("a"))
    assert "Q?" in state._repr_html_() and "&lt;|im_start|&gt;" in state._repr_html_()
    assert "nothing" not in state
    with pytest.raises(VariableError, match="no variable 'scop'; did you mean 'scope'"):
        state["scop"]
    state["both"].append("changed by a reader")
    state.messages()[0]["role"] = "changed"
    state.ret_value["q"] = "changed"
    assert state["both"] == live["both"] and state.messages() == live.messages() and state.ret_value["q"] != "changed"


def test_what_a_journal_cannot_keep_says_so(tmp_path: pathlib.Path) -> None:
    @sgl.function
    def odd(s):
        s += sgl.gen("a")
        s["object"] = Ticket(title="t")
        s["list"] = [Ticket(title="t")]
        return Ticket(title="r")

    state = restored(tmp_path, ended(odd, FakeBackend("ok")))
    for read in (lambda: state["object"], lambda: state["list"], lambda: state.value("list")):
        with pytest.raises(VariableError, match="restored from a journal, was a Ticket, which a journal cannot keep"):
            read()
    with pytest.raises(VariableError, match=r"'ret_value'.* a Ticket, .*: return plain data"):
        _ = state.ret_value
    assert state["a"] == "ok"


def test_typed_values(tmp_path: pathlib.Path) -> None:
    @sgl.function
    def typed(s):
        s += sgl.gen("ticket", schema=Ticket) + sgl.gen("data", json_schema={"type": "array", "items": {"const": 1}})
        s += sgl.gen("n", dtype=int) + sgl.gen("free", max_tokens=3) + sgl.gen("two", dtype=int, n=2)

    with sgl.Runtime.toy() as runtime:
        live = ended(typed, runtime, seed=1).state
        state = restored(tmp_path, ended(typed, runtime, seed=1))
        with pytest.raises(
            VariableError, match=r"a Ticket, .*it keeps the text: use sgl.schema\(T\).parse\(s\['ticket'\]"
        ):
            state.value("ticket")
        assert isinstance(live.value("ticket"), Ticket)
        for name in ("data", "n", "free", "two"):
            assert state.value(name) == live.value(name) and type(state.value(name)) is type(live.value(name))
            assert state[name] == live[name]
        info = state.get_meta_info("ticket")
        assert info["constraint"] == live.get_meta_info("ticket")["constraint"]


def test_a_failed_row_runs_again(tmp_path: pathlib.Path) -> None:
    @sgl.function
    def fails(s, where):
        s += "start " + sgl.gen("a")
        if where == "fork":
            fork = s.fork(2)
            fork[0] += sgl.gen("b")
            fork[1] += "bad" + sgl.gen("b")
            fork.join()
        if where == "body":
            raise type("Odd", (Exception,), {"__str__": lambda self: 1 / 0})()

    def reply(text: str, request: object) -> object:
        return ValueError("no") if "bad" in text else "ok"

    path = tmp_path / "j"
    with Journal.open(path, "fails") as journal:
        for i, where in enumerate(("nowhere", "fork", "body")):
            instance = ended(fails, FakeBackend(reply), where=where)
            assert journal.restored(i, instance.call) is None
            journal.note(i, instance, instance.body.error or instance.line.branch.error)
    errors = [json.loads(line)["error"] for line in path.read_bytes().splitlines()[1:]]
    assert errors == [None, "ValueError: no", "Odd"]
    assert rewritten(path, "fails") == [0]


def test_a_row_that_never_began() -> None:
    error = OptionError("row 4: no parameter 'p'")
    state = RestoredState.failed(error)
    assert state.restored is False and state.error() is error and "a" not in state and repr(state) == "ProgramState()"
    assert state.usage.total.calls == 0 and state.sync() is None and "no parameter" in state._repr_html_()
    reads = (
        lambda: state["a"],
        lambda: state.value("a"),
        lambda: state.get_meta_info("a"),
        lambda: state.text(),
        lambda: state.messages(),
        lambda: state.ret_value,
        lambda: list(state.text_iter()),
        lambda: asyncio.run(state.async_text()),
    )
    for read in reads:
        with pytest.raises(OptionError, match="no parameter 'p'") as caught:
            read()
        assert caught.value is error
    with pytest.raises(OptionError, match="this row never began"):
        state += "more"


async def _all(stream: typing.AsyncIterator[object]) -> list[object]:
    return [piece async for piece in stream]


READS = {
    "__getitem__": lambda s: s["a"],
    "get_var": lambda s: s.get_var("a"),
    "value": lambda s: s.value("a"),
    "get_meta_info": lambda s: s.get_meta_info("a"),
    "aget": lambda s: asyncio.run(s.aget("a")),
    "__contains__": lambda s: "a" in s,
    "text": lambda s: s.text(),
    "async_text": lambda s: asyncio.run(s.async_text()),
    "messages": lambda s: s.messages(),
    "sync": lambda s: s.sync(),
    "error": lambda s: s.error(),
    "text_iter": lambda s: list(s.text_iter()),
    "text_async_iter": lambda s: asyncio.run(_all(s.text_async_iter("a", return_meta_data=True))),
    "value_iter": lambda s: list(s.value_iter("a")),
    "value_async_iter": lambda s: asyncio.run(_all(s.value_async_iter("a"))),
    "usage": lambda s: s.usage,
    "ret_value": lambda s: s.ret_value,
    "__repr__": repr,
    "_repr_html_": lambda s: s._repr_html_(),
    "restored": lambda s: s.restored,
}
REFUSED = {
    "__iadd__": lambda s: s.__iadd__("x"),
    "system": lambda s: s.system("x"),
    "user": lambda s: s.user(),
    "assistant": lambda s: s.assistant(sgl.gen("x")),
    "var_scope": lambda s: s.var_scope("v").__enter__(),
    "tool_result": lambda s: s.tool_result(sgl.ToolCall("add", {}, "c00000000"), 1),
    "set_var": lambda s: s.set_var("v", 1),
    "__setitem__": lambda s: s.__setitem__("v", 1),
    "fork": lambda s: s.fork(2, on_error="cancel"),
    "copy": lambda s: s.copy().__enter__(),
    "cancel": lambda s: s.cancel(),
    "trace": lambda s: s.trace,
    "__reduce_ex__": pickle.dumps,
}
PLAIN = {
    "given_to_tools",
    "__init__",
    "__iter__",
    "__module__",
    "__doc__",
    "__dict__",
    "__weakref__",
    "__annotations__",
}
PLAIN |= {"__static_attributes__", "__firstlineno__", "__annotate_func__", "__annotations_cache__"}


def test_every_public_member_of_a_state_reads_or_refuses(tmp_path: pathlib.Path) -> None:
    shown = ("__", "_repr_")  # the latter: how a notebook shows it
    members = {
        n for n in vars(ProgramState) if not n.startswith("_") or (n.endswith("_") and n.startswith(shown))
    } - PLAIN
    state = restored(tmp_path, ended(program, FakeBackend("ok"), q="q"))
    unknown = members - READS.keys() - REFUSED.keys()
    for name in unknown:  # what was added since must have been thought of here
        found = inspect.getattr_static(RestoredState, name)
        assert found is not inspect.getattr_static(ProgramState, name), f"RestoredState falls through to .{name}"
    for name, read in READS.items():
        if name in members or hasattr(RestoredState, name):
            read(state)
    for refused in REFUSED.values():
        with pytest.raises(OptionError, match=r"restored from a journal|cannot be copied or pickled"):
            refused(state)
    for name in ("_line", "_body", "_outside", "_root"):
        with pytest.raises(OptionError, match="restored from a journal"):
            getattr(state, name)
    assert not hasattr(state, "anything_else") and ProgramState.__iter__ is None
    with pytest.raises(OptionError, match="restored from a journal"):
        program(state, q="again")
    with pytest.raises(OptionError):
        copy.copy(state)


# -- size


def test_memory_is_a_few_bytes_a_row(tmp_path: pathlib.Path) -> None:
    """Whatever the rows hold: 20,000 rows of 2 kB are 40 MB on the disk."""
    import tracemalloc

    path, text = tmp_path / "j", "x" * 2000
    with Journal.open(path, "p") as journal:
        for i in range(20_000):
            journal.write(call(i), row(i, text))
    tracemalloc.start()
    try:
        journal = Journal.open(path, "p")
        kept, most = tracemalloc.get_traced_memory()
        found = journal.restored(19_999, call(19_999))
        journal.close()
    finally:
        tracemalloc.stop()
    assert found is not None and found.text == text
    assert kept < 20_000 * 24 + 100_000 and most < kept + 1_000_000


def test_a_strange_row_number_costs_nothing(tmp_path: pathlib.Path) -> None:
    with Journal.open(tmp_path / "j", "p") as journal:
        journal.write(call(0), row(10**17))
    with Journal.open(tmp_path / "j", "p") as journal:
        assert journal.restored(10**17, call(0)) is not None


@pytest.mark.slow
def test_a_million_rows(tmp_path: pathlib.Path) -> None:
    rest()  # this takes minutes
    path, rows = tmp_path / "j", 1_000_000
    began = time.monotonic()
    with Journal.open(path, "p") as journal:
        for i in range(rows):
            journal.write(call(i), row(i, f"text {i}"))
    wrote = time.monotonic() - began
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with Journal.open(path, "p") as journal:
        opened = time.monotonic() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        began = time.monotonic()
        for i in range(0, rows, 100):
            found = journal.restored(i, call(i))
            assert found is not None and found.text == f"text {i}"
        read = (time.monotonic() - began) / (rows / 100)
    print(
        f"\n{path.stat().st_size / 1e6:.0f} MB: wrote {wrote:.0f} s, opened {opened:.1f} s, a row {read * 1e6:.0f} us"
    )
    assert opened < 30 * slowness() and grown < 60_000, (opened, grown)  # seconds, kB


class Unreadable:
    """An argument whose own code raises when it is looked at."""

    error: BaseException = ValueError("a bug")

    def __repr__(self) -> str:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(3)], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("native", [False, True])
def test_an_argument_that_raises_fails_its_row_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, native: bool
) -> None:
    monkeypatch.setattr(Unreadable, "error", error)
    backend = FakeBackend()

    @sgl.function
    def program(s, what):
        s += "a text " + sgl.gen("a")

    rows = [{"what": 1}, {"what": Unreadable()}, {"what": 3}]
    given = {"resume": tmp_path / "rows.jsonl", "on_error": "keep", "backend": backend}
    states = asyncio.run(program.arun_batch(rows, **given)) if native else program.run_batch(rows, **given)
    assert [type(state.error()) for state in states] == [type(None), OptionError, type(None)]
    assert "resume: row 1: " in str(states[1].error())


@pytest.mark.parametrize("native", [False, True])
def test_a_whole_line_of_a_wrong_shape_is_named(tmp_path: pathlib.Path, native: bool) -> None:
    path, backend = tmp_path / "rows.jsonl", FakeBackend()

    @sgl.function
    def program(s, i):
        s += f"row {i} " + sgl.gen("a")

    program.run_batch([{"i": 0}, {"i": 1}], resume=path, backend=backend)
    head, *lines = path.read_bytes().splitlines(keepends=True)
    first, second = sorted(lines, key=lambda line: int(json.loads(line)["i"]))  # they stand in the order of their ends
    said = json.loads(first)
    for wrong in ({"variables": 5}, {"usage": []}, {"text": {"a": 1}, "messages": None}, {"variables": [[]]}):
        content = json.dumps({k: v for k, v in {**said, **wrong}.items() if k != "crc"}).encode()[1:] + b"\n"
        path.write_bytes(head + b'{"crc": "%08x", %s' % (zlib.crc32(content), content) + second)
        given = {"resume": path, "on_error": "keep", "backend": backend}
        rows = [{"i": 0}, {"i": 1}]
        states = asyncio.run(program.arun_batch(rows, **given)) if native else program.run_batch(rows, **given)
        assert isinstance(states[0].error(), JournalError) and states[1].error() is None
        assert f"byte {len(head)}" in str(states[0].error()) and "(row 0)" in str(states[0].error())
    path.write_bytes(head + second)  # the file is free, and without the line the row runs again
    assert program.run_batch(rows, resume=path, backend=backend)[0].error() is None
