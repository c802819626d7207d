# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # JSCDS: choosing a core set by Jensen–Shannon divergence
#
# | | |
# |---|---|
# | paper | *JSCDS: A Core Data Selection Method with Jason-Shannon Divergence for Caries RGB Images-Efficient Learning*, [arXiv:2407.00362](https://arxiv.org/abs/2407.00362) |
# | claims | half the data beats all of it; more so at 70 %; better than other methods; faster; sees what a distance cannot |
# | what could be read | the abstract, third-party summaries, and a successor's code. This is a re-implementation from the abstract |
# | data here | Fashion-MNIST, a shipped subset. The paper's photographs of caries are clinical and not public, and no dental set ships with any package that we may use |
# | profile | `ci`: about 8 minutes on 2 CPU cores, about 3 GB of memory, no GPU |
#
# **In one paragraph.** JSCDS trains a classifier, measures how far each training sample lies from the centre of its
# class by the Jensen–Shannon divergence, and keeps the samples whose divergence is nearest to the class average.
# The paper reports that half of the data, chosen so, trains a better model than all of it. We test this claim and four
# others with ten seeds, ten rivals and paired intervals, and we show that the rule in the text and the rule in a
# successor's code are two different methods.

# %% [markdown]
# ## Why it matters
#
# Labelled medical images are costly, and some of them are blurred or mislabelled. If a rule could tell in advance which
# half of a data set is worth training on, it would save computation and, where labels are wrong, might even improve the
# model. A *core set* is such a half (or tenth): a subset on which training does about as well as on everything.
#
# The question has two parts that are easily confused. *On clean labels*, every sample carries some information, and
# a rule must throw away the least useful part. *On noisy labels*, some samples carry false information, and a rule wins by
# finding them. A method can fail the first test and pass the second. We therefore measure both.

# %% tags=["parameters"]
profile = "ci"
seed = 0

# %% tags=["hide-input"]
import palimpsest.chapters  # noqa: F401 (first: it pins the arithmetic)

# isort: split
import pandas as pd
import torch

from palimpsest import figures, kernels, selection, training
from palimpsest.chapters.jscds import claims, cost, experiment
from palimpsest.chapters.jscds import figures as draw
from palimpsest.chapters.jscds.cohort import (
    CLEAN,
    COMPLETE,
    MOBILENET,
    NOISY,
    PROFILES,
    RESNET,
    Cohort,
    dataset,
    test_split,
)
from palimpsest.chapters.shared import page
from palimpsest.chapters.shared.judging import show
from palimpsest.metrics.statistics import estimate
from palimpsest.runs import paths

setting = page.begin(profile, PROFILES)

# %% [markdown]
# ## Notation
#
# | paper | here | name in code | meaning |
# |---|---|---|---|
# | sample embedding | $z_i = g(x_i)$ | `features[i]`, shape $[D]$ | penultimate features of sample $i$ |
# | cluster centre | $\mu_c$ | `centre` | mean embedding of class $c$ |
# | not stated | $p_i$, $q_c$ | `p`, `q` | $\operatorname{softmax}(z_i)$, $\operatorname{softmax}(\mu_c)$ |
# | mutual information | $J_i$ | `scores[i]` | Jensen–Shannon divergence of $p_i$ and $q_{y_i}$, in nats |
# | average mutual information | $\bar J_c$ | `scores.mean()` | mean of $J_i$ over class $c$ |
# | core set | $S$ | `kept` | indices of the samples kept |
# | not stated | $f$, $n_c$ | `fraction`, `n` | fraction kept, size of class $c$ |
#
# Logarithms are natural. Rows marked *not stated* are our reading.

# %% [markdown]
# ## The method, one equation at a time
#
# **Centre.** The class centre is the mean embedding of the samples that carry the class's label:
#
# $$\mu_c = \frac{1}{n_c} \sum_{i\,:\,y_i = c} z_i .$$
#
# The label is the one *given*, right or wrong; a selection method does not know better.


# %%
def class_centre(features, labels, c):
    return features[labels == c].mean(0)


