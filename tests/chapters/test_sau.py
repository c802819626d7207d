import math
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from tiny_sau import TINY

from palimpsest.chapters.sau import course, probes, search, ship, small, small_measures
from palimpsest.chapters.sau.arms import DENSE, KEYS, Arm
from palimpsest.chapters.sau.cohort import to_make
from palimpsest.chapters.sau.course import forget
from palimpsest.chapters.sau.measures import BAR
from palimpsest.chapters.sau.profiles import CI, JUDGED_AT, MAIN, PROFILES
from palimpsest.chapters.sau.small import Cohort
from palimpsest.data import manifest, sau_models
from palimpsest.runs import paths
from palimpsest.unlearning.language.evaluation import probability

WHOSE = ("target", "oracle")
VALUES = (1e-3, 1.0)


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
    wanted = {sau_models.name(*model.values()) for model in small.models(CI)}
    assert {path for path in manifest.read() if path.startswith("sau_models/")} == wanted | {sau_models.SEARCH}
    assert to_make(CI) == []


def test_shipped_models_know_what_they_were_taught():
    for seed in CI.seeds[:4]:
        cohort = Cohort(CI, "replication", seed)
        for recipe in (DENSE, *CI.recovery):
            known = {}
            for whose in WHOSE:
                model, masks = cohort.load(whose, *recipe)
                known[whose] = probability(model, cohort.encode(cohort.forget))
                assert recipe == DENSE or masks.holds(model)
            assert known["target"] > 0.85
            assert known["oracle"] < 0.1


def test_a_model_that_is_not_shipped_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sau_models/replication-7-target\.safetensors: missing"):
        Cohort(CI, "replication", 7).load("target")


def test_models_are_built_listed_and_loaded_again(monkeypatch, tmp_path):
    tiny = replace(TINY, seeds=(3,), tuning_seeds=(1000,))
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
    monkeypatch.setattr(search.runs, "run_all", lambda f, jobs, show: [f(**job) for job in jobs])
    ship.models()
    ship.search()
    manifest.check()
    assert not stale.exists()
    cohort = Cohort(tiny, "replication", 3)
    for recipe in (DENSE, JUDGED_AT):
        model, masks = cohort.load("oracle", *recipe)
        trained = dict(model.named_parameters())
        shapes = {name: p.shape for name, p in trained.items()}
        weights, kept = sau_models.load(sau_models.name("replication", 3, "oracle", *recipe), shapes)
        assert (set(weights) == set(trained)) == (recipe == DENSE)
        for name, weight in weights.items():
            assert torch.equal(weight, trained[name].half().float())
        assert masks is None or all(torch.equal(kept[name], mask) for name, mask in masks.kept.items())
    assert len(sau_models.search()) == len(tiny.arms) + len(tiny.rivals) + len(tiny.asides)


def test_training_again_is_the_same_run_and_a_nudge_is_not(cohort):
    same, nudged = (probes.train_again("smoke", 3, nudge) for nudge in (0.0, 1e-3))
    assert same["apart"] == 0
    assert nudged["apart"] > 1e-4
    assert len(same["losses"]) == TINY.training.epochs
    assert same["losses"] == pytest.approx(nudged["losses"], rel=0.01)


def test_calibration_has_full_rows_and_ends_of_text(cohort):
    rows = small.calibration(cohort)
    assert rows.shape == (8, 16)
    assert not (rows == 0).any()
    assert (rows == 2).any()


def looks_at(monkeypatch, seen):
    """Judges see these (forget, kept) one after another, and the last again and again."""
    found = [{"forget": forget, "kept": kept} for forget, kept in seen]
    monkeypatch.setattr(small_measures.Judge, "look", lambda self, model: found.pop(0) if found[1:] else found[0])


