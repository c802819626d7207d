"""What decoding costs in seconds: forwards by their number of rows, and whole requests under every policy.

`bench` records them for one machine in `data/bench`; a time is a property of a machine.
"""

import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import torch

from palimpsest import decoding, runs
from palimpsest.chapters.sage import experiment as sage
from palimpsest.chapters.sage import requests as sage_requests
from palimpsest.chapters.sage.requests import PAIRS, PROFILES
from palimpsest.decoding import Decoder

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""N of the verify-cost curve c(N)."""
REPEATS, REQUESTS = 3, 2
TIMED = (
    *("autoregressive", "chain", "chain, cheapest", "specvlm", "static", "static, cheapest", "eagle2, cheapest"),
    *("opt_tree, cheapest", "sage", "sage, cheapest", "no look-ahead", "attention 0.8", "recycling", "lookup"),
)
PEERS = ("transformers", "transformers, assisted", "transformers, prompt lookup")


def verify_cost(
    pair: Sequence[Decoder], prompt: dict, rows: tuple[int, ...] = ROWS, repeats: int = 30, prefix: int = 128
) -> pd.DataFrame:
    """Median seconds of one forward of N new rows behind `prefix` committed ones, `prompt` the first of them, of
    target and drafter; the sizes take turns, so that a slow moment falls on all."""
    found = []
    for model, decoder in zip(("target", "drafter"), pair, strict=True):
        decoder.prefill(prompt)
        filler = prefix - decoder.length
        decoder.extend([10] * filler, range(filler), np.tri(filler, dtype=bool))
        decoder.commit(range(filler))
        seconds = {n: [] for n in rows}
        for _ in range(repeats):
            for n in rows:
                star = np.eye(n, dtype=bool)
                star[:, 0] = True
                start = _now(decoder)
                decoder.extend([10] * n, [0] + [1] * (n - 1), star)
                seconds[n].append(_now(decoder) - start)
                decoder.commit([])
        found += [{"model": model, "rows": n, "seconds": statistics.median(s)} for n, s in seconds.items()]
    return pd.DataFrame(found)


def requests(seed: int, arms: dict[str, sage.Arm], names: tuple[str, ...], repeats: int, count: int) -> pd.DataFrame:
    """`timed` of the shipped pair: the first `count` requests of a verdict seed under the arms of these names."""
    asked = sage_requests.inputs("ci", "verdict", seed, PAIRS["vision"][0])[:count]
    pair = [sage_requests.decoder(name) for name in PAIRS["vision"]]
    return timed(pair, asked, {name: arms[name] for name in names}, seed, PROFILES["ci"].most, repeats)


def timed(
    pair: Sequence[Decoder], asked: list[dict], arms: dict[str, sage.Arm], seed: int, most: int, repeats: int
) -> pd.DataFrame:
    """Seconds that target and drafter take for these requests, one row an arm or peer: the sum over requests of the
    median over `repeats`, stage by stage; all take turns. "decode" is what remains without the prefills, and "rest"
    what then remains without verifying, drafting and the tree: moving rows of the caches, and bookkeeping."""
    found: dict[str, list[dict]] = {name: [] for name in (*arms, *PEERS)}
    for one in asked:
        taken: dict[str, list[dict]] = {name: [] for name in found}
        for _ in range(repeats):
            for name, parts in taken.items():
                ours = name in arms
                parts.append(_ours(pair, arms[name], one, seed, most) if ours else _peer(pair, name, one, most))
        for name, parts in taken.items():
            found[name].append({key: statistics.median(part[key] for part in parts) for key in parts[0]})
    table = pd.DataFrame(
        [
            {"seed": seed, "arm": name, "requests": len(asked), **pd.DataFrame(parts).sum().to_dict()}
            for name, parts in found.items()
        ]
    )
    return table.assign(rest=table.decode - table.verify - table.draft - table.tree)


def _now(decoder):
    """The clock, once the device has done what it was given."""
    if decoder.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _ours(pair, arm, one, seed, most):
    target, drafter = pair
    out = decoding.generate(
        target,
        sage.proposer(drafter, arm.drafter),
        one,
        policy=sage.make(arm.policy, arm.options),
        max_new_tokens=most,
        seed=seed,
    )
    stats, times = out.stats, out.stats.times
    stages = {name: times[name] for name in ("prefill_target", "prefill_draft", "verify", "draft", "tree")}
    prefill = times["prefill_target"] + times["prefill_draft"]
    counts = {"target forwards": stats.target_forwards, "draft forwards": stats.draft_forwards}
    return {"tokens": len(out.tokens), "decode": sum(times.values()) - prefill, **stages, **counts}


def _peer(pair, name, one, most):
    """transformers' generate; the prefill is timed as a generation of one token."""
    target, drafter = pair
    options, seconds = {}, []
    if name.endswith("assisted"):
        options = {"assistant_model": drafter.model}
    elif name.endswith("lookup"):
        options = {"prompt_lookup_num_tokens": 5}
    for length in (1, most):
        start = _now(target)
        tokens = sage_requests.greedy(target.model, one, length, **(options if length > 1 else {}))
        seconds.append(_now(target) - start)
    return {"tokens": len(tokens), "decode": seconds[1] - seconds[0], "prefill_target": seconds[0]}


def bench() -> dict[str, pd.DataFrame]:
    """The two tables of `data/bench` by name: "decoding" and "verify_cost", on one thread."""
    torch.set_num_threads(1)
    arms = sage.execute("ci").arms | {"autoregressive": sage.Arm("autoregressive")}
    seeds = PROFILES["ci"].seeds
    tables = []
    with runs.progress_bar(total=len(seeds), desc="decoding") as bar:
        for seed in seeds:
            tables.append(requests(seed, arms, TIMED, REPEATS, REQUESTS))
            bar.update()
    environment = runs.environment()
    where = {name: environment[name] for name in ("cpu", "torch", "transformers", "commit") if name in environment}
    where |= {"threads": 1, "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    prompt = sage_requests.inputs("ci", "tuning", 0, PAIRS["vision"][0])[0]
    costs = verify_cost([sage_requests.decoder(name) for name in PAIRS["vision"]], prompt)
    return {"decoding": pd.concat(tables).assign(**where), "verify_cost": costs.assign(**where)}