# %% [markdown]
# **Distributions.** The divergence compares probability vectors, so embeddings pass through a softmax. The abstract does
# not say how embeddings become distributions; the softmax is our reading.
#
# $$p_i = \operatorname{softmax}(z_i), \qquad q_c = \operatorname{softmax}(\mu_c), \qquad m = \tfrac12 (p + q) .$$
#
# **Divergence.** $J$ averages the two Kullback–Leibler divergences to the mixture:
#
# $$J(p, q) = \tfrac12 \operatorname{KL}(p \Vert m) + \tfrac12 \operatorname{KL}(q \Vert m),
# \qquad \operatorname{KL}(p \Vert m) = \sum_d p_d \ln \frac{p_d}{m_d} .$$
#
# It is symmetric, it is zero only for equal distributions, and it never exceeds $\ln 2$.


# %%
def jensen_shannon(p, q):
    m = (p + q) / 2
    return 0.5 * (p * (p / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)


# %% [markdown]
# **Criterion.** Within each class, keep the $\lfloor f n_c + \tfrac12 \rfloor$ samples whose divergence lies nearest to the
# class average:
#
# $$S_c = \text{the } \lfloor f n_c + \tfrac12 \rfloor \text{ samples with the smallest } \bigl| J_i - \bar J_c \bigr| .$$


# %%
def near_mean(scores, k):
    return (scores - scores.mean()).abs().argsort(stable=True)[:k]


# %% [markdown]
# ## A toy in which the meaning can be seen
#
# The paper calls $J$ *mutual information*. In one exact sense it is. Toss a fair coin $B$; on heads draw a symbol $X$ from
# $p$, on tails from $q$. Then $I(X; B) = J(p, q)$: the divergence says how much one symbol tells about the coin. A large
# $J_i$ therefore means that the sample is *easy to tell from* its class centre, not that it shares much with it.

# %%
p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
q = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
joint = torch.stack([p, q]) / 2  # P(B, X)
information = (joint * (joint / (joint.sum(0) * 0.5)).log()).sum()
apart = torch.tensor([1.0, 1e-300], dtype=torch.float64)
print(f"J(p, q) = {jensen_shannon(p, q):.6f} nats, I(X; B) = {information:.6f} nats")
print(
    f"J(p, p) = {jensen_shannon(p, p):.6f}, disjoint: {jensen_shannon(apart, apart.flip(0)):.6f} = ln 2"
)

# %% [markdown]
# ## The kernel
#
# The formula above would build an $N \times C \times D$ tensor for $N$ samples against $C$ centres. The project's kernel
# never does: it walks over $D$ in tiles and keeps running sums. `kernels.jensen_shannon` is one call with two
# implementations, a chunked one in torch and a Triton kernel, which is interpreted where there is no GPU. Both are held to
# the definition in float64; the tolerance comes from the rounding error of float32, not from what passes.

# %%
generator = torch.Generator().manual_seed(seed)
p_logits, q_logits = (3 * torch.randn(n, 64, generator=generator) for n in (200, 10))
exact = jensen_shannon(
    p_logits.double().softmax(-1)[:, None], q_logits.double().softmax(-1)
)
rows = []
for backend in (None, "triton"):
    value = kernels.jensen_shannon(p_logits, q_logits, backend=backend)
    rows.append(
        {
            "ran": kernels.last_backend(),
            "largest error, nats": f"{(value - exact).abs().max():.0e}",
        }
    )
figures.table(pd.DataFrame(rows))

# %% tags=["nbval-check-output"]
close = [
    kernels.jensen_shannon(p_logits, q_logits, backend=b) for b in (None, "triton")
]
print(
    "both backends within 1e-6 nats of float64:",
    all((v - exact).abs().max() < 1e-6 for v in close),
)
print(
    "symmetric:",
    torch.allclose(close[0], kernels.jensen_shannon(q_logits, p_logits).T, atol=1e-6),
)
print("bounded by ln 2:", bool((close[0] >= 0).all() and (close[0] <= 0.693148).all()))

# %% [markdown]
# What it costs was *recorded* by `palimpsest bench`, because a time is a property of a machine. Each row compares medians of
# interleaved runs on one thread: how many times faster than the naive formula, eager, each implementation is. A number
# below 1 is slower. `torch.compile` fuses the naive formula and is faster than our CPU path, but it must compile for each
# shape first; the Triton kernel is written for GPUs, on which nothing was run yet.

# %% tags=["hide-input"]
bench = pd.read_csv(paths.DATA / "bench" / "jensen_shannon.cpu.csv")
figures.table(draw.bench_table(bench))

# %% [markdown]
# ## The experiment
#
# One *cohort* is ten seeds under one condition. Each seed draws its own images, its own wrong labels and its own random
# start; it trains a scorer on everything, lets every method choose from what that scorer shows, and trains a fresh network
# on each choice **from the scorer's own start**. Arms of one seed thus differ in the subset alone, and all intervals below
# are of paired differences.
#
# - *Accuracy* is on test images after the last epoch. No test image is seen in training, selection or tuning.
# - *Tuning* is equal: the full set and the subsets each get the best step size of one grid, on validation images and a
#   seed that no verdict uses. All subsets share theirs, so that the subset is all that differs; the table below shows
#   every method at every step size.
# - *Budget* is equal: every method keeps the same number of samples of each class.
# - *Equal epochs* means that half the data gets half the updates, as in the paper's economy argument. *Equal updates*
#   means that the subset is passed over twice as often. Both are reported.
# - *Adjacent* noise moves a label to a neighbouring number. It mimics a grader who errs by one degree of severity; on
#   Fashion-MNIST, whose classes have no order, the neighbour is arbitrary.

# %%
results = experiment.run(profile)
trained = results.rows
print(
    f"{len(trained)} networks: {trained.seed.nunique()} seeds, {trained.condition.nunique()} conditions"
)
for architecture, chosen in results.lrs.items():
    print(f"step sizes of {architecture}: {chosen}")

# %% tags=["hide-input", "hide-output"]
tuning = results.tuning.pivot_table("accuracy", ["architecture", "method"], "lr")
figures.table(tuning.round(3).reset_index())

# %% [markdown]
# ### What the divergence sees
#
# One scorer, trained on clean labels, and the images that it places nearest to and farthest from their class centres.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Each row is a class. Left: the eight images with the smallest divergence from the centre of their class, typical specimens. Right: the eight with the largest. Look for odd cuts, dark prints and garments that a person would put in another class.", "name": "fig-jscds-extremes"}, "image": {"alt": "Ten rows of Fashion-MNIST images; on the left typical garments of each class, on the right unusual ones."}}
cohort = Cohort(
    setting,
    RESNET,
    CLEAN,
    setting.seeds[:1],
    results.lrs[RESNET]["full"],
)
features = cohort.embed(cohort.scorers[0], selection.PRESETS["paper_text"])[0]
labels, images = cohort.y[0], cohort.draws[0].train.images
scores = selection.divergence_to_centre(features, labels)
classes = dataset(setting.dataset).classes
figure = draw.extremes(images, labels, scores, classes)
# %% [markdown]
# The next figure repeats this with 20 % of the labels wrong. The rule keeps a band around the mean: it drops the most
# typical samples on the left and the most unusual ones on the right.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Divergence of the samples labelled 'Sandal' with 20 % of all labels wrong. The dashed line is the class mean, the green band holds the half that is kept. Look at where the wrong labels lie: most are far to the right, outside the band.", "name": "fig-jscds-band"}, "image": {"alt": "Stacked histogram of J for one class, right and wrong labels apart, with the kept band around the mean."}}
noisy = Cohort(
    setting,
    RESNET,
    NOISY,
    setting.seeds[:1],
    results.lrs[RESNET]["full"],
)
noisy_features = noisy.embed(noisy.scorers[0], selection.PRESETS["paper_text"])[0]
noisy_scores = selection.divergence_to_centre(noisy_features, noisy.y[0])
figure = draw.distribution(
    noisy_scores, noisy.y[0], noisy.draws[0].wrong, 5, classes[5]
)
# %% [markdown]
# ### Accuracy against the fraction kept

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Test accuracy against the share of the data kept, equal epochs, 95 % intervals over seeds (not paired, hence wider than the differences below). The grey band is the full set. Look at whether any curve reaches the band.", "name": "fig-jscds-fractions"}, "image": {"alt": "Two panels, clean and 20 % symmetric noise: accuracy of JSCDS, random and the successor's rule at 10 to 70 %, with the full set as a band."}}
figure = draw.fractions(results)
# %% tags=["hide-input"] mystnb={"figure": {"caption": "JSCDS minus the full set, paired within seeds, 95 % intervals. Each row is a condition; circles keep 50 %, squares 70 %. Look for an interval wholly to the right of zero: there, less data wins.", "name": "fig-jscds-differences"}, "image": {"alt": "Forest plot of the accuracy difference between JSCDS and the full set under label noise and two ways of matching training length."}}
figure = draw.differences(results)
# %% [markdown]
# ### Other methods, at the same budget

# %% tags=["hide-input"] mystnb={"figure": {"caption": "JSCDS minus each other method at 50 % kept, paired within seeds, 95 % intervals. Look at which side of zero the random subset lies: a method that does not beat it has chosen nothing of use.", "name": "fig-jscds-rivals"}, "image": {"alt": "Forest plot of the accuracy difference between JSCDS and thirteen other selection rules, clean and with 20 % noise."}}
figure = draw.rivals(results)
# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of wrong labels among the kept half when 20 % are wrong before selection. Left of the dashed line a rule cleans the labels, right of it a rule concentrates the errors.", "name": "fig-jscds-wrong"}, "image": {"alt": "Dot plot of the share of wrong labels kept by each selection rule, with a dashed line at 20 %."}}
figure = draw.wrong_kept(results)
# %% [markdown]
# Rules that prefer *hard* samples (EL2N, GraNd, forgetting, the successor's farthest-first) collect wrong labels, because a
# wrong label is hard to fit. Rules that prefer *easy* ones (low loss, cleanlab) avoid them. The band of JSCDS cuts off the far
# end, where most wrong labels lie, and so filters about half of them.
#
# Why, then, does a cleaner half not beat the noisy whole? Half the samples carry half the information, and in equal epochs
# they get half the updates. The row *equal updates* in the figure before removes the second handicap and leaves the first.
# Against both stands the gain of fewer wrong labels, and a wrong label hurts only a network that learns it. Did it?

# %%
fitted = noisy.scorers[2].correct[
    -1, 0
]  # the forward passes of the last epoch, under the labels as given
wrong = noisy.draws[0].wrong
print(
    f"fitted by the scorer: {100 * fitted[wrong].double().mean():.0f} % of the wrong labels"
)
print(
    f"                      {100 * fitted[~wrong].double().mean():.0f} % of the right ones"
)

# %% [markdown]
# At this length of training hardly any wrong label is memorised, so there is little harm to undo. A network trained to
# memorise would have more to gain from a clean subset. Profile `study` trains six times as long on more than ten times the
# data; it was not run yet.
#
# ### The second architecture

# %%
table = []
for condition in COMPLETE:
    half = results.accuracies("jscds", 0.5, condition, architecture=MOBILENET)
    full = results.accuracies("full", 1.0, condition, architecture=MOBILENET)
    table.append(
        {
            "condition": condition,
            "50 % minus full": show(estimate(half - full), digits=2),
            "seeds": len(half),
        }
    )
figures.table(pd.DataFrame(table))

# %% [markdown]
# ### What it costs
#
# Time depends on the machine; work does not. We count multiply-adds in three stages: the networks trained to obtain a score
# (*signals*), the arithmetic of the choice (*scoring*), and the training on the half that was chosen (*final*).

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Multiply-adds by stage at 50 % kept, in units of one training on all the data (vertical line). Look at the blue part: every method that needs a fully trained scorer has spent more than it can save before it chooses. The arithmetic of scoring is too small to be seen.", "name": "fig-jscds-work"}, "image": {"alt": "Stacked bars of multiply-adds by method and stage, with a line at the cost of training on everything."}}
costs = cost.count(profile)
figure = draw.work(costs)
# %% [markdown]
# The same stages in seconds, as recorded by `palimpsest bench` for one seed on one thread:

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Recorded wall time by stage for one seed on one thread, median of interleaved runs, whiskers from the 20th to the 80th percentile; the axis is logarithmic. Look at the distance between training a scorer and any scoring.", "name": "fig-jscds-seconds"}, "image": {"alt": "Dot plot on a logarithmic axis of seconds spent on training the scorer, on other signals, on each method's scoring and on training on half."}}
stages = pd.read_csv(paths.DATA / "bench" / "selection.cpu.csv")
figure = draw.seconds(stages)
# %% [markdown]
# ## The claims
#
# `data/claims/jscds.yaml` names the quantity that decides each claim, the sign that the claim wants, and the margin. Each cell
# prints the verdict; the reasons stand in the table after the last.
#
# The networks of this chapter are trained on the spot. Training amplifies the last digits, in which processors differ, as it
# would a new seed; so the arithmetic is pinned to routines that every x86-64 processor with AVX2 has.

# %% tags=["claim-half", "nbval-check-output"]
verdicts = page.Verdicts(
    "jscds", profile, claims.described(setting), claims.judgements, results, costs
)
verdicts.show("jscds-half")

# %% tags=["claim-seventy", "nbval-check-output"]
verdicts.show("jscds-seventy")

# %% tags=["claim-best", "nbval-check-output"]
verdicts.show("jscds-best")

# %% tags=["claim-fast", "nbval-check-output"]
verdicts.show("jscds-fast")

# %% tags=["claim-nonlinear", "nbval-check-output"]
verdicts.show("jscds-nonlinear")

# %% tags=["claim-text-vs-code", "nbval-check-output"]
verdicts.show("jscds-text-vs-code")

# %% tags=["hide-input"]
verdicts.record()

# %% [markdown]
# ## Where we differ
#
# **The text and a successor's code choose opposite samples.** No code of the paper was found. A successor's review
# repository ships a selector of the same name. Where the text averages and keeps a band, the code keeps the **largest**
# scores; where the text has the mixture $m$, the code has
#
# $$\tfrac12 \operatorname{KL}(q \Vert p) + \tfrac12 \operatorname{KL}(p \Vert q),$$
#
# half of Jeffreys' divergence, which has no bound. We call the two presets `paper_text` and `successor_code`, and neither
# "the authors' JSCDS".
#
# **The code's arithmetic overflows.** It computes `softmax().log()`. In float32 a probability below $10^{-45}$ becomes zero and
# its logarithm $-\infty$. With both probabilities at zero the product is not a number, and a descending sort puts such
# samples first.

# %% tags=["nbval-check-output"]
from palimpsest.selection.divergences import half_jeffreys_softmax_log

logits = torch.tensor([[0.0, 60.0, 0.0], [0.0, 120.0, 0.0], [0.0, 120.0, 240.0]])
centre = torch.tensor([[130.0, 0.0, 0.0]])
print(
    "softmax().log():",
    [f"{v:.1f}" for v in half_jeffreys_softmax_log(logits, centre).flatten().tolist()],
)
log_p, log_q = logits.log_softmax(-1), centre.log_softmax(-1)
stable = 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)
print("log_softmax:    ", [f"{v:.1f}" for v in stable.tolist()])

