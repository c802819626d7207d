from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from palimpsest import decoding
from palimpsest.chapters.sage import claims, cost, experiment, measures, probes, shipped, stepper, tables, weaker
from palimpsest.chapters.sage.arms import DEPTH, NODES, POLICIES, PRUNED, Arm, candidates, sweeps
from palimpsest.chapters.sage.profiles import PROFILES
from palimpsest.chapters.sage.requests import TUNING_PICTURES, pictures, retired
from palimpsest.chapters.sage.results import Costs, Results, cost_per_token, seconds_per_token, size, tau
from palimpsest.chapters.sage.shipped import SHIPPED, Shipped
from palimpsest.data import fashion_mnist, pairs
from palimpsest.decoding.replay import follow, replay

SEEDS = (0, 1, 2)
COSTS = Costs(
    pd.DataFrame(
        [
            {"model": "target", "rows": 1, "seconds": 1.0},
            {"model": "target", "rows": 101, "seconds": 3.0},
            {"model": "drafter", "rows": 1, "seconds": 0.25},
            {"model": "drafter", "rows": 11, "seconds": 0.75},
        ]
    )
)


def row(arm, seed, accepted, *, request=0, sizes=None, alphas=None, same=True):
    """A decode of these accepted drafts per round: every round gives one token more."""
    rounds = len(accepted)
    return {
        "arm": arm,
        "seed": seed,
        "request": request,
        "how": "decoded",
        "length": 1 + sum(accepted) + rounds,
        "accepted": accepted,
        "sizes": sizes or [10] * rounds,
        "depths": [4] * rounds,
        "alphas": alphas or [0.5] * rounds,
        "expanded": [6] * rounds,
        "target forwards": 1 + rounds,
        "draft forwards": 4 * rounds,
        "same": same,
        "equal": True,
    }


def results(rows, held=(), arms=(), checked=None):
    """The arms that are not given are SAGE as stated. Without tokens of its own the one drafter guesses all."""
    table, nothing = pd.DataFrame(rows), pd.DataFrame()
    arms = {name: Arm("sage") for name in table.arm.unique()} | dict(arms)
    held = pd.DataFrame(held or [{"pair": "vision", "seed": 0, "request": 0, "rank": 0, "alpha": 1.0, "first": 1.0}])
    checked = table.iloc[:0] if checked is None else pd.DataFrame(checked)
    return Results(nothing, table, checked, arms, held, nothing, COSTS, nothing, {})


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


def test_no_picture_is_asked_about_twice_and_none_that_an_earlier_verdict_or_tuning_saw():
    setting, test = PROFILES["ci"], fashion_mnist.load().test
    at = {image.numpy().tobytes(): i for i, image in enumerate(test.images)}
    assert len(at) == len(test)
    asked = {
        group: [
            at[image.numpy().tobytes()]
            for place in range(len(seeds))
            for image in pictures(group, place, setting.tuned if group == "tuning" else setting.requests).images
        ]
        for group, seeds in setting.groups.items()
    }
    before = {TUNING_PICTURES + number for number in retired(len(test) - TUNING_PICTURES)}
    assert len(before) == 30
    for group, found in asked.items():
        assert len(found) == len(set(found)), group
    assert max(asked["tuning"]) < TUNING_PICTURES <= min(asked["evaluation"])
    assert not before & set(asked["evaluation"])
    inputs = setting.inputs("evaluation", setting.seeds[3], "target", 2)
    wanted = pairs.pixel_values(test.images[asked["evaluation"][3 * setting.requests :][:2]])
    assert all(torch.equal(one["pixel_values"][0], image) for one, image in zip(inputs, wanted, strict=True))


def test_more_pictures_than_there_are_is_refused():
    with pytest.raises(ValueError, match="place, count: got 9 and 400, want at most 29"):
        pictures("evaluation", 9, 400)


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
    # Rows verified: 11, 21, 31, 41, each 0.02 s above the first. In each round the drafter has 4 forwards for 6 nodes
    # and the root: 1.75 rows, 0.05 s a row above the first. 7 accepted and 4 bonus tokens.
    verify, draft = 4 + 0.02 * (10 + 20 + 30 + 40), 16 * (0.25 + 0.05 * 0.75)
    assert seconds_per_token(table, COSTS) == pytest.approx((verify + draft) / 11)
    assert cost_per_token(table, COSTS) == pytest.approx((verify + draft) / 11)  # one row takes a second


