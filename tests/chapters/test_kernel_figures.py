"""The benchmark figures of the kernels chapter: nothing recorded is shown as "not run", nothing is left out."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from palimpsest.chapters.kernels import figures as draw
from palimpsest.kernels import bench
from palimpsest.runs import paths

COPY = 8.0  # GB/s
MOVE_ONLY = {"cache_commit"}


def row(op, peer, shape, p50, eager, direction="forward"):
    """8 MB at p50 milliseconds; `eager` milliseconds for the formula; quantiles 10 % apart."""
    times = {"p20_ms": 0.9 * p50, "p50_ms": p50, "p80_ms": 1.1 * p50}
    rate = 8 / p50
    ratios = {"gb_per_s": rate, "share_of_copy": rate / COPY, "speed_vs_eager": eager / p50}
    return {"op": op, "peer": peer, "shape": shape, "dtype": "float32", "direction": direction, **times, **ratios}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A data folder with files for two ops: one slower at one of two shapes, one with a shape of one number."""
    monkeypatch.setattr(paths, "DATA", tmp_path)
    (tmp_path / "bench").mkdir()
    tables = {
        "softmax_entropy": [
            *(row("softmax_entropy", peer, "100x10", t, 4.0) for peer, t in (("palimpsest", 2.0), ("eager", 4.0))),
            *(row("softmax_entropy", peer, "5x10", t, 4.0) for peer, t in (("palimpsest", 5.0), ("eager", 4.0))),
        ],
        "lsq_quantize": [
            *(row("lsq_quantize", peer, "1000", t, 2.0) for peer, t in (("palimpsest", 2.1), ("eager", 2.0))),
            {"op": "lsq_quantize", "peer": "a library", "shape": "1000", "dtype": "float32", "direction": "forward"},
        ],
    }
    for op, rows in tables.items():
        pd.DataFrame(rows, columns=bench.COLUMNS).to_csv(tmp_path / "bench" / f"{op}.cpu.csv", index=False)
    yield tmp_path
    plt.close("all")


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_only_what_was_recorded_is_read_and_shapes_stay_text(recorded):
    table = draw.recorded("cpu")
    assert set(table.op) == {"softmax_entropy", "lsq_quantize"}
    assert set(table["shape"]) == {"100x10", "5x10", "1000"}
    empty = draw.recorded("cuda")
    assert len(empty) == 0
    assert tuple(empty.columns) == bench.COLUMNS


def test_slower_is_told_from_noise_and_from_not_run(recorded):
    table = draw.slower_than_naive(draw.recorded("cpu")).set_index("op")
    assert list(table.index) == bench.available()
    verdict = table["slower beyond the noise"]
    assert verdict["softmax_entropy"] == "yes, in 1 of 2"  # 4.5 ms at best against 4.4 ms at worst
    assert verdict["lsq_quantize"] == "no"  # 5 % slower, within 10 %
    assert table.least["softmax_entropy"] == 0.8
    assert table["where"]["softmax_entropy"] == "5×10 float32, forward"
    assert (verdict.drop(["softmax_entropy", "lsq_quantize"]) == "not run").all()


def test_a_device_or_op_without_file_says_not_run(recorded):
    tables = {device: draw.recorded(device) for device in draw.DEVICES}
    left, right = draw.share_of_copy(tables).axes
    missing = len(bench.available()) - 2
    assert [t.get_text() for t in left.texts] == ["not run"] * missing
    assert [t.get_text() for t in right.texts] == ["not run"]
    assert texts(draw.peers(tables["cpu"])) == ["not run"] * missing
    assert texts(draw.peers(tables["cuda"])) == ["not run"] * len(bench.available())
    assert texts(draw.roofline(tables["cuda"])) == ["not run"]


def test_share_of_the_copy_is_drawn_in_percent(recorded):
    tables = {device: draw.recorded(device) for device in draw.DEVICES}
    points = draw.share_of_copy(tables).axes[0].collections[0].get_offsets()
    assert sorted(float(x) for x, _ in points) == pytest.approx([20.0, 100 / 2.1, 50.0])


def test_peers_are_drawn_at_their_ratio_to_eager(recorded):
    figure = draw.peers(draw.recorded("cpu"))
    axis = next(axis for axis in figure.axes if axis.get_title() == "softmax_entropy")
    points = {tuple(map(float, c.get_offsets()[0])) for c in axis.collections}
    assert points == {(2.0, 1.0), (0.8, 0.0)}, "first shape on top, eager itself is the line"


def test_the_roof_is_the_copy_and_then_the_fastest_rate(recorded):
    figure = draw.roofline(draw.recorded("cpu"))
    (roof,) = figure.axes[0].get_lines()
    x, y = roof.get_data()
    fastest = 6 * 100 * 10 / 2.0 / 1e6  # 10⁹ operations per second of the quickest row
    assert y[0] == pytest.approx(COPY * x[0])
    assert (x[1], y[1]) == pytest.approx((fastest / COPY, fastest))
    assert y[2] == pytest.approx(fastest)


def test_every_op_that_computes_has_its_operations_counted():
    assert set(bench.available()) - MOVE_ONLY == set(draw.OPERATIONS)


def test_operations_by_hand():
    """Entropy: maximum, difference, exponential, sum, product, sum. A product of matrices: 2 for each triple."""
    assert draw.OPERATIONS["softmax_entropy"](3, 5) == 6 * 15
    assert draw.OPERATIONS["token_logprob"](2, 3, 5) == 2 * 30
    assert draw.OPERATIONS["tree_attention"](1, 4, 2, 3, 5, 7) == 4 * 4 * 3 * 8 * 7
