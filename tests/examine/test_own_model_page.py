"""The page "Use it on a model of your own" and the README: their examples run as they stand, on tiny models."""

import re
import shlex

import pytest
import torch
from own_models import files
from own_models import folder as saved
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM, AutoTokenizer, ViTConfig, ViTForImageClassification
from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.runs.paths import DATA, ROOT

PAGE = (ROOT / "book" / "own_model.md").read_text(encoding="utf-8")
VIT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("own"), "qwen2")


@pytest.fixture
def given(folder, tmp_path, monkeypatch):
    """What the examples take for granted: two classifiers with data, and a pair of language models."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(24, 1, 4, 4), torch.arange(24) % 3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        pictures = [{"pixel_values": torch.randn(3, 4, 4), "labels": place % 3} for place in range(16)]
        vit = ViTForImageClassification(ViTConfig(**VIT, image_size=4, patch_size=2, num_labels=3))
    target = AutoModelForCausalLM.from_pretrained(folder, max_position_embeddings=256).eval()
    return {
        "torch": torch,
        "model": model,
        "vit": vit,
        "pictures": pictures,
        "images": data.tensors[0],
        "labels": data.tensors[1],
        "features": data.tensors[0].flatten(1),
        "forget_indices": torch.tensor([3, 7, 8]),
        "train_loader": DataLoader(data, 8),
        "test_loader": DataLoader(data, 8),
        "target": target,
        "drafter": target,
        "inputs": AutoTokenizer.from_pretrained(folder)("Who", return_tensors="pt"),
    }


def commands(text):
    """Every line of its bash blocks, as words."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", "").splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def run_python(text, given):
    code = blocks(text, "python")
    assert len(code) >= 3
    for block in code:
        exec(block, given)


def test_the_python_of_the_readme_runs_as_it_stands(given, capsys):
    run_python(README, given)
    assert capsys.readouterr().out


def test_the_python_of_the_page_runs_as_it_stands_and_gives_what_it_says(given, capsys):
    run_python(PAGE, given)
    assert capsys.readouterr().out
    assert 0 <= given["report"].after.MIA <= 1
    assert len(given["small"]) == 12
    assert len(given["output"].tokens) <= 16


def test_the_commands_run_as_they_stand(folder, tmp_path):
    _, forget, _, retain = files(tmp_path)
    places = {"MODEL": folder, "OUT": tmp_path / "out", "FORGET.jsonl": forget, "RETAIN.jsonl": retain}
    assert [command[1] for command in commands(PAGE)] == ["check", "unlearn", "decode"]
    for _, *arguments in commands(PAGE):
        done = CliRunner().invoke(app, [str(places.get(word, word)) for word in arguments], input="y\n")
        assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").exists()


OURS = [arguments for program, *arguments in commands(README) if program == "palimpsest"]


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(a, marks=[pytest.mark.slow] if "--compare" in a else [], id=" ".join(a[:4])) for a in OURS],
)
def test_a_command_of_the_readme_runs_as_it_stands(arguments, folder, tmp_path, monkeypatch):
    """The others are `make` and `pip wheel`, which have tests of their own, and the build of SmolLM2, which needs the
    package index; a tiny model stands in its place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(DATA)
    (tmp_path / "smollm2").symlink_to(folder)
    done = CliRunner().invoke(app, arguments, input="y\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip()
    assert arguments[0] != "unlearn" or (tmp_path / "forgotten" / "model.safetensors").exists()


def test_no_command_of_the_readme_is_left_out():
    assert [arguments[0] for arguments in OURS] == ["unlearn", "decode", "decode"]
    rest = {program for program, *_ in commands(README)} - {"palimpsest"}
    assert rest == {"make", "python", "pip"}
