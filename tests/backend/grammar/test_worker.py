"""The compiling child process, and the cache of what it makes. Real processes, real engines."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from sgl.backend.runtime.grammar.engines.artefact_cache import ArtefactCache, key_of
from sgl.backend.runtime.grammar.engines.outlines import Outlines
from sgl.backend.runtime.grammar.engines.worker import GrammarWorker, cached
from sgl.backend.runtime.grammar.engines.xgrammar import XGrammar
from sgl.backend.runtime.grammar.vocabulary import Vocabulary
from sgl.backend.runtime.model.toy import toy_tokenizer
from sgl.lang.errors import BackendError, ConstraintError
from sgl.lang.pattern import parse_regex

from ...watchdog import slowness, within

TASKS = """
import ctypes, os, sys, time

def echo(table, kept, source):
    kept["n"] = kept.get("n", 0) + 1
    return f"{source} {table.size} {kept['n']} {os.getpid()}".encode()

def sleep(table, kept, source):
    time.sleep(float(source))
    return b"slept"

def crash(table, kept, source):
    print("about to crash: " + source, file=sys.stderr, flush=True)
    os.write(1, b"printed by native code")
    ctypes.string_at(0)

def noise(table, kept, source):
    os.write(1, b"x" * 100_000)
    return b"heard"

def hog(table, kept, source):
    return bytes(int(source))

def broken(table, kept, source):
    raise KeyError(source)

def large(table, kept, source):
    return source.encode() * 1_000_000
"""


@pytest.fixture(scope="module")
def toy() -> Vocabulary:
    tokenizer = toy_tokenizer()
    return Vocabulary(tokenizer, tokenizer.vocab_size + 5)


@pytest.fixture(scope="module")
def worker(toy, tmp_path_factory):
    """A worker that finds the tasks above."""
    folder = tmp_path_factory.mktemp("tasks")
    package = folder / "sgl_test_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text(TASKS)
    sys.path.append(str(folder))  # a child gets this process's path, whenever it is started
    worker = GrammarWorker(toy, memory=1 << 30)
    yield worker
    sys.path.remove(str(folder))
    worker.close()


def run(worker: GrammarWorker, task: str, source: str = "", deadline_s: float = 30.0) -> bytes:
    return worker.run(f"sgl_test_tasks.tasks:{task}", source, deadline_s)


def gone(pid: int) -> bool:
    """Whether no such process is left, not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds * slowness()
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_one_child_serves_many_tasks(worker, toy):
    first, second = run(worker, "echo", "é").split(), run(worker, "echo", "b").split()
    assert first[0] == "é".encode() and int(first[1]) == toy.size
    assert int(second[2]) == int(first[2]) + 1 and first[3] == second[3] == str(worker.pid).encode()
    assert run(worker, "noise") == b"heard"
    assert len(run(worker, "large", "abc")) == 3_000_000


def test_deadline_kills_and_replaces(worker):
    run(worker, "echo")
    before = worker.pid
    with within(5), pytest.raises(ConstraintError, match=r"more than 0.3 s"):
        run(worker, "sleep", "60", deadline_s=0.3)
    assert gone(before)
    assert run(worker, "echo", "again").startswith(b"again")
    assert worker.pid != before


def test_crash_is_an_error_that_says_what_was_printed(worker):
    with pytest.raises(
        ConstraintError, match=r"crashed the compiler \(exit status -11\): refused.*about to crash: boo"
    ):
        run(worker, "crash", "boo")
    assert run(worker, "echo", "again").startswith(b"again")


def test_child_killed_from_outside_between_tasks(worker):
    run(worker, "echo")
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: worker._child.process.poll() is not None)
    assert run(worker, "echo", "again").startswith(b"again")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space as Linux has them")
def test_memory_limit(worker):
    with pytest.raises(ConstraintError, match="more than 1,024 MiB"):
        run(worker, "hog", str(2 << 30))
    assert run(worker, "echo", "again").startswith(b"again")