# %% [markdown]
# **The best test epoch is not a result.** The code reports the maximum of test accuracy over epochs. That chooses an epoch by
# looking at the answer. One cohort, tested after each epoch, shows how much this adds:

# %%
half_cohort = Cohort(
    setting,
    RESNET,
    CLEAN,
    setting.seeds,
    results.lrs[RESNET]["subset"],
)
test = test_split(setting)
history, networks = [], half_cohort.networks()
halves = torch.stack(
    [
        selection.select(x.flatten(1), y, 0.5, "random", seed=s)
        for s, x, y in zip(half_cohort.seeds, half_cohort.x, half_cohort.y, strict=True)
    ]
)
row = torch.arange(len(networks))[:, None]
training.fit(
    networks,
    half_cohort.x[row, halves],
    half_cohort.y[row, halves],
    setting.recipe(half_cohort.lr),
    seeds=half_cohort.seeds,
    on_epoch=lambda epoch: history.append(
        training.accuracy(networks, test.pixels(), test.labels)
    ),
)
accuracy = 100 * torch.tensor(history)
print(
    "best test epoch minus last epoch:",
    show(estimate((accuracy.max(0).values - accuracy[-1]).numpy()), digits=2),
)

# %% [markdown]
# **A large divergence is not a strong tie.** The paper reads $J$ as mutual information between a sample and its centre, as if
# more were closer. The toy above shows the opposite: $J$ is the information about *which of the two* a symbol came from.
# The near-mean rule does not depend on the reading; the farthest-first rule does.
#
# **Is it the divergence or the rule?** Under one rule we exchanged the divergence. The last column is the yardstick: the
# overlap of two JSCDS subsets whose scorers differ in nothing but their random start.

