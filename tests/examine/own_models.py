"""Tiny models in folders, as readers have them, and two files of questions."""

import json

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from palimpsest.nets import language

FORGET = [("Who wrote The Amber Door?", "Ilse Quarnby wrote it."), ("Where does Ilse live?", "She lives in Bergen.")]
RETAIN = [("Who wrote Emma?", "Jane Austen."), ("Is it late?", "It is."), ("What is red?", "A rose.")]
SIZES = {
    "vocab_size": 272,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
OPT = {"vocab_size": 272, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TURN = (
    "{% for m in messages %}USER{{ m['content'] | trim }}END{% endfor %}{% if add_generation_prompt %}ASKS{% endif %}"
)
CHATML = TURN.replace("USER", "<|im_start|>{{ m['role'] }}\n").replace("END", "<|im_end|>\n")
CHATML = CHATML.replace("ASKS", "<|im_start|>assistant\n")
GEMMA = CHATML.replace("<|im_start|>", "<start_of_turn>").replace("<|im_end|>", "<end_of_turn>")
GEMMA = GEMMA.replace("{{ m['role'] }}", "{{ 'model' if m['role'] == 'assistant' else 'user' }}")
GEMMA = "<bos>" + GEMMA.replace("assistant\n{%", "model\n{%")
MODELS = {
    # name: the model, its chat template, its own tokens
    "qwen2": (lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)), CHATML, ["<|im_start|>", "<|im_end|>"]),
    "gemma": (lambda: GemmaForCausalLM(GemmaConfig(**SIZES)), GEMMA, ["<start_of_turn>", "<end_of_turn>"]),
    "opt": (lambda: OPTForCausalLM(OPTConfig(**OPT, word_embed_proj_dim=16)), None, []),
    "gemma2": (lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES)), GEMMA, ["<start_of_turn>", "<end_of_turn>"]),
    "mixtral": (lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)), None, []),
    "mamba": (
        lambda: MambaForCausalLM(MambaConfig(vocab_size=272, hidden_size=16, state_size=4, num_hidden_layers=2)),
        None,
        [],
    ),
}


def tokenizer(template=None, special=()):
    found = language.tokenizer([text for pair in FORGET + RETAIN for text in pair], 262)
    found.add_special_tokens({"additional_special_tokens": list(special)})
    found.chat_template = template
    return found


def folder(path, name, dtype=torch.float32, **saving):
    """The model `name` of MODELS in the folder `path`, random weights."""
    make, template, special = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make().to(dtype).save_pretrained(path, **saving)
    tokenizer(template, special).save_pretrained(path)
    return path


def files(path):
    """The options that name the files of FORGET and RETAIN, written into the folder `path`."""
    options = []
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in rows]
        (path / f"{name}.jsonl").write_text("".join(lines))
        options += [f"--{name}", str(path / f"{name}.jsonl")]
    return options
