"""SAGE on a real language model, profile `full`: the arms of `sage` on SmolLM2-135M with a vision tower.

Target and drafter are `nets.smollm2_vision`, trained here on the shipped Fashion-MNIST as `data.build_pair` trains
the small pair: first the target's projector, then all but the tower; then the drafter, its first layers, on the same
texts and on the target's own. Policies, budgets, tuning and measures are those of `sage`; seconds are taken on this
machine, one arm at a time. Step sizes and steps were set by hand, not tuned.

The language models decode in float32 without TF32, so that a tree's row and plain decoding seldom differ in their
argmax; "same" tells how often they agree. Static caches and CUDA graphs were not tried: both want shapes that stay,
and a tree's change from round to round.
"""

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from math import isfinite

import pandas as pd
import torch

from palimpsest import runs
from palimpsest.build import pair_quality
from palimpsest.build.pair import SEED, Stage, collect
from palimpsest.build.pair_tasks import CaptionTask, DistillationTask, fit
from palimpsest.chapters.sage import cost as sage_cost
from palimpsest.chapters.sage import experiment as sage
from palimpsest.chapters.sage import requests as sage_requests
from palimpsest.chapters.sage.experiment import Arm
from palimpsest.chapters.sage.requests import CANDIDATES
from palimpsest.chapters.shared import records
from palimpsest.chapters.shared.profiles import choose
from palimpsest.data import fashion_mnist, smollm2
from palimpsest.data.caption_words import PROMPTS
from palimpsest.decoding import Decoder
from palimpsest.decoding.seeing import SeeingLlamaDecoder
from palimpsest.nets import efficientnet
from palimpsest.nets.smollm2_vision import Processor, SeeingLlama, build
from palimpsest.runs import paths

PAIR = ("target", "drafter")
SAVE_EVERY = 250
"""Training steps between two checkpoints of 1.6 GB."""


@dataclass(frozen=True)
class Setting:
    """`requests` a seed and `most` new tokens a request; of them `timed` are timed, `repeats` times. `layers` of the
    drafter; `stages` of each model; `said`: pictures about which the target's texts are collected; `held_out`: test
    pictures on which the pair is measured. `image_token` stands for a visual token: one that no text has."""

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    requests: int
    most: int
    timed: int
    repeats: int
    image_token: str
    layers: int
    stages: dict[str, dict[str, Stage]]
    said: int
    held_out: int


PROFILES = {
    "full": Setting(
        seeds=(60, 61, 62, 63, 64),
        tuning_seeds=(1000, 1001),
        requests=6,
        most=192,
        timed=2,
        repeats=3,
        image_token="<file_sep>",
        layers=4,
        stages={
            "target": {"projector": Stage(500, 1e-3), "captions": Stage(2500, 2e-4)},
            "drafter": {"captions": Stage(2500, 5e-4), "distillation": Stage(1000, 3e-4)},
        },
        said=960,
        held_out=1000,
    )
}


@cache
def parts() -> tuple:
    """(SmolLM2, its tokenizer, the tower), from the folders that PALIMPSEST_SMOLLM2 and PALIMPSEST_EFFICIENTNET name,
    or `smollm2` and `efficientnet` beside the caches. ValueError where a folder does not hold them."""
    return *smollm2.load(paths.outside("smollm2")), efficientnet.load(paths.outside("efficientnet"))


def processor(profile: str) -> Processor:
    return Processor(parts()[1], choose(profile, PROFILES).image_token)


