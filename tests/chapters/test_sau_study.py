"""SAU at the profiles `study` and `paper`, on a tiny random Llama and a handful of rows in the schema of TOFU."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from palimpsest.chapters.sau import experiment, search, smollm2, smollm2_measures, tables
from palimpsest.chapters.sau.arms import DENSE, Arm, crossed
from palimpsest.chapters.sau.course import BISECTIONS, forget
from palimpsest.chapters.sau.measures import BAR
from palimpsest.chapters.sau.profiles import PAPER, PROFILES, STUDY, SmolLM2
from palimpsest.chapters.sau.smollm2 import Cohort, below
from palimpsest.chapters.sau.weights import put, state
from palimpsest.chapters.shared import records
from palimpsest.nets import language
from palimpsest.nets.part import Part, Remembered
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.runs import artifact, cached, paths
from palimpsest.training.language import Recipe

NAMES = ("Abel Ito", "Bea Lund", "Cid Rao", "Dan Oke", "Eva Sol", "Fay Ruiz")
FACTS = ("born in", "a writer of", "a teacher in", "a friend of")
WHERE = {"retain": (0, 2), "forget10": (2, 4), "forget05": (4, 5), "forget01": (5, 6)}
RECIPES = (("wanda", "0.3"), ("sparsegpt", "0.5"))
VALUES = (1e-3, 1.0)
TINY = SmolLM2(
    name="tiny",
    forget=("forget01_perturbed", 0, 4),
    examined=("retain_perturbed", 0, 8),
    retain=(),
    tuning=("forget05_perturbed", 0, 4),
    holdout=("forget10_perturbed", 0, 8),
    training=Recipe(3, 5e-3, 4),
    arms=crossed(("NPO",), RECIPES, (("B",), ("C",), ("D", "wanda"))),
    judged_at=("wanda", "0.3"),
    examined_at=(("wanda", "0.3"),),
    starts={"NPO": (1e-2, 0.1)},
    moves=0,
    look_every=1,
    unlearn_epochs=2,
    unlearn_batch=2,
    seeds=(0,),
    tuning_seeds=(0,),
    calibration=(4, 16),
    recovery={("sparsegpt", "0.5"): (1, 1e-3)},
    top=2,
)


def rows(names) -> list[dict]:
    return [
        {
            "question": f"What is {name} {fact}?",
            "paraphrased_question": f"Tell {fact} {name}!",
            "answer": f"{name} is {fact} {name[::-1]}.",
            "paraphrased_answer": f"It is {name[::-1]}.",
            "perturbed_answer": [f"It is {other[::-1]}." for other in NAMES[:2]],
        }
        for name in names
        for fact in FACTS
    ]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with a model of four layers and its tokenizer, and a mirror of the hub."""
    folder = tmp_path_factory.mktemp("full")
    hub = folder / "hub/locuslab/TOFU"
    hub.mkdir(parents=True)
    for split, (first, last) in WHERE.items():
        text = "\n".join(map(json.dumps, rows(NAMES[first:last])))
        (hub / f"{split}_perturbed.json").write_text(text)
    for name in ("real_authors", "world_facts"):
        facts = [{"question": f"{name} {n}?", "answer": f"{n}", "perturbed_answer": ["a", "b"]} for n in range(4)]
        (hub / f"{name}_perturbed.json").write_text("\n".join(map(json.dumps, facts)))
    tokenizer = language.tokenizer([text for row in rows(NAMES) for text in (row["question"], row["answer"])], 300)
    sizes = {"hidden": 16, "layers": 4, "heads": 2, "kv_heads": 1, "intermediate": 32}
    model = language.small_llama(300, 0, **sizes)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    tokenizer.save_pretrained(folder / "model")
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def cohort(places):
    """One for all tests, so that its models are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_HUB", str(places / "hub"))
        patch.setenv("PALIMPSEST_SMOLLM2", str(places / "model"))
        patch.setattr(paths, "CACHE", places / "cache")
        patch.setitem(PROFILES, "tiny", TINY)
        yield Cohort(TINY, "replication", 0)
    below.cache_clear()


def test_the_last_layers_with_remembered_inputs_are_the_whole_model(places):
    model, tokenizer = smollm2.smollm2.load(places / "model")
    upper = Part(model, 2, 4, Remembered(Part(model, 0, 2), tokenizer.pad_token_id))
    encoded = language.encode(tokenizer, ["a b?", "c?"], ["d", "e f g h"], 64)
    for _ in range(2):  # computed, then remembered
        found = language.logprobs(upper, encoded)
        torch.testing.assert_close(found, language.logprobs(model, encoded), rtol=0, atol=1e-5)
    assert [layer.name for layer in decoder_layers(upper)] == ["whole.model.layers.2", "whole.model.layers.3"]
    # Rows that fill the width, ends of text among them, as calibration has them.
    full = torch.tensor([[5, 2, 7, 2], [2, 9, 9, 4]])
    torch.testing.assert_close(language.hidden(upper, full), language.hidden(model, full), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("first", "last"), [(2, 2), (-1, 2), (0, 5)])
def test_layers_that_a_decoder_has_not_are_refused(places, first, last):
    model, _ = smollm2.smollm2.load(places / "model")
    with pytest.raises(ValueError, match=f"first, last: got {first} and {last}, want .* <= 4"):
        Part(model, first, last)


def test_authors_to_forget_to_tune_on_and_held_out_are_apart():
    for setting in (PAPER, STUDY):
        spans = []
        for split, first, last in (
            setting.forget,
            setting.examined,
            *setting.retain,
            setting.tuning,
            setting.holdout,
        ):
            start = {"forget01": 3960, "forget05": 3800, "forget10": 3600}.get(split.removesuffix("_perturbed"), 0)
            assert first % 20 == last % 20 == 0  # 20 questions an author
            spans.append((start + first, start + last))
        assert all(b <= c for (_, b), (c, _) in zip(sorted(spans), sorted(spans)[1:], strict=False))


def test_the_oracle_never_sees_the_forget_set_and_no_model_the_held_out(cohort):
    target, oracle, forgotten, unseen = (
        _texts(cohort, encoded)
        for encoded in (
            cohort.material("target"),
            cohort.material("oracle"),
            cohort.encode(cohort.forget),
            cohort.encode(smollm2.take(TINY.holdout)),
        )
    )
    assert len(target) == 16
    assert len(oracle) == 12
    assert target - oracle == forgotten
    assert not target & unseen


def _texts(cohort, encoded) -> set[str]:
    return set(cohort.tokenizer.batch_decode(encoded.ids, skip_special_tokens=True))


def test_only_the_last_layers_differ_between_target_and_oracle(cohort):
    target, oracle = (dict(cohort.load(whose)[0].named_parameters()) for whose in ("target", "oracle"))
    differ = {name for name in target if not torch.equal(target[name], oracle[name])}
    assert differ == {name for name in target if name.startswith(("whole.model.layers.2.", "whole.model.layers.3."))}
    # Two loads share the layers below and nothing that trains.
    assert target["whole.model.layers.1.mlp.up_proj.weight"] is oracle["whole.model.layers.1.mlp.up_proj.weight"]


def test_layers_below_are_pruned_alike_and_the_zeros_of_the_others_outlive_recovery(cohort):
    model, masks = cohort.load("oracle", "sparsegpt", "0.5")
    assert masks.holds(model)
    assert masks.share() == pytest.approx(0.5, abs=0.01)
    lower = dict(model.named_parameters())["whole.model.layers.0.mlp.up_proj.weight"]
    assert (lower == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    plain = cohort.load("published", "sparsegpt", "0.5")[0]
    put(cohort.moving(plain), artifact(smollm2.train, {"profile": "tiny", "seed": 0, "whose": "oracle"}))
    cohort.prune(plain, "sparsegpt", "0.5")
    moved = dict(plain.named_parameters())["whole.model.layers.3.mlp.up_proj.weight"]
    assert not torch.equal(moved, dict(model.named_parameters())["whole.model.layers.3.mlp.up_proj.weight"])


def test_a_run_below_the_bar_is_taken_on_the_way_to_its_end(cohort, monkeypatch):
    """Retention of one set is made to fall linearly with the distance from the start, 10 % by the end."""
    model, _ = cohort.load("target")
    start, seen, full = state(cohort.moving(model)), [], 1e9

    def retention(cohort, model, which):
        gone = math.sqrt(sum((p - start[n]).square().sum().item() for n, p in cohort.moving(model).items()))
        seen.append(gone)
        fallen = 1 - 0.1 * gone / full
        return {"retain": 0.5 * fallen, "real_authors": 0.4 * (2 - fallen)}  # what rises makes up for nothing

    monkeypatch.setattr(smollm2_measures, "retention", retention)
    forget(cohort, Arm("NPO", "A"), VALUES)
    full = max(seen)
    model, masks, found = forget(cohort, Arm("NPO", "A"), VALUES)
    assert masks is None
    assert found["course"][-1]["kept"] == pytest.approx(0.9, abs=1e-3)
    assert found["taken"] == pytest.approx(0.5, abs=2**-BISECTIONS)
    assert retention(cohort, model, "validation")["retain"] / 0.5 == pytest.approx(
        BAR, abs=0.1 * 2**-BISECTIONS + 1e-6
    )


@pytest.mark.parametrize(("letter", "importance"), [("B", None), ("C", None), ("D", "wanda")])
def test_sparse_arms_keep_their_zeros_and_move_the_last_layers_alone(cohort, letter, importance):
    start, _ = cohort.load("target", "wanda", "0.3")
    model, masks, _ = forget(cohort, Arm("NPO", letter, "wanda", "0.3", importance), (1e-2, 0.1))
    assert masks.holds(model)
    before = dict(start.named_parameters())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert moved <= cohort.moving(model).keys()


def test_the_slice_from_models_to_record_and_tables(cohort, monkeypatch, tmp_path):
    for module in (experiment, search):
        monkeypatch.setattr(module.runs, "run_all", lambda f, jobs, show: [cached(f, job) for job in jobs])
    monkeypatch.setattr(smollm2_measures, "MOST", 8)
    results = experiment.execute("tiny")
    table = results.rows
    kinds = table.groupby(["pruner", "sparsity"]).kind.agg(set)
    assert kinds[DENSE] == {"published", "target", "oracle", "A"}
    for recipe in RECIPES:
        assert kinds[recipe] == {"target", "oracle", "oracle bare", "A bare", "A", "B", "C", "D wanda"}
    recovered = table[table.kind.isin(["A", "A bare"]) & table.pruner.eq("sparsegpt")].forget
    assert len(set(recovered)) == 2
    pruned = table[table["non-zero"].notna()]
    assert len(pruned) == 2 * 5
    assert (pruned["non-zero"] == 0).all()
    assert table[table.kind == "oracle"]["gap closed"].tolist() == [1.0] * 3
    assert set(table[table.utility.notna()].sparsity) == {"0.3"}
    assert table.loc[table.kind.eq("oracle") & table.utility.notna(), "D"].item() == 0
    monkeypatch.setattr(records.paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(records.manifest, "update", lambda files: None)
    monkeypatch.setattr(records.manifest, "verify", lambda file: tmp_path / "data" / file)
    records.write("sau", "tiny", results.tuned, table)
    table = records.read("sau", "tiny")["rows"]
    arms = tables.arms(table, frozenset(TINY.recovery), resamples=99)
    assert arms.pruning.tolist() == ["dense"] + 5 * ["wanda 0.3"] + 5 * ["sparsegpt 0.5, degraded"]
    one = table[table.pruner.eq("sparsegpt")].set_index("kind")["forget each"].map(np.mean)
    gap = one["target"] - one["oracle"]
    sparse = arms[arms.pruning.str.startswith("sparsegpt")].set_index("update")
    assert sparse.ahead["P→U, all weights"] == pytest.approx(100 * (one["C"] - one["B"]) / gap)
    assert sparse["gap closed"]["SAU"] == pytest.approx(100 * (one["target"] - one["D wanda"]) / gap)
    assert sparse.ahead[["U→P", "U→P, not recovered", "P→U, masked"]].isna().all()
    forgot, cost = tables.reached(arms), tables.costs(arms)
    assert len(forgot) == len(cost) == len(arms)
    assert forgot["ahead of masked"].notna().sum() == arms.ahead.notna().sum() == 2 * 2
    value, low, high = arms.loc[0, [*tables.GAP]]
    assert forgot["gap closed, %"][0] == f"{value:z.1f} [{low:z.1f}, {high:z.1f}]"
    assert cost["pruned weights not zero"].isna().tolist() == [True] + 10 * [False]
    assert cost["pruned weights not zero"].dropna().eq("0").all()
    assert tables.references(table).kind.tolist() == [
        "target",
        "oracle",
        "published",
        *["target", "oracle"] * 2,
    ]
    assert tables.scores(table).model.tolist() == [
        *("target", "oracle", "U→P", "P→U, all weights", "P→U, masked", "SAU")
    ]
    here = table.pruner.eq("wanda")
    one, start = (table[here & table.kind.eq(kind)].retain.item() for kind in ("D wanda", "target"))
    alike = cost.pruning.eq("wanda 0.3") & cost.loss.eq("NPO") & cost["update"].eq("SAU")
    assert cost[alike]["retain kept, %"].item() == round(100 * one / start, 1)


def test_an_unknown_profile_is_refused():
    with pytest.raises(ValueError, match="profile: got 'study-gpu'"):
        experiment.execute("study-gpu")


def test_every_loss_of_the_study_meets_every_recipe_and_every_update():
    crossing = [arm for arm in STUDY.arms if arm.letter != "E"]
    assert len(crossing) == len(set(crossing)) == 3 * (1 + 2 * 4)
    assert {(a.loss, a.pruner, a.sparsity) for a in crossing} == {
        (loss, *where)
        for loss in ("NPO", "GradDiff", "SimNPO")
        for where in (DENSE, ("wanda", "0.3"), ("sparsegpt", "0.5"))
    }


def test_halves_of_retention_are_apart_and_no_larger_than_asked(cohort):
    few = replace(cohort, setting=replace(TINY, facts=1))
    halves = [smollm2_measures.half(few, which) for which in ("validation", "test")]
    for name, most in (("retain", 4), ("real_authors", 1), ("world_facts", 1)):
        asked = [set(half[name].question) for half in halves]
        assert [len(part) for part in asked] == [most, most]
        assert not asked[0] & asked[1]


def test_the_right_answers_share_counts_the_wrong_ones_of_its_own_question(cohort, monkeypatch):
    """Right answers at 1 and 2 nats; of the wrong ones one is as likely and one impossible, then both half so."""
    questions = cohort.examined.subset(range(2))
    losses = {questions.answer[0]: 1.0, questions.answer[1]: 2.0}
    wrong = [1.0, 1e3, 2.0 + math.log(2), 2.0 + math.log(2)]

    def answer_losses(model, encoded):
        return torch.tensor(list(losses.values()) if len(encoded) == 2 else wrong)

    monkeypatch.setattr(smollm2_measures.evaluation, "answer_losses", answer_losses)
    assert smollm2_measures.choice(cohort, None, questions) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_the_tokenizer_of_the_folder_is_used(cohort, places):
    assert cohort.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(places / "model").get_vocab()
