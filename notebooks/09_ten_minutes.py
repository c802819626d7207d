# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # In ten minutes
#
# **Five papers, five ideas, five small experiments.** Each experiment is computed by the cells that you see, in seconds, on the
# CPU. What it shows is the idea at work, on one model or a handful. It decides nothing: whether a paper's claims hold is judged
# in its chapter, on more seeds, with every rival tuned alike. Under each experiment stands what the chapter found, taken from the
# ledger of results.
#
# | | |
# |---|---|
# | needed | no background beyond training a network once; the chapters derive everything |
# | computed here | all five experiments, in about a minute on 1 CPU core, with about 1 GB of memory; no GPU |
# | claims | none is judged here |
#
# A network that *forgets* should behave as if it had never seen certain samples. Three of the papers are about this, one about
# choosing samples, one about guessing ahead.

# %% tags=["parameters", "hide-input"]
seed = 0

# %% tags=["hide-input"]
import palimpsest.chapters  # noqa: F401 (first: it pins the arithmetic)

# isort: split
import copy
import os
import warnings
from dataclasses import replace

# Bars of loading weights: their seconds differ from run to run.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
warnings.filterwarnings("ignore", message="IProgress not found")  # bars are text here

import pandas as pd
import torch

from palimpsest import data, decoding, figures, kernels, selection, training
from palimpsest.chapters.jscds import networks
from palimpsest.chapters.sau.cohort import gather
from palimpsest.chapters.sau.search import chosen
from palimpsest.chapters.shared import page
from palimpsest.chapters.shared.judging import level, show
from palimpsest.chapters.ten_minutes import figures as draw
from palimpsest.chapters.unlearning_quantised.probes import relative_variance
from palimpsest.data import pairs, sau_models
from palimpsest.metrics.statistics import estimate, paired
from palimpsest.nets.quantised import quantise
from palimpsest.training import seeds
from palimpsest.unlearning.language import METHODS, Update, unlearn
from palimpsest.unlearning.language.evaluation import probability
from palimpsest.unlearning.vision.labels import most_similar, random_wrong
from palimpsest.unlearning.vision.relabel import injected
from palimpsest.unlearning.vision.task import Task, cross_entropy

page.prepare()

# %% [markdown]
# ## SAU: forgetting where half of the weights are gone
#
# A *pruned* language model has weights that are zero and must stay zero, yet methods of unlearning move every weight. SAU masks
# the update, so that only surviving weights move, and lengthens their steps, more for the more important ones, to make up for
# those that cannot. Its aim: what is forgotten falls to where a model is that never knew it, and all else stays.
#
# **Live.** A small Llama knows facts about invented authors by heart and has half of its weights pruned. It unlearns six of the
# authors in 18 updates, masked without and with SAU's longer steps, at the step size and weight that the chapter's search chose
# for each.

# %%
cohort, values = gather("ci", "replication", 200 + seed), chosen(sau_models.search())
forget, retain = cohort.encode(cohort.forget), cohort.encode(cohort.known)


def look(model):
    return {
        "forgotten": probability(model, forget),
        "retained": probability(model, retain),
    }


def run(kind, scaling):
    model, masks = cohort.load("target", "wanda", "0.5")
    lr, alpha = values["NPO", kind, "wanda", "0.5"]
    seen = [look(model)]
    unlearn(
        model,
        forget,
        retain,
        replace(METHODS["NPO"], alpha=alpha),
        lr=lr,
        update=Update(masks, scaling),
        epochs=6,
        batch_size=16,
        seed=seed,
        after_update=lambda _: seen.append(look(model)),
    )
    return pd.DataFrame(seen), masks.holds(model)


runs = {"masked": run("C", "none"), "SAU": run("D wanda", "redistribute")}
oracle = look(cohort.load("oracle", "wanda", "0.5")[0])

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Mean probability of an answer after each update: of the answers to be forgotten, and of all others that the model had learnt. The dotted line is the oracle, a model pruned alike that never met the six authors.", "name": "fig-ten-sau"}, "image": {"alt": "Two panels, masked and SAU, hardly different: within five updates the forgotten answers fall from near 1 to the oracle; the retained ones fall with them and come back in part."}}
figure = draw.courses({name: course for name, (course, _) in runs.items()}, oracle)

