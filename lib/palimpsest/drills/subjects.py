"""What the drill of kills kills: small versions of what readers leave running for hours."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file

from palimpsest import nets, runs, training
from palimpsest.chapters.shared import stored, study
from palimpsest.runs import paths

FACTS = [(f"Who keeps the {thing}?", f"Ilse keeps the {thing}.") for thing in ("lamp", "boat", "key", "bell")]
SIZES = {"hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 24}
SMOKE = "smoke"


@dataclass(frozen=True)
class Subject:
    """`prepare(folder)` makes what the work needs; `work(folder)` runs in a process of its own, and goes on where an
    earlier one ended. `result(folder)` is what it leaves, without times. `whole(folder, result)` raises an error
    where a file is half-written, or something is there that the whole `result` has not."""

    prepare: Callable[[Path], None]
    work: Callable[[Path], None]
    result: Callable[[Path], object]
    whole: Callable[[Path, object], None]


@contextlib.contextmanager
def place(folder: Path):
    """Standard output and error go to files in `folder`, the cache too."""
    torch.set_num_threads(1)
    os.environ["PALIMPSEST_CACHE"] = str(folder / "cache")
    paths.CACHE = folder / "cache"
    with (
        (folder / "said").open("w", buffering=1) as said,
        (folder / "errors").open("a", buffering=1) as errors,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(errors),
    ):
        yield


def command(folder: Path, *arguments: object) -> None:
    """`palimpsest` with these arguments."""
    from palimpsest.commands.main import app  # here, because the book's workers need no command

    with place(folder):
        app([str(argument) for argument in arguments], standalone_mode=False)


# -- unlearn ---------------------------------------------------------------------------------------------------------


def tiny_model(folder: Path, name: str, seed: int) -> None:
    """A Llama whose weights say nothing, in `folder / name`."""
    from palimpsest.nets import language

    tokenizer = language.tokenizer([text for fact in FACTS for text in fact], 280)
    language.small_llama(280, seed, **SIZES).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)


def prepare_unlearn(folder: Path) -> None:
    folder.mkdir()
    tiny_model(folder, "model", 0)
    for name, facts in (("forget", FACTS[:2]), ("retain", FACTS[2:])):
        lines = [json.dumps({"question": question, "answer": answer}) for question, answer in facts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))


def unlearn(folder: Path) -> None:
    if not (folder / "out").exists():
        files = [x for name in ("model", "forget", "retain") for x in (f"--{name}", folder / name)]
        files = [f"{x}.jsonl" if str(x).endswith(("forget", "retain")) and isinstance(x, Path) else x for x in files]
        command(folder, "unlearn", *files, "--out", folder / "out", "--lr", 1e-3, "--keep", 0, "--yes")


def unlearnt(folder: Path) -> dict[str, str]:
    """sha256 by file; of the report, without what the clock and the folder's name say."""
    found = {}
    for file in sorted((folder / "out").iterdir()):
        content = file.read_bytes()
        if file.name == "unlearning.json":
            report = json.loads(content)
            content = json.dumps({k: v for k, v in report.items() if k not in ("seconds", "request")}).encode()
        found[file.name] = hashlib.sha256(content).hexdigest()
    return found


def whole_unlearn(folder: Path, result: dict[str, str]) -> None:
    if (folder / "out").exists() and unlearnt(folder) != result:
        raise ValueError(f"{folder / 'out'}: another folder than that of an undisturbed run")
    for state in folder.glob("out.partial/*/state.json"):
        load_file(state.with_name(json.loads(state.read_text())["weights"]))


# -- decode ----------------------------------------------------------------------------------------------------------


def prepare_decode(folder: Path) -> None:
    folder.mkdir()
    tiny_model(folder, "target", 0)
    tiny_model(folder, "drafter", 1)


def decode(folder: Path) -> None:
    models = [x for name in ("target", "drafter") for x in (f"--{name}", folder / name)]
    command(folder, "decode", *models, "--prompt", FACTS[0][0], "--max-new-tokens", 300)


def text(folder: Path) -> str:
    """What was said, without the line of counts and times."""
    said = (folder / "said").read_text()
    return said[: said.rindex("300 tokens, ")] if "300 tokens, " in said else said


