"""What holds of every method, and what `select` refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest import selection
from palimpsest.selection import Signals

SIZES = {0: 30, 2: 20, 5: 10}
N, CLASSES = 60, 6


def case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.full((n,), c) for c, n in SIZES.items()])
    labels = labels[torch.randperm(N, generator=generator)]
    signals = Signals(
        logits=torch.randn(N, CLASSES, generator=generator),
        early_logits=torch.randn(2, N, CLASSES, generator=generator),
        grad_norms=torch.rand(2, N, generator=generator),
        forgetting=torch.rand(N, generator=generator),
        out_of_sample_probs=torch.randn(N, CLASSES, generator=generator).softmax(1),
    )
    return torch.randn(N, 8, generator=generator), labels, signals


def test_the_methods_asked_for_are_there():
    assert selection.methods() == [
        "ccs", "cleanlab", "el2n", "forgetting", "full", "grand", "herding", "jscds", "k_center", "low_loss",
        "moderate", "random",
    ]  # fmt: skip


@pytest.mark.parametrize("method", selection.methods())
def test_every_method_states_source_and_reading(method):
    assert selection.METHODS[method].source
    assert selection.METHODS[method].function.__doc__


@pytest.mark.parametrize("method", selection.methods())
def test_sorted_unique_budgeted_and_repeatable(method):
    features, labels, signals = case()
    before = features.clone()
    kept = selection.select(features, labels, 0.35, method, seed=3, signals=signals)
    assert kept.dtype == torch.int64
    assert (kept.diff() > 0).all()
    # ⌊.35·30 + ½⌋ = ⌊11.0⌋, ⌊.35·20 + ½⌋ = ⌊7.5⌋, ⌊.35·10 + ½⌋ = ⌊4.0⌋: halves go up, not to even.
    budget = SIZES if method == "full" else {0: 11, 2: 7, 5: 4}
    assert {c: int((labels[kept] == c).sum()) for c in SIZES} == budget
    assert torch.equal(kept, selection.select(features, labels, 0.35, method, seed=3, signals=signals))
    assert torch.equal(features, before)


@pytest.mark.parametrize("method", [m for m in selection.methods() if m not in ("random", "ccs")])
def test_the_order_of_the_samples_does_not_matter(method):
    features, labels, signals = case()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    shuffled = Signals(
        logits=signals.logits[order],
        early_logits=signals.early_logits[:, order],
        grad_norms=signals.grad_norms[:, order],
        forgetting=signals.forgetting[order],
        out_of_sample_probs=signals.out_of_sample_probs[order],
    )
    kept = selection.select(features, labels, 0.5, method, signals=signals)
    again = order[selection.select(features[order], labels[order], 0.5, method, signals=shuffled)]
    assert torch.equal(kept, again.sort().values)


@pytest.mark.parametrize("method", selection.methods())
def test_fraction_one_keeps_all(method):
    features, labels, signals = case()
    switches = {"beta": 0} if method == "ccs" else {}
    kept = selection.select(features, labels, 1, method, signals=signals, **switches)
    assert torch.equal(kept, torch.arange(N))


@pytest.mark.parametrize(
    "method", [m for m in selection.methods() if m not in ("full", "random", "ccs", "jscds", "moderate")]
)
def test_greedy_and_ranked_sets_grow_with_the_fraction(method):
    features, labels, signals = case()
    small, large = (set(selection.select(features, labels, f, method, signals=signals).tolist()) for f in (0.3, 0.6))
    assert small < large


@pytest.mark.parametrize("method", selection.methods())
def test_a_missing_signal_is_named(method):
    features, labels, _ = case()
    for need in selection.METHODS[method].needs:
        with pytest.raises(ValueError, match=f"method '{method}' needs signals.{need}"):
            selection.select(features, labels, 0.5, method)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.floats(0.001, 1),
    st.sampled_from(["jscds", "random"]),
)
def test_class_budgets_are_exact_and_no_class_is_lost(sizes, fraction, method):
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])
    features = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(len(labels)))
    budgets = [max(1, math.floor(fraction * n + 0.5)) for n in sizes]
    kept = selection.select(features, labels, fraction, method)
    assert torch.bincount(labels[kept], minlength=len(sizes)).tolist() == budgets


@pytest.mark.parametrize("method", selection.methods())
def test_a_class_of_one_sample_is_kept(method):
    features, labels, signals = case()
    labels = labels.clone()
    alone = int((labels == 5).nonzero()[0])
    labels[(labels == 5).nonzero().flatten()[1:]] = 2
    assert alone in selection.select(features, labels, 0.3, method, signals=signals).tolist()


@pytest.mark.parametrize("method", ["herding", "k_center", "moderate"])
@pytest.mark.parametrize(
    ("dtype", "power"), [(torch.float64, 660), (torch.float64, -660), (torch.float32, 120), (torch.float32, -100)]
)
def test_the_unit_of_the_features_does_not_matter(dtype, power, method):
    features, labels, signals = case()
    features = features.to(dtype)
    want = selection.select(features, labels, 0.4, method, signals=signals)
    assert torch.equal(selection.select(features * 2.0**power, labels, 0.4, method, signals=signals), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_dtype_selects_by_its_own_values(dtype):
    features, labels, _ = case()
    features = features.to(dtype)
    reference = selection.select(features.double(), labels, 0.5)
    assert torch.equal(selection.select(features, labels, 0.5), reference)


def test_arrays_are_taken_as_tensors_are():
    features, labels, _ = case()
    kept = selection.select(features, labels, 0.5)
    for array in (
        features.numpy(),
        features.numpy().astype(">f4"),
        features.double().numpy()[:, ::-1].copy()[:, ::-1],
    ):
        assert torch.equal(selection.select(array, labels.numpy().astype(np.uint8), 0.5), kept)
    frozen = features.numpy().copy()
    frozen.setflags(write=False)
    assert torch.equal(selection.select(frozen, labels, 0.5), kept)
    assert torch.equal(selection.select(features.clone().requires_grad_(), labels, np.float64(0.5)), kept)


FEATURES, LABELS = torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])
WITH_NAN, WITH_INF = FEATURES.clone(), FEATURES.clone()
WITH_NAN[2, 1], WITH_INF[3, 0] = torch.nan, -torch.inf


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"features": WITH_NAN},
            r"features must hold no NaN; the first bad row is 2: features\[2, 1\] is nan",
        ),
        (
            {"features": WITH_INF},
            r"features must be finite; the first bad row is 3: features\[3, 0\] is -inf",
        ),
        ({"features": torch.zeros(4)}, r"features has shape \[4\]; wanted a non-empty \[N, D\] float"),
        ({"features": torch.zeros(0, 2)}, r"features has shape \[0, 2\]; wanted a non-empty"),
        ({"features": torch.zeros(4, 0)}, r"features has shape \[4, 0\]; wanted a non-empty"),
        ({"features": torch.zeros(4, 2, dtype=torch.int32)}, r"features is \[4, 2\] of torch.int32; wanted"),
        ({"features": np.zeros((4, 2), int)}, r"features is \[4, 2\] of int64; wanted"),
        ({"features": [[0.0, 0.0]] * 4}, "features is of type list; wanted"),
        ({"labels": LABELS[:3]}, r"labels has shape \[3\]; wanted .* with N = 4"),
        ({"labels": LABELS[:, None]}, r"labels has shape \[4, 1\]; wanted"),
        ({"labels": LABELS.float()}, r"labels is \[4\] of torch.float32; wanted .* integers"),
        ({"labels": LABELS + 0.5j}, r"labels is \[4\] of torch.complex64; wanted"),
        ({"labels": LABELS.bool()}, r"labels is \[4\] of torch.bool; wanted"),
        ({"labels": np.zeros(4)}, r"labels is \[4\] of float64; wanted"),
        ({"labels": [0, 0, 1, 1]}, "labels is of type list; wanted"),
        ({"labels": torch.tensor([0, -1, 1, 1])}, r"labels must not be negative; the first bad row is 1"),
        ({"fraction": 0}, r"fraction is 0; wanted a number in \(0, 1\]"),
        ({"fraction": 1.01}, r"fraction is 1\.01"),
        ({"fraction": -0.5}, r"fraction is -0\.5"),
        ({"fraction": math.nan}, "fraction is nan"),
        ({"fraction": "half"}, "fraction is 'half'"),
        ({"fraction": True}, "fraction is True"),
        ({"method": "best"}, "method is 'best'; choose one of: ccs, cleanlab, el2n"),
        ({"method": None}, "method is None; choose one of"),
        ({"seed": -1}, "seed is -1; wanted an integer"),
        ({"seed": 1.5}, r"seed is 1\.5"),
        ({"signals": {"logits": FEATURES}}, "signals is of type dict; wanted selection.Signals"),
        ({"method": "random", "rule": "nearest"}, "'random' has no switch 'rule'; its switches: none"),
    ],
)
def test_bad_input_is_named(changed, message):
    arguments = {"features": FEATURES, "labels": LABELS, "fraction": 0.5, "method": "jscds"} | changed
    with pytest.raises(ValueError, match=message):
        selection.select(**arguments)


@pytest.mark.parametrize(
    ("method", "signals", "message"),
    [
        ("low_loss", Signals(logits=torch.zeros(3, 2)), r"signals.logits has shape \[3, 2\]; .* N = 4"),
        ("low_loss", Signals(logits=torch.zeros(4, 1)), "signals.logits has 1 class columns, but .* up to 1"),
        ("low_loss", Signals(logits=WITH_INF), "signals.logits must be finite; the first bad row is 3"),
        ("el2n", Signals(early_logits=torch.zeros(4, 2)), r"signals.early_logits has shape \[4, 2\]"),
        (
            "el2n",
            Signals(early_logits=torch.stack([FEATURES, WITH_NAN])),
            r"bad row is 2: .*\[1, 2, 1\] is nan",
        ),
        ("grand", Signals(grad_norms=torch.tensor([[1.0, 1, -1, 1]])), "must not be negative; .* row is 2"),
        ("forgetting", Signals(forgetting=torch.tensor([0, 1, 2, torch.nan])), "forgetting must hold no NaN"),
        (
            "forgetting",
            Signals(forgetting=torch.arange(4)),
            "signals.forgetting is .* of torch.int64; wanted",
        ),
        ("cleanlab", Signals(out_of_sample_probs=torch.ones(4, 2)), "sum to 1; row 0 sums to 2"),
        ("cleanlab", Signals(out_of_sample_probs=torch.tensor([[2.0, -1]] * 4)), "must not be negative"),
    ],
)
def test_bad_signals_are_named(method, signals, message):
    with pytest.raises(ValueError, match=message):
        selection.select(FEATURES, LABELS, 0.5, method, signals=signals)
