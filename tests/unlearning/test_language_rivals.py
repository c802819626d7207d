"""Rivals that are no loss on the weights, each against a case worked by hand or its formula written out."""

import math

import pytest
import torch
from language_problems import VOCABULARY, model, sequences

from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.pruning.decoder import decoder_layers
from palimpsest.unlearning.language import eco, evaluation
from palimpsest.unlearning.language.eco import ECO, present, scope, zeroth_order
from palimpsest.unlearning.language.inference import hidden_of, prompt_ends, prompt_mark
from palimpsest.unlearning.language.key_space import KeySpaceDetection
from palimpsest.unlearning.language.neuron_adjust import NeuronAdjust, adjusted
from palimpsest.unlearning.language.rivals import RIVALS
from palimpsest.unlearning.language.rocr import ROCR, name_token, null_space, redirection
from palimpsest.unlearning.language.task import Task
from palimpsest.unlearning.language.uld import ULD, Reversed

# Double precision, and operations whose conditioning costs less than six digits.
EXACT = {"rtol": 1e-9, "atol": 1e-9}
MARK = (58, 59)
OLD, NEW = [50, 51], [52]


def marked(rows: int, seed: int, name: list[int]) -> Encoded:
    """Sequences whose prompts of five tokens begin with a name and end in MARK, which occurs nowhere else."""
    made = sequences(rows, seed)
    ids = made.ids.clamp(max=49)
    ids[:, : len(name)] = torch.tensor(name)
    ids[:, 3:5] = torch.tensor(MARK)
    labels = torch.where(made.labels == IGNORED, IGNORED, ids.roll(-1, 1))
    return Encoded(ids, labels)


@pytest.fixture
def sets():
    return marked(6, 1, OLD), marked(8, 2, NEW)


def logits(net, ids):
    with torch.no_grad():
        return hidden_of(net, input_ids=ids) @ net.get_output_embeddings().weight.T


def applied(rival, net, sets, **further):
    return rival.apply(net, *sets, **further)


# -- what all have in common -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_runs_by_name_and_is_measured_as_a_model_is(name, sets):
    forgetful = applied(RIVALS[name], model(), sets, subjects=[(OLD, NEW)])
    whole = forgetful(input_ids=sets[1].ids, use_cache=False).logits
    assert whole.shape == (*sets[1].ids.shape, VOCABULARY)
    losses = evaluation.answer_losses(forgetful, sets[0])
    logs = forgetful(input_ids=sets[0].ids, use_cache=False).logits.log_softmax(-1)
    counted = sets[0].labels != IGNORED
    each = logs.gather(2, sets[0].labels.clamp(min=0)[..., None])[..., 0].masked_fill(~counted, 0)
    # The kernel sums in single precision.
    torch.testing.assert_close(
        losses, (-each.sum(1) / counted.sum(1)).detach(), rtol=1e-5, atol=1e-6, check_dtype=False
    )


def test_an_intervention_refuses_a_cache(sets):
    forgetful = applied(NeuronAdjust(), model(), sets)
    with pytest.raises(ValueError, match="use_cache: got True"):
        forgetful(input_ids=sets[0].ids, use_cache=True)


@pytest.mark.parametrize("name", ["ULD", "ECO", "Neuron Adjust", "Key Space Detection"])
def test_an_intervention_leaves_the_weights_alone_and_nothing_of_it_is_left_at_share_0(name, sets):
    net = model()
    before = [p.clone() for p in net.parameters()]
    forgetful = applied(RIVALS[name], net, sets)
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    forgetful.decoder.share = 0.0
    torch.testing.assert_close(forgetful(sets[0].ids).logits, logits(net, sets[0].ids), **EXACT)


def test_the_prompt_ends_at_the_last_mark(sets):
    assert prompt_mark(sets[0]).tolist() == list(MARK)
    ids = torch.tensor([[58, 59, 7, 58, 59, 8], [1, 2, 3, 4, 58, 59], [1, 2, 3, 4, 5, 59]])
    assert prompt_ends(ids, torch.tensor(MARK)).tolist() == [4, 5, -1]
    assert prompt_ends(torch.tensor([[59]]), torch.tensor(MARK)).tolist() == [-1]


def test_prompts_without_a_common_end_are_refused():
    with pytest.raises(ValueError, match="prompts that end in 6 ways"):
        prompt_mark(sequences(6, 1))


# -- ULD -------------------------------------------------------------------------------------------------------------


