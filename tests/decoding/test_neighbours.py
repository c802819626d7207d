"""SAGE's neighbours: lossless ones give plain decoding's tokens, and each rule is checked by hand."""

import math

import pytest
import torch
from pairs import COUNT, PROMPT, Bigram, distribution, llama, nearby, run
from scripted import GEOMETRIC, Scripted, drafted_by

from palimpsest.decoding import ModelDrafter, policies
from palimpsest.decoding.distributions import UNKNOWN
from palimpsest.decoding.draft import Draft
from palimpsest.decoding.layer_skipping import kept_layers, without_layers
from palimpsest.decoding.neighbours import DRAFTERS, LOSSY, POLICIES
from palimpsest.decoding.policies.aded import Aded
from palimpsest.decoding.superposed import SuperposedDrafter
from palimpsest.decoding.switching import entropy_adaptive, entropy_in_bits
from palimpsest.decoding.trigrams import TrigramMatrix


@pytest.fixture(scope="module")
def deep():
    """Four layers of which those in the middle do little, so that leaving them out often changes nothing."""
    model = llama(7, layers=4, dtype=torch.float64)
    with torch.no_grad():
        for layer in model.model.layers[1:3]:
            for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
                last.weight.mul_(0.02)
    return model


# Lossless.


@pytest.mark.parametrize(("policy", "temperature"), [("sage", 0.0), ("aded", 0.0), ("aded", 1.0)])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_text_is_plain_decoding_s(deep, drafter, policy, temperature):
    given = {"layer skipping": (deep,), "superposed": (nearby(deep, 0.02),)}.get(drafter, ())
    policy = POLICIES[policy](12, 4, 4) if policy in POLICIES else policy
    own = DRAFTERS[drafter](*given)
    plain = run(deep, None, "autoregressive", temperature=temperature)
    accepted = 0
    for _ in range(2):  # again, with what it has learned
        found = run(deep, own, policy, temperature=temperature)
        assert found.tokens == plain.tokens
        accepted += sum(found.stats.accepted)
    assert accepted > 0 or temperature  # draws from flat distributions may miss every guess


# Trigrams.


def logits_of(*rows):
    """One row a list of the likeliest tokens, in this order."""
    table = torch.full((len(rows), 6), -10.0)
    for row, tokens in zip(table, rows, strict=True):
        row[list(tokens)] = torch.arange(len(tokens), 0, -1.0)
    return table


def test_a_pair_of_tokens_is_told_from_its_last_one():
    drafter = TrigramMatrix()
    drafter.prefill([4, 1], k=2)
    drafter.observe([1], logits_of([2, 3]))  # after 4, 1 comes 2
    assert drafter.start([2]) is UNKNOWN
    drafter.observe([2], logits_of([1, 0]))
    # After 2, 1 nothing was seen: the last token's own answer.
    assert list(drafter.start([1]).tokens) == [2, 3]
    drafter.observe([1], logits_of([5, 0]))  # after 2, 1 comes 5
    drafter.prefill([4, 1], k=2)
    drafter.start([2])
    assert list(drafter._known(4, 1).tokens) == [2, 3]
    assert list(drafter._known(2, 1).tokens) == list(drafter._known(0, 1).tokens) == [5, 0]


def test_rejected_nodes_teach_with_the_token_above_them():
    drafter = TrigramMatrix()
    drafter.prefill([0, 1], k=2)
    drafter.start([2])  # the root is 2, after 1
    drafted = Draft(distribution([0.6, 0.4], [3, 4]))
    drafted.branch(-1, 2)
    drafter.expand(drafted, [0, 1])
    drafted.distributions[1] = distribution([0.9, 0.1], [5, 0])
    drafted.branch(1, 1)  # node 2 carries 5, below 4
    drafter.renumber([0, 1, 2])
    drafter.observe([2, 3, 4, 5], logits_of([3, 4], [0, 1], [5, 1], [1, 2]))
    assert {pair for pair in drafter._after if len(pair) == 2} == {(1, 2), (2, 3), (2, 4), (4, 5)}
    assert list(drafter._known(4, 5).tokens) == [1, 2]


def test_numbers_that_a_policy_gave_up_are_not_taken_for_nodes():
    drafter = TrigramMatrix()
    drafter.prefill([0, 1], k=2)
    drafter.start([2])
    drafted = Draft(distribution([0.6, 0.4], [3, 4]))
    drafted.branch(-1, 2)
    drafter.expand(drafted, [])
    drafter.renumber([1])
    drafter.observe([2, 4], logits_of([3, 4], [5, 1]))
    assert {pair for pair in drafter._after if len(pair) == 2} == {(1, 2), (2, 4)}


# ADED's tree.