def test_arms_are_compared_on_the_requests_of_both():
    rows = [row("sage", s, [4, 4]) for s in SEEDS] + [row("sage", s, [0, 0], request=1) for s in SEEDS]
    rows += [row("eagle2", s, [3, 4 + s]) for s in SEEDS]
    found = results(rows)
    assert claims.taus(found, "sage").tolist() == [2.0] * 3
    assert claims.ahead(found, "eagle2").mean == pytest.approx(4 - (3.5 + 4 + 4.5) / 3)


def test_a_policy_s_own_part_of_a_curve_stays_within_what_the_curve_allows():
    shares = {"vision": [0.6, 0.1, 0.05] + [0.01] * 7}
    for (_, policy, axis, value), arm in sweeps({"vision": {"sage": {"scale": 0.01}}}, shares).items():
        made = arm.make_policy()
        assert arm.replayed
        tree = made.next(None, []) if policy in ("static", "chain") else None
        if axis == "nodes":
            assert (made.nodes if tree is None else len(tree)) <= value
        elif axis == "depth":
            assert (made.dmax if tree is None else tree.depth) <= value
        else:
            assert made.scale == value


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
    assert found.decodes.length[0] >= max(measures.LENGTHS) > found.decodes.length[1]
    assert measures.tau_until(found, "a", 12)[0] == pytest.approx((3 + 0 + 7) / 3)
    assert measures.tau_until(found, "a", 5)[0] == pytest.approx(3)
    assert measures.tau_until(found, "a", 15)[0] == pytest.approx((3 + 0 + 7 + 1) / 4)


@pytest.mark.parametrize(("sage_tau", "verdict"), [(5.0, "supported"), (3.5, "contradicted"), (2.0, "contradicted")])
def test_longer_needs_to_win_at_both_budgets(sage_tau, verdict):
    levels = {"sage": 2.9, "sage, tuned": sage_tau, "static": 4, "static, small": 3, "static, tuned size": 3}
    found = results(constant(levels | {"chain": 3, "specvlm": 2.5}))
    judged = claims.longer(found)
    assert judged.verdict == verdict
    assert judged.measured.mean == pytest.approx(sage_tau - 3, abs=0.2)


def test_longer_needs_to_win_with_every_drafter():
    arms = ("sage", "sage, tuned", "static", "static, small", "static, tuned size", "chain", "specvlm")
    levels = {arm: 5.0 if arm.startswith("sage") else 3.0 for arm in arms}
    weak = {f"{arm}, weak": level for arm, level in levels.items() if arm != "chain"}
    held = [{"pair": p, "seed": 0, "request": 0, "rank": 0, "alpha": 1.0, "first": 1.0} for p in ("vision", "weak")]
    assert claims.longer(results(constant(levels | weak), held)).verdict == "supported"
    weak["static, tuned size, weak"] = 7.0
    assert claims.longer(results(constant(levels | weak), held)).verdict == "contradicted"


@pytest.mark.parametrize(
    ("left", "same", "verdict"),
    [((5.0, 4.95), True, "supported"), ((5.0, 4.95), False, "contradicted"), ((5.0, 4.5), True, "contradicted")],
)
def test_pruning_needs_both_ratios_and_an_unchanged_text(left, same, verdict):
    names = [f"{rule} {ratio}" for rule, ratio in PRUNED]
    levels = {"sage": 5.0} | dict(zip(names, (*left, 1.0, 1.0, 1.0, 1.0), strict=True))
    arms = {f"{rule} {ratio}": Arm("sage", drafter=rule, ratio=ratio) for rule, ratio in PRUNED}
    checked = [row(names[1], seed, [1, 2], same=same) for seed in SEEDS]
    judged = claims.pruning(results(constant(levels, jitter=0.0), arms=arms, checked=checked))
    assert judged.verdict == verdict
    assert f"in {3 * same} of 3 decodes" in judged.why


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


