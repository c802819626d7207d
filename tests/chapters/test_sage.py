from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from palimpsest import decoding
from palimpsest.chapters.sage import claims, experiment, measures, probes, stepper
from palimpsest.chapters.sage.arms import DEPTH, NODES, POLICIES, Arm, candidates
from palimpsest.chapters.sage.profiles import PROFILES
from palimpsest.chapters.sage.requests import TUNING_PICTURES
from palimpsest.chapters.sage.results import Results, forwards_per_token, size, tau
from palimpsest.chapters.sage.shipped import SHIPPED
from palimpsest.data import fashion_mnist

SEEDS = (0, 1, 2)


def row(arm, seed, accepted, *, request=0, sizes=None, alphas=None, same=True):
    """A decode of these accepted drafts per round: every round gives one token more."""
    rounds = len(accepted)
    return {
        "arm": arm,
        "seed": seed,
        "request": request,
        "tokens": list(range(1 + sum(accepted) + rounds)),
        "accepted": accepted,
        "sizes": sizes or [10] * rounds,
        "depths": [4] * rounds,
        "alphas": alphas or [0.5] * rounds,
        "target forwards": 1 + rounds,
        "draft forwards": 1 + 4 * rounds,
        "same": same,
    }


def results(rows, followed=(), arms=()):
    """The arms that are not given are SAGE as stated."""
    table, nothing = pd.DataFrame(rows), pd.DataFrame()
    arms = {name: Arm("sage") for name in table.arm.unique()} | dict(arms)
    return Results(nothing, table, arms, pd.DataFrame(followed), {"vision": 0.125}, nothing, {})


