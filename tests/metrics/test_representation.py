"""Probes of features, on cases small enough to check by hand."""

import numpy as np
import pytest

from palimpsest import metrics
from palimpsest.metrics.representation import PROBES, linear_probe, nearest_neighbours

# Two classes that the first column tells apart; the second is noise to it.
KNOWN = np.array([[-1.0, 0.3], [-1.0, -0.3], [1.0, 0.3], [1.0, -0.3]])
LABELS = np.array([0, 0, 1, 1])
ASKED = np.array([[-2.0, 5.0], [-0.1, 0.0], [0.1, 0.0], [2.0, -5.0]])


def test_a_linear_probe_finds_the_direction_that_tells_classes_apart():
    # Standardised, the ridge solution is w = (4 / (4 + 1), 0) and no intercept: the sign of the first column.
    assert linear_probe(KNOWN, LABELS, ASKED, [0, 0, 1, 1]) == 1.0
    assert linear_probe(KNOWN, LABELS, ASKED, [0, 1, 0, 1]) == 0.5


def test_a_linear_probe_does_not_depend_on_place_and_scale_of_a_column_or_on_a_constant_one():
    def moved(features):
        return np.c_[features * [1e3, 1e-3] + [5e4, -2.0], np.full(4, 7.0)]

    assert linear_probe(moved(KNOWN), LABELS, moved(ASKED), [0, 0, 1, 1]) == 1.0


def test_nearest_neighbours_go_by_angle_and_majority():
    known = np.array([[10.0, 0.0], [10.0, 1.0], [10.0, -1.0], [0.0, 1.0], [0.1, 1.0]])
    labels = [0, 0, 0, 1, 1]
    # (1, 0) lies beside the last two and points as the first three; (0, 9) has (10, 1) among its three, which loses.
    asked = [[1.0, 0.0], [0.0, 9.0]]
    assert nearest_neighbours(known, labels, asked, [0, 1], k=3) == 1.0
    # All five: three of class 0.
    assert nearest_neighbours(known, labels, asked, [0, 1], k=5) == 0.5


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"known": KNOWN[:, :1]}, "features"),
        ({"known_labels": [0, 0, 1]}, "known_labels"),
        ({"known_labels": [1, 1, 1, 1]}, "known_labels"),
        ({"labels": [0, 0, 1, 2]}, "labels"),
        ({"features": np.full((4, 2), np.nan)}, "features"),
    ],
)
def test_what_cannot_be_meant_is_refused(probe, changes, named):
    given = {"known": KNOWN, "known_labels": LABELS, "features": ASKED, "labels": LABELS} | changes
    with pytest.raises(ValueError, match=f"^{named}: got .* want"):
        probe(**given)


def test_more_neighbours_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"^k: got 5, want at most the 4"):
        nearest_neighbours(KNOWN, LABELS, ASKED, LABELS, k=5)


def test_the_package_knows_the_module():
    assert metrics.representation.PROBES is PROBES
