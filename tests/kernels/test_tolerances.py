"""The error model itself: right constants, wide enough for real sums, too narrow for wrong ones."""

import pytest
import torch

from palimpsest.kernels.tolerances import admitted_error, tolerance, unit_roundoff


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8), (torch.float32, 24), (torch.float64, 53)]
)
def test_unit_roundoff(dtype, bits):
    assert unit_roundoff(dtype) == 2.0**-bits


def test_tolerance_by_hand():
    """8 sqrt(84 + 16) = 80 roundoffs of the accumulator, and one of the storage."""
    assert tolerance(torch.float32, 84) == 80 * 2.0**-24
    assert tolerance(torch.float64, 84) == 80 * 2.0**-53
    assert tolerance(torch.bfloat16, 84) == 80 * 2.0**-24 + 2.0**-8


@pytest.mark.parametrize("length", [10, 1000, 100_000])
def test_a_sum_in_sequence_lies_within_and_a_lost_term_outside(length):
    generator = torch.Generator().manual_seed(1)
    terms = torch.rand(length, generator=generator)
    exact, scale = terms.double().sum(), terms.double().abs().sum()
    in_sequence = float(terms.numpy().cumsum()[-1])  # torch's own cumsum carries more than float32
    admitted = admitted_error(torch.float32, length, scale)
    assert (in_sequence - exact).abs() <= admitted
    if length <= 1000:
        assert terms.max() > admitted


def test_underflow_is_admitted_once():
    assert admitted_error(torch.float16, 1, torch.zeros(())) == 2.0**-25