def whole_decode(folder: Path, result: str) -> None:
    said = text(folder) if (folder / "said").exists() else ""
    if not result.startswith(said.rstrip("\n")):
        raise ValueError(f"text: {said!r} is no beginning of the text of an undisturbed run")


# -- a study ---------------------------------------------------------------------------------------------------------

ARMS = [{"lr": lr, "seed": seed} for lr in (0.03, 0.1) for seed in range(3)]


def compute(arms: list[dict]) -> list[study.Outcome]:
    """Train a small network on noise; the predictions are its logits there."""
    outcomes = []
    for arm in arms:
        generator = torch.Generator().manual_seed(arm["seed"])
        x, y = torch.randn(1, 24, 1, 8, 8, generator=generator), torch.arange(24)[None] % 3
        model = nets.build("resnet8-slim", channels=1, classes=3, seed=arm["seed"])
        training.fit([model], x, y, training.Recipe(3, arm["lr"], 8), seeds=[arm["seed"]])
        outcomes.append(study.Outcome({"logits": training.logits([model], x)[0].numpy(), "labels": y[0].numpy()}))
    return outcomes


def stages() -> list[list[dict]]:
    return [ARMS[:3], ARMS[3:]]


def nothing(arm: dict) -> None:
    return None


def measure(arm: dict, arrays: dict[str, np.ndarray], reference: None) -> dict[str, float]:
    return {"accuracy": float((arrays["logits"].argmax(1) == arrays["labels"]).mean())}


def kind(arm: dict) -> str:
    return "arm"


PLAN = study.Plan("drill", "make drills", stages, compute, nothing, nothing, measure, kind)


def prepare_study(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "MANIFEST").write_text("[]\n")


def in_this_process(call, arguments, *, name, done):
    """As `runs.spread`: a worker's start would take longer than its work."""
    values = []
    for argument in arguments:
        values.append(call(argument))
        done(values[-1])
    return values


def run_study(folder: Path) -> None:
    paths.DATA = folder / "data"
    runs.spread = in_this_process
    with place(folder):
        study.run(PLAN)


def study_rows(folder: Path) -> dict[str, object]:
    """The stored predictions, and the numbers of the table."""
    with mock.patch.object(paths, "DATA", folder / "data"):
        record = json.loads(PLAN.file.read_text())
        kept = {json.dumps(arm): stored.predictions(PLAN.name, arm)["logits"].tobytes() for arm in ARMS}
    return kept | {json.dumps(row["arm"]) + " numbers": row["numbers"] for row in record["rows"]}


def whole_study(folder: Path, result: dict) -> None:
    with mock.patch.object(paths, "DATA", folder / "data"):
        for arm in stored.finished(PLAN.name, ARMS):
            if stored.predictions(PLAN.name, arm)["logits"].tobytes() != result[json.dumps(arm)]:
                raise ValueError(
                    f"{stored.file_of(PLAN.name, arm)}: other predictions than those of an undisturbed run"
                )


# -- a chapter -------------------------------------------------------------------------------------------------------


def prepare_chapter(folder: Path) -> None:
    folder.mkdir()


def run_chapter(folder: Path) -> None:
    """Everything that chapter 4 computes at profile smoke, into an empty cache."""
    from palimpsest.chapters.jscds import experiment

    runs.run_all = lambda function, configs, show: [runs.cached(function, config) for config in configs]
    with place(folder):
        rows = experiment.execute(SMOKE).rows
    runs.write_atomic(folder / "rows.json", lambda file: rows.to_json(file))


def chapter_rows(folder: Path) -> bytes:
    return (folder / "rows.json").read_bytes()


def whole_chapter(folder: Path, result: bytes) -> None:
    for entry in (folder / "cache").glob("*/[!.]*.json"):
        json.loads(entry.read_text())
    if (folder / "rows.json").exists() and chapter_rows(folder) != result:
        raise ValueError(f"{folder / 'rows.json'}: other rows than those of an undisturbed run")


SUBJECTS = {
    "unlearn": Subject(prepare_unlearn, unlearn, unlearnt, whole_unlearn),
    "decode": Subject(prepare_decode, decode, text, whole_decode),
    "study": Subject(prepare_study, run_study, study_rows, whole_study),
    "chapter": Subject(prepare_chapter, run_chapter, chapter_rows, whole_chapter),
}
"""By name."""
