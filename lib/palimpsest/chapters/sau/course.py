"""One run of unlearning, and the point of its course at which it is taken."""

from collections.abc import Callable
from statistics import fmean

from torch import nn

from palimpsest.chapters.sau.arms import Arm
from palimpsest.chapters.sau.cohort import Cohort, judge_of
from palimpsest.chapters.sau.measures import BAR
from palimpsest.chapters.sau.profiles import Values
from palimpsest.chapters.sau.weights import put, put_between, state
from palimpsest.pruning import Masks
from palimpsest.training import seeds
from palimpsest.unlearning.language import unlearn

BISECTIONS = 4


def forget(cohort: Cohort, arm: Arm, values: Values) -> tuple[nn.Module, Masks | None, dict]:
    """Unlearn, and take the run where it has forgotten most while its validation retention is at least 95 % of the
    target's, pruned alike.

    The model is looked at every `Setting.look_every` updates; arm B is looked at as pruned again. Runs dip early,
    while the step size is large, and recover: so all of the course counts, and not what comes before the first look
    below the bar. A run that ends below the bar is also looked at on the straight line from its start to its end, as
    far along as the bar allows (`BISECTIONS` halvings); the better of the two is taken.

    Returns the model, the masks it keeps, and the columns of the run: "course", the looks; "taken", the number of
    the best look, or the share of the way to the end; "dip", the number of the first look below the bar, or none;
    "factor", the mean over steps of D's median 1 + λ or of F's factor; "work", the positions passed forward and
    backward.
    """
    setting, judge = cohort.setting, judge_of(cohort, *arm.start)
    model, masks = cohort.load("target", *arm.start)
    moving = cohort.moving(model)
    first, looks = state(moving), [judge.look(model)]
    best, taken = first, 0.0

    def finished() -> dict[str, float]:
        """What is seen of the model as it would be handed over now."""
        if arm.letter != "B":
            return judge.look(model)
        before = state(moving)
        cohort.prune(model, *arm.start)
        seen = judge.look(model)
        put(moving, before)
        return seen

    def look(updates: int) -> None:
        nonlocal best, taken
        if updates % setting.look_every:
            return
        seen = finished()
        if seen["kept"] >= BAR and seen["forget"] < looks[int(taken)]["forget"]:
            best, taken = state(moving), float(len(looks))
        looks.append(seen)

    done = unlearn(
        model,
        cohort.encode(cohort.forget),
        cohort.encode(cohort.known),
        arm.objective(values[1]),
        lr=values[0],
        update=arm.update(masks, model, cohort.seed, setting.top),
        epochs=setting.unlearn_epochs,
        batch_size=setting.unlearn_batch,
        seed=seeds.derived(cohort.seed, "unlearning", *(["again"] if arm.again else [])),
        after_update=look,
    )
    if looks[-1]["kept"] < BAR:
        end = state(moving)
        share = to_bar(lambda way: put_between(moving, first, end, way), lambda: finished()["kept"])
        if finished()["forget"] < looks[int(taken)]["forget"]:
            best, taken = state(moving), share
    put(moving, best)
    if arm.letter == "B":
        masks = cohort.prune(model, *arm.start)
    scales = [row["scale"] for row in done.log if "scale" in row]
    below = [number for number, seen in enumerate(looks) if seen["kept"] < BAR]
    course = {
        "course": looks,
        "taken": taken,
        "dip": below[0] if below else None,
        "factor": fmean(scales) if scales else None,
        "work": [done.tokens_forward, done.tokens_backward],
    }
    return model, masks, course


def to_bar(go: Callable[[float], None], kept: Callable[[], float]) -> float:
    """`go` a share of the way, as far along as `kept` stays at the bar by `BISECTIONS` halvings; returns it."""
    inside, outside = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        go(middle)
        inside, outside = (middle, outside) if kept() >= BAR else (inside, middle)
    go(inside)
    return inside
