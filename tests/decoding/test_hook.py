import pytest
import torch
from pairs import VOCABULARY, llama, nearby
from transformers import DynamicCache, MaxTimeCriteria
from visual_pairs import FAMILIES, model, plain, prompt

from palimpsest import decoding
from palimpsest.decoding import TokenRecycling, TreeDecoding
from palimpsest.decoding.drafters import PADDING

COUNT = 10
PROMPT = torch.tensor([[3, 14, 15, 9, 26]])


@pytest.fixture(scope="module")
def text():
    return llama(7, layers=1)


def padded():
    """Three prompts of different lengths, padding on the left."""
    prompts = [[3, 14, 15, 9, 26], [5, 35], [8, 9, 7, 9]]
    ids = torch.tensor([[0] * (5 - len(one)) + one for one in prompts])
    return prompts, {"input_ids": ids, "attention_mask": (ids > 0).long()}


def generate(target, hook, inputs=None, **options):
    inputs = {"input_ids": PROMPT} if inputs is None else inputs
    return target.generate(**inputs, **{"max_new_tokens": COUNT, "do_sample": False} | options, custom_generate=hook)


@pytest.mark.parametrize("policy", decoding.policies)
def test_greedy_sequences_are_generates(policy, text):
    hook = TreeDecoding(nearby(text, 0.02), policy=policy)
    want = text.generate(PROMPT, max_new_tokens=COUNT, do_sample=False)
    got = text.generate(PROMPT, max_new_tokens=COUNT, do_sample=False, custom_generate=hook)
    assert torch.equal(got, want)
    assert got.dtype == torch.int64
    assert torch.equal(
        text.generate(input_ids=PROMPT, max_length=PROMPT.shape[1] + 3, custom_generate=hook), want[:, :8]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_reach_target_and_drafter(family):
    target, inputs = model(family, 1), prompt(family)
    hook = TreeDecoding(target, policy=decoding.policies["chain"](length=3))
    got = generate(target, hook, inputs)
    assert got[0].tolist() == inputs["input_ids"][0].tolist() + plain(target, inputs, COUNT)
    assert hook.outputs[0].stats.accepted == [3, 3, 0]  # a drafter that saw other pictures would err
    # The class that needs the kinds of the tokens can tell them by itself.
    bare = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    assert torch.equal(generate(target, hook, bare), got)


def test_end_of_text_and_padding(text):
    prompts, batch = padded()
    texts = [plain(text, {"input_ids": torch.tensor([one])}, COUNT) for one in prompts]
    ends = [texts[0][2], texts[1][5]]
    want = text.generate(**batch, max_new_tokens=COUNT, do_sample=False, eos_token_id=ends, pad_token_id=0)
    hook = TreeDecoding(nearby(text, 0.02))
    got = generate(text, hook, batch, eos_token_id=ends, pad_token_id=0)
    assert torch.equal(got, want)
    assert len({len(output.tokens) for output in hook.outputs}) > 1
    # Without a pad token the first end-of-text token fills up, as in generate.
    want = text.generate(**batch, max_new_tokens=COUNT, do_sample=False, eos_token_id=ends)
    assert torch.equal(generate(text, hook, batch, eos_token_id=ends), want)
    alone = text.generate(PROMPT, max_new_tokens=COUNT, do_sample=False, eos_token_id=ends[0])
    assert torch.equal(generate(text, hook, eos_token_id=ends[0]), alone)


def test_draws_are_those_of_decoding_generate(text):
    sampling = {"do_sample": True, "top_k": 0}
    for temperature in (1.0, 0.5):
        want = decoding.generate(
            text, None, PROMPT, policy="autoregressive", max_new_tokens=COUNT, temperature=temperature, seed=9
        )
        for drafter in (nearby(text, 0.02), TokenRecycling()):
            got = generate(text, TreeDecoding(drafter, seed=9), temperature=temperature, **sampling)
            assert got[0, PROMPT.shape[1] :].tolist() == want.tokens
    several = generate(
        text, TreeDecoding(nearby(text, 0.02), seed=9), num_return_sequences=3, temperature=0.5, **sampling
    )
    assert several.shape == (3, PROMPT.shape[1] + COUNT)
    assert torch.equal(several[:1], got)
    assert len(set(map(tuple, several.tolist()))) == 3


class Collector:
    def __init__(self):
        self.got, self.ended = [], False

    def put(self, value):
        self.got.append(value.tolist())

    def end(self):
        self.ended = True


def test_tokens_are_streamed_as_they_come(text):
    streamer = Collector()
    hook = TreeDecoding(text, policy=decoding.policies["chain"](length=3), streamer=streamer)
    sequences = generate(text, hook)
    new = sequences[0, PROMPT.shape[1] :].tolist()
    assert streamer.got == [PROMPT.tolist(), new[:1], new[1:5], new[5:9], new[9:]]
    assert streamer.ended
    with pytest.raises(ValueError, match="streamer: got one with 3 prompts"):
        generate(text, hook, padded()[1])


def test_a_dictionary_is_returned_where_asked_for(text):
    hook = TreeDecoding(nearby(text, 0.02))
    got = generate(text, hook, return_dict_in_generate=True)
    assert torch.equal(got.sequences, generate(text, hook))


def filled(text):
    rows = DynamicCache()
    text(PROMPT[:, :2], past_key_values=rows)
    return rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True}, "got TopKLogitsWarper, want none but a temperature"),
        ({"do_sample": True, "top_k": 0, "top_p": 0.9}, "got TopPLogitsWarper"),
        ({"repetition_penalty": 1.2}, "got RepetitionPenaltyLogitsProcessor"),
        ({"min_new_tokens": 2, "eos_token_id": 1}, "got MinLengthLogitsProcessor"),
        ({"stopping_criteria": [MaxTimeCriteria(9.0)]}, "stopping_criteria: got MaxTimeCriteria"),
        ({"num_beams": 2}, "got the mode 'beam_search'"),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores: got True"),
        ({"output_hidden_states": True}, "inputs: got 'output_hidden_states'"),
        ({"position_ids": torch.arange(5)[None] + 1}, "position_ids: got others than 0"),
        ({"attention_mask": torch.tensor([[1, 1, 0, 1, 1]])}, "attention_mask: got padding behind or within"),
        ({"past_key_values": filled}, "past_key_values: got a filled cache"),
        ({"max_new_tokens": 600}, "max_new_tokens: got 600"),
    ],
)
def test_what_would_change_the_text_is_refused(options, message, text):
    options = {name: value(text) if value is filled else value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        generate(text, TreeDecoding(nearby(text, 0.02)), **options)


def test_a_batch_of_pictures_is_refused():
    target, inputs = model("llava_onevision", 1), prompt("llava_onevision", pictures=1)
    inputs = {name: torch.cat((value, value)) for name, value in inputs.items()}
    with pytest.raises(ValueError, match="pixel_values: got pictures with 2 sequences"):
        generate(target, TreeDecoding(None, policy="autoregressive"), inputs)


def test_another_vocabulary_is_refused(text):
    size = VOCABULARY + PADDING + 1
    with pytest.raises(ValueError, match=f"got a vocabulary of {size} tokens, want the target's {VOCABULARY}"):
        generate(text, TreeDecoding(llama(0, vocabulary=size)))
