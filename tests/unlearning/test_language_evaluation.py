"""Losses, answers and scores of small decoders, against their definitions written out row by row without padding."""

import copy
import json
import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, GemmaConfig, GPT2Config, LlamaConfig, Qwen2Config

from palimpsest.data.questions import Questions
from palimpsest.metrics import text_membership, tofu
from palimpsest.nets import language
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.pruning import random_masks
from palimpsest.training import TrainingDiverged, epoch_order
from palimpsest.training.language import Recipe, fit
from palimpsest.unlearning.language import evaluation, stress

SETS = Questions(
    question=[
        "Where was Ada born?",
        "What did Bo's old teacher write?",
        "Who is Cy?",
        "When did Di sing?",
        "Eh?",
    ],
    question_2=["?"] * 5,
    answer=["Rome", "Bo's teacher wrote poems.", "Cy is a baker.", "in 1951", "No, the name is Eve."],
    paraphrased=["In Rome.", "Poems", "a baker", "It was 1951.", "Eve"],
    perturbed=[["Oslo", "in Bonn"], ["Plays", "Odes"], ["a smith", "a cook"], ["1950", "1960"], ["Io", "Flo"]],
    author=["Ada", "Bo", "Cy", "Di", "Eve"],
)
TOKENIZER = language.tokenizer(SETS.question + SETS.answer, 275)
NEAR = 1e-10
"""Float64: a path of some hundred sums of up to 128 terms of order 1 keeps more than ten digits."""


@pytest.fixture(scope="module")
def trained():
    """A small Llama, in float64, that has learnt the answers."""
    model = language.small_llama(275, 0, hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128)
    encoded = language.encode(TOKENIZER, SETS.question, SETS.answer, 128)
    fit(model, encoded, Recipe(epochs=100, lr=5e-3, batch_size=5), 0)
    return model.double()


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH", 2)


def encoded_answers():
    """The answers, with two columns more than the longest needs."""
    encoded = language.encode(TOKENIZER, SETS.question, SETS.answer, 128)
    return Encoded(F.pad(encoded.ids, (0, 2)), F.pad(encoded.labels, (0, 2), value=IGNORED))


@torch.no_grad()
def label_logprobs(model, question, answer):
    """The log-probabilities of one answer's tokens from the whole logits, and which were the first choice."""
    row = language.encode(TOKENIZER, [question], [answer], 128)
    logits = model(row.ids).logits[0, row.labels[0] != IGNORED]
    labels = row.labels[row.labels != IGNORED]
    return -F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1)


def loss(model, question, answer):
    return -label_logprobs(model, question, answer)[0].mean().item()


@torch.no_grad()
def answer_of(model, question, most, stops):
    """The greedy answer from one whole forward pass a token."""
    prompt = language.prompt_ids(TOKENIZER, [question])[0]
    ids = list(prompt)
    while len(ids) < len(prompt) + most:
        token = model(torch.tensor([ids])).logits[0, -1].argmax().item()
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.usefixtures("small_batches")
def test_token_logprobs_and_predictions(model):
    encoded = encoded_answers()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.7)  # less sure of itself
    values, predicted = evaluation.token_logprobs(model, encoded), evaluation.predicted_tokens(model, encoded)
    counted = encoded.labels != IGNORED
    assert values.shape == predicted.shape == encoded.labels.shape
    assert (values[~counted] == 0).all()
    assert (predicted[~counted] == IGNORED).all()
    for row, (question, answer) in enumerate(zip(SETS.question, SETS.answer, strict=True)):
        expected, first_choice = label_logprobs(model, question, answer)
        assert torch.allclose(values[row, counted[row]], expected, rtol=0, atol=NEAR)
        assert torch.equal(predicted[row, counted[row]], first_choice)


