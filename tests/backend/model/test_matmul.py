"""Linear layers of few rows: every kernel with everything that can be fused with it, and the table that chooses."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from ..cuda.interpreted import DEVICE, torch

from sgl.backend.runtime.model.llama import tune as tuning  # isort: skip
from sgl.backend.runtime.model.llama.matmul import FusedLinear, logits  # isort: skip
from sgl.backend.runtime.model.llama.tune import candidates, tune  # isort: skip
from sgl.backend.runtime.model.llama.tuned import (  # isort: skip
    BUCKETS,
    LIBRARY,
    KernelChoice,
    Product,
    Table,
    bucket_of,
    default_choice,
    open_table,
)

ROWS = KernelChoice("rows", block_n=4, block_k=256, warps=1)
NARROW_ROWS = KernelChoice("rows", block_n=1, block_k=512, warps=2)
TILES = KernelChoice("tiles", block_n=16, block_k=64, warps=1, stages=3)
SHARED = KernelChoice("tiles", block_n=32, block_k=32, warps=2, stages=2, parts=3)
EARLY = KernelChoice("tiles", block_n=32, block_k=64, warps=2, stages=2, parts=3, early=1)
EARLIER = KernelChoice("tiles", block_n=16, block_k=32, warps=1, stages=3, parts=2, early=2)
NONE_EARLY = KernelChoice("tiles", block_n=16, block_k=256, warps=1, stages=2, parts=2, early=2)  # parts have one block
ON_GPU = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Everywhere(Table):
    """A table that gives one choice for everything."""

    def __init__(self, choice: KernelChoice) -> None:
        super().__init__("any", "any", None)
        self.choice = choice

    def choose(self, product: Product, rows: int) -> KernelChoice:
        return self.choice


def made(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(*shape).to(device=DEVICE, dtype=dtype)


def exact(x: Any, weight: Any, bias: Any = None, norm: Any = None, silu: bool = False, residual: Any = None) -> Any:
    x = x.double()
    if norm is not None:
        x = x / (x.square().mean(1, keepdim=True) + norm[1]).sqrt() * norm[0].double()
    y = x @ weight.double().t()
    if bias is not None:
        y = y + bias.double()
    if silu:
        gate, up = y.chunk(2, dim=1)
        y = gate * gate.sigmoid() * up
    return y if residual is None else y + residual.double()


def assert_near(got: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("choice", [LIBRARY, ROWS, NARROW_ROWS, TILES, SHARED, EARLY, EARLIER, NONE_EARLY], ids=str)
@pytest.mark.parametrize("depth", [512, 300])  # with a whole number of blocks, and with a tail
@pytest.mark.parametrize(
    "rows, bias, norm, silu, add",
    [
        (1, False, False, False, False),
        (1, True, True, True, False),
        (2, True, False, False, True),
        (3, False, True, False, False),
        (4, False, True, True, True),
    ],
)
def test_fused(choice: KernelChoice, depth: int, rows: int, bias: bool, norm: bool, silu: bool, add: bool) -> None:
    width = 37
    weight = made(2 * width if silu else width, depth) / depth**0.5
    bias_N = made(weight.shape[0]) if bias else None
    linear = FusedLinear(weight, bias_N, silu=silu, table=Everywhere(choice))
    x, gain = made(rows, depth), (made(depth), 0.1) if norm else None
    residual = made(rows, width) if add else None
    wanted = exact(x, weight, bias_N, gain, silu, residual)
    got = linear(x, norm=gain, residual=residual)
    assert_near(got, wanted)
    assert (got is residual) == add
    assert not linear._arrived.any()


@pytest.mark.parametrize("rows", [7, 16, 33, 64])
@pytest.mark.parametrize("choice", [TILES, SHARED], ids=str)
def test_tiles_of_many_rows(choice: KernelChoice, rows: int) -> None:
    weight, x, residual = made(50, 130), made(rows, 130), made(rows, 50)
    wanted = exact(x, weight, residual=residual)
    FusedLinear(weight, table=Everywhere(choice))(x, residual=residual)
    assert_near(residual, wanted, 1e-4)


@pytest.mark.parametrize("choice", [ROWS, TILES, SHARED, LIBRARY], ids=str)
def test_strided_rows(choice: KernelChoice) -> None:
    """Parts of wider tensors, as x and as residual; what lies beside them stays."""
    x, residual = made(3, 100), made(3, 60)
    before, weight = residual.clone(), made(20, 40)
    wanted = exact(x[:, 50:90], weight, residual=residual[:, 20:40])
    FusedLinear(weight, table=Everywhere(choice))(x[:, 50:90], residual=residual[:, 20:40])
    assert_near(residual[:, 20:40], wanted)
    assert torch.equal(residual[:, :20], before[:, :20]) and torch.equal(residual[:, 40:], before[:, 40:])


@pytest.mark.parametrize("choice", [ROWS, TILES, SHARED, LIBRARY], ids=str)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_types(kind: Any, choice: KernelChoice) -> None:
    if DEVICE == "cpu" and kind == torch.bfloat16 and choice.kernel == "tiles":
        pytest.skip("the interpreter multiplies bfloat16 tiles as integers")
    weight, x = made(24, 200, dtype=kind) / 16, made(2, 200, dtype=kind)
    gain = made(200, dtype=kind), 1e-5
    wanted = exact(x, weight, norm=gain)
    assert_near(FusedLinear(weight, table=Everywhere(choice))(x, norm=gain), wanted, 4e-2)


@pytest.mark.parametrize("choice", [ROWS, TILES, LIBRARY], ids=str)
def test_logits_are_not_rounded_to_the_weights_type(choice: KernelChoice) -> None:
    weight, x = made(45, 200, dtype=torch.float16), made(3, 200, dtype=torch.float16)
    given = torch.empty(3, 45, device=DEVICE)
    got = logits(x, weight, given, table=Everywhere(choice))
    assert got is given and got.dtype == torch.float32
    assert_near(got, exact(x, weight), 1e-4)


def test_a_shared_sum_repeats_bit_by_bit() -> None:
    weight, x = made(40, 500), made(5, 500)
    linear = FusedLinear(weight, table=Everywhere(SHARED))
    assert torch.equal(linear(x), linear(x))


def test_no_rows() -> None:
    linear = FusedLinear(made(6, 8))
    assert linear(made(0, 8)).shape == (0, 6)
    assert logits(made(0, 8), made(9, 8)).shape == (0, 9)


def test_more_rows_than_buckets_go_to_the_library() -> None:
    product = Product(4096, 4096, "bfloat16")
    table = Table("d", "c", None)
    for bucket in BUCKETS:
        table.put(product, bucket, TILES)
    assert table.choose(product, 64) == TILES and table.choose(product, 65) == LIBRARY
    assert [bucket_of(rows) for rows in (1, 2, 3, 9, 64, 65)] == [1, 2, 4, 16, 64, None]


# ---------------------------------------------------------------- the table on disk

PRODUCT = Product(128, 64, "bfloat16", norm=True)


def test_what_was_measured_is_found_again(tmp_path: Path) -> None:
    table = open_table("Some GPU", "3.6.0", tmp_path)
    assert table.choose(PRODUCT, 3) == default_choice(PRODUCT, 4) and not table.has(PRODUCT, 4)
    table.put(PRODUCT, 4, SHARED)
    table.save()
    again = open_table("Some GPU", "3.6.0", tmp_path)
    assert again.has(PRODUCT, 4) and again.choose(PRODUCT, 3) == SHARED
    for other in (
        Product(128, 64, "float16", norm=True),
        Product(128, 64, "bfloat16"),
        Product(64, 128, "bfloat16", norm=True),
    ):
        assert not again.has(other, 4)
    assert not again.has(PRODUCT, 8)


def test_a_table_that_is_saved_keeps_what_another_process_has_added(tmp_path: Path) -> None:
    ours, theirs = open_table("Some GPU", "3.6.0", tmp_path), open_table("Some GPU", "3.6.0", tmp_path)
    theirs.put(PRODUCT, 8, SHARED)
    theirs.save()
    ours.put(PRODUCT, 4, ROWS)
    ours.save()
    again = open_table("Some GPU", "3.6.0", tmp_path)
    assert again.choose(PRODUCT, 4) == ROWS and again.choose(PRODUCT, 8) == SHARED


@pytest.mark.parametrize("device, compiler", [("Other GPU", "3.6.0"), ("Some GPU", "3.7.0")])
def test_another_devices_or_compilers_choices_are_not_taken(tmp_path: Path, device: str, compiler: str) -> None:
    table = open_table("Some GPU", "3.6.0", tmp_path)
    table.put(PRODUCT, 4, SHARED)
    table.save()
    other = open_table(device, compiler, tmp_path)
    assert not other.has(PRODUCT, 4)
    assert table.path is not None and other.path is not None
    table.path.rename(other.path)  # not even under its file name
    assert not open_table(device, compiler, tmp_path).has(PRODUCT, 4)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace('"format": 1', '"format": 0'),
        lambda text: text.replace('"kernel": "tiles"', '"kernel": "magic"'),
        lambda text: text.replace('"block_n": 32', '"block_n": 33'),
        lambda text: text.replace('"block_n": 32', '"block_n": "32"'),
        lambda text: text.replace('"parts": 3', '"parts": 0'),
        lambda text: text.replace('"parts"', '"party"'),
        lambda text: text.replace('"overlap": false', '"overlap": 0'),
        lambda text: b"\xff\xfe\x00",
    ],
)
def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path: Path, damage: Any) -> None:
    table = open_table("Some GPU", "3.6.0", tmp_path)
    table.put(PRODUCT, 4, SHARED)
    table.save()
    assert table.path is not None
    damaged = damage(table.path.read_text())
    table.path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    again = open_table("Some GPU", "3.6.0", tmp_path)
    assert again.choose(PRODUCT, 4) == default_choice(PRODUCT, 4)
    again.put(PRODUCT, 4, ROWS)
    again.save()
    assert open_table("Some GPU", "3.6.0", tmp_path).choose(PRODUCT, 4) == ROWS


def test_writers_at_once_leave_a_whole_file_and_later_ones_keep_what_is_there(tmp_path: Path) -> None:
    def write(i: int) -> None:
        table = open_table("Some GPU", "3.6.0", tmp_path)
        for turn in range(5):
            table.put(Product(16 * i + 16, 64, "bfloat16"), 1, ROWS)
            table.put(Product(16 * i + 16, 128, "bfloat16"), BUCKETS[turn], ROWS)
            table.save()

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folder = tmp_path / "tuned"
    assert len(list(folder.iterdir())) == 1  # nothing half-written stays
    json.loads(next(folder.iterdir()).read_text())
    for i in range(8):
        write(i)
    table = open_table("Some GPU", "3.6.0", tmp_path)
    assert all(table.has(Product(16 * i + 16, 64, "bfloat16"), 1) for i in range(8))


def test_a_folder_that_cannot_be_written_costs_nothing_but_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tuned").write_text("a file where the folder should be")
    table = open_table("Some GPU", "3.6.0", tmp_path)
    table.put(PRODUCT, 4, SHARED)
    with caplog.at_level(logging.WARNING, logger="sgl"):
        table.save()
    assert "could not be kept" in caplog.text and table.choose(PRODUCT, 4) == SHARED


def test_the_shipped_table_is_whole() -> None:
    """Every entry that is shipped is read (one wrong number would silently drop them all)."""
    from sgl.backend.runtime.model.llama import tuned

    if not tuned._SHIPPED.exists():
        pytest.skip("no table is shipped")
    content = json.loads(tuned._SHIPPED.read_text())
    assert len(tuned._read(tuned._SHIPPED, content["device"], None)) == len(content["choices"]) > 0


# ---------------------------------------------------------------- measuring

SHAPES = [
    Product(6144, 4096, "bfloat16", norm=True),
    Product(4096, 12288, "bfloat16", add=True),
    Product(3072, 1024, "bfloat16", norm=True, silu=True),
    Product(151936, 1024, "bfloat16", wide=True),
    Product(96, 64, "float32"),
]


@pytest.mark.parametrize("product", SHAPES, ids=lambda product: f"{product.kind}-{product.N}")
@pytest.mark.parametrize("rows", BUCKETS)
def test_candidates_suit_their_product(product: Product, rows: int) -> None:
    for choice in candidates(product, rows, 132):
        if choice.kernel == "rows":
            assert rows <= 4 and choice.block_k % (256 * choice.warps) == 0
        else:
            assert product.dtype != "float32" and choice.block_n >= 16
            assert 1 <= choice.parts <= 16 and choice.parts * choice.block_k <= product.K
        assert choice.parts == 1 or not product.wide
    if product.dtype == "bfloat16":
        assert 3 <= len(candidates(product, rows, 132)) <= 7


def test_parts_fill_the_device() -> None:
    for product in SHAPES[:3]:
        for choice in candidates(product, 32, 132):
            programs = -(-product.N // choice.block_n) * choice.parts
            assert programs >= 96


def measured(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[KernelChoice, float], choices: list[KernelChoice]
) -> list[KernelChoice]:
    """The choices whose timings are kept when each takes so many seconds."""
    monkeypatch.setattr(tuning._Bench, "seconds", lambda bench, choice: seconds.get(choice, 1.0))
    timings = tuning.measure(Product(24, 64, "float32", add=True), 2, [made(24, 64)], choices)
    return [timing.choice for timing in sorted(timings, key=lambda timing: timing.seconds)]


def test_a_candidate_that_fails_or_computes_something_else_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = tuning.compute

    def compute(choice: KernelChoice, product: Product, of: Any) -> None:
        if choice == TILES:
            raise RuntimeError("too little shared memory")
        right(choice, product, of)
        if choice == NARROW_ROWS:
            of.out_MN[0, 0] = float("nan")

    caplog.set_level(logging.INFO, logger="sgl")
    monkeypatch.setattr(tuning, "compute", compute)
    kept = measured(monkeypatch, {ROWS: 0.5, NARROW_ROWS: 0.1, TILES: 0.1}, [NARROW_ROWS, TILES, ROWS])
    assert kept == [ROWS, LIBRARY]
    assert "wrong results" in caplog.text


def test_the_library_is_kept_unless_a_kernel_is_clearly_faster() -> None:
    def best(seconds: float) -> KernelChoice:
        timings = [tuning.Timing(PRODUCT, 1, LIBRARY, 1.0), tuning.Timing(PRODUCT, 1, ROWS, seconds)]
        return tuning._best(timings)

    assert best(0.9) == ROWS and best(0.995) == LIBRARY and best(1.1) == LIBRARY


def test_weight_rate_counts_the_bytes_of_both_halves() -> None:
    timing = tuning.Timing(Product(10, 20, "bfloat16", silu=True), 1, ROWS, 2.0)
    assert timing.weight_rate == 2 * 10 * 20 * 2 / 2.0


@ON_GPU
@pytest.mark.gpu
def test_tuning_on_the_device_is_done_once(tmp_path: Path) -> None:
    device = torch.cuda.get_device_name()
    cases = {
        Product(96, 1024, "bfloat16", norm=True): [made(96, 1024, dtype=torch.bfloat16) for _ in range(3)],
        Product(96, 1024, "bfloat16", silu=True): [made(192, 1024, dtype=torch.bfloat16) for _ in range(3)],
        Product(500, 1024, "bfloat16", wide=True): [made(500, 1024, dtype=torch.bfloat16)],
    }
    timings = tune(open_table(device, "t", tmp_path), cases, buckets=(1, 16), seconds=60)
    assert {timing.product for timing in timings} == set(cases)
    assert any(timing.choice.kernel == "rows" for timing in timings)
    assert any(timing.choice.kernel == "tiles" for timing in timings)
    assert tune(open_table(device, "t", tmp_path), cases, buckets=(1, 16)) == []


@ON_GPU
@pytest.mark.gpu
@pytest.mark.parametrize("choice", [ROWS, SHARED, EARLY, EARLIER, LIBRARY], ids=str)
def test_a_captured_chain_gives_what_the_calls_gave(choice: KernelChoice) -> None:
    """Also with overlapping launches, where each reads what the one before wrote."""
    weights = [made(256, 256, dtype=torch.bfloat16) / 16 for _ in range(8)]
    x = made(2, 256, dtype=torch.bfloat16)

    def chain(overlap: bool) -> Any:
        table = Everywhere(KernelChoice(**{**vars(choice), "overlap": overlap and choice != LIBRARY}))
        layers = [FusedLinear(weight, table=table) for weight in weights]

        def run() -> Any:
            y = x
            for layer in layers:
                y = layer(y)
            return y

        wanted = run().clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = run()
        for _ in range(20):
            graph.replay()
        assert torch.equal(y, wanted)
        return wanted

    assert torch.equal(chain(False), chain(True))
