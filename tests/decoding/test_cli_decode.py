"""`palimpsest decode` on tiny models in folders, as a reader would have them."""

import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from commands import ANSWER, PROMPT, ask, call, refused
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from palimpsest import decoding
from palimpsest.data import captions, fashion_mnist, pairs
from palimpsest.decoding import drop_in
from palimpsest.runs import paths

END = 2
FIRST_SENTENCES = ("--max-new-tokens", "16")
"""The first of them names the item."""
needs_pair = pytest.mark.skipif(
    not all((paths.DATA / folder).exists() for folder in pairs.FOLDERS.values()),
    reason="the pair's weights are not shipped yet; python -m palimpsest.build.pair trains them",
)


@pytest.fixture(scope="module")
def decoded(folders):
    """What the library gives for the same request."""
    target, small = (AutoModelForCausalLM.from_pretrained(folders / name).eval() for name in ("target", "drafter"))
    ids = AutoTokenizer.from_pretrained(folders / "target")(PROMPT).input_ids

    def decoded(drafter="drafter", **options):
        drafter = drop_in.WITHOUT_MODEL[drafter]() if drafter in drop_in.WITHOUT_MODEL else small
        return decoding.generate(target, drafter, ids, **{"policy": "sage", "max_new_tokens": 128} | options)

    return decoded


def counts(output):
    stats = output.stats
    return (
        f"{len(output.tokens)} tokens, {stats.target_forwards} target forwards, {stats.draft_forwards} draft "
        f"forwards, {stats.mean_accepted:.2f} drafts accepted per round, "
    )


@pytest.mark.parametrize("drafter", ["drafter", "lookup", "recycling"])
def test_the_text_is_printed_and_then_its_counts(folders, decoded, drafter):
    done = ask(folders, drafter=drafter)
    assert done.exit_code == 0, done.output
    text, line = done.stdout.splitlines()
    assert text == f" {ANSWER}"
    expected = decoded(drafter)
    assert expected.tokens[-1] == END
    assert line.startswith(counts(expected))
    assert re.fullmatch(r"\d+\.\d\d s, \d+\.\d\d s of it prefill", line.removeprefix(counts(expected)))


def test_the_options_reach_the_decoder(folders, decoded):
    drawn = {}
    for seed in (3, 4):
        options = {"policy": "chain", "max_new_tokens": 12, "temperature": 3.0, "seed": seed}
        given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
        done = ask(folders, *given)
        assert done.exit_code == 0, done.output
        output = decoded(**options)
        assert counts(output) in done.output
        tokenizer = AutoTokenizer.from_pretrained(folders / "target")
        drawn[seed] = tokenizer.decode(output.tokens, skip_special_tokens=True).rstrip("\ufffd")
        assert done.stdout.startswith(drawn[seed] + "\n")
    assert drawn[3] != drawn[4]


@pytest.mark.parametrize("drafter", ["drafter", "recycling"])
def test_the_table_has_every_policy_with_the_counts_of_a_decode_of_its_own(folders, decoded, drafter):
    done = ask(folders, "--compare", "--max-new-tokens", "12", drafter=drafter)
    assert done.exit_code == 0, done.output
    header, *rows = done.stdout.split("\n\n")[1].splitlines()
    assert [row.split()[0] for row in rows] == list(decoding.policies)
    assert {len(row) for row in rows} == {len(header)}
    for row in rows:
        policy, same, *numbers = row.split()
        assert same == "yes"
        stats = decoded(drafter, policy=policy, max_new_tokens=12).stats
        nodes = sum(stats.tree_sizes) / stats.rounds
        expected = [stats.target_forwards, stats.draft_forwards, f"{nodes:.2f}", f"{stats.mean_accepted:.2f}"]
        assert numbers[:4] == list(map(str, expected))
        assert float(numbers[4]) > 0
    assert rows[0].split()[-1] == "1.00"


def test_speed_and_ratio_leave_the_prefills_out():
    def output(tokens, **times):
        return decoding.Output([0] * tokens, decoding.Stats(times=times))

    plain = output(11, prefill_target=8.0, draft=0.0, verify=5.0)
    row = drop_in.Row("chain", output(11, prefill_target=8.0, prefill_draft=7.0, draft=1.5, verify=1.0), plain)
    assert row.tokens_per_second == 10 / 2.5
    assert row.time_ratio == 2.5 / 5
    short = drop_in.Row("chain", output(1, prefill_target=8.0), output(1, prefill_target=8.0))
    assert math.isnan(short.tokens_per_second)
    assert math.isnan(short.time_ratio)


def test_a_text_of_one_token_has_dashes_where_nothing_was_timed(folders):
    done = ask(folders, "--compare", "--max-new-tokens", "1", "--policy", "autoregressive")
    assert done.exit_code == 0, done.output
    assert "1 tokens, 1 target forwards, 0 draft forwards, – drafts" in done.stdout
    assert done.stdout.splitlines()[-1].split()[4:6] == ["–", "–"]


@pytest.mark.parametrize(("dtype", "status"), [(torch.float32, 1), (torch.bfloat16, 0)])
def test_another_text_is_said_and_is_a_fault_in_exact_dtypes(folders, tmp_path, monkeypatch, dtype, status):
    folder = tmp_path / "target"
    shutil.copytree(folders / "target", folder)
    AutoModelForCausalLM.from_pretrained(folders / "target").to(dtype).save_pretrained(folder)

    def broken(*arguments, policy, **options):
        output = decoding.generate(*arguments, policy="autoregressive", **options)
        tokens = output.tokens if policy != "static" else [*output.tokens[:-1], 5]
        return replace(output, tokens=tokens)

    monkeypatch.setattr(drop_in, "generate", broken)
    done = call("--target", folder, "--drafter", "lookup", "--prompt", PROMPT, "--compare", "--max-new-tokens", "4")
    assert done.exit_code == status
    said = {row.split()[0]: row.split()[1] for row in done.stdout.split("\n\n")[1].splitlines()[1:]}
    assert said == {policy: "no" if policy == "static" else "yes" for policy in decoding.policies}
    assert f"in {dtype} another text than plain decoding's: static\n" in done.stderr