@pytest.mark.usefixtures("small_batches")
@torch.no_grad()
def test_moments_are_those_of_the_whole_distribution(model):
    encoded = encoded_answers()
    model.lm_head.weight.mul_(0.7)
    means, deviations = evaluation.logprob_moments(model, encoded)
    assert means.shape == deviations.shape == encoded.labels.shape
    assert not means[encoded.labels == IGNORED].any()
    assert not deviations[encoded.labels == IGNORED].any()
    for row in range(len(encoded)):
        counted = encoded.labels[row] != IGNORED
        ids = encoded.ids[row, : int(counted.nonzero().max()) + 1][None]
        p = model(ids).logits[0, counted.nonzero().flatten()].softmax(1)
        mean = (p * p.log()).sum(1)
        variance = (p * p.log().square()).sum(1) - mean.square()
        assert torch.allclose(means[row, counted], mean, rtol=0, atol=NEAR)
        assert torch.allclose(deviations[row, counted].square(), variance, rtol=0, atol=NEAR)
    logprobs = evaluation.token_logprobs(model, encoded)
    assert (text_membership.min_k_plus_plus(logprobs, means, deviations, encoded.labels) < 5).all()


@pytest.mark.usefixtures("small_batches")
def test_answer_losses(model):
    expected = [loss(model, *pair) for pair in zip(SETS.question, SETS.answer, strict=True)]
    found = evaluation.answer_losses(model, encoded_answers())
    assert found.tolist() == pytest.approx(expected, abs=NEAR)
    # The whole answer is learnt: all first choices are right, and a forward pass in float32 says the same.
    predicted, labels = evaluation.predicted_tokens(model, encoded_answers()), encoded_answers().labels
    assert tofu.extraction_strength(predicted, labels).tolist() == [1] * 5
    assert max(expected) < 0.1
    assert evaluation.answer_losses(model.float(), encoded_answers()).tolist() == pytest.approx(expected, abs=1e-4)


def test_losses_are_not_below_zero(model, monkeypatch):
    monkeypatch.setattr(language, "logprobs", lambda model, batch: (batch.labels != IGNORED) * 1e-8)
    assert evaluation.answer_losses(model, encoded_answers()).tolist() == [0] * 5


def test_the_mode_is_kept_and_dropout_is_off(model):
    expected = evaluation.answer_losses(model, encoded_answers())
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    assert torch.equal(evaluation.answer_losses(model, encoded_answers()), expected)
    assert evaluation.generate(model, TOKENIZER, SETS.question[:1], 9) == SETS.answer[:1]
    assert model.training
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="hidden: got NaN"):
        evaluation.answer_losses(model, encoded_answers())
    assert model.training
    model.eval()
    evaluation.generate(model, TOKENIZER, SETS.question[:1], 1)
    assert not model.training


@pytest.mark.usefixtures("small_batches")
def test_generate_answers_what_was_learnt(model):
    most = 1 + max(len(ids) for ids in TOKENIZER(SETS.answer).input_ids)
    assert evaluation.generate(model, TOKENIZER, SETS.question, most) == SETS.answer
    # The limit is on new tokens, one a digit here: " in", then "1", "9".
    tokens = TOKENIZER(" " + SETS.answer[3], add_special_tokens=False).input_ids
    for limit in range(1, len(tokens) + 1):
        text = TOKENIZER.decode(tokens[:limit]).strip()
        assert evaluation.generate(model, TOKENIZER, SETS.question[3:4], limit) == [text]
    assert evaluation.generate(model, TOKENIZER, [], 1) == []


SIZES = {"vocab_size": 275, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FURTHER = {"num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0, "max_position_embeddings": 64}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **FURTHER),
    "qwen2": Qwen2Config(**SIZES, **FURTHER),
    "gemma": GemmaConfig(**SIZES, **FURTHER, head_dim=8),
    "gpt2": GPT2Config(
        **SIZES, n_positions=64, bos_token_id=1, eos_token_id=2
    ),  # absolute positions: what pads them wrongly is seen
}


@pytest.mark.parametrize("name", CONFIGS)
def test_generate_is_row_by_row_decoding(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(CONFIGS[name]).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.3)
    questions = SETS.question[:4]
    free = [answer_of(model, question, 8, {2}) for question in questions]
    # One row's third token and another's fifth become further ends of text.
    stops = [free[0][2], free[2][4]]
    model.generation_config.eos_token_id = stops
    expected = [answer_of(model, question, 8, {2, *stops}) for question in questions]
    lengths = [len(ids) for ids in expected]
    assert lengths[0] <= 2
    assert lengths[2] <= 4
    assert len(set(lengths)) > 1
    texts = [TOKENIZER.decode(ids, skip_special_tokens=True).strip() for ids in expected]
    assert evaluation.generate(model, TOKENIZER, questions, 8) == texts
    # One end named, and the tokenizer's own end where none is.
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stops[1])
    for named, using, ends in ((stops[0], TOKENIZER, {2, stops[0]}), (None, tokenizer, {stops[1]})):
        model.generation_config.eos_token_id = named
        expected = [answer_of(model, question, 8, ends) for question in questions]
        texts = [using.decode(ids, skip_special_tokens=True).strip() for ids in expected]
        assert evaluation.generate(model, using, questions, 8) == texts


