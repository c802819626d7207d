"""The page "Use it on a model of your own" and the README: their examples run as they stand, on tiny models."""

import re
import shlex

import pytest
import torch
from own_models import files
from own_models import folder as saved
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.runs.paths import ROOT

PAGE = (ROOT / "book" / "own_model.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("own"), "qwen2")


@pytest.fixture
def given(folder):
    """What the examples take for granted: a classifier with its data, and a pair of language models."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(24, 1, 4, 4), torch.arange(24) % 3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    target = AutoModelForCausalLM.from_pretrained(folder, max_position_embeddings=256).eval()
    return {
        "torch": torch,
        "model": model,
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
    commands = [
        shlex.split(line) for block in blocks(PAGE, "bash") for line in block.replace("\\\n", "").splitlines()
    ]
    assert [command[1] for command in commands] == ["check", "unlearn", "decode"]
    for _, *arguments in commands:
        done = CliRunner().invoke(app, [str(places.get(word, word)) for word in arguments], input="y\n")
        assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").exists()
