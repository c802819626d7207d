"""The chapter on SAGE run small: exact decodes, the stepper, every arm, the drafters."""

from dataclasses import replace

import pytest
import torch

from palimpsest import decoding
from palimpsest.chapters.sage import claims, cost, experiment, probes, shipped, stepper, tables, weaker
from palimpsest.chapters.sage.profiles import PROFILES
from palimpsest.chapters.sage.requests import TUNING_PICTURES, retired
from palimpsest.chapters.sage.shipped import SHIPPED, Shipped
from palimpsest.data import fashion_mnist, pairs
from palimpsest.decoding.replay import follow, replay


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