def constant(levels, jitter=0.02):
    """Arms of constant accepted length, with a little spread over seeds that is the arm's own."""
    rounds = 200
    rows = []
    for place, (arm, level) in enumerate(levels.items()):
        for seed in SEEDS:
            total = round(rounds * level * (1 + jitter * np.sin(7 * place + 3 * seed)))
            accepted = [total // rounds + (i < total % rounds) for i in range(rounds)]
            rows.append(row(arm, seed, accepted))
    return rows


def test_no_verdict_asks_about_a_picture_that_tuning_saw():
    test = fashion_mnist.load().test
    tuned = {image.numpy().tobytes() for image in test.images[:TUNING_PICTURES]}
    later = {image.numpy().tobytes() for image in test.images[TUNING_PICTURES:]}
    processor = SHIPPED.processor
    pixels = {
        name: {x.numpy().tobytes() for x in processor("?", test.images[part])["pixel_values"]}
        for name, part in (("tuned", slice(0, TUNING_PICTURES)), ("later", slice(TUNING_PICTURES, None)))
    }
    assert tuned
    assert later
    for group, seeds, allowed in (
        ("tuning", PROFILES["ci"].tuning_seeds, "tuned"),
        ("evaluation", PROFILES["ci"].seeds, "later"),
    ):
        for seed in seeds:
            asked = PROFILES["ci"].inputs(group, seed, "target")
            assert len(asked) == PROFILES["ci"].requests
            assert all(one["pixel_values"][0].numpy().tobytes() in pixels[allowed] for one in asked)


def test_both_pairs_are_asked_about_the_same_pictures():
    asked = PROFILES["ci"].inputs("evaluation", 60, "text-target")
    pictures = PROFILES["ci"].inputs("evaluation", 60, "target")
    tokenizer = SHIPPED.processor.tokenizer
    for text, picture in zip(asked, pictures, strict=True):
        prompt = tokenizer.decode(picture["input_ids"][0], skip_special_tokens=True)
        assert tokenizer.decode(text["input_ids"][0], skip_special_tokens=True).startswith(prompt)


def test_every_setting_of_tuning_stays_within_the_budget():
    acceptance = [0.7, 0.1, 0.05, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01]
    settings = candidates(acceptance)
    assert {len(tried) for tried in settings.values()} == {4}
    assert set(settings) == set(POLICIES) - {"autoregressive", "specvlm"}
    for parents in (option["parents"] for option in settings["static"]):
        tree = decoding.Tree(parents)
        assert len(tree) <= NODES
        assert tree.depth <= DEPTH
    for policy, tried in settings.items():
        for options in tried:
            Arm(policy, options).make_policy()
            assert options.get("nodes", 0) <= NODES
            assert max(options.get("depth", 0), options.get("length", 0)) <= DEPTH


def test_tau_size_and_cost_on_a_hand_computed_case():
    table = pd.DataFrame([row("a", 0, [2, 0, 4], sizes=[10, 20, 30]), row("a", 0, [1], sizes=[40])])
    assert tau(table) == (2 + 0 + 4 + 1) / 4
    assert size(table) == (10 + 20 + 30 + 40) / 4
    # 4 target forwards and 16 of the drafter after the prefills, 7 accepted and 4 bonus tokens.
    assert forwards_per_token(table, 0.25) == pytest.approx((4 + 0.25 * 16) / 11)


def test_rounds_leave_out_the_last_and_look_back_by_one():
    found = measures.rounds(
        results([row("a", 0, [1, 2, 3], alphas=[0.1, 0.2, 0.3]), row("a", 0, [4, 5], request=1, alphas=[0.6, None])]),
        "a",
    )
    assert found.accepted.tolist() == [1, 2, 4]
    assert found.alpha.tolist() == [0.1, 0.2, 0.6]
    assert found.before.isna().tolist() == [True, False, True]
    assert found.before.iloc[1] == 0.1


def test_memory_is_the_correlation_with_what_was_lag_steps_before():
    up_and_down = [np.array([0.0, 1.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0])]
    assert measures.memory(up_and_down, 1) == pytest.approx(-1)
    assert measures.memory(up_and_down, 2) == pytest.approx(1)


def test_accepted_length_until_a_length_counts_the_round_that_crosses_it_and_long_texts_only():
    accepted = [3, 0, 7, *[1] * 50]  # 1 + 4, 6, 14, 16, … tokens after the rounds
    found = results([row("a", 0, accepted), row("a", 0, [9], request=1)])
    assert len(found.decodes.tokens[0]) >= max(measures.LENGTHS) > len(found.decodes.tokens[1])
    assert measures.tau_until(found, "a", 12)[0] == pytest.approx((3 + 0 + 7) / 3)
    assert measures.tau_until(found, "a", 5)[0] == pytest.approx(3)
    assert measures.tau_until(found, "a", 15)[0] == pytest.approx((3 + 0 + 7 + 1) / 4)


@pytest.mark.parametrize(("sage_tau", "verdict"), [(5.0, "supported"), (3.5, "contradicted"), (2.0, "contradicted")])
def test_longer_needs_to_win_at_both_budgets(sage_tau, verdict):
    levels = {"sage": sage_tau, "sage, tuned": 3, "static": 4, "static, small": 3, "eagle2": 4}
    found = results(constant(levels | {"opt_tree": 4, "chain": 3, "specvlm": 2.5}))
    judged = claims.longer(found)
    assert judged.verdict == verdict
    assert judged.measured.mean == pytest.approx(sage_tau - 4, abs=0.2)


@pytest.mark.parametrize(
    ("left", "same", "verdict"),
    [((5.0, 4.95), True, "supported"), ((5.0, 4.95), False, "contradicted"), ((5.0, 4.5), True, "contradicted")],
)
def test_pruning_needs_both_ratios_and_an_unchanged_text(left, same, verdict):
    levels = {"sage": 5.0, "attention 0.8": left[0], "attention 0.9": left[1], "random 0.8": 1.0}
    rows = constant(levels, jitter=0.0)
    rows[-1]["same"] = same
    arms = {
        f"{kind} {ratio}": Arm("sage", drafter=kind, ratio=ratio)
        for kind, ratio in (("attention", 0.8), ("attention", 0.9), ("random", 0.8))
    }
    judged = claims.pruning(results(rows, arms=arms))
    assert judged.verdict == verdict
    assert "of 9 decodes" in judged.why


@pytest.mark.parametrize(
    ("single", "double", "forwards", "verdict"),
    [
        (True, True, 5, "supported"),
        (False, True, 5, "contradicted"),
        (True, False, 5, "contradicted"),
        (True, True, 6, "contradicted"),
    ],
)
def test_lossless_counts_every_decode_and_every_forward(single, double, forwards, verdict):
    rows = constant({"sage": 2.0})
    rows[0]["same"] = single
    probed = pd.DataFrame(
        {"same": [True, double], "family": ["a", "b"], "target forwards": [3, forwards], "plain forwards": [5, 5]}
    )
    judged = claims.lossless(results(rows), probed)
    assert judged.verdict == verdict
    assert judged.measured.mean == pytest.approx((not single) / 3)


def bench(speeds, tree=0.02):
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "requests": 2,
                "tokens": 101,
                "decode": 100 / (speed * (1 + 0.01 * seed)),
                "tree": tree / speed,
                "verify": 0.5,
                "draft": 0.3,
                "rest": 0.2,
                "target forwards": 22,
            }
            for arm, speed in speeds.items()
            for seed in SEEDS
        ]
    )


