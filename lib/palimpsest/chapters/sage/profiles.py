"""The profiles of the SAGE experiment: which models, how many requests, and what is done with them."""

from dataclasses import dataclass

import torch

from palimpsest.build.pair import Stage
from palimpsest.chapters.sage.families import Family
from palimpsest.chapters.sage.requests import pictures
from palimpsest.chapters.sage.shipped import SHIPPED
from palimpsest.chapters.sage.smollm2 import SmolLM2


@dataclass(frozen=True)
class Setting:
    """`requests` per seed and `tuned` per tuning seed, each of `most` new tokens at most. What cannot be replayed is
    decoded on the first `decoded` requests of a seed, and what can be is decoded as well on the first `checked`; a
    drafter with a part of the picture gets the first `pruned`. `sampling`: the temperatures of the arms that are not
    greedy. The first `timed` requests of a seed are also timed, `repeats` times."""

    family: Family
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    requests: int
    tuned: int
    decoded: int
    checked: int
    pruned: int
    most: int
    sampling: tuple[float, ...] = ()
    timed: int = 0
    repeats: int = 0

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """The seeds by group."""
        return {"tuning": self.tuning_seeds, "evaluation": self.seeds}

    def inputs(self, group: str, seed: int, model: str, count: int | None = None) -> list[dict[str, torch.Tensor]]:
        """What `decoding.generate` takes, one mapping per request to the `model`; the first `count`, or all."""
        each = self.tuned if group == "tuning" else self.requests
        asked = pictures(group, self.groups[group].index(seed), each)
        return self.family.inputs(model, asked.subset(torch.arange(each if count is None else count)))


PROFILES = {
    "smoke": Setting(
        SHIPPED,
        seeds=(0, 1),
        tuning_seeds=(1000,),
        requests=2,
        tuned=1,
        decoded=1,
        checked=1,
        pruned=1,
        most=12,
        sampling=(1.0,),
    ),
    "ci": Setting(
        SHIPPED,
        seeds=tuple(range(70, 80)),
        tuning_seeds=(1010, 1011, 1012, 1013, 1014),
        requests=40,
        tuned=2,
        decoded=2,
        checked=1,
        pruned=30,
        most=192,
        sampling=(1.0,),
    ),
    "study": Setting(
        SmolLM2(
            image_token="<file_sep>",
            layers=4,
            stages={
                "target": {"projector": Stage(500, 1e-3), "captions": Stage(2500, 2e-4)},
                "drafter": {"captions": Stage(2500, 5e-4), "distillation": Stage(1000, 3e-4)},
            },
            said=960,
            held_out=1000,
        ),
        seeds=(60, 61, 62, 63, 64),
        tuning_seeds=(1000, 1001),
        requests=6,
        tuned=6,
        decoded=6,
        checked=1,
        pruned=6,
        most=192,
        timed=2,
        repeats=3,
    ),
}
