"""The profiles of the chapter's part on language. Models, questions and values of the arms are those of the SAU
chapter's profile of the same name."""

from dataclasses import dataclass

from palimpsest.chapters.sau.arms import Arm
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN
from palimpsest.unlearning.language import Objective, SamNPO

SHARP = "NPO + SAM"
"""What the arm `Sharp` is called among rivals."""


@dataclass(frozen=True)
class Sharp(Arm):
    """Arm A with NPO by sharpness-aware minimisation (Fan et al. 2025), which is said to resist relearning."""

    rho: float = 0.01

    @property
    def kind(self) -> str:
        return f"{super().kind}, SAM"

    def objective(self, alpha: float) -> Objective:
        return SamNPO(per_token=True, beta=1.0, alpha=alpha, rho=self.rho)


@dataclass(frozen=True, kw_only=True)
class Language:
    """`arms` are of the SAU chapter, `rivals` names of `RIVALS`, all run on `seeds`, with the arm `Sharp`. `places`:
    settings that each rival is tried with on `tuning_seeds`, the same number for all. `ablated`: how many value
    vectors of each layer are taken out of the original. `asked`: every so manieth forget question is asked in all
    forms. `shipped`: the trials are read from `data/`."""

    name: str
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    rivals: tuple[str, ...] = ("ULD", "ROCR", "ECO", "Neuron Adjust", "Key Space Detection")
    ablated: int = 40
    places: int = 9
    asked: int = 2
    shipped: bool = False


ARMS = (Arm(MAIN, "A"), Arm(MAIN, "D", *JUDGED_AT, "wanda"))
"""NPO on the dense model, and SAU."""

CI = Language(
    name="ci",
    seeds=tuple(range(210, 220)),
    tuning_seeds=tuple(range(1000, 1005)),
    arms=ARMS,
    shipped=True,
)

SMOKE = Language(
    name="smoke",
    seeds=(0, 1),
    tuning_seeds=(1000,),
    arms=ARMS,
    ablated=4,
    places=1,
    asked=8,
)

LANGUAGE: dict[str, Language] = {setting.name: setting for setting in (SMOKE, CI)}
