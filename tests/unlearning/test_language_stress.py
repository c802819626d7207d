"""Stress tests of unlearned language models: prompts that tell, traces in value vectors, false facts taken back."""

import math

import pytest
import torch
from language_problems import model, sequences

from palimpsest.data.questions import Questions
from palimpsest.nets.language import IGNORED, output_embedding
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language import in_context, restor, trace
from palimpsest.unlearning.language.inference import passing


def test_a_prompt_shows_a_question_with_its_answer_before_it_asks():
    assert in_context.shown("Q2", "A.", "Q") == "Question: Q2\nAnswer: A.\nQuestion: Q\nAnswer:"


def test_the_control_shows_the_answer_of_the_question_half_the_set_away(monkeypatch):
    monkeypatch.setattr(in_context, "probability", lambda net, prompts: prompts)
    found = in_context.reintroduced(None, "abcd", "efgh", "1234", lambda *arguments: arguments)
    for which, told in {"told": ("e1", "f2", "g3", "h4"), "other": ("g3", "h4", "e1", "f2")}.items():
        prompts, answers, template = found[which]
        assert prompts == [in_context.shown(*pair, asked) for pair, asked in zip(told, "abcd", strict=True)]
        assert (answers, template) == ("1234", "{question}")


def test_what_value_vectors_write_neuron_by_neuron():
    net, encoded = model(), sequences(3, 4)
    found = trace.find(net, encoded)
    counted = encoded.labels != IGNORED
    embedding, gain = output_embedding(net).detach(), net.model.norm.weight.detach()
    tokens, written = encoded.labels[counted], 0.0
    for layer, top in zip(decoder_layers(net), found.top, strict=True):
        matrix = layer.module.mlp.down_proj
        fires = passing(net, matrix, encoded.ids, entering=True)[counted]
        each = torch.zeros(matrix.in_features, dtype=torch.float64)
        for neuron in range(matrix.in_features):
            value = gain * matrix.weight.detach()[:, neuron]
            logits = embedding @ value
            each[neuron] = (fires[:, neuron] * (logits[tokens] - logits.mean())).mean()
        assert set(top.tolist()) == set(each.argsort(descending=True)[: trace.VECTORS].tolist())
        written += each.sum().item()
    left = trace.left(net, found)
    assert left["written"] == pytest.approx(written, rel=1e-9)
    assert left["jaccard"] == 1.0


def test_the_trace_is_read_off_the_weights_and_not_off_what_fires():
    net, encoded = model(), sequences(3, 4)
    found = trace.find(net, encoded)
    with torch.no_grad():
        for layer in decoder_layers(net):
            layer.module.mlp.gate_proj.weight.zero_()
    kept = trace.left(net, found)
    assert kept["jaccard"] == 1.0
    with torch.no_grad():
        for layer in decoder_layers(net):
            layer.module.mlp.down_proj.weight.neg_()
    turned = trace.left(net, found)
    assert turned["written"] == pytest.approx(-kept["written"])
    assert turned["jaccard"] < 1


def test_vectors_are_taken_out_of_their_own_layer():
    net, encoded = model(), sequences(3, 4)
    found = trace.find(net, encoded, vectors=3)
    assert [len(top) for top in found.top] == [3, 3]
    trace.ablate(net, found.top)
    for layer, top in zip(decoder_layers(net), found.top, strict=True):
        gone = (layer.module.mlp.down_proj.weight == 0).all(0).nonzero().flatten()
        assert gone.tolist() == sorted(top.tolist())


def test_overlap_by_hand():
    assert trace.jaccard({1, 2, 3}, {2, 3, 4, 5}) == 0.4


def questions(perturbed):
    return Questions(["q", "r"], ["q", "r"], ["a", "b"], ["a", "b"], perturbed, ["", ""])


def test_the_first_wrong_answer_takes_the_place_of_the_right_one():
    false = restor.corrupted(questions([["x", "y"], ["z", "w"]]))
    assert (false.answer, false.paraphrased, false.question) == (["x", "z"], ["x", "z"], ["q", "r"])
    with pytest.raises(ValueError, match="some without a wrong answer"):
        restor.corrupted(questions([[], []]))


def test_false_training_covers_and_the_way_back_is_a_share():
    net, encoded = model(dtype=torch.float32), sequences(3, 4)
    before = [p.clone() for p in net.parameters()]
    restor.corrupt(net, encoded, lr=1e-3, epochs=1, seed=0)
    moved = math.fsum((p - old).abs().max().item() for p, old in zip(net.parameters(), before, strict=True))
    assert moved > 0
    assert restor.restored(0.4, 0.1, 0.7) == pytest.approx(0.5)
