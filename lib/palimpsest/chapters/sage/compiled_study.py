"""Record what compiled forwards give on the shipped pair: `python -m palimpsest.chapters.sage.compiled_study`.

Plain decoding, a chain and transformers' own ways take turns in one process on one thread, request by request; each
is warmed up by a decode that is not counted, compilation among it. Seconds are those of the thread, and the wall
clock and the load stand beside them.
"""

import os
import statistics
import time

import pandas as pd
import torch
import typer

from palimpsest import decoding
from palimpsest.chapters.sage import cost
from palimpsest.chapters.sage.bench import where
from palimpsest.chapters.sage.profiles import PROFILES
from palimpsest.chapters.sage.requests import greedy
from palimpsest.data import manifest
from palimpsest.decoding.compiled import CompiledLlavaOnevisionDecoder
from palimpsest.decoding.policies.chain import Chain
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic

FILE = "bench/compiled.cpu.csv"
REQUESTS, REPEATS, LENGTH = 2, 3, 7
"""Requests of the first seed, decodes of each, drafts in a chain: with the root eight rows, and no padding."""


def measured() -> pd.DataFrame:
    """One row per arm and request: medians of its seconds, tokens, forwards, and whether the text is that of
    transformers' `generate`."""
    setting = PROFILES["ci"]
    target, drafter = cost.vision("ci")
    compiled = [CompiledLlavaOnevisionDecoder(one.model) for one in (target, drafter)]
    requests = setting.inputs("evaluation", setting.seeds[0], setting.family.pairs["vision"][0])[:REQUESTS]

    def ours(pair, policy):
        def decode(one):
            out = decoding.generate(*pair, one, policy=policy, max_new_tokens=setting.most)
            stages = {name: seconds for name, seconds in out.stats.times.items() if seconds}
            counts = {"target forwards": out.stats.target_forwards, "draft forwards": out.stats.draft_forwards}
            return out.tokens, counts | stages

        return decode

    def peer(options):
        return lambda one: (greedy(target.model, one, setting.most, **options(drafter)), {})

    arms = {name: peer(options) for name, options in cost.PEERS.items()}
    arms |= {"plain": ours((target, None), "autoregressive"), "chain": ours((target, drafter), Chain(LENGTH))}
    arms["chain, compiled"] = ours(compiled, Chain(LENGTH))
    rows = []
    for number, one in enumerate(requests):
        taken = {name: [] for name in arms}
        for repeat in range(1 + REPEATS):
            for name, decode in arms.items():
                before = time.thread_time(), time.perf_counter()
                tokens, told = decode(one)
                clocks = {"cpu s": time.thread_time() - before[0], "wall s": time.perf_counter() - before[1]}
                if repeat:
                    taken[name].append((tokens, clocks | told | {"load": os.getloadavg()[0]}))
        for name, decodes in taken.items():
            same = decodes[0][0] == taken["transformers"][0][0]
            medians = {key: statistics.median(told[key] for _, told in decodes) for key in decodes[0][1]}
            rows.append({"request": number, "arm": name, "tokens": len(decodes[0][0]), "same": same} | medians)
    return pd.DataFrame(rows)


def main():
    """Write data/bench/compiled.cpu.csv."""
    torch.set_num_threads(1)
    table = measured().assign(**where())
    write_atomic(paths.DATA / FILE, lambda path: table.to_csv(path, index=False, float_format="%.6g"))
    manifest.update([FILE], made_by="python -m palimpsest.chapters.sage.compiled_study")


if __name__ == "__main__":
    typer.run(main)