# %% tags=["nbval-check-output", "hide-input"]
for name, (course, kept) in runs.items():
    first, last = course.iloc[0], course.iloc[-1]
    print(
        f"{name:6s} forgotten {first.forgotten:.2f} -> {last.forgotten:.2f}, retained {first.retained:.2f} -> "
        f"{last.retained:.2f}; what was pruned is still zero: {kept}"
    )

# %% [markdown]
# Forgetting is quick, and not free: the answers that should stay suffer with it, and come back only in part. So the chapter takes
# each run where it has kept 95 % of them, and compares how much is forgotten there. [The whole chapter](01_sau.ipynb) derives the
# longer steps, and finds:

# %% tags=["hide-input", "nbval-check-output"]
page.found("sau-best", "sau-redistribution")

# %% [markdown]
# ## Eight small networks, for the next three
#
# OEU, Q-MUL and JSCDS are about image classifiers. Eight networks of three convolutions each learn 400 pictures of garments by
# heart, each its own 400; Fashion-MNIST is shipped with the book. What is shown below is taken over all eight.

# %%
source, eight = data.load("fashion-mnist"), range(8)
drawn = []
for k in eight:
    generator = seeds.generator(seed, "garments", k)
    rows = data.class_balanced_draw(source.train.labels, 40, generator)
    drawn.append(source.train.subset(rows))
x = torch.stack([part.pixels() for part in drawn])
y = torch.stack([part.labels for part in drawn])


def train(x, y):
    fresh = [networks.build("conv3", channels=1, classes=10, seed=k) for k in eight]
    training.fit(fresh, x, y, training.Recipe(epochs=30, lr=0.1), seeds=list(eight))
    return fresh


trained = train(x, y)
features, logits = training.predict(trained, x)

# %% tags=["nbval-check-output"]
right = (logits.argmax(2) == y).double().mean()
test_x, test_y = source.test.pixels(), source.test.labels
full = torch.tensor(training.accuracy(trained, test_x, test_y))
print(
    f"known by heart: {right:.0%} of the training pictures; {full.mean():.0%} right of 4,000 others"
)

# %% [markdown]
# ## OEU: forgetting at a right angle
#
# OEU makes a network unsure of what it shall forget: it raises the entropy of its answers there. The gradient $g_f$ that does so
# may also raise the loss on what is kept, whose gradient is $g_r$. So OEU takes from $g_f$ its part along $g_r$: what is left is
# at a right angle to $g_r$, and a small step along it leaves the retain loss as it was.
#
# **Live.** From each of the eight networks one step, of many sizes, along $g_f$ and at the right angle. By how much does the loss
# change on the batch of kept pictures that gave $g_r$, and on another batch?

# %%
orders = [torch.randperm(400, generator=seeds.generator(seed, k)) for k in eight]
forget, retain = torch.stack(orders).split([80, 320], dim=1)


def task_of(models):
    task = Task(
        [copy.deepcopy(model).double() for model in models],
        x.double(),
        y,
        forget,
        retain,
        seeds=list(eight),
        lr=torch.ones(8),
        epochs=1,
        batch_size=20,
    )
    task.net.eval()
    return task


def retain_loss(task, batch):
    return cross_entropy(task.net(task.images(batch)), task.labels(batch))


task = task_of(trained)
own, other, *_ = task.batches(retain, 0)
answers = task.net(task.images(next(task.batches(forget, 0))))
g_f = task.gradients(
    -kernels.softmax_entropy(answers.flatten(0, 1)).view(-1, 8).mean(0)
)
g_r = task.gradients(retain_loss(task, own))
both = task.projected(g_f, g_r, 1.0, "always", "model")  # g_r and the projection of g_f
turned = [a - b for a, b in zip(both, g_r, strict=True)]

# %%
start = [p.detach().clone() for p in task.parameters]


@torch.no_grad()
def loss_after(size, direction, batch):
    for p, at, g in zip(task.parameters, start, direction, strict=True):
        p.copy_(at - size * g)
    return retain_loss(task, batch)


rows = []
for name, way in (
    ("along the gradient", (g_f, own)),
    ("at a right angle", (turned, own)),
    ("at a right angle, another batch", (turned, other)),
):
    for size in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        change = (loss_after(size, *way) - loss_after(0.0, *way)).abs()
        rows.append({"step": name, "size": size, "change": float(change.median())})
