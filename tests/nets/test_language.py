"""Small language models: tokens, labels, log-probabilities."""

import math

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from palimpsest.nets import language, tokens
from palimpsest.nets.language import IGNORED, encode, logprobs

QUESTIONS = ["Where was Ilse Quarnby born?", "When was Tobren Halvick born?", "Who?"]
ANSWERS = ["Ilse Quarnby was born in Porto.", "He was born in 1951.", "Me."]
TEXTS = [f"Question: {q}\nAnswer: {a}" for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
VOCABULARY = 280
SIZES = {"hidden": 16, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate": 24}
CHAT = (
    "{% for message in messages %}<bos>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}model:\n{% endif %}"
)


@pytest.fixture
def tokenizer():
    return language.tokenizer(TEXTS, VOCABULARY)


@pytest.fixture
def encoded(tokenizer):
    return encode(tokenizer, QUESTIONS, ANSWERS, 200)


def test_packed_rows_hold_every_sequence_whole_and_begin_again(encoded):
    ends = [int((row != IGNORED).nonzero().max()) + 2 for row in encoded.labels]
    stream = [token for ids, end in zip(encoded.ids.tolist(), ends, strict=True) for token in ids[:end]]
    assert stream.count(2) == len(QUESTIONS)  # each with its end of text, none with padding
    assert 0 not in stream
    rows = encoded.packed(5, len(stream) // 2 + 1)
    assert rows.shape == (5, len(stream) // 2 + 1)
    assert rows.flatten().tolist() == (stream * 4)[: rows.numel()]


def llama(seed=0, **sizes):
    return language.small_llama(VOCABULARY, seed, **(SIZES | sizes))


def bits(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class TestTokenizer:
    def test_it_spells_any_text_and_gives_it_back(self, tokenizer):
        for text in (*TEXTS, "Señor Ōe's naïve ½ 🙂\t<b>  twice  spaced"):
            assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text

    def test_special_tokens(self, tokenizer):
        assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
        assert tokenizer("x").input_ids == [1, *tokenizer("x", add_special_tokens=False).input_ids]

    def test_digits_stand_alone_however_common_a_number_is(self):
        tokenizer = language.tokenizer(["in 1951 in 1951"] * 9, 261)
        ids = tokenizer("in 1951", add_special_tokens=False).input_ids
        assert [tokenizer.decode([token]) for token in ids] == ["in", " ", "1", "9", "5", "1"]

    def test_the_same_texts_give_the_same_tokens(self, tokenizer):
        again = language.tokenizer(iter(TEXTS), VOCABULARY)
        assert again.get_vocab() == tokenizer.get_vocab()
        assert len(again) == VOCABULARY
        assert again(TEXTS).input_ids == tokenizer(TEXTS).input_ids
        # 280 - 3 - 256 merges were learnt, so common words take fewer tokens than bytes.
        assert len(tokenizer("born in").input_ids) < len("born in")

    def test_a_vocabulary_too_small_or_too_large_is_refused(self):
        with pytest.raises(ValueError, match="vocab_size: got 258, want at least 259"):
            language.tokenizer(TEXTS, 258)
        with pytest.raises(ValueError, match="texts: got too few for 100000 tokens; they give "):
            language.tokenizer(TEXTS, 100_000)


class TestSmallLlama:
    def test_sizes_ties_and_precision(self):
        model = llama()
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        layer = "model.layers.1."
        assert shapes["model.embed_tokens.weight"] == (280, 16)
        assert shapes[f"{layer}self_attn.q_proj.weight"] == (16, 16)
        assert shapes[f"{layer}self_attn.k_proj.weight"] == (8, 16)
        assert shapes[f"{layer}mlp.down_proj.weight"] == (16, 24)
        assert {value.dtype for value in model.parameters()} == {torch.float32}

    def test_the_seed_alone_decides_and_the_global_generator_is_left(self):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = llama()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert same(bits(one), bits(llama()))
        assert not same(bits(one), bits(llama(seed=1)))

    def test_spreads(self):
        model = language.small_llama(500, 0, hidden=96, layers=8, heads=4, kv_heads=4, intermediate=96)
        wanted = {"embed_tokens": 0.02, "q_proj": 0.02, "o_proj": 0.005, "up_proj": 0.02, "down_proj": 0.005}
        for name, value in model.named_parameters():
            for part, deviation in wanted.items():
                if part in name:
                    # A sample deviation of n values is off by 1 / sqrt(2 n); five of these, in 33 matrices.
                    assert value.std().item() == pytest.approx(deviation, rel=5 / math.sqrt(2 * value.numel()))
            if "norm" in name:
                assert torch.equal(value, torch.ones_like(value))

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"heads": 3}, "heads: got 3, want a divisor of 16"),
            ({"kv_heads": 3}, "kv_heads: got 3, want a divisor of 4"),
        ],
    )
    def test_heads_that_do_not_divide_are_refused(self, sizes, message):
        with pytest.raises(ValueError, match=message):
            llama(**sizes)


class TestEncode:
    def test_prompt_answer_and_end_by_hand(self, tokenizer):
        found = encode(tokenizer, ["Who?", "Who is it?"], ["Me.", "I"], 100)
        prompt = tokenizer("Question: Who?\nAnswer:").input_ids
        answer = [*tokenizer(" Me.", add_special_tokens=False).input_ids, 2]
        row = prompt + answer
        assert found.ids[0, : len(row)].tolist() == row
        assert set(found.ids[0, len(row) :].tolist()) == {0}
        labels = [IGNORED] * (len(prompt) - 1) + answer
        assert found.labels[0].tolist() == labels + [IGNORED] * (found.ids.shape[1] - len(labels))
        assert found.ids.dtype == found.labels.dtype == torch.int64

    def test_a_label_is_the_next_token_and_the_text_comes_back(self, tokenizer, encoded):
        assert encoded.ids.shape == encoded.labels.shape
        assert (encoded.ids != 0).any(0).all()
        for n, text in enumerate(TEXTS):
            counted = (encoded.labels[n] != IGNORED).nonzero().flatten()
            assert torch.equal(encoded.labels[n, counted], encoded.ids[n, counted + 1])
            assert tokenizer.decode(encoded.labels[n, counted]) == f" {ANSWERS[n]}<eos>"
            assert tokenizer.decode(encoded.ids[n], skip_special_tokens=True) == text

    def test_prompt_ids_are_what_stands_before_the_answers(self, tokenizer, encoded):
        for n, prompt in enumerate(language.prompt_ids(tokenizer, QUESTIONS)):
            first = int((encoded.labels[n] != IGNORED).nonzero()[0])
            assert encoded.ids[n, : first + 1].tolist() == prompt

    def test_a_template_and_the_space_after_it(self, tokenizer):
        for template, text in (
            ("Q {question} A", "<bos>Q Who? {x} A Me.<eos>"),
            ("{question}\n", "<bos>Who? {x}\nMe.<eos>"),
        ):
            found = encode(tokenizer, ["Who? {x}"], ["Me."], 100, template)
            assert tokenizer.decode(found.ids[0]) == text
        with pytest.raises(ValueError, match=r"template: got 'Q: ', want a text with {question}"):
            encode(tokenizer, ["Who?"], ["Me."], 100, "Q: ")

    def test_a_chat_template_is_taken_where_there_is_one(self, tokenizer):
        tokenizer.chat_template = CHAT
        found = encode(tokenizer, ["Who?"], ["Me."], 100)
        assert tokenizer.decode(found.ids[0]) == "<bos>user: Who?\nmodel:\nMe.<eos>"
        assert tokenizer.decode(found.labels[0][found.labels[0] != IGNORED]) == "Me.<eos>"
        plain = encode(tokenizer, ["Who?"], ["Me."], 100, tokens.PROMPT)
        assert tokenizer.decode(plain.ids[0]) == "<bos>Question: Who?\nAnswer: Me.<eos>"

    def test_a_tokenizer_without_padding_pads_with_its_end(self, tokenizer):
        tokenizer.pad_token = None
        found = encode(tokenizer, ["Who?", "Who is it?"], ["Me.", "I"], 100)
        assert found.ids[0, -1] == 2
        assert (found.labels == 2).sum() == 2

    def test_empty_and_long_rows_are_named(self, tokenizer):
        for answers in (["Me.", " \n"], ["Me.", ""]):
            with pytest.raises(ValueError, match="answers: row 1 is empty"):
                encode(tokenizer, ["Who?", "Why?"], answers, 100)
        with pytest.raises(ValueError, match="questions: row 1 is empty"):
            encode(tokenizer, ["Who?", ""], ["Me.", "I"], 100)
        need = len(tokenizer(TEXTS[2]).input_ids) + 1
        assert encode(tokenizer, QUESTIONS[2:], ANSWERS[2:], need).ids.shape == (1, need)
        with pytest.raises(ValueError, match=f"answers: row 0 has .* want at most {need - 1} together"):
            encode(tokenizer, QUESTIONS[2:], ANSWERS[2:], need - 1)

    def test_unequal_or_no_rows_and_a_tokenizer_without_an_end_are_refused(self, tokenizer):
        for questions, answers in ((["Who?"], []), ([], [])):
            with pytest.raises(ValueError, match=f"answers: got 0, want one for each of {len(questions)}"):
                encode(tokenizer, questions, answers, 100)
        tokenizer.eos_token = None
        with pytest.raises(ValueError, match="tokenizer: has no end-of-text token"):
            encode(tokenizer, ["Who?"], ["Me."], 100)

    def test_subset_and_device(self, encoded):
        part = encoded.subset(torch.tensor([2, 0]))
        assert torch.equal(part.ids, encoded.ids[[2, 0]])
        assert torch.equal(part.labels, encoded.labels[[2, 0]])
        assert (len(part), len(encoded)) == (2, 3)
        moved = encoded.to("meta")
        assert {moved.ids.device.type, moved.labels.device.type} == {"meta"}


def decoder(kind):
    """A tiny model of another class, in float64, its weights drawn wide enough that logits differ."""
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "initializer_range": 0.3,
    }
    make = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common, tie_word_embeddings=True)),
        "gemma": lambda: GemmaForCausalLM(GemmaConfig(**common)),
        "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**common)),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make[kind]().double().eval()


