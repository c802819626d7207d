import math

from palimpsest.chapters.unlearning_quantised import probes


def test_a_step_that_would_take_quantiser_steps_below_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(probes.runs.paths, "CACHE", tmp_path)
    monkeypatch.setattr(probes, "STEP_SIZES", (1e-4, 1e4))
    rows = probes.first_order("smoke", "W4A4")
    assert {row["step"] for row in rows} == {1e-4, 1e4}
    assert all(math.isfinite(row["change"]) for row in rows)
