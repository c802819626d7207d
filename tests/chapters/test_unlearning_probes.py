import math
from dataclasses import replace

from palimpsest.chapters.unlearning_quantised import probes
from palimpsest.chapters.unlearning_quantised.profiles import PROFILES
from palimpsest.runs import paths


def test_a_step_that_would_take_quantiser_steps_below_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    tiny = replace(PROFILES["smoke"], name="tiny", samples=60, validation=40, test=40, epochs=1, qat_lr=0.001)
    monkeypatch.setitem(PROFILES, "tiny", tiny)
    monkeypatch.setattr(probes, "STEP_SIZES", (1e-4, 1e4))
    rows = probes.first_order("tiny", "W4A4")
    assert {row["step"] for row in rows} == {1e-4, 1e4}
    assert all(math.isfinite(row["change"]) for row in rows)
