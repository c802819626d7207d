"""Further inputs of the kinds that were once taken wrongly: right, or refused by an argument's name."""

import pytest
import torch
from own_models import CHATML, SIZES, files, folder, tokenizer
from torch import nn
from torch.nn.utils.prune import random_unstructured
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)
from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.data.questions import read_jsonl
from palimpsest.metrics.generation import rouge_l_recall
from palimpsest.nets import language
from palimpsest.nets.quantised import quantise
from palimpsest.pruning.decoder import require_linear
from palimpsest.selection import select
from palimpsest.unlearning.language.request import Request, load

HEADED = CHATML.replace("<|im_start|>", "<|start|>").replace("<|im_end|>\n", "<|eot_id|>")
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "special", "answer"),
    [
        (HEADED, ["<|start|>", "<|eot_id|>"], "Jane Austen.<|eot_id|>"),
        (BRACKETS, [], " Jane Austen.<eos>"),
    ],
)
def test_an_answer_is_its_turn_up_to_its_end(template, special, answer):
    own = tokenizer(template, special)
    labels = language.encode(own, ["Who wrote Emma?"], ["Jane Austen."], 99).labels
    assert own.decode(labels[labels >= 0]) == answer
    assert labels[labels >= 0][-1] == language.answer_end(own)


MIXED = {name: size for name, size in SIZES.items() if name != "head_dim"} | {"num_local_experts": 4}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(
    "make",
    [
        lambda: GraniteMoeForCausalLM(GraniteMoeConfig(**MIXED, num_experts_per_tok=1, logits_scaling=3.0)),
        lambda: Cohere2ForCausalLM(Cohere2Config(**SIZES, **ENDS, logit_scale=0.25)),
    ],
)
def test_logits_that_are_changed_afterwards_are_seen(make):
    with pytest.raises(ValueError, match="want one whose logits are hidden states times an embedding alone"):
        language.output_embedding(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: GptOssForCausalLM(
            GptOssConfig(
                **SIZES, **ENDS, num_local_experts=4, num_experts_per_tok=1, layer_types=["full_attention"] * 2
            )
        ),
        lambda: PhimoeForCausalLM(PhimoeConfig(**MIXED, **ENDS)),
    ],
)
def test_experts_in_one_parameter_are_refused_where_linear_maps_are_meant(make):
    model = make()
    with pytest.raises(ValueError, match="experts"):
        require_linear(model)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    path = tmp_path_factory.mktemp("given")
    _, forget, _, retain = files(path)
    return {"model": str(folder(path / "model", "qwen2")), "forget": forget, "retain": retain, "out": path / "out"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"lora": 0}, "rank: got 0"),
        ({"top": 9}, "top: got 9, want 1 to 2 layers"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"lr": float("nan")}, "lr: got nan"),
        ({"alpha": float("nan")}, "alpha: got nan"),
        ({"keep": float("nan")}, "keep: got nan"),
        ({"seed": -1}, "seed: got -1"),
        ({"sparsity": "4:4"}, "sparsity: got '4:4'"),
        ({"sparsity": float("nan")}, "sparsity: got nan"),
        ({"moving": "("}, r"moving: got '\(', want a regular expression"),
        ({"moving": "nothing"}, "moving: got 'nothing', which matches none of the names"),
        ({"moving": ".*norm.*", "lora": 2}, r"moving: got '.\*norm.\*', which matches none"),
        ({"layer": 0}, "layer: got 0 for NPO, which steers none"),
        ({"layer": "lm", "method": "rmu"}, "layer: got 'lm', want the name of a module"),
        ({"method": "idkdpo"}, "method: got 'idkdpo', want one of"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_computed(given, asked, message):
    with pytest.raises(ValueError, match=message):
        load(Request(**given | {"sparsity": "dense"} | asked))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ('{"question": "a", "answer": "b"}'.encode("utf-16"), "not UTF-8 text"),
        (b'{"question": NaN, "answer": "b"}', "line 1: question: got nan"),
        (b'[{"question": "a", "answer": "b"}]', "line 1: got a list, want an object"),
        (b'{"question": "a", "answer": "b", "year": ' + b"1" * 5000 + b"}", "line 1: Exceeds the limit"),
    ],
)
def test_a_file_that_is_no_json_lines_is_refused_by_its_line(tmp_path, raw, message):
    (tmp_path / "asked.jsonl").write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        read_jsonl(tmp_path / "asked.jsonl")


@pytest.mark.parametrize(
    ("reference", "written", "share"),
    [
        ("Η Μαρία γεννήθηκε το 1950.", "Ο Πέτρος πέθανε το 1950.", 2 / 5),
        ("ولدت مريم عام 1950", "مات سالم في 1950", 1 / 4),
        ("그녀는 1950년에 태어났다", "그는 1950년에 죽었다", 2 / 4),
        ("ის დაიბადა 1950", "იგი გარდაიცვალა 1950", 1 / 3),
    ],
)
def test_words_of_other_scripts_count(reference, written, share):
    assert rouge_l_recall([reference], [written])[0] == pytest.approx(share)


@pytest.mark.parametrize(
    "norm", [nn.utils.parametrizations.orthogonal, lambda part: random_unstructured(part, "weight", 0.5)]
)
def test_a_weight_that_is_computed_from_others_is_refused(norm):
    with pytest.raises(ValueError, match="model: got '1', whose weight is computed from others"):
        quantise(nn.Sequential(nn.Linear(4, 4), norm(nn.Linear(4, 4)), nn.Linear(4, 2)), "W4A4", torch.ones(8, 4))


class Twice(nn.Module):
    """A linear layer, `part` in the middle, and two more."""

    def __init__(self, part, run):
        super().__init__()
        self.first, self.part, self.last = nn.Linear(4, 4), part, nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        self.run = run

    def forward(self, x):
        return self.last(self.run(self.part, self.first(x)))


@pytest.mark.parametrize(
    ("part", "run"),
    [
        (nn.LSTM(4, 4), lambda part, x: part(x[None])[0][0]),
        (nn.Bilinear(4, 4, 4), lambda part, x: part(x, x)),
    ],
)
def test_what_stays_in_float_is_named(part, run):
    with pytest.warns(UserWarning, match=rf"quantise leaves in float: part \({type(part).__name__}\)"):
        quantise(Twice(part, run), "W4A4", torch.ones(8, 4))


LABELS = torch.arange(60) % 3
DRAWN = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("features", "labels", "kept"),
    [
        (DRAWN.double() * 1e-300, LABELS, 30),
        (torch.ones(60, 8), LABELS, 30),
        (DRAWN, torch.cat([torch.zeros(1, dtype=torch.int64), torch.ones(59, dtype=torch.int64)]), 31),
    ],
)
def test_features_of_any_size_give_as_many_different_samples_as_asked_for(features, labels, kept):
    assert len(select(features, labels, fraction=0.5, method="jscds").unique()) == kept


def test_the_command_takes_a_layers_number_or_a_modules_name(given):
    files = [word for name in ("model", "forget", "retain", "out") for word in (f"--{name}", str(given[name]))]
    for layer, said in (("9", "layer: got 9, want 0 to 1"), ("model.x", "layer: got 'model.x', want the name")):
        options = ["--method", "rmu", "--sparsity", "dense", "--layer", layer, "--yes"]
        done = CliRunner().invoke(app, ["unlearn", *files, *options])
        assert done.exit_code == 1
        assert said in done.stderr