@pytest.mark.parametrize(
    ("seen", "taken", "dip"),
    [
        (((0.9, 1.0), (0.5, 0.96), (0.3, 0.94), (0.2, 0.97)), 3, 2),  # a dip is no end
        (((0.9, 1.0), (0.3, 0.96), (0.4, 0.97), (0.5, 0.98)), 1, None),  # the least, not the last
        (((0.9, 1.0), (0.9, 0.99), (0.95, 0.99), (0.9, 0.99)), 0, None),  # nothing was forgotten
    ],
)
def test_a_run_is_taken_where_it_has_forgotten_most_at_the_bar(cohort, monkeypatch, seen, taken, dip):
    longer = replace(cohort, setting=replace(TINY, unlearn_epochs=2, unlearn_batch=40, look_every=1))
    states, plain = [], course.unlearn

    def watched(model, *rest, after_update, **more):
        def look(number):
            states.append({n: p.detach().clone() for n, p in model.named_parameters()})
            return after_update(number)

        states.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return plain(model, *rest, after_update=look, **more)

    monkeypatch.setattr(course, "unlearn", watched)
    looks_at(monkeypatch, [*seen, seen[-1]])
    model, _, found = forget(longer, Arm("NPO", "A"), VALUES)
    assert (found["taken"], found["dip"]) == (taken, dip)
    assert all(torch.equal(p, states[taken][n]) for n, p in model.named_parameters())


def test_a_run_that_ends_below_the_bar_is_also_looked_at_on_the_way_back(cohort, monkeypatch):
    """Retention falls linearly in the distance from the start, to 90 % at the end; forgetting goes on."""
    start = {n: p.detach().clone() for n, p in cohort.load("target")[0].named_parameters()}
    ends = []

    def distance(model):
        return math.sqrt(sum((p - start[n]).square().sum().item() for n, p in model.named_parameters()))

    def look(self, model):
        ends.append(distance(model))
        gone = distance(model) / full
        return {"forget": 1 - gone, "kept": 1 - gone}

    monkeypatch.setattr(small_measures.Judge, "look", look)
    whole, full = replace(cohort, setting=replace(TINY, look_every=2)), 1e9
    forget(whole, Arm("NPO", "A"), VALUES)
    full = 10 * max(ends)
    model, masks, found = forget(whole, Arm("NPO", "A"), VALUES)
    assert masks is None
    assert found["course"][-1]["kept"] == pytest.approx(0.9, abs=1e-3)
    assert found["taken"] == pytest.approx(0.5, abs=2.0**-course.BISECTIONS)
    assert BAR <= 1 - distance(model) / full <= BAR + 0.1 / 2**course.BISECTIONS + 1e-6


def test_models_are_looked_at_every_so_many_updates(cohort):
    rarely = replace(cohort, setting=replace(TINY, unlearn_epochs=3, unlearn_batch=24, look_every=2))
    _, _, found = forget(rarely, Arm("NPO", "A"), VALUES)
    assert len(found["course"]) == 1 + 3 * 2 // 2


def test_every_arm_keeps_the_zeros(cohort):
    for letter, *importance in (("B",), ("C",), ("D", "wanda"), ("F",)):
        model, masks, _ = forget(cohort, Arm("NPO", letter, "wanda", "2:4", *importance), VALUES)
        assert masks.holds(model)


