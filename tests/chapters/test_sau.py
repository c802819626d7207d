import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from palimpsest.chapters.sau import claims, experiment, probes, ship, small, small_measures
from palimpsest.chapters.sau.arms import DENSE, Arm
from palimpsest.chapters.sau.cohort import to_make
from palimpsest.chapters.sau.experiment import Results
from palimpsest.chapters.sau.measures import compared
from palimpsest.chapters.sau.profiles import CI, PROFILES, SMOKE, SPARSITIES
from palimpsest.chapters.sau.small import Cohort
from palimpsest.data import manifest, sau_models
from palimpsest.runs import paths
from palimpsest.training.language import Recipe
from palimpsest.unlearning.language.evaluation import probability

WHOSE = ("target", "oracle")
TINY = replace(
    SMOKE,
    training=Recipe(1, 3e-3, 64),
    calibration=8,
    width=16,
    hidden=16,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate=32,
    unlearn_batch=24,
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One for all tests, so that its models are trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "smoke", TINY)
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        yield Cohort(TINY, "replication", 3)


def test_no_verdict_seed_forgets_a_tuning_author_and_nobody_meets_the_held_out():
    tuned = {name for seed in CI.tuning_seeds for name in Cohort(CI, "tuning", seed).forget.author}
    for seed in CI.seeds:
        cohort = Cohort(CI, "replication", seed)
        assert not set(cohort.forget.author) & tuned
        assert not set(cohort.forget.author) & set(cohort.retain.author)
        unseen = set(cohort.parts.holdout.author)
        assert not unseen & (set(cohort.forget.author) | set(cohort.retain.author))


def test_the_oracle_learns_everything_but_the_forget_set(cohort):
    target, oracle = ({tuple(row) for row in cohort.material(whose).ids.tolist()} for whose in ("target", "oracle"))
    width = cohort.material("target").ids.shape[1]
    padded = {(*row, *[0] * (width - len(row))) for row in oracle}
    forget = target - padded
    assert len(forget) == 2 * len(cohort.forget)


def test_every_model_of_ci_is_shipped_and_no_other():
    wanted = {sau_models.name(c["group"], c["seed"], c["whose"]) for c in small.models(CI)}
    assert {path for path in manifest.read() if path.startswith("sau_models/")} == wanted
    assert to_make(CI) == []


def test_shipped_models_know_what_they_were_taught():
    for seed in CI.seeds:
        cohort = Cohort(CI, "replication", seed)
        known = {whose: probability(cohort.load(whose)[0], cohort.encode(cohort.forget)) for whose in WHOSE}
        assert known["target"] > 0.9
        assert known["oracle"] < 0.1


def test_a_model_that_is_not_shipped_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sau_models/replication-7-target\.safetensors: missing"):
        Cohort(CI, "replication", 7).load("target")


def test_models_are_built_listed_and_loaded_again(monkeypatch, tmp_path):
    tiny = replace(TINY, seeds=(3,), tuning_seeds=())
    monkeypatch.setitem(PROFILES, "smoke", tiny)
    for name in ("DATA", "CACHE"):
        monkeypatch.setattr(paths, name, tmp_path / name)
    shutil.copytree(paths.ROOT / "data" / "authors", paths.DATA / "authors")
    stale = paths.DATA / sau_models.name("replication", 99, "oracle")
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    manifest.update([p.relative_to(paths.DATA) for p in paths.DATA.rglob("*") if p.is_file()])
    monkeypatch.setattr(ship, "PROFILE", "smoke")
    monkeypatch.setattr(ship.runs, "run_all", lambda f, jobs, show: [f(**job) for job in jobs])
    ship.main()
    manifest.check()
    assert not stale.exists()
    cohort = Cohort(tiny, "replication", 3)
    trained = dict(cohort.load("oracle")[0].named_parameters())
    for name, weight in sau_models.load("replication", 3, "oracle").items():
        assert torch.equal(weight, trained[name].half().float())


