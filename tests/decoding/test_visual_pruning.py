import pytest
import torch
from pairs import llama, nearby, tolerance
from visual_pairs import FAMILIES, IMAGE, model, plain, prompt

from palimpsest import decoding
from palimpsest.decoding import ModelDrafter, PrunedDrafter, adapt, visual_pruning

DTYPES = (torch.float32, torch.float64)
COUNT = 8
RULES = visual_pruning.RULES
WORDS = [3, 17, 40]
"""Read behind the prompt."""


@pytest.fixture(scope="module")
def models():
    return {(family, dtype): model(family, 1, dtype=dtype) for family in FAMILIES for dtype in DTYPES}


def read(drafter, inputs):
    """Logits [1 + len(WORDS), V] of the drafter's model after its prefill and behind each of WORDS."""
    drafter.prefill(inputs, 10)
    depths = range(len(WORDS))
    return drafter.decoder.extend(WORDS, depths, torch.ones(len(WORDS), len(WORDS)).tril().bool())


@torch.no_grad()
def hidden(target, inputs, dropped):
    """The logits behind WORDS of one forward over the whole text in which nobody looks at the rows `dropped`."""
    ids = torch.cat((inputs["input_ids"], torch.tensor([WORDS])), 1)
    count = ids.shape[1]
    mask = torch.full((count, count), torch.finfo(target.dtype).min, dtype=target.dtype).triu(1)
    mask[:, dropped] = torch.finfo(target.dtype).min
    mask.fill_diagonal_(0)
    positions = torch.arange(count)[None]
    given = {key: inputs[key] for key in adapt(target).picture_keys if key in inputs}
    if "image_grid_thw" in inputs:
        kinds = (ids == IMAGE).int()
        positions, _ = target.model.get_rope_index(ids, kinds, image_grid_thw=inputs["image_grid_thw"])
    call = {"attention_mask": mask[None, None], "position_ids": positions, "use_cache": False}
    return target(input_ids=ids, **given, **call).logits[0, -len(WORDS) :]


@torch.no_grad()
def weights(family, inputs, seed=1):
    """Attention of the last token, mean over layers and heads, from whole T × T matrices."""
    target = model(family, seed, attention="eager")
    attentions = target(**inputs, output_attentions=True, use_cache=False).attentions
    visual = inputs["input_ids"][0] == IMAGE
    return torch.stack(attentions)[:, 0, :, -1].mean((0, 1))[visual]


def kept_by(rule, family, inputs, keep):
    """Numbers of the visual tokens that stay."""
    count = int((inputs["input_ids"] == IMAGE).sum())
    if rule == "attention":
        return weights(family, inputs).topk(keep).indices.tolist()
    if rule == "uniform":
        return [int((i + 0.5) * count / keep) for i in range(keep)]
    return torch.randperm(count, generator=torch.Generator().manual_seed(7))[:keep].tolist()


@pytest.mark.pairwise
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_pruned_prefill_is_a_whole_one_that_looks_away(share, rule, family, models):
    rows = (prompt(family)["input_ids"][0] == IMAGE).nonzero()[:, 0]
    keep = {(20, 0.3): 14, (20, 0.8): 4, (22, 0.3): 15, (22, 0.8): 4}[len(rows), share]
    kept = kept_by(rule, family, prompt(family), keep)
    dropped = [row for i, row in enumerate(rows.tolist()) if i not in kept]
    assert len(dropped) == len(rows) - keep
    want = {dtype: hidden(models[family, dtype], prompt(family, dtype=dtype), dropped) for dtype in DTYPES}
    drafter = PrunedDrafter(models[family, torch.float32], share, by=rule, seed=7)
    whole = ModelDrafter(models[family, torch.float32])
    got, unpruned = read(drafter, prompt(family)), read(whole, prompt(family))
    bound = tolerance(want[torch.float64], want[torch.float32])
    assert (got - want[torch.float64]).abs().max() <= bound
    assert (got - unpruned).abs().max() > 100 * bound
    # Fewer rows, the same positions.
    assert drafter.decoder.length == whole.decoder.length - len(dropped)
    assert (
        drafter.decoder.positions(torch.tensor([0])).tolist() == whole.decoder.positions(torch.tensor([0])).tolist()
    )
    assert drafter.room() == whole.room()
    assert drafter.forwards == whole.forwards + (2 if rule == "attention" else 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES)
