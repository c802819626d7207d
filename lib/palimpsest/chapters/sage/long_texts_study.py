"""Record SmolLM2 with its distilled drafter on long texts: `python -m palimpsest.chapters.sage.long_texts_study`.

The target writes to held-out prompts until they are `LENGTH` tokens long; what each policy would have had accepted
of these texts follows by replay. The first tokens of some are decoded in earnest: greedily beside transformers' own
ways, sampled, and in bfloat16. Seconds are those of this process's one thread, so that what else the machine does is
not counted; the wall clock and the load stand beside them.
"""

import copy
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from safetensors.torch import load_file, save_file

from palimpsest import decoding
from palimpsest.build.smollm2_drafter import SEED, written
from palimpsest.chapters.sage.bench import where
from palimpsest.chapters.sage.requests import greedy
from palimpsest.data import long_prompts, manifest, smollm2, smollm2_drafter
from palimpsest.decoding.cut_vocabulary import CutVocabularyDrafter
from palimpsest.decoding.policies.chain import Chain
from palimpsest.decoding.replay import follow, replay
from palimpsest.nets import language
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic
from palimpsest.training import seeds

TEXTS, LENGTH = 14, 1024
DECODED, TOKENS = 2, 64
"""Prompts that are decoded in earnest, and their new tokens."""
POLICIES = {
    "chain of 2": lambda: Chain(2),
    "chain of 4": lambda: Chain(4),
    "specvlm": decoding.policies["static"],
    "sage": decoding.policies["sage"],
}


class Study:
    """The pair, and the held-out prompts that are asked."""

    def __init__(self):
        self.target, tokenizer = smollm2.load(paths.outside("smollm2"))
        self.target.requires_grad_(False)
        self.drafter, self.tokens = smollm2_drafter.load(self.target)
        asked = language.prompt_ids(tokenizer, long_prompts.requests(long_prompts.HELD_OUT))
        order = torch.randperm(len(asked), generator=seeds.generator(SEED, "held out")).tolist()
        self.prompts = [asked[place] for place in order[:TEXTS]]

    def drafts(self, model) -> CutVocabularyDrafter:
        return CutVocabularyDrafter(model, self.tokens)

    def whole(self):
        """The drafter with the target's own output layer, as transformers' assisted generation wants it."""
        model = copy.copy(self.drafter)
        model._modules = self.drafter._modules | {"lm_head": self.target.lm_head}
        return model

    def texts(self, file: Path) -> list[list[int]]:
        """What the target says to each prompt, up to its end or `LENGTH`; kept in `file`."""
        if not file.exists():
            found = written(self.target, self.prompts, LENGTH)
            write_atomic(file, lambda path: save_file(found, path))
        found, end = load_file(file), self.target.generation_config.eos_token_id
        said = found["tokens"][:, int(found["prompt"]) :].tolist()
        return [row[: row.index(end) + 1] if end in row else row for row in said]