def test_every_policy_is_decoded_untimed_before_it_is_timed(folders, monkeypatch):
    seen = []

    def spy(*arguments, policy, **options):
        seen.append(policy)
        return decoding.generate(*arguments, policy=policy, **options)

    monkeypatch.setattr(drop_in, "generate", spy)
    assert ask(folders, "--compare", "--max-new-tokens", "2").exit_code == 0
    assert seen == ["sage", *(policy for policy in decoding.policies for _ in range(2))]


def test_the_text_is_printed_while_it_is_decoded(folders, monkeypatch, capsys):
    shown = []

    def spy(*arguments, callback, **options):
        def both(tokens):
            callback(tokens)
            shown.append(capsys.readouterr().out)

        return decoding.generate(*arguments, callback=both, **options)

    monkeypatch.setattr(drop_in, "generate", spy)
    drop_in.load(drop_in.Arguments(PROMPT, str(folders / "target"), "lookup")).stream()
    assert sum(map(bool, shown)) >= 3
    assert "".join(shown) + capsys.readouterr().out == f" {ANSWER}\n"


def test_no_part_of_a_character_is_printed(folders, capsys):
    tokenizer = AutoTokenizer.from_pretrained(folders / "target")
    text = "naïve 靴 👟👟 <b>\nénd 👟"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    for last in (len(ids), len(ids) - 1):
        streamer = drop_in.WholeCharacters(tokenizer, skip_special_tokens=True)
        pieces = []
        for token in ids[:last]:
            streamer.put(torch.tensor([token]))
            pieces.append(capsys.readouterr().out)
        streamer.end()
        pieces.append(capsys.readouterr().out)
        assert "".join(pieces) == (text if last == len(ids) else text[:-1]) + "\n"
        assert sum(map(bool, pieces)) >= 5


def test_a_chat_template_is_followed_where_there_is_one(folders, tmp_path, monkeypatch):
    folder = tmp_path / "chat"
    shutil.copytree(folders / "target", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}<eos>"
    tokenizer.save_pretrained(folder)
    given = []
    monkeypatch.setattr(drop_in, "generate", lambda *a, **o: given.append(a[2]) or decoding.generate(*a, **o))
    assert call("--target", folder, "--drafter", "lookup", "--prompt", PROMPT).exit_code == 0
    assert ask(folders).exit_code == 0
    chat, plain = (tokenizer.decode(inputs["input_ids"][0]) for inputs in given)
    assert chat == f"[user] {PROMPT}<eos>"
    assert plain == f"<bos>{PROMPT}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--policy", "luck"), r"policy: got 'luck', want one of autoregressive, .*sage"),
        (("--temperature", "-1"), r"temperature: got -1.0, want a finite number from 0"),
        (("--max-new-tokens", "0"), r"max_new_tokens: got 0, want an integer from 1"),
        (("--max-new-tokens", "600"), r"max_new_tokens: got 600, want at most \d+, what the prompt leaves"),
        (("--seed", "-1"), r"seed: got -1"),
        (("--prompt", " "), r"prompt: got ' ', want"),
        (("--picture", "0"), r"image: got a picture, want none for .*target, which takes text only"),
        (("--picture", "4000"), r"picture: got 4000, want 0 to 3999"),
        (("--picture", "-1"), r"picture: got -1, want 0 to 3999"),
        (("--picture", "0", "--image", "x.png"), r"picture: got 0 beside an image"),
        (("--drafter", "nowhere/at-all"), r"drafter: nowhere/at-all is no folder; .*PALIMPSEST_ALLOW_HUB=1"),
        (("--target", "nowhere/at-all"), r"target: nowhere/at-all is no folder; .*PALIMPSEST_ALLOW_HUB=1"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(folders, monkeypatch, more, message):
    monkeypatch.delenv("PALIMPSEST_ALLOW_HUB", raising=False)
    refused(ask(folders, *more), message)


def test_the_text_pair_wants_facts():
    refused(call("--prompt", "Describe the item."), r"prompt: got 'Describe the item.', want facts behind it for the")


@needs_pair
def test_the_shipped_pair_describes_a_shipped_picture_under_every_policy():
    done = call("--prompt", "Describe the item.", "--picture", "5", "--compare", *FIRST_SENTENCES)
    assert done.exit_code == 0, done.output
    label = int(fashion_mnist.load().test.labels[5])
    assert captions.read(done.stdout.split("\n")[0]).label == label


@needs_pair
def test_a_picture_in_a_file_is_the_shipped_picture(tmp_path):
    Image.fromarray(fashion_mnist.load().test.images[5].numpy()).save(tmp_path / "five.png")
    arguments = ("--prompt", "Describe the item.", "--drafter", "lookup", "--max-new-tokens", "48")
    texts = [
        call(*arguments, *given).stdout.splitlines()[0]
        for given in (("--picture", "5"), ("--image", tmp_path / "five.png"))
    ]
    assert texts[0] == texts[1]


@needs_pair
def test_the_text_pair_tells_its_facts():
    facts = captions.facts(7, [0, 1, 2] * 3)
    done = call("--prompt", f"Describe the item. {facts}", "--compare", *FIRST_SENTENCES)
    assert done.exit_code == 0, done.output
    assert captions.read(done.stdout.split("\n")[0]).label == 7
