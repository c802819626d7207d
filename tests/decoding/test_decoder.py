import numpy as np
import pytest
import torch
from pairs import VOCABULARY, llama, path_logits, random_tree, small, tolerance
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlavaOnevisionConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from palimpsest.decoding import SPECVLM, Decoder, Tree, cache


def random_tokens(count, seed):
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize(
    ("tree", "attention"),
    [
        (SPECVLM, "sdpa"),
        (Tree.chain(7), "sdpa"),
        (Tree((-1,) * 6), "sdpa"),
        (random_tree(40, 1), "sdpa"),
        (random_tree(20, 2), "eager"),
    ],
)
def test_tree_logits_are_path_logits(tree, attention):
    models = {dtype: llama(3, dtype=dtype, attention=attention) for dtype in (torch.float32, torch.float64)}
    prompt, tokens = random_tokens(9, 0), random_tokens(len(tree) + 1, 1)
    logits = {}
    for dtype, model in models.items():
        decoder = Decoder(model)
        decoder.prefill(prompt)
        logits[dtype] = decoder.extend(tokens, *tree.verification)
        assert logits[dtype].dtype == dtype
    for path in tree.paths:
        rows = [0, *(node + 1 for node in path)]
        text = prompt + [tokens[row] for row in rows]
        exact, rounded = (path_logits(models[dtype], text)[len(prompt) :] for dtype in (torch.float64, torch.float32))
        bound = tolerance(exact, rounded)
        assert (logits[torch.float32][rows] - exact).abs().max() <= bound
        # Llama's norm is float32 in float64 too. sdpa's sums are float64: they come out alike after that rounding.
        bound = 1e-12 * exact.abs().max() if attention == "sdpa" else bound
        assert (logits[torch.float64][rows] - exact).abs().max() <= bound


def test_levels_of_a_draft_see_their_own_path_only():
    model, exact_model = llama(4), llama(4, dtype=torch.float64)
    decoder = Decoder(model)
    prompt = random_tokens(6, 2)
    decoder.prefill(prompt)
    first = decoder.extend([1], [0], np.ones((1, 1), bool))
    # Rows 1 and 2 below row 0, row 3 below row 2; pending rows come first in the mask.
    second = decoder.extend([2, 3], [1, 1], np.array([[1, 1, 0], [1, 0, 1]], bool))
    third = decoder.extend([4], [2], np.array([[1, 0, 1, 1]], bool))
    for rows, text in ((torch.cat((first, second[:1])), [1, 2]), (torch.cat((first, second[1:], third)), [1, 3, 4])):
        exact, rounded = (path_logits(one, prompt + text)[len(prompt) :] for one in (exact_model, model))
        assert (rows - exact).abs().max() <= tolerance(exact, rounded)
    decoder.commit([0, 2, 3])
    assert (decoder.length, decoder.pending) == (len(prompt) + 3, 0)
    after = decoder.extend([5], [0], np.ones((1, 1), bool))
    exact, rounded = (path_logits(one, [*prompt, 1, 3, 4, 5])[-1:] for one in (exact_model, model))
    assert (after - exact).abs().max() <= tolerance(exact, rounded)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_caches_after_commits_are_those_of_a_fresh_prefill(family, monkeypatch):
    monkeypatch.setattr(cache, "ROOM", 4)  # the rows outgrow their allocation again and again
    if family == "llama":
        model, exact_model = llama(5), llama(5, dtype=torch.float64)
    else:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=400)
        ).eval()
        exact_model = GPT2LMHeadModel(model.config).double().eval()
        exact_model.load_state_dict(model.state_dict())
    decoder, fresh, exact = Decoder(model), Decoder(model), Decoder(exact_model)
    text = random_tokens(5, 3)
    decoder.prefill(text)
    for step in range(8):
        tree = random_tree(20, step)
        tokens = random_tokens(21, 100 + step)
        decoder.extend(tokens, *tree.verification)
        rows = [0, *(node + 1 for node in max(tree.paths, key=len))]
        decoder.commit(rows)
        text = text + [tokens[row] for row in rows]
    assert decoder.length == len(text)
    fresh.prefill(text)
    exact.prefill(text)
    for kept, whole, true in zip(decoder._cache.layers, fresh._cache.layers, exact._cache.layers, strict=True):
        for name in ("keys", "values"):
            got, want, wanted = (getattr(layer, name)[:, :, : len(text)] for layer in (kept, whole, true))
            assert (got - wanted).abs().max() <= tolerance(wanted, want)


def test_positions_count_from_the_committed_rows():
    decoder = Decoder(llama(0))
    decoder.prefill([1, 2, 3])
    assert decoder.positions(torch.tensor([0, 1, 1])).tolist() == [[3, 4, 4]]
    decoder.offset = 5
    assert decoder.positions(torch.tensor([0, 2])).tolist() == [[8, 10]]
    assert decoder.room() == 512 - 3 - 5


