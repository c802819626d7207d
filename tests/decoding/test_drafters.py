import pytest
import torch
from pairs import distribution, llama, path_logits

from palimpsest.decoding import ModelDrafter, PromptLookup, TokenRecycling
from palimpsest.decoding.distributions import UNKNOWN, ranked, weighted
from palimpsest.decoding.draft import Draft


def probabilities(model, text, k):
    return path_logits(model, text)[-1].double().softmax(-1).topk(k)


def check(model, text, got, k=4):
    """`got` is what `model` says after `text`: tokens, renormalised probabilities, their share, alpha."""
    want = probabilities(model, text, k)
    assert list(got.tokens) == want.indices.tolist()
    # A logit's rounding error moves a probability by its own size at most, relatively.
    assert torch.tensor(got.probs) * got.mass == pytest.approx(want.values.numpy(), rel=1e-4)
    assert sum(got.probs) == pytest.approx(1)
    p = want.values / want.values.sum()
    assert got.alpha == pytest.approx(1 + float((p * p.log()).sum()) / torch.tensor(float(k)).log().item(), abs=1e-4)


def test_a_model_drafts_what_it_would_say_after_each_path():
    model, k = llama(11), 4
    drafter = ModelDrafter(model)
    prompt = [3, 1, 4, 1, 5]
    drafter.prefill(prompt, k)
    text = [*prompt, 9]
    root = drafter.start([9])
    check(model, text, root)
    drafted = Draft(root)
    drafted.branch(-1, 3)
    drafter.expand(drafted, [0, 2])
    for node in (0, 2):
        check(model, [*text, drafted.tokens[node]], drafted.distributions[node])
    below = drafted.branch(2, 2)
    drafter.expand(drafted, [below[1]])
    check(model, [*text, drafted.tokens[2], drafted.tokens[below[1]]], drafted.distributions[below[1]])
    assert drafter.forwards == 4  # the prefill, the root, two levels
    # Accepted: node 2 (it has a row) and its first child (it has none); then the bonus token 7.
    drafter.commit([2, below[0]])
    accepted = [drafted.tokens[2], drafted.tokens[below[0]]]
    text = [*text, *accepted, 7]
    again = Draft(drafter.start([*accepted, 7]))
    check(model, text, again.root)
    assert drafter.decoder.length == len(text) - 2  # two rows are fresh: the leaf and the bonus token
    again.branch(-1, 2)
    drafter.expand(again, [1])
    check(model, [*text, again.tokens[1]], again.distributions[1])
    drafter.commit([])
    check(model, [*text, 8], drafter.start([8]))


def test_renumbering_keeps_rows_with_their_nodes():
    model = llama(12)
    drafter = ModelDrafter(model)
    drafter.prefill([1, 2], 4)
    drafted = Draft(drafter.start([3]))
    drafted.branch(-1, 4)
    drafter.expand(drafted, [1, 2])
    drafter.renumber([2, 3])  # node 2 is node 0 now
    drafter.commit([0])
    check(model, [1, 2, 3, drafted.tokens[2], 5], drafter.start([drafted.tokens[2], 5]))
    assert drafter.decoder.length == 4


def test_ranked_counts_the_share_of_the_whole_vocabulary():
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0], [5.0, 5.0, 0.0, 0.0]])
    first, second = ranked(logits, 2)
    p = logits.double().softmax(-1)
    assert list(first.tokens) == [1, 2]
    assert first.mass == pytest.approx(float(p[0, 1] + p[0, 2]), rel=1e-6)
    assert list(second.tokens) == [0, 1]
    assert second.alpha == pytest.approx(0, abs=1e-6)
    assert len(ranked(logits, 10)[0].tokens) == 4


def test_shares_never_exceed_one():
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 20  # shares within rounding of 1
    assert max(one.mass for one in ranked(logits, 10)) == 1


def test_weights_make_the_same_numbers_as_probabilities():
    got, want = weighted([7, 8, 9], [4, 2, 2], 10), distribution([0.5, 0.25, 0.25], [7, 8, 9])
    assert got.probs == pytest.approx(want.probs)
    assert got.alpha == pytest.approx(want.alpha)
    assert weighted([7], [3], 10).alpha == 1
    assert weighted([7], [3], 1).alpha == 1


def test_token_recycling_repeats_the_targets_last_word():
    drafter = TokenRecycling()
    drafter.prefill([1], 2)
    assert drafter.start([5]) == UNKNOWN
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0, 0.0, 0.0], [9.0, 8.0, 0.0, 0.0, 0.0, 0.0]])
    drafter.observe([5, 4], logits)
    assert list(drafter.start([0, 5]).tokens) == [2, 3]
    drafter.observe([5], logits[1:])
    assert list(drafter.start([5]).tokens) == [0, 1]
    drafted = Draft(distribution([1.0], [4]))
    drafted.branch(-1, 1)
    drafter.expand(drafted, [0])
    assert list(drafted.distributions[0].tokens) == [0, 1]
    assert drafter.forwards == 0


def test_prompt_lookup_takes_the_longest_match_then_counts_then_the_latest():
    drafter = PromptLookup(ngram=2)
    drafter.prefill([1, 2, 3, 9, 2, 4, 8, 2, 4, 7, 2, 5], 10)
    assert list(drafter.start([1, 2]).tokens) == [3]  # after 1 2
    assert list(drafter.start([6, 2]).tokens) == [4, 6, 5, 3]  # after 2: 4 twice, the others once, the latest first
    drafted = Draft(distribution([1.0], [4]))
    drafted.branch(-1, 1)
    drafter.expand(drafted, [0])
    assert list(drafted.distributions[0].tokens) == [7, 8]  # after 2 4, both once
    assert drafter.start([40]) == UNKNOWN
    drafter.prefill([2, 4, 2, 7, 2, 7, 2, 4], 10)
    assert list(drafter.start([9, 2]).tokens) == [4, 7]  # twice each: 4 was the last to come
    with pytest.raises(ValueError, match="ngram: got 0"):
        PromptLookup(0)


def test_a_new_prompt_forgets_the_old_text():
    drafter = PromptLookup()
    drafter.prefill([1, 2, 3], 10)
    drafter.prefill([7], 10)
    assert drafter.start([1]) == UNKNOWN