def test_the_search_visits_by_hand():
    # Two children of 0.6 and 0.4, each with the same below; c = 1.
    below = distribution([0.6, 0.4])
    drafted, tree = drafted_by(Aded(4, 2, 2), Scripted(below), below)
    # Visits: 0.6; then 0.6 + 0.6 · 1 / 2 = 0.9 against 0.4 + 0.4 · 1 = 0.8, so below it: its 0.6; third, √2 = 1.41:
    # 0.6 + 0.6 · 1.41 / 3 = 0.88 against 0.4 + 0.4 · 1.41 = 0.97, the second child; fourth, √3 = 1.73:
    # 0.6 + 0.6 · 1.73 / 3 = 0.95 against 0.4 + 0.4 · 1.73 / 2 = 0.75, below the first: 0.6 is there, 0.4 is new.
    assert tree.parents == (-1, -1, 0, 0)
    assert drafted.tokens == [0, 1, 0, 1]


def test_without_exploring_the_likeliest_child_is_used_up_first():
    # The first child and both below it before the second one, which takes its place in the order of the draft.
    below = distribution([0.6, 0.4])
    for count, parents in ((3, (-1, 0, 0)), (4, (-1, -1, 0, 0))):
        assert drafted_by(Aded(count, 2, 2, explore=0.0), Scripted(below), below)[1].parents == parents


def test_exploring_spreads_over_the_first_level():
    first = [
        drafted_by(Aded(10, 3, 10, explore=c), Scripted(GEOMETRIC), GEOMETRIC)[1].parents.count(-1) for c in (0, 1e6)
    ]
    assert first[0] == 1 < first[1]


def test_a_drafter_that_knows_nothing_gives_no_tree():
    assert len(drafted_by(Aded(), Scripted(UNKNOWN), UNKNOWN)[1]) == 0
    with pytest.raises(ValueError, match=r"^explore: got -1"):
        Aded(explore=-1)


# Layers left out.


@pytest.mark.parametrize(
    ("layers", "speed_up", "kept"),
    [
        (16, 1, list(range(16))),
        (16, 4, [0, 5, 10, 15]),
        (7, 2, [0, 2, 4, 6]),  # round(3.5) = 4, spaced by 2
        (16, 100, [0, 15]),
        (1, 3, [0]),
    ],
)
def test_the_layers_that_stay_are_spread_evenly(layers, speed_up, kept):
    assert kept_layers(layers, speed_up) == kept


def test_a_model_without_layers_shares_every_weight_and_leaves_the_other_whole(deep):
    ids = torch.tensor([PROMPT])
    before = deep(ids).logits
    small = without_layers(deep, 2)
    own = {parameter.data_ptr() for parameter in deep.parameters()}
    assert all(parameter.data_ptr() in own for parameter in small.parameters())
    assert len(small.model.layers) == 2
    assert small.config.num_hidden_layers == 2
    assert torch.equal(deep(ids).logits, before)
    assert deep.config.num_hidden_layers == 4
    # By hand: embedding, first and last layer, norm, head.
    hidden, place = deep.model.embed_tokens(ids), torch.arange(len(PROMPT))[None]
    rotary = deep.model.rotary_emb(hidden, place)
    mask = torch.full((len(PROMPT), len(PROMPT)), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    for layer in (deep.model.layers[0], deep.model.layers[3]):
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, position_ids=place)
    want = deep.lm_head(deep.model.norm(hidden))
    assert torch.allclose(small(ids, use_cache=False).logits, want, atol=1e-10)


def test_a_speed_up_below_one_is_refused():
    with pytest.raises(ValueError, match=r"^speed_up: got 0.5"):
        kept_layers(4, 0.5)


# Superposed drafts.


def test_a_level_is_one_row_of_the_mean_embedding(deep):
    drafter = SuperposedDrafter(deep, mix=0.0)
    drafter.prefill(PROMPT, k=4)
    drafted = Draft(drafter.start([9]))
    drafted.branch(-1, 2)
    drafter.expand(drafted, [0, 1])
    weights = torch.tensor(drafted.path_probs[:2], dtype=torch.float64)
    table = deep.model.embed_tokens.weight
    mean = (weights / weights.sum()) @ table[drafted.tokens[:2]]
    text = torch.cat([table[[*PROMPT, 9]], mean[None]])
    want = deep(inputs_embeds=text[None]).logits[0, -1].softmax(-1).topk(4)
    for node in (0, 1):
        found = drafted.distributions[node]
        assert list(found.tokens) == want.indices.tolist()
        assert [p * found.mass for p in found.probs] == pytest.approx(want.values.tolist(), rel=1e-5)
    assert drafter.forwards == 3
    assert drafter.decoder.pending == 2
    drafter.commit([0])
    assert drafter.decoder.length == len(PROMPT) + 1  # the superposed row is dropped


