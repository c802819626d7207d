import numpy as np
import pytest
import torch
from pairs import llama, nearby, random_tree, tolerance
from visual_pairs import FAMILIES, IMAGE, TOKENS, VIDEO, longer, model, path_logits, plain, prompt

from palimpsest import decoding
from palimpsest.decoding import SPECVLM, LlavaOnevisionDecoder, Qwen25VLDecoder, adapt, batch, cache

DTYPES = (torch.float32, torch.float64)
COUNT = 12
DELTA = {"llava_onevision": 0, "qwen2_5_vl": (3 - 6) + (4 - 16)}
"""A picture of 2 × 3 (4 × 4) merged patches moves the text on by 3 (4) positions and takes 6 (16) rows."""


def words(count, seed):
    return torch.randint(1, IMAGE, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def models():
    return {(family, dtype): model(family, 1, dtype=dtype) for family in FAMILIES for dtype in DTYPES}


@pytest.fixture(scope="module")
def references(models):
    """transformers' own greedy texts."""
    return {
        (family, dtype): plain(one, prompt(family, dtype=dtype), COUNT) for (family, dtype), one in models.items()
    }


def run(target, drafter, inputs, policy="sage", **options):
    options = {"stop_tokens": (), "max_new_tokens": COUNT} | options
    return decoding.generate(target, drafter, inputs, policy=policy, **options)


def test_adapters_are_chosen_by_class(models):
    kinds = {"llava_onevision": LlavaOnevisionDecoder, "qwen2_5_vl": Qwen25VLDecoder}
    for family in FAMILIES:
        assert type(adapt(models[family, torch.float32])) is kinds[family]


def test_a_class_that_would_not_see_the_features_is_refused(models):
    seeing = models["llava_onevision", torch.float32]

    class Older(type(seeing)):
        def forward(self, input_ids=None, **kwargs):
            return super().forward(input_ids, **kwargs)

    with pytest.raises(ValueError, match="got Older that takes no mm_encoder_outputs"):
        adapt(Older(seeing.config).eval())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tree", [SPECVLM, random_tree(30, 1)])
def test_tree_logits_are_path_logits(tree, family, models):
    tokens = words(len(tree) + 1, 1)
    logits, first = {}, {}
    for dtype in DTYPES:
        decoder = adapt(models[family, dtype])
        first[dtype] = decoder.prefill(prompt(family, dtype=dtype))
        logits[dtype] = decoder.extend(tokens, *tree.verification)
        assert decoder.offset == DELTA[family]
    for path in tree.paths:
        rows = [0, *(node + 1 for node in path)]
        exact, rounded = (
            path_logits(models[family, dtype], prompt(family, dtype=dtype), [tokens[row] for row in rows])
            for dtype in (torch.float64, torch.float32)
        )
        got = {dtype: torch.cat((first[dtype][None], logits[dtype][rows])) for dtype in DTYPES}
        assert (got[torch.float32] - exact).abs().max() <= tolerance(exact, rounded)
        # The norms are float32 in float64 too. Sums are float64 and come out alike after that rounding.
        assert (got[torch.float64] - exact).abs().max() <= 1e-12 * exact.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_caches_after_commits_are_those_of_a_fresh_prefill(family, models, monkeypatch):
    monkeypatch.setattr(cache, "ROOM", 4)
    decoder, text = adapt(models[family, torch.float32]), []
    decoder.prefill(prompt(family))
    for step in range(5):
        tree, tokens = random_tree(20, step), words(21, 100 + step)
        decoder.extend(tokens, *tree.verification)
        rows = [0, *(node + 1 for node in max(tree.paths, key=len))]
        decoder.commit(rows)
        text += [tokens[row] for row in rows]
    fresh, exact = (adapt(models[family, dtype]) for dtype in DTYPES)
    fresh.prefill(longer(prompt(family), text))
    exact.prefill(longer(prompt(family, dtype=torch.float64), text))
    assert (decoder.length, decoder.offset) == (fresh.length, fresh.offset)
    assert decoder.room() == 256 - decoder.length - DELTA[family]
    for kept, whole, true in zip(decoder.rows(), fresh.rows(), exact.rows(), strict=True):
        for name in ("keys", "values"):
            got, want, wanted = (getattr(layer, name)[:, :, : decoder.length] for layer in (kept, whole, true))
            assert (got - wanted).abs().max() <= tolerance(wanted, want)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", decoding.policies)
def test_greedy_text_is_transformers_own(policy, family, models, references):
    narrow, wide = (models[family, dtype] for dtype in DTYPES)
    stranger = model(family, 99, layers=1)
    for target, drafter in ((narrow, nearby(narrow, 0.02)), (narrow, stranger), (wide, nearby(wide, 0.02))):
        got = run(target, drafter, prompt(family, dtype=target.dtype), policy)
        assert got.tokens == references[family, target.dtype]
        assert got.stats.target_forwards == got.stats.rounds + 1 <= COUNT


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", decoding.policies)
def test_draws_are_plain_decodings_under_the_same_noise(policy, family, models):
    target, options = models[family, torch.float32], {"temperature": 0.8, "seed": 3}
    want = run(target, None, prompt(family), "autoregressive", **options).tokens
    assert run(target, nearby(target, 0.02), prompt(family), policy, **options).tokens == want


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_makes_a_difference(family, models):
    """What the tests above would not see: a prompt whose pictures change nothing."""
    target = adapt(models[family, torch.float32])
    first, other = prompt(family), prompt(family, seed=5)
    other["input_ids"] = first["input_ids"]
    assert (target.prefill(first) - target.prefill(other)).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_drafter_that_is_the_target_is_always_right(family, models):
    target = models[family, torch.float32]
    stats = run(target, target, prompt(family), decoding.policies["chain"](length=3)).stats
    assert stats.accepted == [3, 3, 2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", ["sage", "opt_tree"])
def test_a_batch_decodes_what_each_request_does_alone(policy, family, models):
    target = models[family, torch.float32]
    inputs = [prompt(family), prompt(family, 1, pictures=1), {"input_ids": words(5, 2)}]
    drafter = nearby(target, 0.02)
    alone = [run(target, drafter, one, policy, temperature=0.7, seed=4 + i) for i, one in enumerate(inputs)]
    options = {"policy": policy, "max_new_tokens": COUNT, "stop_tokens": (), "temperature": 0.7, "seed": 4}
    for got, want in zip(decoding.generate_batch(target, drafter, inputs, **options), alone, strict=True):
        assert got.tokens == want.tokens
        assert got.stats.accepted == want.stats.accepted


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_batch_have_the_positions_of_their_own_request(family, models):
    inputs, trees = [prompt(family), prompt(family, 1, pictures=1)], [SPECVLM, random_tree(4, 3)]
    target, exact = (models[family, dtype] for dtype in DTYPES)
    decoders = [adapt(target) for _ in inputs]
    for decoder, one in zip(decoders, inputs, strict=True):
        decoder.prefill(one)
    proposals = [(words(len(tree) + 1, 7), *tree.verification) for tree in trees]
    logits = batch.Batch(decoders).extend(proposals)
    for i, tree in enumerate(trees):
        rows = [0, *(node + 1 for node in max(tree.paths, key=len))]
        tokens = [proposals[i][0][row] for row in rows]
        wide = prompt(family, i, dtype=torch.float64, pictures=2 - i)
        true, rounded = path_logits(exact, wide, tokens)[1:], path_logits(target, inputs[i], tokens)[1:]
        assert (logits[i][rows] - true).abs().max() <= tolerance(true, rounded)


def test_the_delta_is_the_requests_own(models):
    """Another request, and transformers' own `generate`, leave theirs on the model in the meantime."""
    target, exact = (models["qwen2_5_vl", dtype] for dtype in DTYPES)
    decoder, other = adapt(target), adapt(target)
    decoder.prefill(prompt("qwen2_5_vl"))
    other.prefill({"input_ids": words(7, 3)})
    plain(target, prompt("qwen2_5_vl", pictures=1), 2)
    assert (decoder.offset, other.offset) == (-15, 0)
    assert decoder.positions(torch.tensor([0, 2, 2])).tolist() == [[[18, 20, 20]]] * 3
    got = decoder.extend([5, 6], [0, 1], np.tri(2, dtype=bool))
    want = path_logits(exact, prompt("qwen2_5_vl", dtype=torch.float64), [5, 6])[1:]
    assert (got - want).abs().max() <= tolerance(want, path_logits(target, prompt("qwen2_5_vl"), [5, 6])[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_read_once(family, models, monkeypatch):
    target, calls = models[family, torch.float32], []
    forward = target.forward
    monkeypatch.setattr(target, "forward", lambda **given: calls.append(given) or forward(**given))
    run(target, None, prompt(family), "autoregressive", max_new_tokens=3)
    assert ["mm_encoder_outputs" in call for call in calls] == [True, False, False]
    assert not any(key.startswith("pixel") for call in calls for key in call)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_without_pictures(family, models):
    target, inputs = models[family, torch.float32], {"input_ids": torch.tensor([words(6, 8)])}
    got = run(target, nearby(target, 0.02), inputs)
    assert got.tokens == plain(target, inputs, COUNT)
    assert run(target, nearby(target, 0.02), inputs["input_ids"][0].tolist()).tokens == got.tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_and_inputs_that_may_be_left_out(family):
    target, exact = model(family, 1, attention="eager"), model(family, 1, dtype=torch.float64)
    inputs = prompt(family) | {"attention_mask": torch.ones_like(prompt(family)["input_ids"])}
    inputs.pop("mm_token_type_ids", None)
    want = path_logits(exact, prompt(family, dtype=torch.float64), [])[0]
    rounded = path_logits(target, prompt(family), [])[0]
    assert (adapt(target).prefill(inputs) - want).abs().max() <= tolerance(want, rounded)


def test_several_pictures_of_one_prompt_may_be_announced(models):
    inputs = prompt("llava_onevision")
    target = adapt(models["llava_onevision", torch.float32])
    want = target.prefill(inputs)
    assert torch.equal(target.prefill(inputs | {"batch_num_images": torch.tensor([2])}), want)


def without(inputs, *keys):
    return {key: value for key, value in inputs.items() if key not in keys}


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_that_do_not_fit_the_prompt(family, models):
    target, inputs = adapt(models[family, torch.float32]), prompt(family)
    size = target.picture_keys[1]
    total = sum(TOKENS[family])
    ids = inputs["input_ids"][0].tolist()
    bare = without(inputs, "mm_token_type_ids")
    cases = [
        (bare | {"input_ids": words(9, 1)}, f"got 0 image tokens in the prompt and {total} features"),
        (bare | {"input_ids": [IMAGE, *ids]}, f"got {total + 1} image tokens in the prompt and {total} features"),
        (without(bare, "pixel_values"), f"got {total} image tokens and .*, want 'pixel_values'"),
        (without(bare, "pixel_values", size), f"got {total} image tokens and no picture, want 'pixel_values'"),
        (without(bare, size), f"want '{size}' as well"),
        (bare | {"input_ids": [*ids, VIDEO, VIDEO]}, "got 2 video tokens"),
        (bare | {"pixel_values_videos": torch.zeros(1)}, "got 'pixel_values_videos'"),
    ]
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            target.prefill(given)


def test_prompts_that_m_rope_cannot_place(models):
    target, inputs = adapt(models["qwen2_5_vl", torch.float32]), prompt("qwen2_5_vl")
    with pytest.raises(ValueError, match="mm_token_type_ids differ"):
        target.prefill(inputs | {"mm_token_type_ids": inputs["mm_token_type_ids"].roll(1)})
    ids = inputs["input_ids"][inputs["input_ids"] != IMAGE].tolist()
    joined = {"input_ids": [*ids[:3], *[IMAGE] * 22, *ids[3:]]}
    with pytest.raises(ValueError, match=r"in runs of \[22\], want \[6, 16\], with text in between"):
        target.prefill(without(inputs, "mm_token_type_ids") | joined)


def test_a_drafter_of_another_kind_says_what_it_wants(models):
    target = models["llava_onevision", torch.float32]
    with pytest.raises(ValueError, match="got 'image_sizes', want of LlamaForCausalLM"):
        run(target, llama(1, vocabulary=60), prompt("llava_onevision"))