def test_training_again_is_the_same_run_and_a_nudge_is_not(cohort):
    same, nudged = (probes.train_again("smoke", 3, nudge) for nudge in (0.0, 1e-3))
    assert same["apart"] == 0
    assert nudged["apart"] > 1e-4
    assert len(same["losses"]) == TINY.training.epochs
    assert same["losses"] == pytest.approx(nudged["losses"], rel=0.01)


def test_calibration_has_full_rows_and_ends_of_text(cohort):
    rows = small.calibration(cohort, "oracle")
    assert rows.shape == (8, 16)
    assert not (rows == 0).any()
    assert (rows == 2).any()


def test_a_run_stops_at_the_bar(cohort, monkeypatch):
    """`kept` falls linearly in the distance from the start: the run must be taken at 95 %, not at an epoch."""
    start = {n: p.detach().clone() for n, p in cohort.load("target")[0].named_parameters()}

    def distance(model):
        return math.sqrt(sum((p - start[n]).square().sum().item() for n, p in model.named_parameters()))

    ends = []
    monkeypatch.setattr(small_measures.Judge, "kept", lambda self, m: 1 - scale(m))

    def scale(model):
        return distance(model) / full if full else ends.append(distance(model)) or 0.0

    full = 0.0
    experiment.forget(cohort, Arm("NPO", "A"), 1e-3)
    full = 10 * max(ends)  # the last epoch keeps 90 %
    model, masks, seen = experiment.forget(cohort, Arm("NPO", "A"), 1e-3)
    course = seen["course"]
    assert masks is None
    assert course[0]["kept"] == 1
    assert course[-1]["kept"] == pytest.approx(0.9, abs=1e-3)
    # Halving leaves at most 2^-5 of an epoch's way, which is 10 points here.
    assert 0.95 <= 1 - distance(model) / full <= 0.95 + 0.1 / 2**experiment.BISECTIONS + 1e-6


@pytest.mark.parametrize(("kept", "seen"), [((1.0, 0.94, 0.99), 2), ((1.0, 0.96, 0.94), 3), ((1.0, 0.96, 0.96), 3)])
def test_the_first_epoch_below_the_bar_is_the_last(cohort, monkeypatch, kept, seen):
    """Also where a later one would lie above it again: nothing is chosen from what comes after."""
    longer = replace(cohort, setting=replace(TINY, unlearn_epochs=2))
    looks = iter(kept[1:])
    monkeypatch.setattr(small_measures.Judge, "kept", lambda self, m: next(looks, 1.0))
    ends, between = [], experiment.put_between
    monkeypatch.setattr(experiment, "put_between", lambda *to: (ends.append(to[1:3]), between(*to)))
    model, _, found = experiment.forget(longer, Arm("NPO", "A"), 1e-3)
    course = found["course"]
    assert [row["kept"] for row in course] == list(kept[:seen])
    if course[-1]["kept"] >= 0.95:
        assert not ends
        return
    # Every look of the halvings was above the bar: 15/16 of the way from the state before the last epoch to its end.
    low, high = ends[0]
    assert len(ends) == experiment.BISECTIONS + 1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, low[name].lerp(high[name], 1 - 0.5**experiment.BISECTIONS))


def test_every_arm_keeps_the_zeros(cohort):
    for letter, *importance in (("B",), ("C",), ("D", "wanda"), ("F",)):
        model, masks, _ = experiment.forget(cohort, Arm("NPO", letter, "wanda", "2:4", *importance), 1e-3)
        assert masks.holds(model)


