"""What each of the ways in on the page "Use it on a model of your own" takes, measured on what is shipped."""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader, TensorDataset

from palimpsest import decoding, nets, runs
from palimpsest.data import captions, fashion_mnist, pairs
from palimpsest.runs.paths import DATA
from palimpsest.selection.from_model import select_from
from palimpsest.unlearning.language import drop_in as language
from palimpsest.unlearning.language.request import Request, load
from palimpsest.unlearning.vision.drop_in import unlearn

PICTURES, FORGOTTEN = 1000, 50
TOKENS = 16


def bench() -> pd.DataFrame:
    """A row for each example of the page: `door`, `on` what, `cpu_seconds` of one thread, reading
    the model included, importing not."""
    torch.set_num_threads(1)
    environment = runs.environment()
    where = {name: environment[name] for name in ("processor", "torch", "commit")}
    where["date"] = datetime.now(UTC).strftime("%Y-%m-%d")
    rows = []
    for door, example in EXAMPLES.items():
        began = time.process_time()
        on = example()
        rows.append({"door": door, "on": on, "cpu_seconds": time.process_time() - began} | where)
    return pd.DataFrame(rows)


def _language() -> str:
    capital, model = DATA / "capital", DATA / pairs.FOLDERS["text-target"]
    with tempfile.TemporaryDirectory() as folder:
        files, out = (capital / "forget.jsonl", capital / "retain.jsonl"), Path(folder) / "out"
        # How often a model halves the step size until it keeps enough is its own affair: each is a run as this one.
        request = Request(str(model), *files, out, sparsity="dense", keep=0)
        loaded = load(request)
        language.run(loaded)
    weights, asked = sum(p.numel() for p in loaded.model.parameters()), sum(map(len, loaded.sets.values()))
    return f"{weights / 1e6:.1f} million weights, {asked} questions, {request.epochs} epochs at one step size"


def _classifier() -> str:
    model, loader = _pictures()
    unlearn(model, loader, list(range(FORGOTTEN)), method="SalUn", lr=0.01, epochs=2, test=loader)
    return f"ResNet-20, {PICTURES:,} pictures of 28 × 28, {FORGOTTEN} to forget, 2 epochs"


def _selection() -> str:
    model, loader = _pictures()
    select_from(model, loader, fraction=0.5, method="jscds")
    return f"ResNet-20, {PICTURES:,} pictures of 28 × 28, JSCDS"


def _decoding() -> str:
    target, drafter, processor = pairs.load("text-target"), pairs.load("text-drafter"), pairs.processor()
    prompt = processor(captions.facts(7, [0, 1, 2] * 3))
    decoding.generate(target, drafter, prompt, policy="sage", max_new_tokens=TOKENS)
    return f"the shipped text pair, {TOKENS} tokens"


def _pictures() -> tuple[torch.nn.Module, DataLoader]:
    data = fashion_mnist.load()
    part = data.train.subset(torch.arange(PICTURES))
    loader = DataLoader(TensorDataset(part.pixels(), part.labels), 256)
    return nets.build("resnet20", channels=1, classes=len(data.classes), seed=0), loader


EXAMPLES = {
    "unlearn, a language model": _language,
    "unlearn, an image classifier": _classifier,
    "select": _selection,
    "decode": _decoding,
}