@pytest.mark.parametrize(("sage_tau", "verdict"), [(6.0, "supported"), (4.0, "contradicted")])
def test_faster_needs_to_beat_all_three_rivals_by_the_cost_of_forwards(sage_tau, verdict):
    levels = {"sage, cheapest": sage_tau, "chain, cheapest": 5.0, "specvlm": 3.0, "static, cheapest": 4.5}
    judged = claims.faster(results(constant(levels)), bench(dict.fromkeys(["sage", "transformers", *levels], 100.0)))
    assert judged.verdict == verdict
    # Every round costs the same here, so that the speeds are as the tokens a round.
    assert judged.measured.mean == pytest.approx(100 * ((sage_tau + 1) / 6 - 1), abs=3)


@pytest.mark.parametrize(("seconds", "verdict"), [(4.0, "supported"), (0.04, "contradicted")])
def test_overhead_is_the_tree_s_share_of_a_real_forward(seconds, verdict):
    real = Costs(pd.DataFrame({"model": [claims.REAL_MODEL] * 2, "rows": [1, 64], "seconds": [seconds, seconds]}))
    judged = claims.overhead(results(constant({"sage": 3.0})), bench({"sage": 1.0}, tree=0.02), real)
    assert judged.verdict == verdict
    assert judged.measured.mean == pytest.approx(100 * 0.001 / seconds, rel=0.02)
    assert f"{1e6 * 0.02 / 20:.0f} microseconds per round" in judged.why


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
        rows, held = [], []
        for seed in SEEDS:
            for request in range(2):
                alpha = generator.uniform(0, 1, 301)
                alpha = (alpha[1:] + alpha[:-1]) / 2 if informative else alpha[1:]
                noise = generator.uniform(0, 1, 300)
                accepted = (4 * (alpha if informative else noise) + noise).astype(int).tolist()
                for arm in ("static", "sage"):
                    rows.append(row(arm, seed, accepted, request=request, alphas=alpha.tolist()))
                hit = noise < (alpha if informative else 0.5)
                held += [
                    {"pair": "vision", "seed": seed, "request": request, "rank": int(not h), "alpha": a, "first": a}
                    for h, a in zip(hit, alpha, strict=True)
                ]
        found = results(rows, held)
        signal, temporal = claims.entropy_signal(found), claims.temporal(found)
        assert (signal.verdict == "supported") == informative
        assert (temporal.verdict == "supported") == informative
        assert (measures.permutation_p(measures.memories(found, "round", "vision")) < 0.05) == informative


def test_the_null_of_a_memory_takes_away_what_short_texts_and_their_levels_make():
    generator = np.random.default_rng(1)
    rows = [
        row("sage", seed, [1] * 9, request=i, alphas=(generator.uniform() + 0.1 * generator.normal(size=9)).tolist())
        for seed in SEEDS
        for i in range(200)
    ]
    table = measures.memories(results(rows), "round", "vision")
    nearest = table[table.lag == 1]
    assert (nearest.memory > 0.5).all()  # texts of other levels, no order
    assert (nearest.memory - nearest.null).abs().max() < 0.05


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
    assert ".disabled" not in page, "a disabled button loses the focus of who steps with the keyboard"


@pytest.mark.parametrize("policy", ["chain", "eagle2"])
def test_the_random_family_decodes_exactly_and_accepts_something(policy):
    rows = probes.exactness("smoke", 0, "random", policy, 0.0)
    assert all(one["same"] for one in rows)
    assert any(one["target forwards"] < one["plain forwards"] for one in rows)


def test_the_stepper_s_last_round_ends_the_text_and_prints_no_stop_token():
    decoded = stepper.decode(1000, decoding.policies["chain"](8))
    said = decoded["rounds"][0]["root"] + "".join(one["new"] + one["bonus"] for one in decoded["rounds"])
    tokenizer = SHIPPED.processor.tokenizer
    assert tokenizer.eos_token not in said
    assert len(tokenizer.encode(said)) + 1 == decoded["tokens"]
    drafted = [node["t"] for one in decoded["rounds"] for node in one["nodes"]]
    assert "(end)" in drafted
    assert tokenizer.eos_token not in drafted


