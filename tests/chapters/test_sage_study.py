"""The family `smollm2`, of a tiny random Llama and a tower of one convolution: every stage runs, and goes on."""

from dataclasses import asdict

import pandas as pd
import pytest
import torch
from torch import nn

from palimpsest.build import pair_quality
from palimpsest.build.pair import Stage, make_tokenizer
from palimpsest.chapters.sage import cost, experiment, smollm2, tables
from palimpsest.chapters.sage.arms import arms, candidates
from palimpsest.chapters.sage.profiles import PROFILES, Setting
from palimpsest.chapters.sage.requests import pictures
from palimpsest.chapters.sage.smollm2 import PAIR, SmolLM2
from palimpsest.chapters.shared import records
from palimpsest.data import captions, fashion_mnist
from palimpsest.nets import efficientnet, language
from palimpsest.nets.smollm2_vision import VISUAL_TOKENS

STAGES = {
    "target": {"projector": Stage(2, 1e-3), "captions": Stage(2, 1e-3)},
    "drafter": {"captions": Stage(2, 1e-3), "distillation": Stage(2, 1e-3)},
}


def tiny_setting():
    """Each with a family that has loaded nothing yet."""
    family = SmolLM2(image_token="<image>", layers=1, stages=STAGES, said=18, held_out=4)
    counts = {"requests": 1, "tuned": 1, "decoded": 1, "checked": 1, "pruned": 1}
    return Setting(family, seeds=(0, 1), tuning_seeds=(1000,), most=8, timed=1, repeats=1, **counts)