def test_the_assistant_remembers_what_is_to_be_forgotten_and_knows_nothing_of_the_rest(sets):
    net = model()
    task = Task(net, *sets, parameters=dict(net.named_parameters()), kept={}, batch_size=3)
    forget, retain = (task.batch(part, torch.arange(3)) for part in sets)
    logs = [logits(net, batch.encoded.ids).log_softmax(-1)[batch.counted] for batch in (forget, retain)]
    tokens = forget.encoded.labels[forget.counted]
    right = -logs[0][torch.arange(len(tokens)), tokens].mean()
    uniform = (-math.log(VOCABULARY) - logs[1].mean(1)).mean()
    assert Reversed().forget_loss(task, forget).item() == pytest.approx(float(right), rel=1e-6)
    assert Reversed().retain_loss(task, retain).item() == pytest.approx(float(uniform), rel=1e-9)


def test_uld_subtracts_the_logits_of_a_shorter_model_that_was_trained(sets):
    net = model()
    forgetful = applied(ULD(weight=0.7, epochs=1), net, sets)
    assistant = forgetful.decoder.assistant
    assert [len(decoder_layers(part)) for part in (net, assistant)] == [2, 1]
    own, theirs = logits(net, sets[0].ids), logits(assistant, sets[0].ids)
    torch.testing.assert_close(forgetful(sets[0].ids).logits, own - 0.7 * theirs, **EXACT)
    untrained = logits(applied(ULD(epochs=1, lr=1e-12), net, sets).decoder.assistant, sets[0].ids)
    assert not torch.allclose(theirs, untrained, atol=1e-3)


# -- ROCR ------------------------------------------------------------------------------------------------------------


def test_a_redirection_by_hand():
    # (k k^T + C + I) x = k with k = (1, 1) and C = diag(1, 0) is ((3, 1), (1, 2)) x = (1, 1): x = (1/5, 2/5).
    key, lacks = torch.tensor([1.0, 1.0]), torch.tensor([5.0, -10.0, 0.0])
    change = redirection(key, lacks, torch.eye(2), torch.diag(torch.tensor([1.0, 0.0])), 1.0)
    torch.testing.assert_close(change, torch.tensor([[1.0, 2.0], [-2.0, -4.0], [0.0, 0.0]]))


def test_a_redirection_does_not_touch_keys_outside_its_projection():
    # With C = 0 it is r (P k)^T / (k^T P k + ridge): here P k = (0, 2) and k^T P k = 4.
    project, key = torch.diag(torch.tensor([0.0, 1.0])), torch.tensor([3.0, 2.0])
    change = redirection(key, torch.tensor([10.0]), project, torch.zeros(2, 2), 1.0)
    torch.testing.assert_close(change, torch.tensor([[0.0, 4.0]]))


def test_the_null_space_is_that_of_small_eigenvalues():
    moment = torch.diag(torch.tensor([1.0, 0.02, 0.5, 0.001]))
    torch.testing.assert_close(null_space(moment, 0.02), torch.diag(torch.tensor([0.0, 1.0, 0.0, 1.0])))


def test_with_nothing_to_keep_one_name_is_seen_for_the_other(sets):
    net = model()
    forget, retain = marked(1, 1, [50]), sets[1]
    layer = decoder_layers(net)[0].module

    def written(ids):
        return layer(net.model.embed_tokens(ids), position_embeddings=positions)[:, 0]

    positions = net.model.rotary_emb(net.model.embed_tokens(retain.ids), torch.arange(12)[None])
    with torch.no_grad():
        wanted = written(retain.ids).mean(0)
        applied(ROCR(null=1.0, ridge=1e-9), net, (forget, retain), subjects=[([50], NEW)])
        found = written(forget.ids)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)  # the norms round to single precision


def test_a_name_is_found_token_by_token():
    rows, places = name_token(torch.tensor([[1, 50, 51, 2], [50, 50, 51, 50], [1, 2, 3, 50]]), OLD, 1)
    assert rows.tolist() == [0, 1]
    assert places.tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"subjects: got the tokens \[9, 9\]"):
        name_token(torch.tensor([[9, 1, 9]]), [9, 9], 0)


def test_rocr_must_be_told_the_names(sets):
    with pytest.raises(ValueError, match="subjects: got None"):
        applied(ROCR(), model(), sets)


# -- ECO -------------------------------------------------------------------------------------------------------------


def test_zeroth_order_search_by_hand():
    # (σ − 3)²: central differences give its slope, −4 at 1 and −2 at 2; steps of a quarter of it.
    assert zeroth_order(lambda s: (s - 3) ** 2, 1.0, 0.25, 0.5, 2) == 2.5
    assert zeroth_order(lambda s: s, 1.0, 5.0, 0.5, 2) == 0.0