changes = pd.DataFrame(rows)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Change of the retain loss by one step, against the size of the step; median of eight networks, both axes logarithmic. The steeper a line, the less a small step costs.", "name": "fig-ten-oeu"}, "image": {"alt": "Three lines on logarithmic axes. The step at a right angle, on its own batch, falls twice as steeply as the step along the gradient; on another batch it does not."}}
figure = draw.prices(changes)

# %% tags=["nbval-check-output", "hide-input"]
by_size = changes.set_index(["step", "size"]).change
for name in changes.step.unique():
    times = by_size[name, 0.01] / by_size[name, 0.001]
    print(f"{name:32s} a tenth of the step changes the loss {times:.0f} times less")

# %% [markdown]
# Ten times less is what any step gives; a hundred times less is what the right angle buys. It buys it on one batch. What a user
# wants kept is the loss on all that stays, along a whole run. [The whole chapter](02_oeu.ipynb) follows such runs beside nearly
# twenty other methods, and finds:

# %% tags=["hide-input", "nbval-check-output"]
page.found("oeu-first-order", "oeu-better")

# %% [markdown]
# ## Q-MUL: which wrong label?
#
# To make a network forget a picture one can train it on a wrong label. A label drawn at random tells the network something new
# with each draw, and that is noise in its gradient. Q-MUL gives the wrong class that the network itself holds nearest to the true
# one, always the same; this should be calmer, above all where weights are *quantised*, that is, integers of a few bits.
#
# **Live.** The eight networks as they are, and quantised to four bits and trained on. Noise is the variance of the gradient on
# the pictures to forget, from draw to draw of labels and batches, as a multiple of the squared length of its mean.


# %%
def noise(models, similar):
    task, found = task_of(models), []
    true = task.labels(forget.T)
    nearest = most_similar(task.evaluate(task.images(forget.T)).softmax(-1), true)
    for n in range(6):
        labels = injected(task, nearest if similar else random_wrong(task, true, n))
        for batch in task.batches(forget, n):
            loss = cross_entropy(task.net(task.images(batch)), labels(batch))
            parts = [task.split(g).flatten(1) for g in task.gradients(loss)]
            found.append(torch.cat(parts, 1))
    return relative_variance(torch.stack(found)).numpy()


four_bits = [quantise(model, "W4A4", x[k]) for k, model in enumerate(trained)]
recipe = training.Recipe(epochs=8, lr=0.01)
training.fit(four_bits, x, y, recipe, seeds=list(eight))

# %% tags=["hide-input", "nbval-check-output"]
rows = []
for name, models in (("float", trained), ("four bits", four_bits)):
    random, similar = noise(models, False), noise(models, True)
    rows.append(
        {
            "network": name,
            "random labels": level(estimate(random), ""),
            "similar labels": level(estimate(similar), ""),
            "similar minus random": show(paired(similar, random), ""),
        }
    )
figures.table(pd.DataFrame(rows))

# %% [markdown]
# A label that never changes adds no variance by itself. But noise is measured against the mean gradient, and a similar label asks
# for little, so that its mean is short. [The whole chapter](03_qmul.ipynb) measures both at four precisions, takes the method
# apart, and finds:

# %% tags=["hide-input", "nbval-check-output"]
page.found("qmul-noise", "qmul-similar", "qmul-best")

# %% [markdown]
# ## JSCDS: half of the data
#
# Not every picture is worth training on: some are blurred, some repeat others. JSCDS measures how far a picture lies from the
# centre of its class, by the Jensen–Shannon divergence of the two as a trained network sees them, and keeps those whose
# divergence is nearest to the average of the class. The paper says that half of the data, so chosen, trains a better model than
# all of it.
#
# **Live.** Each of the eight networks chooses half of its 400 pictures, and a fresh network is trained on that half; another one
# on a half drawn at random. All are tested on 4,000 other pictures.