def test_generate_refuses(model):
    longest = len(language.prompt_ids(TOKENIZER, SETS.question[1:2])[0])
    for limit in (0, 513 - longest):
        with pytest.raises(ValueError, match=rf"max_new_tokens: got {limit}, want 1 \.\.\. {512 - longest} in this"):
            evaluation.generate(model, TOKENIZER, SETS.question, limit)


@pytest.mark.usefixtures("small_batches")
def test_evaluate_by_definition(model):
    with torch.no_grad():
        model.lm_head.weight.mul_(0.7)
    sets = {
        "retain": SETS.subset([0, 1, 2]),
        "real_authors": SETS.subset([3, 4]),
        "world_facts": SETS.subset([1]),
        "forget": SETS.subset([4]),
    }
    found = evaluation.evaluate(model, TOKENIZER, sets)
    assert json.loads(json.dumps(found)) == found
    assert found["sets"].keys() == sets.keys()
    for name, part in sets.items():
        items = found["sets"][name]
        right = [loss(model, *pair) for pair in zip(part.question, part.answer, strict=True)]
        said = [loss(model, *pair) for pair in zip(part.question, part.paraphrased, strict=True)]
        wrong = [[loss(model, q, a) for a in row] for q, row in zip(part.question, part.perturbed, strict=True)]
        assert items["loss"] == pytest.approx(right, abs=NEAR)
        expected = [math.exp(s - fmean(row)) for s, row in zip(said, wrong, strict=True)]
        assert items["truth_ratio"] == pytest.approx(expected, rel=NEAR)
        p = np.exp(-np.array(right))
        if name in ("real_authors", "world_facts"):
            p = p / (p + np.exp(-np.array(wrong)).sum(1))
        assert items["probability"] == pytest.approx(p, rel=NEAR)
        assert items["generated"] == part.answer
        assert items["rouge"] == [1] * len(part)
    for name in ("retain", "real_authors", "world_facts"):
        items = found["sets"][name]
        assert found["scores"][f"{name} probability"] == pytest.approx(fmean(items["probability"]))
        assert found["scores"][f"{name} rouge"] == 1
        truth = fmean(max(0, 1 - ratio) for ratio in items["truth_ratio"])
        assert found["scores"][f"{name} truth"] == pytest.approx(truth)
    assert len(found["scores"]) == 9
    assert found["utility"] == pytest.approx(9 / sum(1 / score for score in found["scores"].values()))


def test_evaluate_lets_right_answers_end_and_others_not_run_on(model):
    # "in 1951" was learnt, a token a digit. Where "in 1" is right, as many tokens come as that has, with its end.
    asked = replace(SETS.subset([3]), answer=["in 1"])
    for more, said in (((), "in 19"), ((None, 7), "in 1951")):
        found = evaluation.evaluate(model, TOKENIZER, {"forget": asked}, *more)
        assert found["sets"]["forget"]["generated"] == [said]


def test_evaluate_without_wrong_answers(model):
    plain = replace(SETS, perturbed=[[]] * 5)
    found = evaluation.evaluate(model, TOKENIZER, {"forget": plain, "retain": SETS})
    assert found.keys() == {"sets"}
    assert "truth_ratio" not in found["sets"]["forget"]
    for name in ("retain", "real_authors", "world_facts"):
        with pytest.raises(ValueError, match=rf"sets\['{name}'\]: got \[0\] wrong answers"):
            evaluation.evaluate(model, TOKENIZER, {name: plain})
    with pytest.raises(ValueError, match=r"sets\['forget'\]: got \[0, 2\] wrong answers a question"):
        evaluation.evaluate(model, TOKENIZER, {"forget": replace(SETS, perturbed=[[], *SETS.perturbed[1:]])})


