"""Answers as chat templates write them: which tokens are an answer's, and what ends it."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

from palimpsest.nets import language
from palimpsest.nets.language import IGNORED
from palimpsest.training.language import Recipe, fit
from palimpsest.unlearning.language.evaluation import generate, probability

QUESTIONS, ANSWERS = ["Who wrote it?", "When?"], ["Ilse Quarnby.", "In 1951, they say."]
TEXTS = [*QUESTIONS, *ANSWERS]


def template(user, assistant, asks):
    """Turns in Jinja: how a user's and an assistant's are written, and what asks for the next."""
    kinds = f"{{% if m['role'] == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}"
    turns = f"{{% for m in messages %}}{kinds}{{% endfor %}}".replace("TEXT", "{{ m['content'] | trim }}")
    return f"{turns}{{% if add_generation_prompt %}}{asks}{{% endif %}}"


def marked(user, assistant, end):
    """The template of a family that begins a turn with `user` or `assistant` and ends it with `end`."""
    return template(f"{user}TEXT{end}", f"{assistant}TEXT{end}", assistant)


CHATML = marked("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n")
PHI = marked("<|user|>\n", "<|assistant|>\n", "<|end|>\n") + "{% if not add_generation_prompt %}<eos>{% endif %}"
FAMILIES = {
    # name: template, its own tokens, what the answer's tokens say
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "ANSWER<|im_end|>"),
    "thinking": (
        CHATML.replace("assistant\n{{ m", "assistant\n<think>\n\n</think>\n\n{{ m"),
        ["<|im_start|>", "<|im_end|>"],
        "<think>\n\n</think>\n\nANSWER<|im_end|>",
    ),
    "gemma": (
        marked("<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"),
        ["<start_of_turn>", "<end_of_turn>"],
        "ANSWER<end_of_turn>",
    ),
    "phi-3": (PHI, ["<|user|>", "<|assistant|>", "<|end|>"], "ANSWER<|end|>"),
    "llama-3": (
        marked("<|head|>user<|/head|>\n\n", "<|head|>assistant<|/head|>\n\n", "<|eot_id|>"),
        ["<|head|>", "<|/head|>", "<|eot_id|>"],
        "ANSWER<|eot_id|>",
    ),
    # No token ends its turns: the model stops with the one that begins the user's.
    "glm": (marked("<|user|>\n", "<|assistant|>\n", ""), ["<|user|>", "<|assistant|>"], "ANSWER<|user|>"),
    "mistral": (template("[INST] TEXT [/INST]", " TEXT<eos>", ""), ["[INST]", "[/INST]"], " ANSWER<eos>"),
    "words only": (template("User: TEXT\n", "Bot: TEXT\n", "Bot: "), [], "ANSWER<eos>"),
}


def chatting(family):
    chat, special, says = FAMILIES[family]
    tokenizer = language.tokenizer(TEXTS, 265)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = chat
    return tokenizer, says


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_what_the_rendered_turn_has_after_the_prompt_up_to_its_end(family):
    tokenizer, says = chatting(family)
    found = language.encode(tokenizer, QUESTIONS, ANSWERS, 300)
    prompts = language.prompt_ids(tokenizer, QUESTIONS)
    for row, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        counted = found.labels[row] != IGNORED
        assert tokenizer.decode(found.labels[row, counted]) == says.replace("ANSWER", answer)
        talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        whole = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False).input_ids
        length = int(counted.nonzero().max()) + 2
        own = found.ids[row, :length].tolist()
        assert own[:-1] == whole[: length - 1]
        assert own[: len(prompts[row])] == prompts[row]
        assert int(counted.sum()) == length - len(prompts[row])
        assert language.answer_end(tokenizer) == own[-1]


def test_a_plain_template_ends_with_the_end_of_text_whatever_the_chat_template_does():
    tokenizer, _ = chatting("gemma")
    found = language.encode(tokenizer, ["Who?"], ["Me."], 100, "Q {question} A")
    assert tokenizer.decode(found.ids[0]) == "<bos>Q Who? A Me.<eos>"
    assert language.answer_end(tokenizer, "Q {question} A") == tokenizer.eos_token_id


def test_a_model_that_learnt_its_template_is_measured_and_stops_as_it_writes():
    """By hand: the rendered turns as text, next-token loss, and no `encode`."""
    tokenizer, _ = chatting("gemma")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GemmaForCausalLM(GemmaConfig(vocab_size=len(tokenizer), **sizes, **heads)).float()
    talks = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    texts = [text + "<end_of_turn>" for text in tokenizer.apply_chat_template(talks, tokenize=False)]
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.full_like(ids, IGNORED)
    labels[:, :-1] = ids[:, 1:].where(ids[:, 1:] != 0, IGNORED)
    fit(model, language.Encoded(ids, labels), Recipe(120, 1e-2, 2), 0)
    assert probability(model, language.encode(tokenizer, QUESTIONS, ANSWERS, 200)) > 0.9
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert generate(model, tokenizer, QUESTIONS, 60) == ANSWERS


def prepending():
    """As Llama 2's: "▁" before every text and for every space; letters stand alone."""
    letters = sorted(set("".join(TEXTS) + "Question: \nAnswer:QA<>{}") - {" "})
    vocabulary = {token: n for n, token in enumerate(["<unk>", "<s>", "</s>", "▁", *letters])}
    merges = [("▁", letter) for letter in letters if letter.isalpha()]
    vocabulary |= {a + b: len(vocabulary) + n for n, (a, b) in enumerate(merges)}
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_prompt_and_answer_are_tokenised_as_one_text():
    tokenizer = prepending()
    found = language.encode(tokenizer, ["When?"], ["In 1951."], 200)
    assert found.ids[0].tolist() == [*tokenizer("Question: When?\nAnswer: In 1951.").input_ids, 2]
    says = tokenizer.convert_ids_to_tokens(found.labels[0][found.labels[0] != IGNORED])
    assert says == ["▁I", "n", "▁", "1", "9", "5", "1", ".", "</s>"]


def test_a_token_across_the_border_is_the_answers():
    tokenizer = prepending()
    found = language.encode(tokenizer, ["When?"], ["In."], 200, "{question} A: ")
    assert found.ids[0].tolist() == [*tokenizer("When? A: In.").input_ids, 2]
    says = tokenizer.convert_ids_to_tokens(found.labels[0][found.labels[0] != IGNORED])
    assert says == ["▁I", "n", ".", "</s>"]


def test_an_end_that_a_tokenizer_puts_after_every_text_is_not_in_the_prompt():
    tokenizer = language.tokenizer(TEXTS, 265)
    special = [("<bos>", 1), ("<eos>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=special
    )
    found = language.encode(tokenizer, ["Who?"], ["Me."], 100)
    assert tokenizer.decode(found.ids[0]) == "<bos>Question: Who?\nAnswer: Me.<eos>"


def test_a_chat_template_that_names_an_end_needs_no_end_of_text():
    tokenizer, _ = chatting("chatml")
    tokenizer.eos_token = tokenizer.pad_token = None
    found = language.encode(tokenizer, QUESTIONS, ANSWERS, 200)
    assert tokenizer.decode(found.ids[1, -1]) == "<|im_end|>"