def test_a_second_prompt_starts_anew():
    model = llama(6)
    decoder, fresh = Decoder(model), Decoder(model)
    decoder.prefill([1, 2, 3])
    decoder.extend([4, 5], [0, 1], np.tri(2, dtype=bool))
    again = decoder.prefill([7, 8])
    assert torch.equal(again, fresh.prefill(torch.tensor([[7, 8]])))
    assert torch.equal(
        again, fresh.prefill({"input_ids": torch.tensor([[7, 8]]), "attention_mask": torch.ones(1, 2)})
    )
    assert (decoder.length, decoder.pending, decoder.forwards) == (2, 0, 1)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "n ≥ 1"),
        ([1.5], "want token numbers"),
        ([[1, 2], [3, 4]], "shape .2, 2."),
        ([[1, 2], [3]], "inputs: got list, want token numbers"),
        ("What is it?", "inputs: got str, want token numbers"),
        ([VOCABULARY], "got tokens 50 to 50, want 0 to 49"),
        ([-1], "got tokens -1"),
        ([1] * 513, "got 513 tokens, want at most 512"),
        ({"ids": [1]}, "'ids'"),
        ({"input_ids": [1], "pixel_values": torch.ones(1)}, "'pixel_values'"),
        ({"input_ids": [1, 2], "attention_mask": torch.tensor([[0, 1]])}, "without padding"),
    ],
)
def test_prompts_that_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        Decoder(llama(0)).prefill(inputs)


def flash():
    model = llama(0)
    model.config._attn_implementation = "flash_attention_2"
    return model


def local():
    options = {"num_layers": 1, "num_heads": 2, "attention_types": [[["local"], 1]]}
    return GPTNeoForCausalLM(GPTNeoConfig(vocab_size=50, hidden_size=16, **options))


UNSUITED = {
    "an encoder-decoder": lambda: T5ForConditionalGeneration(
        T5Config(d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=4, vocab_size=50)
    ),
    "no language-model head": lambda: BertModel(small(BertConfig, vocab_size=50)),
    "attention to both sides": lambda: BertLMHeadModel(small(BertConfig, vocab_size=50)),
    "with .'linear_attention'. layers": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)
    ),
    "with .'local'. layers": local,
    "Bloom.*places tokens by itself": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2)
    ),
    "Falcon.*places tokens by itself": lambda: FalconForCausalLM(small(FalconConfig, vocab_size=50, alibi=True)),
    "got attention 'flash_attention_2', want one of sdpa, eager": flash,
    "got Linear, want a causal language model": lambda: torch.nn.Linear(2, 2),
}


@pytest.mark.parametrize("message", UNSUITED)
def test_models_that_are_refused(message):
    model = UNSUITED[message]()
    with pytest.raises(ValueError, match=message):
        Decoder(model)


def test_a_vision_model_wants_an_adapter():
    class Unadapted:
        config = LlavaOnevisionConfig()

    with pytest.raises(ValueError, match="a vision model without an adapter"):
        Decoder(Unadapted())


def gemma3(kind):
    options = {"head_dim": 8, "sliding_window": 12, "layer_types": [kind]}
    return Gemma3ForCausalLM(small(Gemma3TextConfig, vocab_size=50, **options))


def longrope():
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    lengths = {"original_max_position_embeddings": 16, "max_position_embeddings": 64}
    options = {"num_key_value_heads": 2, "pad_token_id": 0, "rope_parameters": factors}
    return Phi3ForCausalLM(small(Phi3Config, vocab_size=50, **options, **lengths))


def mistral():
    return MistralForCausalLM(small(MistralConfig, vocab_size=50, num_key_value_heads=2, sliding_window=12))


@pytest.mark.parametrize(
    ("make", "window"),
    [
        (mistral, 12),
        (lambda: gemma3("sliding_attention"), 12),
        (lambda: gemma3("full_attention"), None),
        (longrope, 16),
    ],
)
def test_a_window_is_a_limit_of_the_text(make, window):
    model = make().eval()
    decoder = Decoder(model)
    assert decoder.window == window
    decoder.prefill([1, 2, 3, 4, 5, 6, 7])
    whole = model.config.max_position_embeddings
    assert decoder.room() == (whole if window is None else window) - 7
    # The tree has more rows than the window, and none that is farther from the start.
    tree = Tree.from_counts((5, 5, 5, 5))
    tokens = random_tokens(21, 3)
    logits = decoder.extend(tokens, *tree.verification)
    for path in tree.paths:
        rows = [0, *(node + 1 for node in path)]
        want = path_logits(model, [1, 2, 3, 4, 5, 6, 7, *(tokens[row] for row in rows)])[7:]
        torch.testing.assert_close(logits[rows], want, rtol=0, atol=1e-5)
    if window is not None:
        with pytest.raises(ValueError, match=f"want at most {window}, the model's attention window"):
            decoder.prefill([1] * (window + 1))


def test_a_window_counts_rows_where_positions_are_fewer():
    decoder = Decoder(llama(0, context=64))
    decoder.window = 30
    decoder.prefill([1] * 20)
    decoder.offset = -15  # as behind a picture under M-RoPE
    assert decoder.room() == 10


def test_rows_and_masks_that_do_not_fit():
    decoder = Decoder(llama(0))
    decoder.prefill([1, 2])
    with pytest.raises(ValueError, match=r"ancestors: got shape \[1, 2\] with 1 tokens and 1 depths"):
        decoder.extend([1], [0], np.ones((1, 2), bool))
    decoder.extend([1, 2], [0, 1], np.tri(2, dtype=bool))
    with pytest.raises(ValueError, match=r"rows: got \[0, 2\], want rows below the 2"):
        decoder.commit([0, 2])
    with pytest.raises(ValueError, match="increase strictly"):
        decoder.commit([1, 0])