def two_pairs(monkeypatch):
    """Smoke with the chapter's drafter and one that is trained for two steps."""
    monkeypatch.setattr(weaker, "STEPS", (2,))
    monkeypatch.setitem(PROFILES, "smoke", replace(PROFILES["smoke"], most=8))
    monkeypatch.setattr(Shipped, "pairs", {"vision": ("target", "drafter"), "weak": ("target", "one layer, steps 2")})
    shipped.decoder.cache_clear()


def test_smoke_runs_every_arm(in_process, monkeypatch):
    two_pairs(monkeypatch)
    found = experiment.execute("smoke")
    assert set(found.decodes.arm) == set(found.arms)
    assert found.decodes.same.dropna().all()
    assert found.checked.same.all()
    assert found.checked.equal.all()
    assert set(found.checked.arm) >= {"sage", "sage, weak", "target's attention 0.9"}
    assert len(found.tuning) == 20 + 12
    assert len(found.of("sage")) == 4
    for name in ("recycling", "lookup", "eagle2", "the same, on the token", "sage, T = 1", "random 0.9"):
        assert len(found.of(name)) == 2
    assert set(found.curves.pair) == {"vision", "weak"}
    assert found.agreement["vision"] > found.agreement["weak"]
    assert len(tables.tuning(found)) == 20
    assert len(tables.budgets(found)) == len(tables.SHOWN_BUDGETS)
    assert len(tables.decoded(found)) == 5
    with pytest.raises(ValueError, match="no arm 'medusa'"):
        found.of("medusa")
    shipped.decoder.cache_clear()


def test_a_weaker_drafter_is_the_first_layer_trained_on(in_process, monkeypatch):
    monkeypatch.setattr(weaker, "STEPS", (1, 2))
    one, two = (weaker.load(steps) for steps in (1, 2))
    whole = pairs.load("drafter")
    count = [sum(p.numel() for p in model.parameters()) for model in (one, whole)]
    assert count[0] < count[1]
    assert len(one.model.language_model.layers) == 1
    assert not one.training
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    changes = [
        float((dict(model.named_parameters())[name] - dict(whole.named_parameters())[name]).abs().max())
        for model in (one, two)
    ]
    assert 0 < changes[0] < changes[1] < 4 * weaker.LR


def test_the_pictures_of_earlier_verdicts_replay_as_they_decode():
    test = fashion_mnist.load().test
    numbers = sorted(TUNING_PICTURES + number for number in retired(len(test) - TUNING_PICTURES))
    target, drafter = (SHIPPED.decoder(name) for name in SHIPPED.pairs["vision"])
    asked = SHIPPED.inputs("target", test.subset(torch.tensor(numbers[::2])))
    options = {"max_new_tokens": 192}
    plain = decoding.generate_batch(target, None, asked, policy="autoregressive", **options)
    followed = [
        follow(decoding.ModelDrafter(drafter), one, answer.tokens, 10, target.vocabulary)
        for one, answer in zip(asked, plain, strict=True)
    ]
    for policy in (decoding.policies["sage"](), decoding.policies["static"]()):
        decoded = decoding.generate_batch(target, drafter, asked, policy=policy, trace=True, **options)
        for answer, text in zip(decoded, followed, strict=True):
            rounds = replay(policy, text, 192)
            assert answer.tokens == text.tokens
            assert answer.stats.accepted == [one.accepted for one in rounds]
            assert [one.tree.parents for one in answer.stats.trace] == [one.tree.parents for one in rounds]


def test_a_real_forward_is_timed_by_its_rows(monkeypatch):
    tiny = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    monkeypatch.setattr(cost, "REAL", tiny | {"num_attention_heads": 2, "num_key_value_heads": 1})
    table = cost.real_forwards()
    assert table.rows.tolist() == [1, 2, 12, 32, 64]
    assert (table.seconds > 0).all()
    assert set(table.model) == {claims.REAL_MODEL}