def test_arm_e_moves_only_its_share(cohort):
    start, _ = cohort.load("target")
    model, masks, _ = forget(cohort, Arm("NPO", "E", *DENSE[:1], "0.5"), VALUES)
    assert masks is None
    before = dict(start.named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (dict(model.named_parameters())[name] != before[name]).float().mean().item()
    assert moved == pytest.approx(0.5, abs=0.02)


def test_an_aside_differs_in_what_it_says(cohort, monkeypatch):
    """Frozen embeddings stay; a second name draws other batches; SGD and λ by the gradient take other steps."""
    start = dict(cohort.load("target", *JUDGED_AT)[0].named_parameters())

    def ends(**fields):
        letter = "D" if "lost" in fields else "C"
        this = Arm("NPO", letter, *JUDGED_AT, "wanda" if letter == "D" else None, **fields)
        return dict(forget(cohort, this, (1e-2, 0.1))[0].named_parameters())

    falling = iter(range(10**6, 0, -1))
    monkeypatch.setattr(small_measures.Judge, "look", lambda self, model: {"forget": next(falling), "kept": 1.0})
    plain, frozen, again = ends(), ends(frozen=True), ends(again=True)
    sgd, by_direction, by_gradient = ends(optimiser="sgd"), ends(lost="direction"), ends(lost="gradient")
    embedding = "model.embed_tokens.weight"
    assert torch.equal(frozen[embedding], start[embedding])
    assert not torch.equal(plain[embedding], start[embedding])
    one = "model.layers.0.mlp.up_proj.weight"
    for a, b in ((plain, again), (plain, sgd), (by_direction, by_gradient)):
        assert not torch.equal(a[one], b[one])


def surface(optimum, tops=1.0):
    """A search that sees a cone over the places of each arm, with the same noise for all."""

    def run_all(function, jobs, show):
        for job in jobs:
            lr, alpha = job["values"]
            place = (2 * math.log2(lr / 4e-3), 2 * math.log2(alpha / 1.4))
            away = math.dist(place, optimum)
            yield None if away > 6 else tops - 0.1 * away + 1e-3 * (job["seed"] % 2)

    return lambda function, jobs, show: list(run_all(function, jobs, show))


@pytest.mark.parametrize("optimum", [(0, 0), (3, -2), (-1, 1)])
def test_the_search_climbs_until_no_neighbour_is_better(monkeypatch, optimum):
    setting = replace(CI, arms=(Arm("NPO", "A"),), rivals=(), asides=())
    monkeypatch.setattr(search.runs, "run_all", surface(optimum))
    found = search.trials(setting)
    values = search.chosen(found)[Arm("NPO", "A").key]
    assert values == search.values_at(CI.start(Arm("NPO", "A")), optimum)
    tried = {tuple(row) for row in found[["lr steps", "alpha steps"]].to_numpy().tolist()}
    assert {(optimum[0] + a, optimum[1] + b) for a, b in search.MOVES} <= tried
    assert len(found) == len(tried) * len(CI.tuning_seeds)  # no place twice
    few = search.trials(replace(setting, moves=0))
    assert len(few) == len(CI.tuning_seeds)


def test_what_diverged_on_one_seed_is_not_chosen():
    row = dict(zip(KEYS, Arm("NPO", "A").key, strict=True))
    rows = [
        row | {"lr": lr, "alpha": 1.0, "seed": seed, "gap closed": gap}
        for lr, gaps in ((1e-3, (0.5, 0.5)), (2e-3, (0.9, None)), (4e-3, (0.7, 0.5)))
        for seed, gap in enumerate(gaps)
    ]
    assert search.chosen(pd.DataFrame(rows)) == {Arm("NPO", "A").key: (4e-3, 1.0)}


def test_a_rival_runs_where_its_loss_did_best():
    rows = [
        arm.row | {"lr": 1e-3, "alpha": 1.0, "seed": seed, "gap closed": level}
        for arm in (*CI.arms, *CI.rivals)
        for seed in (0, 1)
        for level in [
            0.9 if (arm.loss, arm.letter) in (("RMU", "A"), ("NPO", "B")) else 0.5 + 0.01 * (arm.loss == MAIN)
        ]
    ]
    assert [(arm.loss, arm.letter) for arm in search.elected(CI, pd.DataFrame(rows))] == [("RMU", "A")]


def test_the_shipped_search_ends_inside_and_every_arm_has_its_values():
    found = sau_models.search()
    values = search.chosen(found)
    for arm in (*CI.arms, *CI.rivals, *CI.asides):
        part = search.alike(found, **arm.row)
        tried = {tuple(row) for row in part[["lr steps", "alpha steps"]].to_numpy().tolist()}
        lr, alpha = values[arm.key]
        (place,) = {
            tuple(r)
            for r in part[part.lr.eq(lr) & part.alpha.eq(alpha)][["lr steps", "alpha steps"]].to_numpy().tolist()
        }
        assert search.values_at(CI.start(arm), place) == (lr, alpha)
        assert {(place[0] + a, place[1] + b) for a, b in search.MOVES} <= tried, arm


def test_a_step_is_taken_apart():
    """On a shipped model: masking keeps less than the whole step, lengthening turns nothing."""
    rows = pd.DataFrame(probes.steps("ci", CI.seeds[0], *JUDGED_AT)).set_index("step")
    assert rows.loc["unmasked", ["length", "cosine", "progress"]].tolist() == pytest.approx([1, 1, 1])
    assert rows.loc["masked, as long", "length"] == pytest.approx(rows.loc["redistributed", "length"])
    assert rows.loc["masked, as long", "cosine"] == pytest.approx(rows.loc["masked", "cosine"])
    assert rows.loc["masked", "cosine"] == pytest.approx(rows.loc["masked", "length"], rel=1e-6)  # a projection
    assert rows.progress["masked"] < rows.progress["redistributed"] <= 1.05


@pytest.mark.parametrize("fields", [("NPO", "C", *DENSE, "wanda"), ("NPO", "D")])
def test_an_importance_is_of_sau_alone(fields):
    with pytest.raises(ValueError, match="importance: got"):
        Arm(*fields)


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