def test_a_bug_in_a_task_is_no_constraint_error(worker):
    with pytest.raises(BackendError, match="KeyError: 'oops'"):
        run(worker, "broken", "oops")
    with pytest.raises(BackendError, match="ModuleNotFoundError"):
        worker.run("no.such:task", "")


def test_threads_take_turns(worker):
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda i=i: found.append(run(worker, "echo", f"t{i}"))) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f.split()[0] for f in found} == {f"t{i}".encode() for i in range(12)}
    assert len({f.split()[3] for f in found}) == 1


def test_close_leaves_nothing(toy):
    worker = GrammarWorker(toy)
    engine = Outlines(toy, worker.run)
    engine.compile_regex(parse_regex("ab"))
    pid = worker.pid
    worker.close()
    assert gone(pid) and worker.pid is None
    engine.compile_regex(parse_regex("ab"))
    pid = worker.pid
    del worker, engine
    gc.collect()
    assert wait_until(lambda: gone(pid))


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_child_dies_with_its_parent(how, tmp_path):
    """From a script without a `__main__` guard, whose own code must not run again; even while native code runs."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, threading, time
            print("once", flush=True)
            from sgl.backend.runtime.grammar.vocabulary import TokenTable
            from sgl.backend.runtime.grammar.engines.worker import GrammarWorker
            from sgl.backend.runtime.grammar.engines.outlines import TASK
            worker = GrammarWorker(TokenTable([bytes([i]) for i in range(256)] + [b""], (256,)))
            worker.run(TASK, "ab")
            threading.Thread(target=lambda: worker.run(TASK, "[ab]*a[ab]{24}"), daemon=True).start()
            time.sleep(0.5)
            print(worker.pid, flush=True)
            if sys.argv[1] == "kill":
                os.kill(os.getpid(), 9)
            """
        )
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, str(script), how], capture_output=True, text=True, timeout=60, env=env)
    lines = done.stdout.split()
    assert lines[0] == "once" and lines.count("once") == 1, done.stderr
    assert wait_until(lambda: gone(int(lines[1])) or _is_zombie_of_init(int(lines[1])))


def _is_zombie_of_init(pid: int) -> bool:
    """In a container without an init that reaps, an orphan that ended stays as a zombie."""
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_engines_through_the_worker(toy):
    worker = GrammarWorker(toy)
    try:
        here, there = XGrammar(toy), XGrammar(toy, worker.run)
        source = 'root ::= "a" root "b" | ""'
        for engine in (here, there):
            matcher = engine.compile_ebnf(source).matcher()
            assert all(matcher.accept(t) for t in toy.encode("aaabbb")) and matcher.is_done()
        matcher = Outlines(toy, worker.run).compile_regex(parse_regex("a|ab")).matcher()
        assert matcher.accept(toy.encode("ab")[0]) and matcher.is_done()
        with pytest.raises(ConstraintError, match="escape"):
            there.compile_ebnf(r"root ::= [\d]")
        with pytest.raises(ConstraintError, match=r"more than 0.5 s"):
            worker.run(".outlines:index_artefact", "[ab]*a[ab]{24}", 0.5)
        with pytest.raises(ConstraintError, match="refuses the pattern"):
            worker.run(".outlines:index_artefact", "(", 5)
    finally:
        worker.close()


# -- the cache


def counted(value: bytes, calls: list[int]):
    def make() -> bytes:
        calls.append(1)
        return value

    return make


