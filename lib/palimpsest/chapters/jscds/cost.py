"""What selection costs: counted in multiply-adds (the same on every machine) and timed (recorded by `bench`)."""

import time
from datetime import UTC, datetime

import pandas as pd
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from palimpsest import runs, selection
from palimpsest.chapters.jscds import networks
from palimpsest.chapters.jscds.cohort import CLEAN, METHODS, PROFILES, Cohort, test_split
from palimpsest.chapters.shared.profiles import choose

FRACTION = 0.5
TIMED = 1000
"""The seed that `bench` times; no claim is judged on it."""

READ_ONE = ("moderate", "herding", "k-center", "low-loss")
"""The rivals that read one network's features or logits, as JSCDS does: any scorer that serves it serves them."""

# What a method's scorer costs before it can score: epochs trained on all N samples (E is the full schedule, early the
# early epoch), and forward passes over them. Cross-fitting trains two networks on half each.
PASSES = {
    "full": (lambda s: 0, 0),
    "random": (lambda s: 0, 0),
    "jscds": (lambda s: s.epochs, 1),
    "early jscds": (lambda s: s.early_epoch, 1),
    "proxy jscds": (lambda s: s.epochs, 1),
    "L2 near-mean": (lambda s: s.epochs, 1),
    **{name: (lambda s: s.epochs, 1) for name in READ_ONE},
    "forgetting": (lambda s: s.epochs, 0),
    "el2n": (lambda s: 2 * s.early_epoch, 2),
    "ccs": (lambda s: 2 * s.early_epoch, 2),
    "grand": (lambda s: s.early_epoch + 1, 0),
    "cleanlab": (lambda s: s.epochs, 1),
}
"""By method: epochs of its scorer at a setting, and forward passes."""


def multiply_adds(architecture: str, x: torch.Tensor) -> tuple[float, float]:
    """Multiply-adds for one sample of x [1, C, H, W]: (forward pass, training step)."""
    model = networks.build(architecture, channels=x.shape[1], classes=10, seed=0).eval()
    counts = []
    for train in (False, True):
        with FlopCounterMode(display=False) as counter:
            loss = F.cross_entropy(model(x), torch.zeros(1, dtype=torch.int64))
            if train:
                loss.backward()
        counts.append(counter.get_total_flops() / 2)
    return counts[0], counts[1]


def scoring_operations(method: str, n: int, d: int, classes: int) -> float:
    """Multiply-adds, counting an exponential or logarithm as one, to turn vectors into a subset of half of them.

    n samples of d features. Greedy methods take k_c = n_c/2 steps over the n_c samples of each class; JSD per
    element: softmax (3), the mixture (1) and two terms with a logarithm and a product each (6). Forgetting and GraNd
    are read off training as they stand. Raises ValueError for a method that is not counted.
    """
    greedy = classes * (FRACTION * n / classes) * (n / classes) * d
    found = {
        "full": 0.0,
        "random": 0.0,
        "jscds": 10.0 * n * d,
        "early jscds": 10.0 * n * d,
        "proxy jscds": 10.0 * n * d,
        "L2 near-mean": 2.0 * n * d,
        "moderate": 2.0 * n * d,
        "herding": greedy,
        "k-center": greedy,
        "low-loss": 3.0 * n * classes,
        "forgetting": 0.0,
        "grand": 0.0,
        "el2n": 8.0 * n * classes,
        "ccs": 8.0 * n * classes,
        "cleanlab": 3.0 * n * classes,
    }
    if method not in found:
        raise ValueError(f"method: got {method!r}, whose operations are not counted, want one of {list(found)}")
    return found[method]


def count(profile: str) -> pd.DataFrame:
    """One row per method at 50 % kept: multiply-adds for the `scorer` (networks trained to score), `scoring` (the
    arithmetic of the choice), `final` training, and their `total`; `full` trains once on everything."""
    setting = choose(profile, PROFILES)
    x = test_split(setting).subset(torch.arange(1)).pixels()
    names = {"proxy jscds": setting.proxy}
    rows = []
    for method, (epochs, forwards) in PASSES.items():
        architecture = names.get(method, setting.architecture)
        forward, step = multiply_adds(architecture, x)
        width = networks.build(architecture, channels=x.shape[1], classes=10, seed=0).head.in_features
        scorer = setting.samples * (epochs(setting) * step + forwards * forward)
        scoring = scoring_operations(method, setting.samples, width, 10)
        final = setting.epochs * setting.samples * multiply_adds(setting.architecture, x)[1]
        final *= 1.0 if method == "full" else FRACTION
        rows.append({"method": method, "scorer": scorer, "scoring": scoring, "final": final})
    return pd.DataFrame(rows).assign(total=lambda t: t.scorer + t.scoring + t.final)


def bench(profile: str = "ci", repeats: int = 5) -> pd.DataFrame:
    """Wall time of each stage for one seed on one thread, seconds: p20, p50, p80 over `repeats` interleaved runs
    of the scoring, and one run of each training stage."""
    torch.set_num_threads(1)
    setting = choose(profile, PROFILES)
    cohort = Cohort(setting, CLEAN, [TIMED])
    rows = []

    def timed(method: str, stage: str, function):
        start = time.perf_counter()
        value = function()
        rows.append({"method": method, "stage": stage, "seconds": time.perf_counter() - start})
        return value

    timed("every scorer", "train on everything", lambda: cohort.scorers)
    needed = {field for method in selection.METHODS.values() for field in method.needs}
    signals = timed("score-based methods", "other signals", lambda: cohort.signals(needed))
    features = cohort.predicted("trained")[0][0]
    for _ in range(repeats):
        for method, way in METHODS.items():
            kept = timed(
                method,
                "scoring",
                lambda way=way: selection.select(
                    features, cohort.y[0], FRACTION, signals=signals[0], **way.arguments
                ),
            )
    timed("every subset", "train on half", lambda: cohort.train_on(kept[None], setting.recipe(setting.scorer_lr)))
    table = pd.DataFrame(rows).groupby(["method", "stage"], sort=False).seconds
    quantiles = table.quantile([0.2, 0.5, 0.8]).unstack()
    quantiles.columns = ["p20_s", "p50_s", "p80_s"]
    environment = runs.environment()
    return quantiles.reset_index().assign(
        samples=setting.samples,
        features=features.shape[1],
        device=environment["device"],
        cpu=environment["cpu"],
        torch=environment["torch"],
        commit=environment["commit"],
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