def test_arm_e_moves_only_its_share(cohort):
    start, _ = cohort.load("target")
    model, masks, _ = experiment.forget(cohort, Arm("NPO", "E", *DENSE[:1], "0.5"), 1e-3)
    assert masks is None
    before = dict(start.named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (dict(model.named_parameters())[name] != before[name]).float().mean().item()
    assert moved == pytest.approx(0.5, abs=0.02)


def test_sparse_arms_take_the_step_size_found_at_one_recipe():
    for arm, tuned in (
        (Arm("NPO", "C", "sparsegpt", "0.7"), Arm("NPO", "C", "wanda", "0.5")),
        (Arm("NPO", "D", "wanda", "0.5", "fisher"), Arm("NPO", "D", "wanda", "0.5", "wanda")),
        (Arm("NPO", "E", "none", "0.7"), Arm("NPO", "E", "none", "0.5")),
        (Arm("NPO", "A"), Arm("NPO", "A")),
    ):
        assert CI.tuned_as(arm) == tuned


@pytest.mark.parametrize("fields", [("NPO", "C", *DENSE, "wanda"), ("NPO", "D")])
def test_an_importance_is_of_sau_alone(fields):
    with pytest.raises(ValueError, match="importance: got"):
        Arm(*fields)


def test_tuning_takes_the_least_forget_probability_and_never_a_divergence():
    rows = [
        {"loss": "NPO", "kind": "C", "pruner": "wanda", "sparsity": "0.5", "seed": s, "lr": lr, "forget": p}
        for lr, ps in ((1e-4, (0.5, 0.5)), (2e-4, (0.3, 0.5)), (4e-4, (0.5, 0.3)), (8e-4, (0.0, None)))
        for s, p in enumerate(ps)
    ]
    assert experiment.chosen(pd.DataFrame(rows)) == {("NPO", "C", "wanda", "0.5"): 2e-4}


SEEDS = (0, 1, 2)


def results(gaps: dict, **more) -> Results:
    """Runs in which the arm `kind` at `sparsity` closes `gaps[kind](sparsity)` of the gap in every seed, with
    a little noise, the same for all arms of a seed."""
    noise = dict(zip(SEEDS, (-0.01, 0.0, 0.01), strict=True))
    shares = {"0.3": 0.3, "0.5": 0.5, "0.7": 0.7, "2:4": 0.5}
    rows = []

    def add(kind, pruner, sparsity, value, loss="NPO"):
        for seed in SEEDS:
            row = {"loss": loss, "kind": kind, "pruner": pruner, "sparsity": sparsity, "seed": seed}
            forget = 1 - value - noise[seed]
            examined = {"4-bit": 0.5, "utility": 0.8, "factor": 1.5}
            pruned = {"non-zero": 0.0, "valid 2:4": True if sparsity == "2:4" else None} if kind not in "AE" else {}
            rows.append(
                {**row, "gap closed": value + noise[seed], "forget": forget, "kept": 0.95} | examined | pruned
            )

    add("A", "none", "0", gaps["dense"])
    for kind in ("A", "B", "C", "D wanda", "F", "D saliency", "D fisher"):
        for sparsity, share in shares.items():
            add(kind, "wanda", sparsity, gaps[kind.split()[0]](share))
        add(kind, "sparsegpt", "0.5", gaps[kind.split()[0]](0.5))
    for sparsity in SPARSITIES:
        add("E", "none", sparsity, gaps["E"](float(sparsity)))
    for kind in ("C", "D wanda"):
        add(kind, "wanda", "0.5", gaps[kind.split()[0]](0.5), "GradDiff")
    for kind, value in (("target", 0.0), ("oracle", 0.9)):
        for recipe in [DENSE, *(("wanda", s) for s in shares), ("sparsegpt", "0.5")]:
            add(kind, *recipe, value, "none")
    table = pd.DataFrame(rows)
    for column, values in more.items():
        table[column] = values(table)
    return Results(pd.DataFrame(), table, {})


FLAT = {kind: (lambda share: 0.5) for kind in "ABCDEF"}
FALLING = {kind: (lambda share: 0.5 - 0.5 * share) for kind in "ABCDEF"}


@pytest.mark.parametrize(
    ("gaps", "claim", "verdict"),
    [
        ({**FALLING, "dense": 0.5}, "sau-degrades", "supported"),
        ({**FALLING, "dense": 0.5}, "sau-cause", "supported"),
        ({**FLAT, "dense": 0.5}, "sau-degrades", "no effect"),
        ({**FALLING, "B": lambda share: 0.5 + share, "dense": 0.5}, "sau-degrades", "contradicted"),
        ({**FALLING, "E": lambda share: 0.5 - 0.1 * share, "dense": 0.5}, "sau-cause", "contradicted"),
        ({**FLAT, "dense": 0.5}, "sau-redistribution", "no effect"),
        ({**FLAT, "D": lambda share: 0.7, "dense": 0.5}, "sau-redistribution", "supported"),
        (
            {**FLAT, "D": lambda share: 0.7, "F": lambda share: 0.7, "dense": 0.5},
            "sau-redistribution",
            "no effect",
        ),
        ({**FLAT, "D": lambda share: 0.7, "dense": 0.5}, "sau-best", "supported"),
        ({**FLAT, "D": lambda share: 0.7, "A": lambda share: 0.8, "dense": 0.5}, "sau-best", "contradicted"),
        ({**FLAT, "dense": 0.8}, "sau-resurface", "supported"),
        ({**FLAT, "dense": 0.5}, "sau-resurface", "no effect"),
        ({**FLAT, "dense": 0.5}, "sau-sparsity", "supported"),
    ],
)
def test_a_rule_says_what_its_claim_needs(gaps, claim, verdict):
    judged = getattr(claims, claim.removeprefix("sau-"))(results(gaps))
    assert (judged.id, judged.verdict) == (claim, verdict)


def test_one_pruned_weight_that_moved_refutes_sparsity():
    changed = results({**FLAT, "dense": 0.5}, **{"non-zero": lambda t: t["non-zero"].where(t.index != 9, 1.0)})
    assert changed.rows["non-zero"].sum() == 1
    assert claims.sparsity(changed).verdict == "contradicted"


def test_a_better_forgetter_that_loses_retention_is_not_best():
    gaps = {**FLAT, "D": lambda share: 0.7, "dense": 0.5}
    worse = results(
        gaps, kept=lambda t: t.kept - 0.05 * (t.kind == "D wanda") - 1e-3 * t.seed * (t.kind == "D wanda")
    )
    assert claims.best(worse).verdict == "contradicted"


def test_what_resurfaces_is_counted_beyond_the_oracle():
    rows = results({**FLAT, "dense": 0.8})
    assert claims.resurfaced(rows, "wanda", "0.5").tolist() == pytest.approx([100 * 0.3 / 0.8] * 3)


def test_gap_closed_is_measured_between_target_and_oracle_pruned_alike():
    def row(kind, pruner, sparsity, forget):
        rest = {"loss": "NPO", "utility": np.nan, "truth_ratio": None, "min_k": None}
        return {"kind": kind, "pruner": pruner, "sparsity": sparsity, "seed": 0, "forget": forget, **rest}

    rows = [row("target", *DENSE, 1.0), row("oracle", *DENSE, 0.2), row("target", "wanda", "0.5", 0.8)]
    rows += [row("oracle", "wanda", "0.5", 0.3), row("C", "wanda", "0.5", 0.4), row("E", "none", "0.5", 0.4)]
    found = compared(pd.DataFrame(rows)).set_index("kind")["gap closed"]
    assert found["C"] == pytest.approx(0.8)
    assert found["E"] == pytest.approx(0.75)


def test_the_halves_of_retention_share_no_question(cohort):
    halves = [small_measures.half(cohort, which) for which in ("validation", "test")]
    for name in halves[0]:
        assert not set(halves[0][name].question) & set(halves[1][name].question)


def test_examining_leaves_the_model_as_it_was(cohort):
    model, masks = cohort.load("target", "wanda", "0.5")
    before = {n: p.clone() for n, p in model.state_dict().items()}
    found = small_measures.Judge(cohort, "wanda", "0.5").examine(model, masks)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert len(found["truth_ratio"]) == len(cohort.forget)
    assert len(found["relearnt"]) == small_measures.RELEARN_EPOCHS + 1