def fresh(profile: str, name: str) -> SeeingLlama:
    """The model `name` as training finds it, on the GPU where there is one."""
    base, _, tower = parts()
    layers = choose(profile, PROFILES).layers if name == "drafter" else None
    model = build(base, tower, image_token_id=processor(profile).image_token_id, seed=SEED, layers=layers)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def trained(profile: str, name: str) -> dict[str, torch.Tensor]:
    """The weights of the model `name` after its stages, the tower's left out. Goes on from its last checkpoint."""
    setting, config = choose(profile, PROFILES), {"profile": profile, "name": name}
    key = runs.key(trained, config)[:16]
    model, folder, split = fresh(profile, name), paths.CACHE / "trained-state" / key, fashion_mnist.load().train
    captions = CaptionTask(model, split, processor(profile), pictures=True, seed=SEED)
    for title, stage in setting.stages[name].items():
        for part, parameter in model.named_parameters():
            wanted = part.startswith("projector.") or title != "projector"
            parameter.requires_grad_(wanted and not part.startswith("tower."))
        task = captions
        if title == "distillation":
            said = collect(load(profile, "target"), processor(profile), split, folder / "said.json", setting.said)
            task = DistillationTask(captions, said)
        with _quick_products():
            fit(
                task,
                **stage._asdict(),
                identity={"run": key, "stage": title},
                folder=folder / title,
                show=f"{name}: {title}",
                every=SAVE_EVERY,
            )
    return {part: p.detach() for part, p in model.named_parameters() if not part.startswith("tower.")}


@contextmanager
def _quick_products():
    """float32 products through TF32 on a GPU that has it: good enough to train by."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.cuda.is_available() else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def load(profile: str, name: str) -> SeeingLlama:
    """The trained model `name`, from the cache or trained now."""
    model = fresh(profile, name)
    model.load_state_dict(runs.artifact(trained, {"profile": profile, "name": name}), strict=False)
    return model.requires_grad_(False)


@cache
def pair(profile: str) -> list[Decoder]:
    return [SeeingLlamaDecoder(load(profile, name)) for name in PAIR]


@cache
def inputs(profile: str, group: str, seed: int) -> list[dict[str, torch.Tensor]]:
    """As `sage_requests.inputs`, of the same pictures."""
    images = sage_requests.pictures(group, seed, choose(profile, PROFILES).requests).images
    wordings = PROMPTS["detail"]
    return [processor(profile)(wordings[i % len(wordings)], images[i : i + 1]) for i in range(len(images))]


def quality(profile: str) -> dict[str, float | None]:
    """`pair_quality.quality` on the first pictures of the test split; None for a share of nothing."""
    held_out = fashion_mnist.load().test.subset(torch.arange(choose(profile, PROFILES).held_out))
    found = pair_quality.quality(*(decoder.model for decoder in pair(profile)), processor(profile), held_out)
    return {name: value if isfinite(value) else None for name, value in found.items()}


def followed(profile: str, group: str, seed: int) -> list[dict]:
    """One row a request: the "answer" of transformers' own greedy decoding, and the "ranks" that the drafter gives
    its tokens, see `sage_requests.held`."""
    target, drafter = (decoder.model for decoder in pair(profile))
    most, rows = choose(profile, PROFILES).most, []
    for one in inputs(profile, group, seed):
        answer = sage_requests.greedy(target, one, most)
        ranks = [row["rank"] for row in sage_requests.held(drafter, one, answer)]
        rows.append({"seed": seed, "answer": answer, "ranks": ranks})
    return rows


def decode(profile: str, group: str, seed: int, **arm) -> list[dict]:
    """As `sage.decode`."""
    asked = inputs(profile, group, seed)
    return sage.decoded(pair(profile), asked, Arm(**arm), seed, choose(profile, PROFILES).most)


def seconds(profile: str, seed: int, request: int, arms: dict[str, dict]) -> list[dict]:
    """`sage_cost.timed` of one request."""
    setting, one = choose(profile, PROFILES), inputs(profile, "verdict", seed)[request]
    timed = {name: Arm(**arm) for name, arm in arms.items()}
    table = sage_cost.timed(pair(profile), [one], timed, seed, setting.most, setting.repeats)
    return records.plain_rows(table)


def forwards(profile: str) -> list[dict]:
    """`sage_cost.verify_cost`: c(N) of this device."""
    return sage_cost.verify_cost(pair(profile), inputs(profile, "tuning", 1000)[0]).to_dict("records")


def arms(longest: dict[str, dict], cheapest: dict[str, dict], acceptance: list[float], size: int) -> dict[str, Arm]:
    """The greedy arms of `sage.arms` of the pair that sees, and plain decoding."""
    found = sage.arms(longest, cheapest, dict.fromkeys(sage_requests.PAIRS, acceptance), size)
    kept = {name: arm for name, arm in found.items() if arm.pair == "vision" and not arm.temperature}
    return {"autoregressive": Arm("autoregressive")} | kept


@dataclass(frozen=True, eq=False)
class Results:
    """`runs`: a row an arm and seed; peers were timed only. `measured`: "quality" of the pair, "forwards": c(N), and
    "acceptance" by rank of the drafter's guesses."""

    runs: pd.DataFrame
    arms: dict[str, Arm]
    measured: dict

    @property
    def tuned(self) -> list[dict]:
        return [{"arm": name, **asdict(arm)} for name, arm in self.arms.items()] + [self.measured]