def test_a_share_that_drops_nothing_changes_no_bit(rule, family, models):
    drafter = models[family, torch.float32]
    for share in (0, 0.02):
        assert torch.equal(
            read(PrunedDrafter(drafter, share, by=rule), prompt(family)), read(ModelDrafter(drafter), prompt(family))
        )
    options = {"policy": "sage", "max_new_tokens": COUNT, "stop_tokens": (), "trace": True}
    got, want = (
        decoding.generate(models[family, torch.float32], one, prompt(family), **options).stats
        for one in (PrunedDrafter(drafter, 0, by=rule), drafter)
    )
    assert got.trace == want.trace
    assert got.draft_forwards == want.draft_forwards


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", RULES)
def test_the_targets_text_is_unchanged_at_any_share(rule, family, models):
    target = models[family, torch.float32]
    want = plain(target, prompt(family), COUNT)
    for share in (0.3, 0.99):
        drafter = PrunedDrafter(nearby(target, 0.02), share, by=rule)
        options = {"policy": "opt_tree", "max_new_tokens": COUNT, "stop_tokens": ()}
        assert decoding.generate(target, drafter, prompt(family), **options).tokens == want


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_prunes_each_request_by_itself(family, models):
    target = models[family, torch.float32]
    drafter = PrunedDrafter(nearby(target, 0.02), 0.6)
    inputs = [prompt(family), prompt(family, 1, pictures=1), {"input_ids": [4, 5, 6]}]
    options = {"policy": "static", "max_new_tokens": COUNT, "stop_tokens": ()}
    alone = [decoding.generate(target, drafter, one, **options) for one in inputs]
    for got, want in zip(decoding.generate_batch(target, drafter, inputs, **options), alone, strict=True):
        assert (got.tokens, got.stats.accepted) == (want.tokens, want.stats.accepted)
        assert got.stats.draft_forwards == want.stats.draft_forwards


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_last_tokens_attention(family, models):
    decoder = adapt(models[family, torch.float32])
    with torch.inference_mode():
        got = visual_pruning.attention_scores(decoder, decoder.prefill_inputs(prompt(family)))
    want = weights(family, prompt(family))
    # Each weight is a mean of softmax values, so that its rounding is of the logits': some 1e-5 of it at most.
    torch.testing.assert_close(got, want, rtol=1e-4, atol=0)
    assert decoder.model.config.get_text_config()._attn_implementation == "sdpa"
    assert decoder.length == 0


def test_another_model_can_score(models):
    drafter, scorer = (model("llava_onevision", seed) for seed in (1, 5))
    inputs = prompt("llava_onevision")
    keep = weights("llava_onevision", inputs, seed=5).topk(4).indices.tolist()
    assert set(keep) != set(weights("llava_onevision", inputs, seed=1).topk(4).indices.tolist())
    dropped = [
        row for i, row in enumerate((inputs["input_ids"][0] == IMAGE).nonzero()[:, 0].tolist()) if i not in keep
    ]
    exact = models["llava_onevision", torch.float64]
    want = hidden(exact, prompt("llava_onevision", dtype=torch.float64), dropped)
    got = read(PrunedDrafter(drafter, 0.8, scorer=scorer), inputs)
    assert (got - want).abs().max() <= tolerance(want, hidden(drafter, inputs, dropped))


def test_the_random_choice_is_the_seeds(models):
    drafter, inputs = models["llava_onevision", torch.float32], prompt("llava_onevision")
    first, again, other = (read(PrunedDrafter(drafter, 0.5, by="random", seed=s), inputs) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1}, r"share: got 1, want a number in \[0, 1\)"),
        ({"share": -0.1}, "share: got -0.1"),
        ({"share": float("nan")}, "share: got nan"),
        ({"share": "0.5"}, "share: got '0.5'"),
        ({"share": True}, "share: got True"),
        ({"by": "norm"}, "by: got 'norm', want one of 'attention', 'uniform', 'random'"),
        ({"by": "random", "seed": -1}, "seed: got -1"),
        ({"by": "uniform", "scorer": model("llava_onevision", 2)}, "scorer: got one with by='uniform'"),
        ({"scorer": llama(0)}, "scorer: got LlamaForCausalLM, want a vision-language model"),
        ({"model": llama(0)}, "model: got LlamaForCausalLM, want a vision-language model"),
    ],
)
def test_arguments_that_are_refused(options, message, models):
    with pytest.raises(ValueError, match=message):
        PrunedDrafter(**{"model": models["llava_onevision", torch.float32], "share": 0.5} | options)


def test_the_picture_must_not_come_last(models):
    inputs = prompt("llava_onevision", pictures=1)
    inputs["input_ids"] = inputs["input_ids"][:, :-4]
    drafter = models["llava_onevision", torch.float32]
    with pytest.raises(ValueError, match="ends with a visual token"):
        PrunedDrafter(drafter, 0.5).prefill(inputs, 10)
    PrunedDrafter(drafter, 0.5, by="uniform").prefill(inputs, 10)
