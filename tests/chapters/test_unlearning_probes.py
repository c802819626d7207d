import math

from palimpsest.chapters.unlearning_quantised import probes as unlearning_probes


def test_a_step_that_would_take_quantiser_steps_below_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(unlearning_probes.runs.paths, "CACHE", tmp_path)
    monkeypatch.setattr(unlearning_probes, "STEPS", (1e-4, 1e4))
    rows = unlearning_probes.first_order("smoke", "W4A4")
    assert {row["step"] for row in rows} == {1e-4, 1e4}
    assert all(math.isfinite(row["change"]) for row in rows)
