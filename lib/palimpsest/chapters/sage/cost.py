"""What decoding costs in seconds: forwards by their number of rows, and whole requests under every policy.

A time is a property of a machine.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from palimpsest import decoding
from palimpsest.chapters.sage.arms import Arm
from palimpsest.chapters.sage.profiles import PROFILES
from palimpsest.chapters.sage.requests import greedy
from palimpsest.chapters.sage.results import Costs
from palimpsest.chapters.shared import records
from palimpsest.chapters.shared.profiles import choose
from palimpsest.decoding import Decoder, adapt
from palimpsest.runs import paths

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""N of the verify-cost curve c(N)."""
TIMED = (
    *("autoregressive", "chain", "chain, cheapest", "specvlm", "static", "static, cheapest", "eagle2", "opt_tree"),
    *("sage", "sage, cheapest", "no look-ahead", "attention 0.8", "recycling", "lookup"),
)
REAL = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
"""The shape of SmolLM2-135M, the smallest model of real use that this book runs. How long a forward takes does not
depend on the weights, so that they are drawn."""
PEERS: dict[str, Callable[[Decoder], dict]] = {
    "transformers": lambda drafter: {},
    "transformers, assisted": lambda drafter: {"assistant_model": drafter.model},
    "transformers, prompt lookup": lambda drafter: {"prompt_lookup_num_tokens": 5},
}
"""transformers' own decoding by name, with its options."""


def recorded() -> Costs:
    """What `palimpsest bench` recorded of the chapter's pair on one machine."""
    return Costs(pd.read_csv(paths.DATA / "bench" / "verify_cost.cpu.csv"))


def verify_cost(
    models: Mapping[str, Decoder],
    prompt: dict | list[int],
    rows: tuple[int, ...] = ROWS,
    repeats: int = 30,
    prefix: int = 128,
) -> pd.DataFrame:
    """Median seconds of one forward of N new rows behind `prefix` committed ones, `prompt` the first of them, by
    name; the sizes take turns, so that a slow moment falls on all. On a CPU they are those of this thread."""
    found = []
    for model, decoder in models.items():
        decoder.prefill(prompt)
        filler = prefix - decoder.length
        decoder.extend([10] * filler, range(filler), np.tri(filler, dtype=bool))
        decoder.commit(range(filler))
        seconds = {n: [] for n in rows}
        for _ in range(repeats):
            for n in rows:
                star = np.eye(n, dtype=bool)
                star[:, 0] = True
                start = _own(decoder)
                decoder.extend([10] * n, [0] + [1] * (n - 1), star)
                seconds[n].append(_own(decoder) - start)
                decoder.commit([])
        found += [{"model": model, "rows": n, "seconds": statistics.median(s)} for n, s in seconds.items()]
    return pd.DataFrame(found)


def timed(profile: str, seed: int, places: Iterable[int], arms: dict[str, Arm], repeats: int) -> pd.DataFrame:
    """Seconds that the pair "vision" takes for the evaluated requests of a seed at these places, one row per arm or
    peer: the sum over requests of the median over `repeats`, stage by stage; all take turns. "decode" is what remains
    without the prefills, and "rest" what then remains without verifying, drafting and the tree: moving rows of the
    caches, and bookkeeping."""
    setting = choose(profile, PROFILES)
    pair, most = vision(profile), setting.most
    requests = setting.inputs("evaluation", seed, setting.family.pairs["vision"][0])
    asked = [requests[place] for place in places]
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


def seconds(profile: str, seed: int, request: int, arms: dict[str, dict]) -> list[dict]:
    """`timed` of one request; `arms`: the fields of each by name."""
    repeats = choose(profile, PROFILES).repeats
    table = timed(profile, seed, [request], {name: Arm(**arm) for name, arm in arms.items()}, repeats)
    return records.plain_rows(table)


def forwards(profile: str) -> list[dict]:
    """`verify_cost` of the pair "vision": c(N) of this device."""
    setting = choose(profile, PROFILES)
    prompt = setting.inputs("tuning", setting.tuning_seeds[0], setting.family.pairs["vision"][0])[0]
    models = dict(zip(("target", "drafter"), vision(profile), strict=True))
    return verify_cost(models, prompt).to_dict("records")


def real_forwards() -> pd.DataFrame:
    """`verify_cost` of a model of the shape `REAL`, behind 512 tokens."""
    config = LlamaConfig(**REAL, max_position_embeddings=2048, tie_word_embeddings=True)
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).eval()
    return verify_cost({"SmolLM2-135M": adapt(model)}, [10] * 8, (1, 2, 12, 32, 64), repeats=5, prefix=512)


def vision(profile: str) -> list[Decoder]:
    """Target and drafter of the pair that policies are tuned on."""
    family = choose(profile, PROFILES).family
    return [family.decoder(name) for name in family.pairs["vision"]]


def _now(decoder):
    """The clock, once the device has done what it was given."""
    if decoder.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _own(decoder):
    """The clock of this thread on a CPU, so that what else the machine does is not counted; else `_now`."""
    return time.thread_time() if decoder.model.device.type == "cpu" else _now(decoder)


def _ours(pair, arm, one, seed, most):
    target, drafter = pair
    out = decoding.generate(
        target,
        arm.make_drafter(target, drafter),
        one,
        policy=arm.make_policy(),
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
    options, seconds = PEERS[name](drafter), []
    for length in (1, most):
        start = _now(target)
        tokens = greedy(target.model, one, length, **(options if length > 1 else {}))
        seconds.append(_now(target) - start)
    return {"tokens": len(tokens), "decode": seconds[1] - seconds[0], "prefill_target": seconds[0]}