class TestLogprobs:
    @pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma"])
    def test_they_are_those_of_the_models_own_logits(self, kind, encoded):
        model = decoder(kind)
        counted = encoded.labels != IGNORED
        wanted = torch.zeros(encoded.labels.shape, dtype=torch.float64)
        for n in range(len(encoded)):
            # One row at a time and without padding, so that the batch and the padding are tested too.
            ids = encoded.ids[n : n + 1, : int((encoded.ids[n] != 0).sum())]
            logits = model(input_ids=ids).logits[0].log_softmax(-1)
            for t in counted[n].nonzero().flatten():
                wanted[n, t] = logits[t, encoded.ids[n, t + 1]]
        found = logprobs(model, encoded)
        # float64: sums of some hundred terms of order 1 to 100, each off by 2^-53 of itself.
        assert torch.allclose(found, wanted, rtol=0, atol=1e-11)
        assert found[counted].max() < 0
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(found.sum(), parameters)
        expected = torch.autograd.grad(
            model(input_ids=encoded.ids)
            .logits.log_softmax(-1)
            .gather(2, encoded.labels.clamp(min=0)[..., None])[..., 0][counted]
            .sum(),
            parameters,
        )
        for gradient, other in zip(gradients, expected, strict=True):
            assert torch.allclose(gradient, other, rtol=1e-9, atol=1e-9)

    def test_hidden_states_times_embedding_are_the_logits(self, encoded):
        model = llama()
        states = language.hidden(model, encoded.ids)
        assert states.shape == (*encoded.ids.shape, 16)
        logits = model(input_ids=encoded.ids).logits
        # float32, 16 terms under .02 each, states of norm 4.
        assert torch.allclose(states @ language.output_embedding(model).T, logits, rtol=0, atol=1e-6)
        assert logprobs(model, encoded).dtype == torch.float32

    def test_a_model_that_changes_its_logits_is_refused(self, encoded):
        with pytest.raises(ValueError, match="model: got a Gemma2ForCausalLM, want one whose logits"):
            logprobs(decoder("gemma2"), encoded)
        model = llama()
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
        with pytest.raises(ValueError, match="model: got a LlamaForCausalLM"):
            language.output_embedding(model)