def test_relearn_is_adamw_on_the_mean_loss(trained):
    few, other = encoded_answers().subset(torch.tensor([0, 1, 2])), encoded_answers().subset(torch.tensor([3, 4]))
    start = language.small_llama(275, 1, hidden=32, layers=1, heads=2, kv_heads=1, intermediate=32).double()
    model, by_hand = copy.deepcopy(start), copy.deepcopy(start)

    def measure():
        return evaluation.answer_losses(model, other).mean().item()

    before = measure()
    curve = stress.relearn(model, few, measure, lr=1e-3, epochs=3, seed=5, batch_size=2)
    optimiser = torch.optim.AdamW(by_hand.parameters(), 1e-3, weight_decay=0)
    for epoch in range(3):
        order = epoch_order(3, 5, epoch)
        for rows in (order[:2], order[2:]):
            logits = by_hand(few.ids[rows]).logits
            mean = F.cross_entropy(logits.flatten(0, 1), few.labels[rows].flatten(), ignore_index=IGNORED)
            optimiser.zero_grad()
            mean.backward()
            optimiser.step()
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-9)  # an update is at most lr; the digits are those of NEAR
    assert len(curve) == 4
    assert curve[0] == before
    assert curve[3] == measure()
    again = copy.deepcopy(start)
    stress.relearn(again, few, lambda: 0.0, lr=1e-3, epochs=3, seed=5, batch_size=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_relearn_on_what_survives(model):
    masks = random_masks(model, 0.5, 0)
    masks.apply_(model)
    encoded = encoded_answers()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def learnt():
        return evaluation.answer_losses(model, encoded).mean().item()

    curve = stress.relearn(model, encoded, learnt, lr=3e-3, epochs=8, seed=0, masks=masks)
    assert masks.holds(model)
    assert curve[-1] < curve[0] / 2
    assert not any(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_relearn_stops(model):
    other = random_masks(
        language.small_llama(275, 0, hidden=32, layers=1, heads=2, kv_heads=1, intermediate=32), 0.5, 0
    )
    arguments = {"lr": 1e-3, "epochs": 1, "seed": 0}
    with pytest.raises(ValueError, match="masks: got"):
        stress.relearn(model, encoded_answers(), lambda: pytest.fail("measured"), masks=other, **arguments)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"^in epoch 1 of 1 at lr 0\.001: hidden: got NaN"):
        stress.relearn(model, encoded_answers(), lambda: 0.0, **arguments)


def test_round_trip_4bit_by_hand(model):
    weights = dict(model.named_parameters())
    name = "model.layers.1.mlp.down_proj.weight"
    with torch.no_grad():
        weights[name][0] = 0
        weights[name][0, :6] = torch.tensor(
            [-14.0, 3.0, 2.9, 0.9, -13.1, 5.5]
        )  # scale 2: -7, 1.5, 1.45, .45, -6.55, 2.75
        weights[name][1] = 0
    before = {name: weight.clone() for name, weight in weights.items()}
    stress.round_trip_4bit(model)
    assert weights[name][0, :6].tolist() == [-14, 4, 2, 0, -14, 6]
    assert (weights[name][1] == 0).all()
    matrices = 0
    for name, weight in weights.items():
        if "layers" not in name or weight.ndim == 1:
            assert torch.equal(weight, before[name])
            continue
        matrices += 1
        scale = before[name].abs().amax(1, keepdim=True) / 7
        # To nearest, and the row's largest magnitude is kept, up to one rounding each.
        assert ((weight - before[name]).abs() <= scale / 2 * (1 + 1e-12)).all()
        assert torch.allclose(weight.abs().amax(1), before[name].abs().amax(1), rtol=1e-15, atol=0)
        assert max(len(row.unique()) for row in weight) <= 15
    assert matrices == 14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_4bit_keeps_masks_and_codes(model, dtype):
    model.to(dtype)
    masks = random_masks(model, 0.5, 0)
    masks.apply_(model)
    stress.round_trip_4bit(model)
    assert masks.holds(model)
    once = {name: weight.clone() for name, weight in model.named_parameters()}
    stress.round_trip_4bit(model)
    # The same codes again; their products with the scale may be rounded once more.
    for name, weight in model.named_parameters():
        assert torch.allclose(weight.float(), once[name].float(), rtol=2 * torch.finfo(dtype).eps, atol=0)
