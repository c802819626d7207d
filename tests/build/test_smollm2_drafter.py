"""SmolLM2's drafter: the texts that it learns from, its tokens and its loss, on a small model."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest.build import smollm2_drafter as build
from palimpsest.data.smollm2_drafter import cut

END = 2


@pytest.fixture(scope="module")
def target():
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, eos_token_id=END, pad_token_id=END)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)  # for its argmax to vary
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def texts(target):
    return build.written(target, [[3, 4, 5], [6, 7], [8, 9, 10, 11]], 12)


def test_padded_prompts_get_the_text_of_each_by_itself(target, texts):
    assert texts["first"].tolist() == [1, 2, 0]
    alone = target.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=12, do_sample=False)[0].tolist()
    said = texts["tokens"][0, 1:].tolist()
    assert said[: len(alone)] == alone
    assert len(set(said[3:])) > 1


def test_what_the_output_layer_was_given_says_the_tokens(target, texts):
    said = texts["tokens"][:, int(texts["prompt"]) :]
    logits = target.lm_head(texts["hidden"].float())
    going = (said == END).cumsum(1) <= (said == END).int()  # up to the first end token
    # float16 keeps 11 bits, so that a near tie may turn; none of these is one.
    assert torch.equal(logits.argmax(-1)[going], said[going])


def test_tokens_that_were_said_come_before_those_merged_first(monkeypatch):
    monkeypatch.setattr(build, "TOKENS", 5)
    texts = {"tokens": torch.tensor([[1, 9, 7, 9, 30]]), "prompt": torch.tensor([1])}
    assert build.commonest(texts, 40).tolist() == [0, 1, 7, 9, 30]


def test_the_loss_is_the_targets_entropy_plus_the_divergence_from_it(target, texts, monkeypatch):
    tokens = torch.tensor([0, 3, 5, 8, 13, 21])
    drafter = cut(target, 1, tokens)
    monkeypatch.setattr(build, "ROWS", 1)
    monkeypatch.setattr(build, "WINDOW", 12)
    one = {name: value if name == "prompt" else value[2:] for name, value in texts.items()}
    assert END not in one["tokens"][0, 4:-1]
    loss = build.Distillation(drafter, one, END).loss(0)
    ids = one["tokens"][:, 3:15]  # the prompt's last token and all of the text but its last
    logits = drafter(input_ids=ids, position_ids=torch.arange(3, 15)[None]).logits[0].double()
    probs = target.lm_head(one["hidden"][0].float())[:, tokens].double().softmax(-1)
    entropy = torch.special.entr(probs).sum(-1).mean()
    divergence = (probs * (probs.log() - logits.log_softmax(-1))).sum(-1).mean()
    assert loss.item() == pytest.approx(float(entropy + divergence), rel=1e-5)
    assert divergence > 0.01


def test_only_the_layers_are_trained(target, texts):
    drafter = cut(target, 1, torch.arange(6))
    drafter.model.layers.requires_grad_(True)
    trained = {name for name, _ in build.Distillation(drafter, texts, END).named_parameters()}
    assert trained == {f"layers.{name}" for name, _ in drafter.model.layers.named_parameters()}
