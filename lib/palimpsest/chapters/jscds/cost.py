"""What selection costs: counted in multiply-adds (the same on every machine) and timed (recorded by `bench`)."""

import time
from datetime import UTC, datetime

import pandas as pd
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from palimpsest import nets, runs, selection
from palimpsest.chapters.jscds.cohort import CLEAN, METHODS, PROFILES, RESNET, Cohort, test_split
from palimpsest.chapters.shared.profiles import choose

FRACTION = 0.5

# Passes over all N samples before a method can score: trained epochs (E is the full schedule, early the early
# epoch), and forward passes of the finished network. Cross-fitting trains two networks on half each.
PASSES = {
    "full": (lambda s: 0, 0),
    "random": (lambda s: 0, 0),
    "jscds": (lambda s: s.epochs, 1),
    "L2 near-mean": (lambda s: s.epochs, 1),
    "moderate": (lambda s: s.epochs, 1),
    "herding": (lambda s: s.epochs, 1),
    "k-center": (lambda s: s.epochs, 1),
    "low-loss": (lambda s: s.epochs, 1),
    "forgetting": (lambda s: s.epochs, 0),
    "el2n": (lambda s: 2 * s.early_epoch, 2),
    "ccs": (lambda s: 2 * s.early_epoch, 2),
    "grand": (lambda s: s.early_epoch + 1, 0),
    "cleanlab": (lambda s: s.epochs, 1),
}


def multiply_adds(architecture: str, x: torch.Tensor) -> tuple[float, float]:
    """Multiply-adds for one sample of x [1, C, H, W]: (forward pass, training step)."""
    model = nets.build(architecture, channels=x.shape[1], classes=10, seed=0).eval()
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


def count(profile: str, architecture: str = RESNET) -> pd.DataFrame:
    """One row per method at 50 % kept: multiply-adds for `signals` (networks trained to score), `scoring`, `final`
    training, and their `total`; `full` trains once on everything."""
    setting = choose(profile, PROFILES)
    x = test_split(setting).subset(torch.arange(1)).pixels()
    forward, step = multiply_adds(architecture, x)
    width = nets.build(architecture, channels=x.shape[1], classes=10, seed=0).head.in_features
    rows = []
    for method, (epochs, forwards) in PASSES.items():
        final = setting.epochs * setting.samples * step * (1.0 if method == "full" else FRACTION)
        signals = setting.samples * (epochs(setting) * step + forwards * forward)
        scoring = scoring_operations(method, setting.samples, width, 10)
        rows.append({"method": method, "signals": signals, "scoring": scoring, "final": final})
    return pd.DataFrame(rows).assign(total=lambda t: t.signals + t.scoring + t.final)


def bench(profile: str = "ci", repeats: int = 5) -> pd.DataFrame:
    """Wall time of each stage for one seed on one thread, seconds: p20, p50, p80 over `repeats` interleaved runs
    of the scoring, and one run of each training stage."""
    torch.set_num_threads(1)
    setting = choose(profile, PROFILES)
    cohort = Cohort(setting, RESNET, CLEAN, [setting.tuning_seed], setting.lr_grid[1])
    rows = []

    def timed(method: str, stage: str, function):
        start = time.perf_counter()
        value = function()
        rows.append({"method": method, "stage": stage, "seconds": time.perf_counter() - start})
        return value

    timed("every scorer", "train on everything", lambda: cohort.scorers)
    signals = timed("score-based methods", "other signals", cohort.signals)
    features = cohort.embed(cohort.scorers[0], selection.PRESETS["paper_text"])[0]
    for _ in range(repeats):
        for method, arguments in METHODS.items():
            kept = timed(
                method,
                "scoring",
                lambda arguments=arguments: selection.select(
                    features, cohort.y[0], FRACTION, signals=signals[0], **arguments
                ),
            )
    timed("every subset", "train on half", lambda: cohort.train_on(kept[None], setting.recipe(0.03)))
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
