"""The loader of TOFU and the way to the hub's files."""

import json
import os
import sys
import types

import pytest

from palimpsest.data import tofu
from palimpsest.data.questions import refuse_overlap


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    folder = tmp_path / "locuslab/TOFU"
    folder.mkdir(parents=True)
    rows = [{"question": f"Who {n}?", "answer": f"He {n}."} for n in range(3)]
    (folder / "forget01.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    monkeypatch.setenv("PALIMPSEST_HUB", str(tmp_path))
    return folder


def test_a_split_of_a_mirror(mirror):
    found = tofu.load("forget01")
    assert found.question == ["Who 0?", "Who 1?", "Who 2?"]
    assert found.perturbed == [[], [], []]


def test_a_faulty_line_and_a_missing_file_are_named(mirror):
    file = mirror / "forget01.json"
    file.write_text(file.read_text().replace('"answer": "He 1."', '"answer": ""'))
    with pytest.raises(ValueError, match=f"{file}, line 2: answer: got ''"):
        tofu.load("forget01")
    with pytest.raises(ValueError, match=f"{mirror / 'full.json'}: missing; PALIMPSEST_HUB must be"):
        tofu.load("full")


def test_another_split_lists_the_names():
    with pytest.raises(ValueError, match=r"split: got 'forget02', want one of .*'forget10_perturbed'.*'retain99'"):
        tofu.load("forget02")


def test_without_a_mirror_both_ways_are_named(monkeypatch):
    monkeypatch.delenv("PALIMPSEST_HUB", raising=False)
    monkeypatch.setenv("PALIMPSEST_ALLOW_HUB", "0")
    with pytest.raises(ValueError, match=r"PALIMPSEST_HUB .*locuslab/TOFU/full.json.* PALIMPSEST_ALLOW_HUB=1"):
        tofu.load("full")


def test_the_hub_is_asked_only_when_allowed_and_its_failure_is_one_message(mirror, monkeypatch):
    asked = []

    def hf_hub_download(repository, file, repo_type):
        asked.append((repository, file, repo_type))
        if len(asked) > 1:
            raise ConnectionError("no route")
        return str(mirror / file)

    monkeypatch.delenv("PALIMPSEST_HUB")
    monkeypatch.setenv("PALIMPSEST_ALLOW_HUB", "1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    assert len(tofu.load("forget01")) == 3
    assert asked == [("locuslab/TOFU", "forget01.json", "dataset")]
    with pytest.raises(ValueError, match=r"forget01.json of locuslab/TOFU could not be downloaded .* no route"):
        tofu.load("forget01")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface-hub"):
        tofu.load("forget01")


@pytest.mark.hub
@pytest.mark.skipif("PALIMPSEST_HUB" not in os.environ, reason="PALIMPSEST_HUB is not set")
class TestRealMirror:
    @pytest.mark.parametrize("share", [1, 5, 10])
    def test_forget_and_retain_make_up_the_full_set(self, share):
        full = tofu.load("full")
        forget, retain = tofu.load(f"forget{share:02}"), tofu.load(f"retain{100 - share}")
        assert len(forget) == 4000 * share // 100
        assert (retain + forget).question == full.question
        assert (retain + forget).answer == full.answer
        refuse_overlap(forget, retain)

    @pytest.mark.parametrize("share", ["01", "05", "10"])
    def test_an_examined_split_asks_what_the_trained_one_does(self, share):
        trained, examined = tofu.load(f"forget{share}"), tofu.load(f"forget{share}_perturbed")
        assert examined.question == trained.question
        assert examined.answer == trained.answer
        assert all(map(str.__ne__, examined.paraphrased, examined.answer))
        assert {len(wrong) for wrong in examined.perturbed} == {5}

    @pytest.mark.parametrize(
        ("split", "count", "wrong"),
        [("retain_perturbed", 400, 5), ("real_authors_perturbed", 100, 3), ("world_facts_perturbed", 117, 3)],
    )
    def test_the_other_examined_splits(self, split, count, wrong):
        found = tofu.load(split)
        assert len(found) == count
        assert {len(answers) for answers in found.perturbed} == {wrong}
        assert (found.paraphrased == found.answer) == (wrong == 3)
