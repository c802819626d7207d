"""The benchmark measures every peer, refuses a wrong op, and replaces its file whole."""

import csv
import sys
from types import SimpleNamespace

import pytest
import torch

from palimpsest.kernels import bench
from palimpsest.kernels.inputs import Draw


@pytest.fixture
def op(monkeypatch):
    """A made-up op, doubling, with one good peer, one missing and one that is not differentiable."""

    def missing(x):
        raise ImportError("No module named 'elsewhere'")

    module = SimpleNamespace(
        SHAPES={"cpu": ((64,),)},
        DTYPES={"cpu": (torch.float32,)},
        DIRECTIONS=("forward", "backward"),
        INPUTS={"x": Draw(lambda shape, *_: torch.ones(shape))},
        ours=lambda x: x * 2,
        eager=lambda x: x + x,
        PEERS={"missing": missing, "numpy": lambda x: x.detach().numpy() * 2},
        bytes_moved=lambda shape, dtype, direction: 2 * shape[0] * dtype.itemsize,
        agreement=lambda x: [("value", module.ours(x), 2 * x.double(), torch.zeros(()))],
    )
    monkeypatch.setitem(sys.modules, "palimpsest.kernels.double.bench", module)
    monkeypatch.setattr(bench, "available", lambda: ["double"])
    monkeypatch.setattr(bench, "ROUNDS", (3, 3))
    monkeypatch.setattr(bench, "COPY_BYTES", {"cpu": 1 << 16})
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    return module


def test_one_row_for_each_peer_and_direction(op, tmp_path):
    (path,) = bench.run(device="cpu", out=tmp_path / "bench")
    assert path.name == "double.cpu.csv"
    with path.open() as file:
        rows = {(row["peer"], row["direction"]): row for row in csv.DictReader(file)}
    assert set(rows) == {
        (peer, direction)
        for peer in ("palimpsest", "eager", "torch.compile", "missing", "numpy")
        for direction in ("forward", "backward")
    }
    ours = rows["palimpsest", "forward"]
    p20, p50, p80 = (float(ours[column]) for column in ("p20_ms", "p50_ms", "p80_ms"))
    assert 0 < p20 <= p50 <= p80
    assert float(ours["gb_per_s"]) == pytest.approx(512 / p50 / 1e6, rel=1e-3)
    eager = rows["eager", "forward"]
    assert float(ours["speed_vs_eager"]) == pytest.approx(float(eager["p50_ms"]) / p50, rel=2e-3)
    assert float(eager["speed_vs_eager"]) == 1
    assert rows["missing", "forward"]["note"] == "not run: No module named 'elsewhere'"
    assert rows["missing", "forward"]["p50_ms"] == ""
    assert rows["numpy", "backward"]["note"] == "not run: no gradient"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("factor", [2.001, float("nan")])
def test_a_wrong_op_is_refused_and_the_old_file_stays(op, tmp_path, factor):
    (tmp_path / "double.cpu.csv").write_text("old")
    op.ours = lambda x: x * factor
    with pytest.raises(bench.WrongResultError, match="double gives a wrong value"):
        bench.run(out=tmp_path)
    assert (tmp_path / "double.cpu.csv").read_text() == "old"


def test_a_broken_op_stops_the_run(op, tmp_path):
    def broken(x):
        raise RuntimeError("broken")

    op.agreement, op.ours = lambda x: [], broken
    with pytest.raises(RuntimeError, match="broken"):
        bench.run(out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_bad_arguments(op, tmp_path):
    with pytest.raises(ValueError, match="ops: got 'triple', want some of double"):
        bench.run(["triple"], out=tmp_path)
    with pytest.raises(ValueError, match="device: got 'tpu', want 'cpu' or 'cuda'"):
        bench.run(device="tpu", out=tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none(op, tmp_path):
    with pytest.raises(ValueError, match="finds no CUDA device"):
        bench.run(device="cuda", out=tmp_path)


def test_every_op_with_a_benchmark_is_found():
    assert "jensen_shannon" in bench.available()
