"""The sentences below figures say what made-up results show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from palimpsest.chapters.kernels import sentences as kernels
from palimpsest.chapters.sage import sentences as sage
from palimpsest.chapters.sau import sentences as sau
from palimpsest.chapters.unlearning_quantised import sentences as unlearning
from palimpsest.chapters.unlearning_quantised.experiment import Results

AT = {"precision": "W4A4", "forget_set": "random 10 %"}


def results(levels: dict[str, tuple[float, float]], seeds=range(4)) -> Results:
    """FA in percent and gap by method, one point apart over the seeds."""
    rows = [
        {"method": method, "seed": seed, "FA": fa / 100 + 0.01 * (seed - 1.5), "gap": gap + seed - 1.5} | AT
        for method, (fa, gap) in levels.items()
        for seed in seeds
    ]
    return Results(pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame(), {}, tuned_on=1)


def test_the_plane_counts_both_sides_of_retrain():
    found = results(
        {
            "retrain": (80, 0),
            "original": (100, 20),
            "a": (95, 15),
            "b": (60, 9),
            "c": (81, 3),
            "d": (90, 9),
            "e": (79, 3),
        }
    )
    said = unlearning.plane(found)
    assert said.startswith("Retrain's FA is 80.0 %")
    assert "of 5 methods 2 lie wholly to its right" in said
    assert "1 wholly to its left" in said
    assert "the intervals of 2 meet its own" in said


def test_gaps_name_the_nearest_and_whom_it_cannot_be_told_from():
    found = results({"retrain": (80, 0), "original": (100, 20), "near": (81, 3), "alike": (82, 4), "far": (95, 15)})
    said = unlearning.gaps(found)
    assert "nearest to Retrain is near, 3.0 points" in said
    assert "1 of 2 others" in said
    assert "Doing nothing is 20.0 points" in said


def test_angles_and_lengths_are_counted_by_pair():
    log = pd.DataFrame(
        [
            {"method": "OEU", "step": step, "seed": seed, "dot": dot, "norm_f": 2.0, "norm_r": norm} | AT
            for seed in (0, 1)
            for step, (dot, norm) in enumerate([(0.0, 1.0), (-2.0, 2.0), (-2.0, 2.0)])
        ]
    )
    said = unlearning.gradients(replace(results({"retrain": (80, 0)}), log=log))
    assert said == (
        "The mean angle runs from 90° to 120° and is above 90° in 2 of 3 pairs; g_f is the longer one in 1 of them."
    )


def test_labels_above_retrain_are_named():
    table = pd.DataFrame(
        [
            {"method": method, "seed": seed, "agreement": share + 0.01 * seed, "of_retrain": 0.1}
            for method, share in (("random label", 0.5), ("OEU", 0.1))
            for seed in (-1, 0, 1)
        ]
    )
    assert unlearning.labels(table).startswith("Above Retrain lie the intervals of random label: random label +40.0")


def test_gradients_on_pruned_weights_are_counted_by_layer():
    rows = pd.DataFrame(
        [
            {"sparsity": "0.5", "layer": layer, "seed": 0, "share": share, "expected": 0.5}
            for layer, share in ((0, 0.4), (1, 0.45), (2, 0.65))
        ]
    )
    assert sau.lost_gradient(rows) == (
        "On pruned weights fall 50 % of the gradient at 50 % pruned: less than their share in 2 of 3 layers and "
        "sparsities."
    )


def test_forwards_are_told_in_rows_of_the_target():
    table = pd.DataFrame(
        [
            {"model": model, "rows": rows, "seconds": seconds}
            for model, rows, seconds in (
                ("target", 1, 2.0),
                ("target", 64, 5.0),
                ("drafter", 1, 0.5),
                ("drafter", 64, 1.0),
            )
        ]
    )
    assert sage.verify_cost(table) == (
        "A forward of the target over 64 rows costs 2.5 of one row; one of the drafter costs 0.25 over one row and "
        "0.50 over 64."
    )


def test_shares_of_the_copy_and_what_was_not_run():
    table = pd.DataFrame(
        {"op": ["a", "b"], "peer": "palimpsest", "direction": "forward", "p50_ms": 1.0, "share_of_copy": [0.2, 0.9]}
    )
    said = kernels.share_of_copy({"cpu": table, "cuda": table[:0]})
    assert said == "CPU, one thread: forward, the median share runs from 20 % (a) to 90 % (b). GPU: not run."


@pytest.mark.parametrize(("drawn", "share"), [(0.35, 100), (0.9, 0)])
def test_the_lemma_s_bound_is_counted(drawn, share):
    """At α = ½ of 10 candidates the lemma says at least 0.55; the corrected bound is 10^-½ = 0.316."""
    held = pd.DataFrame({"pair": "vision", "alpha": np.full(4, 0.5), "first": drawn})
    found = type("Held", (), {"held": held})
    assert f"{share} % lie below the lemma's bound, 0 below the corrected one" in sage.lemma(found)
