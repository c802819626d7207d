"""`palimpsest check` on models as readers have them; what it says can be done, the commands then do."""

import json

import pytest
import torch
from own_models import FORGET, RETAIN, files, folder
from safetensors.torch import load_file
from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.nets import language
from palimpsest.unlearning.language import drop_in
from palimpsest.unlearning.language.given import read

LANGUAGE = ["measure", "prune", "unlearn", "unlearn, pruned on the way", "unlearn with adapters"]
ALL = [*LANGUAGE, "decode as target", "decode as drafter"]


def call(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def checked(model, *more):
    """(facts, {use: why not})."""
    done = call("check", model, *more, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    return found["facts"], {use["name"]: use["why"] for use in found["uses"]}


def unlearned(model, out, *more):
    """The report of an epoch that succeeded."""
    done = call("unlearn", "--model", model, "--out", out, *more, "--yes", "--epochs", 1, "--lr", 1e-3, "--keep", 0)
    assert done.exit_code == 0, done.output
    return json.loads((out / drop_in.REPORT).read_text())


def adapter(path, base):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        settings = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("name", "ends", "dtype", "saving"),
    [
        ("gemma", "'<end_of_turn>'", torch.bfloat16, {"max_shard_size": "12KB"}),
        ("opt", "'<eos>'", torch.float32, {}),
    ],
)
def test_what_can_be_done_is_said_and_done(tmp_path, name, ends, dtype, saving):
    model, questions = folder(tmp_path / name, name, dtype, **saving), files(tmp_path)
    assert (len(list(model.glob("*.safetensors"))) > 1) == bool(saving)
    facts, why = checked(model, *questions)
    assert list(why) == ALL
    assert set(why.values()) == {None}
    assert facts["answer ends with"] == ends
    assert facts["dtype"] == str(dtype).removeprefix("torch.")
    assert facts["logits"] == "hidden states times the output embedding"
    assert facts["experts"] == "none"
    report = unlearned(model, tmp_path / "out", *questions)
    assert report["dtype"] == facts["dtype"]
    assert report["pruned weights all zero"]
    # Half of the linear maps: what `check` says of their share, and what was pruned, are one number.
    share = float(facts["linear maps"].split("%")[0]) / 100
    assert report["share of the layers"] == pytest.approx(report["sparsity"] * share, abs=1e-3)


def test_an_adapter_is_merged_into_its_base(tmp_path):
    base, questions = folder(tmp_path / "base", "qwen2"), files(tmp_path)
    model = adapter(tmp_path / "adapter", base)
    parts, given = load_file(model / "adapter_model.safetensors"), read(str(model)).model.state_dict()
    at = "model.layers.1.self_attn.q_proj"
    a, b = (parts[f"base_model.model.{at}.lora_{one}.weight"] for one in "AB")
    before = load_file(base / "model.safetensors")
    assert torch.allclose(given[f"{at}.weight"], before[f"{at}.weight"] + 8 / 2 * b @ a, atol=1e-6)
    assert torch.equal(given["model.norm.weight"], before["model.norm.weight"])
    facts, why = checked(model, *questions)
    assert set(why.values()) == {None}
    assert facts["answer ends with"] == "'<|im_end|>'"
    unlearned(model, tmp_path / "out", *questions, "--sparsity", "dense")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(before)
    settings = json.loads((model / "adapter_config.json").read_text())
    for changed, message in (({"peft_type": "IA3"}, "an adapter of kind IA3"), ({"r": 3}, "does not fit")):
        (model / "adapter_config.json").write_text(json.dumps(settings | changed))
        assert message in call("check", model).stderr
    (model / "adapter_config.json").write_text(json.dumps(settings))
    (model / "adapter_model.safetensors").unlink()
    assert "holds an adapter without adapter_model.safetensors" in call("check", model).stderr


@pytest.mark.parametrize(
    ("name", "cannot", "because", "fact"),
    [
        ("gemma2", LANGUAGE[:1] + LANGUAGE[2:], "want one whose logits", ("logits", "final_logit_softcapping 30.0")),
        ("mixtral", LANGUAGE[1:2] + LANGUAGE[3:], "(experts?)", ("experts", "4 to a layer")),
        ("mamba", ALL, "", ("context", "no limit named")),
    ],
)
def test_what_cannot_be_done_is_said_by_the_words_of_the_command(tmp_path, name, cannot, because, fact):
    model, questions = folder(tmp_path / name, name), files(tmp_path)
    done = call("check", model, *questions, "--json")
    assert done.exit_code == (cannot == ALL)
    found = json.loads(done.stdout)
    refused = {use["name"]: use["why"] for use in found["uses"] if use["why"]}
    assert list(refused) == cannot
    assert all(because in why for why in refused.values())
    assert fact[1] in found["facts"][fact[0]]
    said = call("unlearn", "--model", model, "--out", tmp_path / "out", *questions, "--yes")
    assert said.exit_code == 1
    assert refused["unlearn, pruned on the way"] in said.stderr


def test_the_questions_are_encoded_once_for_all_methods(tmp_path, monkeypatch):
    asked, encode = [], language.encode
    monkeypatch.setattr(language, "encode", lambda *given: asked.append(given[1]) or encode(*given))
    checked(folder(tmp_path / "opt", "opt"), *files(tmp_path))
    assert asked == [[question for question, _ in rows] for rows in (FORGET, RETAIN)]


def test_a_model_beyond_memory_is_not_read(tmp_path, monkeypatch):
    model = folder(tmp_path / "opt", "opt")
    monkeypatch.setattr(drop_in, "available", lambda: 1)
    (model / "model.safetensors").unlink()
    facts, why = checked(model)
    assert facts["class"] == "OPTForCausalLM"
    assert [use for use, reason in why.items() if reason is None] == ["decode as target", "decode as drafter"]
    assert all("model: needs about" in why[use] for use in ("measure", "prune", "unlearn"))


def test_a_table_says_the_same_and_what_is_no_model_is_refused(tmp_path):
    done = call("check", folder(tmp_path / "opt", "opt"), *files(tmp_path))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line[10:38].strip() for line in lines if line.startswith("     can  ")] == ALL
    assert max(map(len, lines)) <= 118
    assert any("but not SAU (update: got no masks" in line for line in lines)
    for name, message in (("nowhere", "is no folder"), (tmp_path, "could not be read")):
        done = call("check", name)
        assert done.exit_code == 1
        assert message in done.stderr
        assert not done.stdout