def execute(profile: str) -> Results:
    """Train, tune, decode, time. Every step is cached, so it can be stopped and goes on where it was.

    Raises ValueError for a profile that is not one of `PROFILES`, and as `parts`.
    """
    setting = choose(profile, PROFILES)
    parts()  # what is missing is said before anything is computed
    for name in PAIR:
        runs.artifact(trained, {"profile": profile, "name": name})
    known = runs.cached(quality, {"profile": profile})
    groups = {"tuning": setting.tuning_seeds, "verdict": setting.seeds}
    jobs = [{"profile": profile, "group": group, "seed": seed} for group, seeds in groups.items() for seed in seeds]
    plain = runs.run_all(followed, jobs, show="SAGE full: plain")
    said = sage.rows_of([{"group": job["group"]} for job in jobs], plain)
    ranks = said[said.group == "tuning"].ranks.explode()
    acceptance = [float((ranks == rank).mean()) for rank in range(CANDIDATES)]
    run = partial(sage.run_arms, decode, profile)
    tried = sage.trials(acceptance)
    table = run("tuning", setting.tuning_seeds, tried, "SAGE full: tuning")
    ratio = setting.layers / parts()[0].config.num_hidden_layers
    _, longest, cheapest = sage.tuned(table, tried, ratio)
    chosen = arms(longest, cheapest, acceptance, max(round(sage.size(table[table.arm == "sage 0"])), 1))
    rows = run("verdict", setting.seeds, chosen, "SAGE full: arms")
    answers = said[said.group == "verdict"].groupby("seed").answer.agg(list)
    rows["same"] = [row.tokens == answers[row.seed][row.request] for row in rows.itertuples()]
    timed = {name: asdict(chosen[name]) for name in sage_cost.TIMED}
    taken = [
        row
        for seed in setting.seeds
        for request in range(setting.timed)  # here and not by the workers: nothing else may run meanwhile
        for row in runs.cached(seconds, {"profile": profile, "seed": seed, "request": request, "arms": timed})
    ]
    measured = {"quality": known, "forwards": runs.cached(forwards, {"profile": profile}), "acceptance": acceptance}
    return Results(summary(rows, pd.DataFrame(taken), ratio), chosen, measured)


def summary(rows: pd.DataFrame, taken: pd.DataFrame, ratio: float) -> pd.DataFrame:
    """A row an arm and seed. Of the decodes: "tau", "nodes" and "levels" a round, "cost" a token, "tokens", "rounds",
    "same" (share of the texts that are plain decoding's); of what was timed the sums over requests."""
    counted = []
    for (arm, seed), part in rows.groupby(["arm", "seed"], sort=False):
        rounds = int(part.accepted.map(len).sum())
        found = {"tau": sage.tau(part), "nodes": sage.size(part), "levels": part.depths.map(sum).sum() / rounds}
        found |= {"cost": sage.cost(part, ratio), "tokens": int(part.tokens.map(len).sum()), "rounds": rounds}
        counted.append({"arm": arm, "seed": seed, **found, "same": part.same.mean()})
    taken = taken.groupby(["arm", "seed"], sort=False).sum(min_count=1).add_prefix("timed ").reset_index()
    return pd.DataFrame(counted).merge(taken, on=["arm", "seed"], how="outer", sort=False)