def test_cache_keeps_in_memory_and_on_disk(tmp_path):
    calls: list[int] = []
    cache = ArtefactCache(tmp_path)
    for _ in range(3):
        assert cache.get("k", counted(b"value", calls)) == b"value"
    assert ArtefactCache(tmp_path).get("k", counted(b"value", calls)) == b"value"
    assert len(calls) == 1
    assert ArtefactCache(tmp_path, disk=False).get("k", counted(b"value", calls)) == b"value"
    assert len(calls) == 2


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 100, None])
def test_damaged_entries_are_made_anew(damage, tmp_path):
    calls: list[int] = []
    ArtefactCache(tmp_path).get("k", counted(b"value" * 50, calls))
    path = tmp_path / "k"
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    for _ in range(2):
        assert ArtefactCache(tmp_path).get("k", counted(b"value" * 50, calls)) == b"value" * 50
    assert len(calls) == 2 and [p.name for p in tmp_path.iterdir()] == ["k"]


def test_bounds(tmp_path):
    cache = ArtefactCache(tmp_path, entries=3, memory_bytes=1000, disk_bytes=2000)
    rng = random.Random(0)
    for i in range(40):
        value = bytes(rng.randrange(50, 600))
        assert cache.get(str(i), lambda value=value: value) == value
        assert len(cache._kept) <= 3 and sum(map(len, cache._kept.values())) == cache._held <= 1000
        assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 2000
    assert (tmp_path / "39").exists() and not (tmp_path / "0").exists()
    assert cache.get("huge", lambda: bytes(5000)) == bytes(5000)
    assert not (tmp_path / "huge").exists() and "huge" not in cache._kept


def test_a_broken_disk_fails_no_compile(tmp_path, caplog):
    caplog.set_level("WARNING", logger="sgl")
    (tmp_path / "file").write_text("")
    cache = ArtefactCache(tmp_path / "file" / "folder")
    assert cache.get("k", lambda: b"value") == b"value"
    assert "cannot be" in caplog.text
    (tmp_path / "k").mkdir()
    assert ArtefactCache(tmp_path).get("k", lambda: b"value") == b"value"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".new")] == []


def test_equal_artefacts_are_made_once(tmp_path):
    calls: list[int] = []
    cache = ArtefactCache(tmp_path)
    started = threading.Barrier(8)

    def make() -> bytes:
        calls.append(1)
        time.sleep(0.1)
        return b"value"

    def ask() -> None:
        started.wait()
        assert cache.get("k", make) == b"value"

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and not cache._making


def test_what_fails_is_not_kept(tmp_path):
    cache, calls = ArtefactCache(tmp_path), []

    def fail() -> bytes:
        raise ConstraintError("no")

    for _ in range(2):
        with pytest.raises(ConstraintError):
            cache.get("k", fail)
    assert cache.get("k", counted(b"value", calls)) == b"value" and not cache._making


def test_keys_tell_everything_apart():
    parts = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "b", ""), ("a\ud800",)]
    assert len({key_of(*p) for p in parts}) == len(parts)
    assert len(key_of("a")) == hashlib.sha256().digest_size * 2


def test_cached_builds_go_to_the_worker_once(toy, tmp_path):
    class Counting(GrammarWorker):
        runs = 0

        def run(self, task: str, source: str, deadline_s: float = 30.0) -> bytes:
            Counting.runs += 1
            return super().run(task, source, deadline_s)

    worker = Counting(toy)
    try:
        for _ in range(2):
            build = cached(worker, ArtefactCache(tmp_path), toy)
            XGrammar(toy, build).compile_ebnf('root ::= "ab"')
            compiled = Outlines(toy, build).compile_regex(parse_regex("ab"))
            assert compiled.matcher().accept(toy.encode("ab")[0])
        assert Counting.runs == 2 and len(list(tmp_path.iterdir())) == 2
    finally:
        worker.close()


def test_an_unreadable_artefact_is_refused(toy):
    with pytest.raises(ConstraintError, match="cannot be read"):
        XGrammar(toy, lambda task, source: b"{}").compile_ebnf('root ::= "a"')
    with pytest.raises(ConstraintError, match="cannot be read"):
        Outlines(toy, lambda task, source: b"").compile_regex(parse_regex("a"))