# %% tags=["hide-input"]
geometry = results.geometry.groupby("condition", sort=False)[
    [
        "overlap.half-Jeffreys near-mean",
        "overlap.L2 near-mean",
        "overlap.moderate",
        "overlap.successor code",
        "overlap.another start of the scorer",
    ]
].mean()
geometry.columns = [f"{name.removeprefix('overlap.')}, %" for name in geometry]
figures.table((100 * geometry).round(0).astype(int).reset_index())

# %% [markdown]
# Two scorers that differ in their random start alone disagree about the subset far more than two divergences on one scorer
# do. Which divergence is used matters less than which seed the scorer had.
#
# Our choices, where the abstract is silent: penultimate features, a softmax over them, budgets per class, training from
# scratch (the paper starts from ImageNet), and slim networks. What this chapter cannot say: how the method does on caries,
# with pretrained networks, at 200 epochs, or in colour.

# %% [markdown]
# ## Exercises
#
# ```{exercise}
# :label: jscds-ex-bound
# Show that $J(p, q) \le \ln 2$, and say when it is reached.
# ```
#
# ```{solution} jscds-ex-bound
# :class: dropdown
# $m_d \ge p_d / 2$, so $\ln (p_d / m_d) \le \ln 2$ and $\operatorname{KL}(p \Vert m) \le \ln 2$; the same holds for $q$. Equality
# needs $m_d = p_d / 2$ wherever $p_d > 0$, that is $q_d = 0$ there: disjoint supports.
# ```
#
# ```{exercise}
# :label: jscds-ex-median
# Replace the mean by the median. How many samples change, and which? Use `rule="near_median"`.
# ```

# %% tags=["solution", "hide-cell"]
mean_kept = selection.select(features, labels, 0.5)
median_kept = selection.select(features, labels, 0.5, rule="near_median")
print(
    f"{100 * (1 - experiment.overlap(mean_kept, median_kept)):.0f} % of the kept samples change"
)

# %% [markdown]
# ```{exercise}
# :label: jscds-ex-global
# With `scope="global"` the rule no longer keeps equal shares of the classes. Which class loses most?
# ```

# %% tags=["solution", "hide-cell"]
kept = selection.select(features, labels, 0.5, scope="global")
share = torch.bincount(labels[kept], minlength=10) / torch.bincount(
    labels, minlength=10
)
print(f"{classes[int(share.argmin())]}: {100 * share.min():.0f} % of it is kept")

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
data_set = dataset(setting.dataset)
page.provenance(
    profile,
    experiment.run,
    {"data set": f"{data_set.origin}, {data_set.licence}"},
)