# %%
tested = {"all": full}
for method in ("jscds", "random"):
    halves = []
    for k in eight:
        kept = selection.select(features[k], y[k], 0.5, method, seed=seed + k)
        halves.append(kept)
    rows, halves = torch.arange(8)[:, None], torch.stack(halves)
    models = train(x[rows, halves], y[rows, halves])
    tested[method] = torch.tensor(training.accuracy(models, test_x, test_y))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Difference in accuracy on new pictures, in points, within each of the eight: mean and 95 % interval. Right of zero the first of the two is better.", "name": "fig-ten-jscds"}, "image": {"alt": "Three intervals: both halves lie well left of the full set, and the half that JSCDS chose lies level with the random half."}}
differences = {
    name: paired(100 * tested[a], 100 * tested[b])
    for name, a, b in (
        ("JSCDS's half minus all", "jscds", "all"),
        ("random half minus all", "random", "all"),
        ("JSCDS's half minus random half", "jscds", "random"),
    )
}
figure = draw.differences(differences)

# %% tags=["hide-input", "nbval-check-output"]
for name, difference in differences.items():
    print(f"{name:31s} {show(difference)}")

# %% [markdown]
# Half of clean data is less data. A rule may still be worth its cost where labels are wrong, or if its half is better than one
# drawn at random. [The whole chapter](04_jscds.ipynb) tries both, beside ten other rules, and finds:

# %% tags=["hide-input", "nbval-check-output"]
page.found("jscds-half", "jscds-best")

# %% [markdown]
# ## SAGE: guessing ahead
#
# A language model writes one word per pass, and most of a pass is waiting for its weights. So a small *drafter* guesses several
# words, and the large *target* checks them all in one pass: it keeps those that it would have said itself, and the text stays its
# own. SAGE draws its guesses as a tree, deep and narrow where the drafter is sure, shallow and wide where it is not.
#
# **Live.** The shipped pair describes a picture three times: word by word, with a chain of eight guesses, and with SAGE's trees.

# %%
processor, picture = pairs.processor(), source.test.images[7 + seed]
inputs = processor("Describe the picture in detail.", picture[None])
policies = {
    "one by one": "autoregressive",
    "chain of 8": decoding.policies["chain"](8),
    "SAGE": "sage",
}
target, drafter = pairs.load("target"), pairs.load("drafter")
outputs = {
    name: decoding.generate(target, drafter, inputs, policy=policy, max_new_tokens=160)
    for name, policy in policies.items()
}

# %% tags=["hide-input", "nbval-check-output"]
print(processor.decode(outputs["one by one"].tokens))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The picture that is described, and the tokens that each pass of the target gave, pass by pass: accepted guesses and one token of the target's own.", "name": "fig-ten-sage"}, "image": {"alt": "A pullover, and two rows of bars, one bar per pass: with a chain and with SAGE's trees most passes give several tokens, some only one."}}
figure = draw.passes(
    picture, {name: outputs[name].stats for name in ("chain of 8", "SAGE")}
)

# %% tags=["hide-input", "nbval-check-output"]
plain = outputs["one by one"].tokens
figures.table(
    pd.DataFrame(
        {
            "guesses": name,
            "tokens": len(output.tokens),
            "passes of the target": output.stats.target_forwards,
            "passes of the drafter": output.stats.draft_forwards,
            "guesses kept per pass": round(output.stats.mean_accepted, 1),
            "the same text": "yes" if output.tokens == plain else "no",
        }
        for name, output in outputs.items()
    )
)

# %% [markdown]
# One text, a fraction of the passes. Whether a tree that adapts is better than one that does not is another question: the chain
# adapts to nothing. [The whole chapter](05_sage.ipynb) gives all shapes the same budget and the same tuning, for drafters of five
# strengths, and finds:

# %% tags=["hide-input", "nbval-check-output"]
page.found("sage-lossless", "sage-longer", "sage-faster")

# %% [markdown]
# ## Where to go from here
#
# Each chapter begins with the verdicts on its paper, and can be read by itself. [Kernels](00_kernels.ipynb) builds the operations
# that all five share. To try another draw, change `seed` in the cell below the introduction and run the page again: the networks,
# pictures and authors are then others.
#
# ## Provenance

# %% tags=["hide-input"]
page.provenance(
    "none, this page has one size",
    None,
    {
        "data set": f"{source.origin}, {source.licence}; 40 fictitious authors, models and texts ours"
    },
)