def trained(model):
    return smollm2.trained(asdict(PROFILES["tiny"].family), model)


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.conv, self.norm = nn.AvgPool2d(32), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, pixels):
        return self.norm(self.conv(self.pool(pixels)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of two layers and its tokenizer."""
    folder = tmp_path_factory.mktemp("study")
    split = fashion_mnist.load().train
    tokenizer = make_tokenizer(split.subset(torch.arange(300)))
    sizes = {"hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 32}
    model = language.small_llama(len(tokenizer), 0, **sizes)
    for config in (model.config, model.generation_config):
        config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, None, tokenizer.eos_token_id
    tokenizer.save_pretrained(folder / "smollm2")
    model.save_pretrained(folder / "smollm2")
    return folder


@pytest.fixture
def tiny(folder, monkeypatch, in_process):
    torch.manual_seed(0)
    tower = Tower().eval()
    monkeypatch.setenv("PALIMPSEST_SMOLLM2", str(folder / "smollm2"))
    monkeypatch.setattr(efficientnet, "load", lambda folder: tower)
    monkeypatch.setattr(pair_quality, "LONGEST", 8)
    monkeypatch.setattr("palimpsest.build.pair_tasks.BATCHES", {kind: (2, 1 / 3) for kind in captions.KINDS})
    monkeypatch.setattr("palimpsest.build.pair.BATCHES", {kind: (2, 1 / 3) for kind in captions.KINDS})
    monkeypatch.setitem(PROFILES, "tiny", tiny_setting())
    return tower


def test_from_folders_to_recorded_rows(tiny, tmp_path, monkeypatch):
    found = experiment.execute("tiny")
    ours = found.rows[found.rows.tau.notna()]
    assert set(ours.arm) == set(found.arms)
    assert ours.same.dropna().eq(1).all()
    assert found.checked.same.all()
    assert found.checked.equal.all()
    assert not any(arm.temperature for arm in found.arms.values())
    plain = ours[ours.arm == "autoregressive"]
    assert plain[["tau", "nodes"]].eq(0).all(axis=None)
    assert plain.cost.eq(1).all()
    timed = found.rows[found.rows["timed decode"].notna()]
    assert set(timed.arm) == {*cost.TIMED, *cost.PEERS}
    assert {row["rows"] for row in found.measured["forwards"]} == set(cost.ROWS)
    assert sum(found.measured["acceptance"]["vision"]) <= 1
    # Everything is in the cache: a second run computes nothing.
    monkeypatch.setitem(PROFILES, "tiny", tiny_setting())
    for name in ("fresh", "inputs"):
        monkeypatch.setattr(SmolLM2, name, lambda *_: pytest.fail("computed again"))
    again = experiment.execute("tiny")
    pd.testing.assert_frame_equal(again.rows, found.rows)
    # What is recorded can be shown.
    (tmp_path / "data/results").mkdir(parents=True)
    monkeypatch.setattr(records.paths, "DATA", tmp_path / "data")
    monkeypatch.setattr(records.manifest, "update", lambda files: None)
    monkeypatch.setattr(records.manifest, "verify", lambda file: tmp_path / "data" / file)
    assert records.read("sage", "tiny") is None
    records.write("sage", "tiny", found.tuned, found.rows)
    record = records.read("sage", "tiny")
    table = tables.arms(record["rows"]).set_index("policy")
    assert table.loc["plain, this decoder", "speed"] == "1.00 [1.00, 1.00]"
    assert table.loc["transformers", "accepted per round":"same text"].isna().all()
    assert table.loc["constant width", "tokens/s":].isna().all()
    assert len(tables.forwards(record["tuned"][-1])) == len(cost.ROWS)
    assert len(tables.pair(record["tuned"][-1])) == 4


def test_only_the_projector_learns_first_and_the_tower_never(tiny, monkeypatch):
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    start = dict(PROFILES["tiny"].family.fresh("target").named_parameters())
    seen = {}

    def fit(task, *, show, **options):
        seen[show] = {n.partition("model.")[2] for n, p in task.named_parameters() if p.requires_grad}
        inner(task, show=show, **options)

    inner = smollm2.fit
    monkeypatch.setattr(smollm2, "fit", fit)
    weights = trained("target")
    assert set(seen) == {"target: projector", "target: captions"}
    assert all(name.startswith("projector.") for name in seen["target: projector"])
    assert seen["target: captions"] == weights.keys()
    assert not any(name.startswith("tower.") for name in weights)
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert not torch.equal(weights["model.layers.1.mlp.up_proj.weight"], start["model.layers.1.mlp.up_proj.weight"])


def test_training_that_was_killed_goes_on_to_the_same_weights(tiny, monkeypatch):
    whole = trained("target")
    monkeypatch.setattr(smollm2.paths, "CACHE", smollm2.paths.CACHE / "other")
    inner = smollm2.fit

    def killed(task, *, show, **options):
        if "captions" in show:
            raise KeyboardInterrupt
        inner(task, show=show, **options)

    monkeypatch.setattr(smollm2, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        trained("target")
    monkeypatch.setattr(smollm2, "fit", inner)
    resumed = trained("target")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_requests_are_those_of_the_small_pair(tiny):
    images = pictures("evaluation", 0, 1).images
    one = PROFILES["tiny"].inputs("evaluation", 0, "target")[0]
    assert torch.equal(one["pixel_values"], efficientnet.pixel_values(images))
    image = PROFILES["tiny"].family.processor.image_token_id
    assert one["input_ids"][0].eq(image).nonzero()[:, 0].tolist() == list(range(VISUAL_TOKENS))


def test_missing_folders_and_other_profiles_are_refused_before_anything_runs(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(smollm2.paths, "BUILD", tmp_path)
    monkeypatch.delenv("PALIMPSEST_SMOLLM2", raising=False)
    monkeypatch.delenv("PALIMPSEST_EFFICIENTNET", raising=False)
    with pytest.raises(ValueError, match=r"smollm2 holds no model; write .* -m palimpsest.build.smollm2 --out"):
        experiment.execute("study")
    monkeypatch.setenv("PALIMPSEST_SMOLLM2", str(folder / "smollm2"))
    with pytest.raises(ValueError, match=r"efficientnet holds no model.safetensors; write it with python -m"):
        experiment.execute("study")
    with pytest.raises(ValueError, match="profile: got 'paper'"):
        experiment.execute("paper")


def test_the_study_asks_pictures_apart_and_within_the_budget():
    setting = PROFILES["study"]
    assert not set(setting.seeds) & set(setting.tuning_seeds)
    assert setting.timed <= setting.requests
    assert set(setting.family.stages) == set(PAIR)
    shares = [0.6] + [0.02] * 9
    longest, cheapest = (
        {"vision": {policy: tried[place] for policy, tried in candidates(shares).items()}} for place in (0, -1)
    )
    chosen = arms(longest, cheapest, {"vision": shares}, {"vision": (20, 30)}, setting.sampling)
    assert set(cost.TIMED) <= {"autoregressive"} | chosen.keys()
