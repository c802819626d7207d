"""What `long_texts_study` recorded of SmolLM2 and its distilled drafter, as the chapter shows it."""

import numpy as np
import pandas as pd

from palimpsest.metrics.statistics import Estimate, estimate
from palimpsest.runs import paths

LENGTHS = (125, 250, 500, 1000)
"""Generation lengths at which accepted lengths are compared, in tokens."""
BLOCK = 250


def recorded(name: str) -> pd.DataFrame:
    """The table `name` of data/bench; lists of numbers as arrays."""
    table = pd.read_csv(paths.DATA / "bench" / f"{name}.cpu.csv")
    for column in table.columns.intersection(["accepted", "ranks", "repeats"]):
        if not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = [np.array(one.split(), dtype=int) for one in table[column]]
    return table


def by_block(rounds: pd.DataFrame, guesses: pd.DataFrame) -> pd.DataFrame:
    """By block of `BLOCK` tokens, numbered from 0, over all texts: the accepted drafts per round of each policy, of
    the rounds whose root is in the block; in percent of the block's tokens those that are the drafter's likeliest and
    those that repeat."""
    parts = []
    for row in rounds.itertuples():
        roots = np.concatenate([[0], np.cumsum(row.accepted + 1)[:-1]])
        parts.append(pd.DataFrame({"policy": row.policy, "block": roots // BLOCK, "accepted": row.accepted}))
    table = pd.concat(parts).pivot_table(index="block", columns="policy", values="accepted", sort=False)
    for title, column, value in (("guessed, %", "ranks", 0), ("repeated, %", "repeats", 1)):
        lists = guesses[column].to_list()
        places = np.concatenate([np.arange(1, 1 + len(one)) for one in lists])
        table[title] = 100 * pd.Series(np.concatenate(lists) == value).groupby(places // BLOCK).mean()
    return table.rename(index=lambda block: f"{BLOCK * block} to {BLOCK * (block + 1) - 1}")


def gains(rounds: pd.DataFrame, arm: str = "sage", rival: str = "specvlm") -> pd.DataFrame:
    """By text of at least the longest of `LENGTHS` (rows) and length (columns): how much longer `arm`'s accepted
    length is than `rival`'s, in percent. The round that crosses the length counts."""
    long = rounds[rounds.length >= max(LENGTHS)]
    found = {name: part.set_index("text").accepted for name, part in long.groupby("policy")}

    def until(accepted, length):
        return accepted[: int(np.searchsorted(1 + np.cumsum(accepted + 1), length)) + 1].mean()

    def gain(text, length):
        return 100 * (until(found[arm][text], length) / until(found[rival][text], length) - 1)

    return pd.DataFrame({n: {text: gain(text, n) for text in found[arm].index} for n in LENGTHS})


def slope(rounds: pd.DataFrame) -> Estimate:
    """Points of `gains` per doubling of the length: the quantity of the claim on lengths, over texts."""
    doublings = np.log2(np.array(LENGTHS))
    return estimate([np.polyfit(doublings, row, 1)[0] for row in gains(rounds).to_numpy()])


def speeds(decodes: pd.DataFrame) -> pd.DataFrame:
    """By setting and arm: tokens per second of CPU time, their ratio to plain decoding's, accepted drafts per round,
    drafting and the loop's own seconds in percent of the target's, and texts that are not plain decoding's with the
    largest gap of logits where they part."""
    keys = ["dtype", "temperature", "arm"]
    sums = decodes.groupby(keys, sort=False).sum(numeric_only=True)
    table = pd.DataFrame({"tokens per s": sums.tokens / sums["cpu s"]})
    plain = table.xs("plain", level="arm")["tokens per s"]
    table["times plain"] = table["tokens per s"] / plain.reindex(table.index.droplevel("arm")).to_numpy()
    table["accepted"] = sums.accepted / sums.rounds
    ours = sums.verify > 0
    table["draft, % of verify"] = (100 * sums.draft / sums.verify)[ours]
    table["loop, % of verify"] = (100 * (sums.tree + sums.commit + sums.other) / sums.verify)[ours]
    groups = decodes.groupby(keys, sort=False)
    table["other texts"] = groups.same.apply(lambda same: int((~same.astype(bool)).sum()))
    table["largest gap"] = groups.gap.max()
    return table.reset_index()