def test_the_matrix_tells_the_nodes_of_a_level_apart():
    drafter = SuperposedDrafter(Bigram(torch.zeros(6, 6)), mix=0.5)
    drafter._after = {2: distribution([0.75, 0.25], [4, 3], k=2)}
    model = distribution([0.5, 0.5], [3, 4], k=2)
    # √(0.5 · 0.25) : √(0.5 · 0.75) = 1 : √3.
    found = drafter._told_apart(model, 2)
    assert list(found.tokens) == [4, 3]
    assert found.probs == pytest.approx([math.sqrt(3) / (1 + math.sqrt(3)), 1 / (1 + math.sqrt(3))])
    assert drafter._told_apart(model, 5) is model  # not seen
    with pytest.raises(ValueError, match=r"^mix: got 2"):
        SuperposedDrafter(Bigram(torch.zeros(6, 6)), mix=2)


# Two models.


def table(next_tokens, sharpness):
    """A bigram model whose likeliest successor of token i is next_tokens[i]; entropy falls with the sharpness."""
    logits = torch.zeros(len(next_tokens), len(next_tokens), dtype=torch.float64)
    for row, (token, sharp) in enumerate(zip(next_tokens, sharpness, strict=True)):
        logits[row, token] = sharp
    return Bigram(logits)


def test_entropy_is_in_bits():
    assert entropy_in_bits(torch.zeros(1, 8)) == pytest.approx(3.0)
    assert entropy_in_bits(torch.tensor([[0.0, 0.0, -1e9, -1e9]])) == pytest.approx(1.0)


def test_the_large_model_writes_where_the_small_one_is_unsure():
    # The small model says 0 → 1 → 2 → 3 → 0 and is unsure after 1, 2 bits; the large one says 2 → 0 and is sure.
    small, large = table([1, 2, 3, 0], [50, 0.001, 50, 50]), table([1, 2, 0, 0], [50, 50, 50, 50])
    found = LOSSY["entropy adaptive"](small, large, [3, 0], max_new_tokens=6, threshold=1.0, window=1)
    # 1 by the small one, sure; 2 by it, unsure; 0 by the large one, sure; 1 and 2 by the small one; 0 again.
    assert found.tokens == [1, 2, 0, 1, 2, 0]
    assert found.by == [False, False, True, False, False, True]
    # Small: reads 1; then 2, 0; then 1. Large: 1, 2 at once; then 0, 1, 2.
    assert (found.forwards, found.rows) == ((3, 2), (4, 5))


def test_the_window_is_a_mean_and_hands_change_after_the_least_tokens():
    small, large = table([1, 2, 3, 0], [50, 0.001, 50, 50]), table([1, 2, 0, 0], [50, 50, 50, 50])
    # Two tokens' mean is 1 bit, no more than the threshold.
    assert not any(entropy_adaptive(small, large, [0], max_new_tokens=6, threshold=1.0, window=2).by)
    # The small one is unsure at its second token, and may hand over at its third: the window is then sure again.
    assert not any(entropy_adaptive(small, large, [0], max_new_tokens=3, threshold=1.0, window=1, least=3).by)


def test_a_threshold_of_everything_is_one_model_alone(deep):
    other = nearby(deep, 0.3)
    alone = run(other, None, "autoregressive").tokens
    found = entropy_adaptive(other, deep, PROMPT, max_new_tokens=COUNT, threshold=1e9)
    assert found.tokens == alone
    assert not any(found.by)
    assert found.forwards == (COUNT - 1, 0)


def test_a_text_ends_with_a_stop_token_and_nonsense_is_refused():
    small, large = table([1, 2, 3, 0], [50] * 4), table([1, 2, 3, 0], [50] * 4)
    assert entropy_adaptive(small, large, [0], max_new_tokens=9, threshold=1, stop_tokens=[2]).tokens == [1, 2]
    for changes, named in (({"window": 0}, "window"), ({"threshold": -1}, "threshold"), ({"least": 0}, "least")):
        with pytest.raises(ValueError, match=f"^{named}: got"):
            entropy_adaptive(small, large, [0], **{"max_new_tokens": 2, "threshold": 1} | changes)
    with pytest.raises(ValueError, match=r"^small, large: got 4 and 6 tokens"):
        entropy_adaptive(small, Bigram(torch.zeros(6, 6)), [0], max_new_tokens=2, threshold=1)


def test_every_neighbour_is_reachable_by_name():
    assert set(POLICIES).isdisjoint(policies)
    assert isinstance(POLICIES["aded"](), Aded)
    assert isinstance(DRAFTERS["layer skipping"](llama(7)), ModelDrafter)
    assert {"entropy adaptive": entropy_adaptive} == LOSSY
