"""`palimpsest decode` called as a reader calls it, and a small model that has something to say."""

import re

from typer.testing import CliRunner

from palimpsest.commands.main import app
from palimpsest.decoding import drop_in
from palimpsest.decoding.drafters import PADDING
from palimpsest.nets import language
from palimpsest.training.language import Recipe, fit

PROMPT = "What did Ilse write?"
ANSWER = "Ilse wrote 靴 and 👟 and 靴"
VOCABULARY = 275
"""Some words of one token; what is not ASCII stays in bytes."""


def fitted(tokenizer, seed, epochs, layers=2):
    """A Llama that has learnt ANSWER by heart, more or less."""
    model = language.small_llama(VOCABULARY, seed, hidden=32, layers=layers, heads=2, kv_heads=1, intermediate=48)
    both = language.encode(tokenizer, [PROMPT], [ANSWER], 128, "{question}")
    fit(model, both, Recipe(epochs, 1e-2, 1), seed)
    return model.eval()


def folders(root):
    """`root` with the folders target, drafter, and other: a Llama of another vocabulary."""
    tokenizer = language.tokenizer([PROMPT, "Ilse wrote and and"], VOCABULARY)
    parts = {"target": fitted(tokenizer, 0, 80), "drafter": fitted(tokenizer, 1, 30, layers=1)}
    parts["other"] = language.small_llama(
        VOCABULARY + PADDING + 1, 0, hidden=32, layers=1, heads=2, kv_heads=1, intermediate=48
    )
    for name, model in parts.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def call(*arguments):
    return CliRunner().invoke(app, ["decode", *map(str, arguments)])


def ask(folders, *more, drafter="drafter"):
    drafter = drafter if drafter in drop_in.WITHOUT_MODEL else folders / drafter
    return call("--target", folders / "target", "--drafter", drafter, "--prompt", PROMPT, *more)


def refused(done, message):
    assert done.exit_code == 2, done.output
    assert re.search(message, done.stderr.splitlines()[-1])
    assert done.stderr.splitlines()[-1].startswith("palimpsest: ")
    assert done.stdout == ""
