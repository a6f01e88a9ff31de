"""Compiling has a deadline: what takes longer is refused, nothing else waits, and the work left behind ends."""

from __future__ import annotations

import threading
import time

import pytest

import sgl
from sgl.backend.runtime.grammar import compile as module
from sgl.backend.runtime.grammar.deadline import LeftBehind, TooLong, within
from sgl.lang.errors import ConstraintError


def test_a_result_and_an_error_come_back() -> None:
    assert within(60, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(60, lambda: {}["a"])
    with pytest.raises(SystemExit):
        within(60, lambda: exit(2))


def test_work_left_behind_ends() -> None:
    ended = threading.Event()

    def endless() -> None:
        try:
            while True:
                pass
        except LeftBehind:
            ended.set()
            raise

    with pytest.raises(TooLong):
        within(0.02, endless)
    assert ended.wait(30)


def test_a_slow_constraint_is_refused_by_name_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with sgl.Runtime.toy() as runtime:
        assert runtime.generate("a", {"regex": "x{3}"})
        monkeypatch.setattr(module, "COMPILE_SECONDS", 0.05)
        real = module.Grammars._compile
        slow = threading.Event()

        def compile(self, constraint):
            if constraint == sgl.regex("slow+"):
                slow.set()
                for _ in range(10**9):
                    time.sleep(0)
            return real(self, constraint)

        monkeypatch.setattr(module.Grammars, "_compile", compile)
        with pytest.raises(ConstraintError, match=r"regex constraint is refused: compiling it takes more than 0\.05 s"):
            runtime.prepare(sgl.regex("slow+"))
        assert slow.is_set() and not runtime.prepared(sgl.regex("slow+"))
        monkeypatch.setattr(module, "COMPILE_SECONDS", 60.0)
        assert runtime.accepts(sgl.regex("fast+"), "fastt")


def test_many_threads_that_ask_for_one_slow_constraint_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPILE_SECONDS", 0.02)

    def compile(self, constraint):
        while True:
            time.sleep(0)

    monkeypatch.setattr(module.Grammars, "_compile", compile)
    told: list[Exception] = []
    with sgl.Runtime.toy() as runtime:

        def ask() -> None:
            try:
                runtime.prepare(sgl.regex("slow*"))
            except ConstraintError as error:
                told.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(told) == 4