@pytest.mark.parametrize(
    ("sage_speed", "verdict"), [(120.0, "supported"), (90.0, "contradicted"), (70.0, "contradicted")]
)
def test_faster_needs_to_beat_all_three_rivals(sage_speed, verdict):
    speeds = {"sage": sage_speed, "chain, cheapest": 100.0, "specvlm": 80.0, "static, cheapest": 85.0}
    speeds |= {"eagle2, cheapest": 100.0, "opt_tree, cheapest": 100.0, "transformers": 50.0}
    found = results(constant(dict.fromkeys([*speeds, "sage, cheapest"], 3.0)))
    judged = claims.faster(found, bench(speeds))
    assert judged.verdict == verdict
    assert judged.measured.mean == pytest.approx(sage_speed - 100)


def test_overhead_is_the_tree_s_share_of_the_decode():
    judged = claims.overhead(bench({"sage": 1.0}, tree=2.0))
    assert judged.verdict == "inconclusive"
    assert judged.measured.mean == pytest.approx(2.0, rel=0.02)
    assert f"{1e6 * 2.0 / 20:.0f} microseconds per round" in judged.why


def gaining(slope, seed, rounds=120):
    """Accepted drafts that grow by `slope` a doubling of the tokens, beside a rival's constant 2."""
    accepted, tokens = [], 1
    for _ in range(rounds):
        accepted.append(round(2 + slope * np.log2(max(tokens, 1)) + 0.3 * np.sin(seed + tokens)))
        tokens += accepted[-1] + 1
    return accepted


@pytest.mark.parametrize(("slope", "grows"), [(0.8, True), (0.0, False)])
def test_the_gap_is_a_slope_over_lengths_that_the_paper_does_not_have(slope, grows):
    rows = [row("sage", seed, gaining(slope, seed)) for seed in SEEDS]
    rows += [row(arm, seed, [2] * 120) for arm in ("specvlm", "static") for seed in SEEDS]
    judged = claims.length_gap(results(rows))
    assert judged.verdict == "not run"
    assert (judged.measured.low > 0) == grows


def test_signals_that_predict_and_remember_and_those_that_do_not():
    generator = np.random.default_rng(0)
    for informative in (True, False):
        rows, followed = [], []
        for seed in SEEDS:
            alpha = np.clip(0.5 + np.cumsum(generator.normal(0, 0.05, 300)), 0, 1)
            if not informative:
                alpha = generator.uniform(0, 1, 300)
            noise = generator.uniform(0, 1, 300)
            accepted = (4 * (alpha if informative else noise) + noise).astype(int)
            rows.append(row("static", seed, accepted.tolist(), alphas=alpha.tolist()))
            hit = noise < (alpha if informative else 0.5)
            followed += [
                {"pair": "vision", "seed": seed, "request": 0, "rank": int(not h), "alpha": a, "first": a}
                for h, a in zip(hit, alpha, strict=True)
            ]
        found = results(rows, followed)
        signal, temporal = claims.entropy_signal(found), claims.temporal(found)
        assert (signal.verdict == "supported") == informative
        assert (temporal.verdict == "supported") == informative


def test_a_decode_is_plain_decoding_s_and_the_stepper_tells_all_of_it():
    decoded = stepper.decode(1000, decoding.policies["sage"](), most=24)
    said = "".join(one["root"] + one["new"] for one in decoded["rounds"]) + decoded["rounds"][-1]["bonus"]
    image = fashion_mnist.load().test.images[1000:1001]
    processor, model = SHIPPED.processor, SHIPPED.decoder("target").model
    one = processor(decoded["prompt"], image)
    mask = torch.ones_like(one["input_ids"])
    out = model.generate(**one, attention_mask=mask, do_sample=False, max_new_tokens=24)[0]
    assert said.startswith(processor.tokenizer.decode(out[one["input_ids"].shape[1] :]))
    page = stepper.show(decoded, decoding.policies["sage"]()).data
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("</script>") == 1


@pytest.mark.parametrize("policy", ["chain", "eagle2"])
def test_the_random_family_decodes_exactly_and_accepts_something(policy):
    rows = probes.exactness("smoke", 0, "random", policy, 0.0)
    assert all(one["same"] for one in rows)
    assert any(one["target forwards"] < one["plain forwards"] for one in rows)


def test_smoke_runs_every_arm(in_process, monkeypatch):
    monkeypatch.setitem(PROFILES, "smoke", replace(PROFILES["smoke"], seeds=(0,), most=5))
    found = experiment.execute("smoke")
    assert set(found.decodes.arm) == set(found.arms)
    assert found.decodes.same.all()
    assert len(found.tuning) == 24
    for name in ("recycling", "lookup", "random 0.9", "sage, text", "sage, T = 1"):
        assert len(found.of(name)) == 1
    with pytest.raises(ValueError, match="no arm 'medusa'"):
        found.of("medusa")