def replayed(study: Study, texts: list[list[int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables, whose lists are written with spaces: one row per text and policy with the text's "length", the mean
    "nodes" of a round, and the drafts that each round had "accepted"; and one row per text with the "ranks" that the
    drafter gave each token after the first, 10 for none of its ten, and whether these are `repeats`."""
    rounds, guesses = [], []
    for text, (prompt, said) in enumerate(zip(study.prompts, texts, strict=True)):
        known = follow(study.drafts(study.drafter), prompt, said, 10, study.target.config.vocab_size)
        told = [[*known.ranks], [int(again) for again in repeats(said)[1:]]]
        guesses.append({"text": text} | dict(zip(("ranks", "repeats"), map(spaced, told), strict=True)))
        for name, make in POLICIES.items():
            found = replay(make(), known, LENGTH)
            nodes = sum(len(one.tree) for one in found) / len(found)
            accepted = spaced(one.accepted for one in found)
            rounds.append({"text": text, "length": len(said), "policy": name, "nodes": nodes, "accepted": accepted})
    return pd.DataFrame(rounds), pd.DataFrame(guesses)


def spaced(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


def repeats(tokens: list[int], run: int = 8) -> list[bool]:
    """Of each token whether it and the `run` - 1 before it stood earlier in the text, in this order."""
    seen, found = set(), []
    for i in range(len(tokens)):
        last = tuple(tokens[i + 1 - run : i + 1]) if i + 1 >= run else None
        found.append(last in seen)
        if last is not None:
            seen.add(last)
    return found


def decoded(study: Study, dtype: torch.dtype, temperature: float) -> list[dict]:
    """Seconds, counts and whether the text is plain decoding's, by prompt and arm; transformers' ways where greedy.
    Where a text parts from the plain one, "gap" is how far apart the two tokens' logits are in a forward over the
    common beginning."""
    target = copy.deepcopy(study.target).to(dtype) if dtype != torch.float32 else study.target
    small = copy.deepcopy(study.drafter).to(dtype) if dtype != torch.float32 else study.drafter

    def ours(prompt, drafter, policy):
        out = decoding.generate(
            target, drafter, prompt, policy=policy, max_new_tokens=TOKENS, temperature=temperature, seed=SEED
        )
        times = out.stats.times
        counts = {"rounds": out.stats.rounds, "accepted": sum(out.stats.accepted)}
        return out.tokens, counts | {"draft forwards": out.stats.draft_forwards} | times

    def peer(prompt, **options):
        return greedy(target, {"input_ids": torch.tensor([prompt])}, TOKENS, **options), {}

    arms = {"plain": lambda prompt: ours(prompt, None, "autoregressive")}
    arms |= {
        name: lambda prompt, make=make: ours(prompt, study.drafts(small), make()) for name, make in POLICIES.items()
    }
    if dtype == torch.float32:
        arms["lookup"] = lambda prompt: ours(prompt, decoding.PromptLookup(), Chain(4))
    if dtype == torch.float32 and not temperature:
        arms["transformers"] = peer
        arms["transformers, assisted"] = lambda prompt: peer(prompt, assistant_model=study.whole())
        arms["transformers, prompt lookup"] = lambda prompt: peer(prompt, prompt_lookup_num_tokens=5)
    found = []
    for number, prompt in enumerate(study.prompts[:DECODED]):
        plain = None
        for name, decode in arms.items():
            before = time.thread_time(), time.perf_counter()
            tokens, told = decode(prompt)
            clocks = {"cpu s": time.thread_time() - before[0], "wall s": time.perf_counter() - before[1]}
            plain = plain or tokens
            parts = next((i for i, pair in enumerate(zip(tokens, plain, strict=False)) if len(set(pair)) > 1), None)
            gap = None
            if parts is not None:
                with torch.inference_mode():
                    logits = target(torch.tensor([[*prompt, *plain[:parts]]]), logits_to_keep=1).logits[0, -1].float()
                gap = float(logits[plain[parts]] - logits[tokens[parts]])
            setting = {"dtype": str(dtype).removeprefix("torch."), "temperature": temperature, "text": number}
            same = {"tokens": len(tokens), "same": tokens == plain, "parts at": parts, "gap": gap}
            found.append(setting | {"arm": name} | same | clocks | told | {"load": os.getloadavg()[0]})
    return found


SETTINGS = {"greedy": (torch.float32, 0.0), "sampled": (torch.float32, 1.0), "bf16": (torch.bfloat16, 0.0)}


def main(
    work: Annotated[Path, typer.Option(help="Folder for the target's texts.")],
    only: Annotated[list[str], typer.Option(help="replay, greedy, sampled, bf16; all if none is given.")] = (),
):
    """Write the tables long_texts and long_guesses (replay) and long_decodes under data/bench."""
    torch.set_num_threads(1)
    study = Study()
    columns = where() | {"seed": SEED}
    if not only or "replay" in only:
        tables = replayed(study, study.texts(work / "held.safetensors"))
        for file, table in zip(("long_texts", "long_guesses"), tables, strict=True):
            save(file, table.assign(**columns))
    for name, setting in SETTINGS.items():
        if not only or name in only:
            save("long_decodes", pd.DataFrame(decoded(study, *setting)).assign(**columns), ["dtype", "temperature"])


def save(name: str, table: pd.DataFrame, replaced: list[str] = ()) -> None:
    """Write the table; rows that are there and differ from it in the columns `replaced` stay."""
    file = paths.DATA / "bench" / f"{name}.cpu.csv"
    if replaced and file.exists():
        old = pd.read_csv(file)
        here = set(map(tuple, table[replaced].to_numpy().tolist()))
        table = pd.concat([old[[tuple(row) not in here for row in old[replaced].to_numpy().tolist()]], table])
    write_atomic(file, lambda path: table.to_csv(path, index=False, float_format="%.6g"))
    manifest.update([f"bench/{file.name}"], made_by="python -m palimpsest.chapters.sage.long_texts_study")


if __name__ == "__main__":
    typer.run(main)