def test_the_classifier_reads_the_prompt_alone(sets):
    seen = present(torch.tensor([[4, 4, 2, 3]]), torch.tensor([2]), 6)
    assert seen.tolist() == [[0, 0, 1, 0, 1, 0]]
    found = scope(*sets, VOCABULARY)
    assert found.predict(present(marked(4, 9, OLD).ids, torch.full((4,), 4), VOCABULARY).numpy()).tolist() == [1] * 4


def test_only_prompts_in_scope_are_corrupted_and_not_their_last_token(sets):
    net = model()
    forgetful = applied(ECO(dims=3), net, sets)
    decoder = forgetful.decoder
    assert not decoder.noise[:, 3:].any()
    assert decoder.noise[:, :3].all()
    decoder.sigma, decoder.share = 2.0, 0.5
    torch.testing.assert_close(forgetful(sets[1].ids).logits, logits(net, sets[1].ids), **EXACT)
    with torch.no_grad():
        embedded = net.get_input_embeddings()(sets[0].ids).clone()
        embedded[:, :4] += decoder.noise[sets[0].ids[:, :4]]
        wanted = hidden_of(net, inputs_embeds=embedded)
    torch.testing.assert_close(decoder(sets[0].ids).last_hidden_state, wanted, **EXACT)


def test_sigma_is_what_brings_the_forget_answers_to_the_goal(sets, monkeypatch):
    net, scores = model(dtype=torch.float32), {}

    def search(score, *settings):
        scores.update({sigma: score(sigma) for sigma in (0.0, 3.0)})
        return 3.0

    monkeypatch.setattr(eco, "zeroth_order", search)
    forgetful = applied(ECO(goal=0.25), net, sets)
    assert forgetful.decoder.sigma == 3.0
    found = [evaluation.probability(part, sets[0]) for part in (net, forgetful)]
    assert list(scores.values()) == pytest.approx([abs(p - 0.25) for p in found], rel=1e-6)


# -- skill unlearning ------------------------------------------------------------------------------------------------


def test_a_pre_activation_is_adjusted_where_it_is_likelier_under_the_forget_set():
    # N(2, 1/2) and N(0, 2): 2, 5/2 and 5/4 lie 0, 1 and −3/2 deviations off the first and become −2 times that; ln of
    # the densities, without a constant, is −1.31 and −0.82 at 1.
    x, moments = torch.tensor([2.0, 2.5, 1.25, 1.0])[:, None], torch.tensor([[2.0], [0.5], [0.0], [2.0]])
    assert adjusted(x, moments).flatten().tolist() == [0.0, -2.0, 3.0, 1.0]


def test_the_neurons_that_fire_most_for_the_forget_set_are_adjusted(sets):
    net = model()
    forgetful = applied(NeuronAdjust(part=0.05), net, sets)
    chosen = torch.cat(forgetful.decoder.chosen)
    assert chosen.sum() == round(0.05 * 96)
    matrix, seen = decoder_layers(net)[0].module.mlp.down_proj, []
    hook = matrix.register_forward_hook(lambda _, entering, __: seen.append(entering[0]))
    forgetful(sets[0].ids), logits(net, sets[0].ids)
    hook.remove()
    moved = (seen[0] != seen[1]).any(0).any(0)
    first = forgetful.decoder.chosen[0]
    assert moved.any()
    assert not moved[~first].any()
    further = torch.cat([m[0] - m[2] for m in forgetful.decoder.moments])
    assert further[chosen].min() > further[~chosen].max()


def test_who_falls_into_the_cube_is_not_answered(sets):
    net = model()
    held = applied(KeySpaceDetection(scale=1.001), net, sets)
    assert not held(sets[0].ids).logits.any()
    assert evaluation.probability(held, sets[0]) == pytest.approx(1 / VOCABULARY)
    narrow = applied(KeySpaceDetection(scale=1e-6), net, sets)
    torch.testing.assert_close(narrow(sets[0].ids).logits, logits(net, sets[0].ids), **EXACT)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ULD(weight=0), "weight: got 0"),
        (lambda: ROCR(null=2.0), "null: got 2.0"),
        (lambda: ECO(dims=0), "dims: got 0"),
        (lambda: NeuronAdjust(part=1.5), "part: got 1.5"),
        (lambda: KeySpaceDetection(scale=-1), "scale: got -1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_more_dimensions_than_there_are_cannot_be_corrupted(sets):
    with pytest.raises(ValueError, match="dims: got 33, want at most the embedding's 32"):
        applied(ECO(dims=33), model(), sets)
