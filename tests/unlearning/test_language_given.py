"""Models, templates and options that were taken wrongly, dropped, or found out too late."""

import json
import unicodedata

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Mamba2Config, Mamba2ForCausalLM

from palimpsest.data.questions import Questions, refuse_overlap
from palimpsest.nets import language
from palimpsest.nets.chat import require_template
from palimpsest.runs.paths import DATA
from palimpsest.unlearning.language import drop_in, request

CAPITAL = DATA / "capital"
PARTS = (
    "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<eos>{% endfor %}"
)
ALONE = "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('one turn only') }}{% endif %}"
TEMPLATES = {
    # as those of Idefics3 and SmolVLM
    PARTS: "leaves out what the user says",
    ALONE + "{{ m['content'] }}{% endfor %}": "fails for a talk of user and assistant: one turn only",
    "{{ messages[0]['content'] + 1 }}": "fails for a talk of user: ",
    "{% for m in messages %}{{ m['content'] if m['role'] == 'user' }}{% endfor %}": "leaves out what the assistant",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    language.small_llama(270, 0, hidden=16, layers=4, heads=2, kv_heads=1, intermediate=24).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def tokenizer():
    return language.tokenizer(["Which is the capital of France? Paris."] * 2, 265)


def asked(folder, out, **more):
    return request.Request(str(folder), CAPITAL / "forget.jsonl", CAPITAL / "retain.jsonl", out, **more)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_does_not_take_questions_with_answers_is_refused_by_its_fault(template):
    own = tokenizer()
    require_template(own)
    own.chat_template = template
    with pytest.raises(ValueError, match=f"tokenizer: its chat template {TEMPLATES[template]}"):
        require_template(own)


def test_a_model_that_would_read_each_token_as_if_it_were_the_first_is_refused(tmp_path):
    sizes = {"num_heads": 4, "head_dim": 8, "state_size": 4, "n_groups": 1, "expand": 2}
    model = Mamba2ForCausalLM(Mamba2Config(vocab_size=270, hidden_size=16, num_hidden_layers=1, **sizes))
    model.save_pretrained(tmp_path / "mamba")
    tokenizer().save_pretrained(tmp_path / "mamba")
    with pytest.raises(ValueError, match="got a Mamba2ForCausalLM, whose decoder takes no past_key_values"):
        request.load(asked(tmp_path / "mamba", tmp_path / "out", sparsity="dense"))


def test_layers_behind_the_one_that_rmu_steers_cannot_be_moved_by_it(folder, tmp_path):
    for more, at in (
        ({"top": 2}, 1),
        ({"moving": "lm_head.*|model.norm.*"}, 1),
        ({"moving": r"model\.layers\.1\..*", "layer": 0}, 0),
        ({"top": 2, "layer": "model.layers.1.mlp"}, "1.mlp"),
    ):
        with pytest.raises(ValueError, match=rf"update: RMU steers model.layers.{at}, in which none of the \d+ p"):
            request.load(asked(folder, tmp_path / "out", sparsity="dense", method="rmu", **more))
    settings = {"method": "rmu", "epochs": 1, "keep": 0, "lr": 1e-2, "batch_size": 4}
    drop_in.run(request.load(asked(folder, tmp_path / "out", sparsity="dense", top=3, **settings)))
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    moved = {name.split(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": "dense", "pruner": "sparsegpt"}, "pruner: got sparsegpt, but a dense model is not pruned"),
        ({"sparsity": "dense", "calibration": CAPITAL}, "calibration: got .*capital, but a dense model"),
        (
            {"pruner": "magnitude", "calibration": CAPITAL},
            "calibration: got .*magnitude looks at weights alone",
        ),
        ({"sparsity": 0}, "sparsity: got 0"),
    ],
)
def test_options_that_nothing_would_read_are_refused(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        request.load(asked(folder, tmp_path / "out", **options))


def test_two_spellings_of_one_letter_are_one_question():
    def one(form):
        text = unicodedata.normalize(form, "Wer war André Łuczak?")
        return Questions([text], [text], ["Er."], ["Er."], [[]], [""])

    assert one("NFC") != one("NFD")
    with pytest.raises(ValueError, match="forget and retain overlap: question 0"):
        refuse_overlap(one("NFC"), one("NFD"))


def test_each_tensor_comes_back_in_the_dtype_in_which_it_came(folder, tmp_path):
    """A norm in float32 among bfloat16, in a folder whose configuration says float16."""
    mixed = tmp_path / "mixed"
    kept = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    kept["model.norm.weight"] = 1 + torch.rand(16, generator=torch.Generator().manual_seed(0))
    mixed.mkdir()
    for file in folder.glob("*.json"):
        (mixed / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
    (mixed / "config.json").write_text(json.dumps(config))
    save_file(kept, mixed / "model.safetensors", {"format": "pt"})
    settings = {"sparsity": "dense", "top": 1, "epochs": 1, "keep": 0, "lr": 1e-3, "batch_size": 4}
    report = drop_in.run(request.load(asked(mixed, tmp_path / "out", **settings)))
    assert report["dtype"] == "bfloat16"
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: value.dtype for name, value in found.items()} == {n: value.dtype for n, value in kept.items()}
    for name in kept:
        assert torch.equal(found[name], kept[name]) == (
            "layers.3" not in name or "norm" in name or "proj" not in name
        )
