# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # SAGE: trees that follow the drafter's confidence
#
# *SAGE: Accelerating Vision-Language Models via Entropy-Guided Adaptive Speculative Decoding*
#
# Yujia Tong, Tian Zhang, Yunyang Wan, Kaiwei Lin, Jingling Yuan and Chuang Hu, 2026, [arXiv:2602.00523](https://arxiv.org/abs/2602.00523)

# %% tags=["remove-input", "nbval-check-output"]
import palimpsest.chapters  # noqa: F401 (first: it pins the arithmetic)

# isort: split
from palimpsest.chapters.shared import page

page.opening("sage")

# %% [markdown]
# **In one paragraph.** A small *drafter* guesses the next tokens as a tree of alternatives; the large *target* reads
# the whole tree in one forward pass and keeps the path that it would have said itself. SAGE shapes the tree by the
# entropy of the last draft: deep and narrow where the drafter is sure, shallow and wide where it is not. The paper
# gives its tree more nodes and more depth than its rivals get, and never shows what adapting alone brings. Here every
# policy gets the same budget and the same tuning, SAGE's three ideas are switched off one at a time, and all of it is
# asked of drafters of five strengths: where a drafter guesses nearly everything, nothing that adapts has anything to
# adapt to.
#
# | | |
# |---|---|
# | what could be read | the whole paper; no code is released. What a sentence leaves open is an option of `decoding.policies["sage"]`, and each option is run here |
# | data here | Fashion-MNIST, a shipped subset, described in long texts |
# | models here | a LLaVA-OneVision-class target of 16 layers and two drafters of 2, trained by `palimpsest.build.pair` and shipped; three weaker drafters of one layer, trained in the run |
# | profile | `ci`: 2 CPU cores, about 2 GB of memory, no GPU |

# %% [markdown]
# ## Why it matters
#
# A language model writes one token per forward pass, and on an accelerator such a pass costs about as much for thirty
# tokens as for one: it waits for its weights, not for arithmetic. Whoever can guess ahead gets several tokens for one
# pass, and loses nothing, because the target checks every guess {cite:p}`leviathan2023speculative`. How much is gained
# depends on the shape of the guess. A chain dies with its first wrong token. A tree survives it, but spends its nodes
# on alternatives. Which shape is best, and does it pay to change it from round to round?

# %% tags=["parameters", "hide-input"]
profile = "ci"
seed = 0

# %% tags=["hide-input"]
import os
import warnings
from itertools import chain

# Bars of loading weights, here and in the worker processes: their seconds differ from run to run.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
warnings.filterwarnings("ignore", message="IProgress not found")  # bars are text here

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy.stats import chisquare
from transformers.utils import logging

from palimpsest import decoding, figures, kernels, runs
from palimpsest.chapters.sage import (
    claims,
    competitors,
    drawing,
    experiment,
    probes,
    sentences,
    stepper,
    tables,
)
from palimpsest.chapters.sage import figures as draw
from palimpsest.chapters.sage.profiles import PROFILES
from palimpsest.chapters.sage.results import Costs
from palimpsest.chapters.shared import records
from palimpsest.decoding.distributions import Distribution
from palimpsest.decoding.verify import gumbel, verify
from palimpsest.runs import paths

logging.set_verbosity_error()  # its assisted generation warns of how it calls itself
setting = page.begin(profile, PROFILES)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Two drafts, and the trees that follow them by SAGE's rule with the paper's constants. After a sure draft the tree is deep and narrow; after an unsure one it is shallow and wide. Larger nodes are likelier.", "name": "fig-sage-idea"}, "image": {"alt": "The tree after a sure draft is a chain with two short branches; the tree after an unsure draft spreads over many first tokens and ends at once."}}
figure = drawing.idea()

# %% [markdown]
# ## Notation
#
# | here | name in code | meaning |
# |---|---|---|
# | $\tilde P_i$ | `probs` | the drafter's $k$ largest next-token probabilities, renormalised, falling; $k = 10$ |
# | $\alpha$ | `alpha` | the drafter's confidence, between 0 (all $k$ alike) and 1 (one token certain) |
# | $D$, $W$ | `shape` | depth and width that the tree aims at |
# | $l$ | `depth`, `at` | level of a node; the root's children have $l = 1$ |
# | $\theta_l$ | `least` | what a node's probability must reach to be drafted |
# | $N$ | `nodes` | drafted nodes; the root, the last token of the text, is not among them |
# | $\tau$ | `accepted` | drafted tokens that became text in a round, the bonus token not counted |
# | $c_d$, $c_t$, $c(N)$ | `verify_cost` | cost of a drafter's forward, of a target's forward, of a target's forward over $N$ rows |
#
# A *round* is one forward of the target after its prefill. It gives $\tau + 1$ tokens: the accepted path and one
# *bonus token* of the target's own.

# %% [markdown]
# ## The method, one equation at a time
#
# **Confidence** (equations 7 to 9). The entropy of the renormalised top $k$, as a share of the largest it could be:
#
# $$\tilde P_i = \frac{P_i}{\sum_{j \le k} P_j}, \qquad H = -\sum_i \tilde P_i \ln \tilde P_i, \qquad
# \alpha = 1 - \frac{H}{\ln k} .$$


# %%
def confidence(logits, k):
    probs = logits.softmax(-1).topk(k).values
    probs = probs / probs.sum(-1, keepdim=True)
    return 1 + (probs * probs.log()).sum(-1) / np.log(k)


# %% [markdown]
# **Shape** (equations 10 to 12). Depth grows and width falls with confidence; below the first level the width shrinks
# with the level, and with how unlikely the parent is. The paper's constants are $D_\text{min} = 3$, $D_\text{max} = 8$,
# $W_\text{min} = 2$, $W_\text{max} = 10$:
#
# $$D(\alpha) = D_\text{min} + \alpha (D_\text{max} - D_\text{min}), \qquad
# W(\alpha) = W_\text{min} + (1 - \alpha)(W_\text{max} - W_\text{min}), \qquad
# W_l = W(\alpha)\, \tfrac{1}{l}\, (0.5 + P_\text{parent}) .$$
#
# **Threshold** (section 3.2). A node is drafted if the probability of its path reaches $\theta_l = 0.1\, l /
# D(\alpha)$. The tree ends at depth $D$, or with $N_\text{max} = 64$ nodes. All of it comes from *one* distribution,
# that at the root of the round before (*look-ahead*): a child of rank $i$ is given $\tilde P_i$ wherever it hangs.


# %%
def build(probs, depth, width, nodes=64):
    parents, level = [], [(-1, 1.0, 1.0)]
    for at in range(1, int(depth + 0.5) + 1):
        below = []
        for node, prob, path in level:
            wide = width if at == 1 else width / at * (0.5 + prob)
            for p in probs[: max(1, int(wide))]:
                if path * p < 0.1 * at / depth or len(parents) == nodes:
                    break
                below.append((len(parents), p, path * p))
                parents.append(node)
        level = below
    return tuple(parents)


# %% [markdown]
# **History** (section 3.2). If fewer than 2 drafts were accepted on average over the last 10 rounds, $D_\text{max}$
# falls by 1; if more than 3, it rises; it stays between $D_\text{min} = 3$ and 8.
#
# **Verification** (algorithm 1). One forward of the target reads the root and all nodes under a mask in which a node
# sees its ancestors alone. Starting at the root: take the target's own token; if a child carries it, go there and
# repeat; else that token is the bonus.
#
# ## A toy in which the invariants can be seen
#
# The tree of these lines is the library's, and $\alpha$ behaves at its ends:

# %% tags=["nbval-check-output"]
policy, same = decoding.policies["sage"](), 0
generator = torch.Generator().manual_seed(seed)
for _ in range(200):
    logits = (
        torch.randn(50, generator=generator) * 6 * torch.rand((), generator=generator)
    )
    probs = logits.softmax(-1).topk(10).values
    probs = (probs / probs.sum()).tolist()
    signal = Distribution(range(10), probs, float(confidence(logits, 10)), 1.0)
    depth, width = policy.shape(signal, [])
    same += build(probs, depth, width) == policy.next(signal, []).parents
print(f"trees equal to the library's: {same} of 200")
print(
    "alpha of equal tokens, of a certain one:",
    *(
        f"{abs(confidence(x, 10)):.2f}"
        for x in (torch.zeros(10), 50.0 * torch.eye(10)[0])
    ),
)

# %% [markdown]
# **Sampling is exact, and a popular shortcut is not.** The children of a node are the drafter's most likely tokens:
# they are fixed, not drawn. So the target draws its token first, and if a child carries it, that child is accepted.
# Accepting a fixed child with probability $\min(1, p/q)$, which is right for children *drawn* from $q$, gives another
# distribution. Both below, with a χ² test against the target's probabilities:

# %% tags=["nbval-check-output"]
target, drafted = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.3, 0.4])
children = [3, 2]  # the drafter's two most likely tokens
tree, draws = decoding.Tree.from_counts([2]), 4000


def drawn(i):
    path, bonus = verify(
        tree,
        children,
        lambda row, depth: int((target.log() + gumbel(i, depth, 4)).argmax()),
    )
    return children[path[0]] if path else bonus


def shortcut(generator):
    left = target.clone()
    for child in children:
        if generator.random() < float(left[child] / left.sum() / drafted[child]):
            return child
        left[child] = (left[child] - drafted[child]).clamp_min(0)
    return generator.choice(
        4,
        p=(left / left.sum()).double().numpy()
        / (left / left.sum()).double().sum().item(),
    )


generator = np.random.default_rng(seed)
for name, tokens in (
    ("draw, then look for a child", [drawn(i) for i in range(draws)]),
    ("accept a child with p/q", [shortcut(generator) for _ in range(draws)]),
):
    p = chisquare(
        np.bincount(tokens, minlength=4),
        draws * target.double().numpy() / target.double().sum().item(),
    ).pvalue
    print(f"{name:28s} follows the target: {p > 1e-4}")

# %% [markdown]
# ## The kernels
#
# `kernels.topk_confidence` reads a row of logits once and returns the top $k$, renormalised, with $\alpha$.
# `kernels.tree_attention` lets the nodes of a tree attend to the cached text and to their ancestors.
# `kernels.cache_commit` moves the accepted rows of every layer's cache to where they belong. Each is held to float64
# on both paths:

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(seed)
logits = torch.randn(6, 300, generator=generator) * 3
tree = decoding.Tree.from_counts([3, 4, 2])
count, prefix = len(tree), 20
query = torch.randn(1, 4, count, 16, generator=generator)
key, value = (
    torch.randn(1, 2, prefix + count, 16, generator=generator) for _ in range(2)
)
ancestors = torch.tensor(tree.ancestors)

seen = torch.cat([torch.ones(count, prefix, dtype=torch.bool), ancestors], 1)
wide_key, wide_value = (x.double().repeat_interleave(2, 1) for x in (key, value))
exact = torch.nn.functional.scaled_dot_product_attention(
    query.double(), wide_key, wide_value, attn_mask=seen, scale=0.25
)
for backend in (None, "triton"):
    _, _, alpha = kernels.topk_confidence(logits, 10, backend=backend)
    near = bool((alpha - confidence(logits.double(), 10)).abs().max() < 1e-5)
    out = kernels.tree_attention(
        query, key, value, ancestors, prefix, 0.25, backend=backend
    )
    close = bool((out - exact).abs().max() < 1e-5)
    print(
        f"{kernels.last_backend():34s} alpha as in float64: {near}, attention as in float64: {close}"
    )

# %% [markdown]
# ## Use it on a pair of your own
#
# Three lines around a model's own `generate`; the text is the same:

# %% tags=["nbval-check-output"]
model = setting.family.decoder("target").model
request = setting.inputs("tuning", setting.tuning_seeds[0], "target")[0]
options = {
    "max_new_tokens": 60,
    "attention_mask": torch.ones_like(request["input_ids"]),
}

tree_decoding = decoding.TreeDecoding(
    setting.family.decoder("drafter").model, policy="sage"
)
with_tree = model.generate(**request, **options, custom_generate=tree_decoding)
plain = model.generate(**request, **options, do_sample=False)
print("same text:", torch.equal(with_tree, plain))

# %% [markdown]
# Before and after, in passes of the target: plain decoding makes one for each new token. In the second row both models are not ours:
# two GPT-2s of `transformers` with weights as they were drawn. Nobody trained them, so their numbers say nothing of SAGE; they show that
# any pair with one vocabulary will do.

# %%
from transformers import GPT2Config, GPT2LMHeadModel


def gpt2(draw):
    torch.manual_seed(draw)
    sizes = {"vocab_size": 50, "n_positions": 128, "n_embd": 32, "n_layer": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, n_head=2, eos_token_id=None)).eval()


words = torch.arange(8)[None]
stranger = decoding.generate(
    gpt2(seed), gpt2(seed + 1), words, policy="sage", max_new_tokens=60
)
new = plain.shape[1] - request["input_ids"].shape[1]
rows = [
    ("the shipped pair", new, tree_decoding.outputs[0].stats.target_forwards),
    ("two GPT-2s, untrained", 60, stranger.stats.target_forwards),
]
figures.table(pd.DataFrame(rows, columns=["pair", "passes before", "passes with SAGE"]))

# %% [markdown]
# From a shell, `palimpsest decode --picture 7 --compare --prompt "Describe the picture in detail."` prints the text as
# it comes and a table of all policies.
#
# ## The experiment
#
# **A replay in the place of most decodes.** Under greedy decoding the text is the target's, whatever is drafted. A
# drafted node is accepted where it carries the text's next token, so what leads to an accepted node is always a piece
# of the text. The drafter's distribution at a node depends on the prompt as the drafter read it (with a part of the
# picture only, if it is pruned: that is settled before the first token) and on the tokens that lead to the node; on
# the shape of the tree, the siblings, the history and the rounds before it does not depend. So one forward of the
# drafter over the finished text gives every distribution that can matter, and the rounds of any tree whose shape
# follows from accepted nodes can be read off: chains, static trees, and SAGE, whose signal is the distribution at a
# root and whose history is that of accepted lengths.
# `decoding.replay` does it in a millisecond a text, where a decode takes half a second. It is exact up to rounding,
# and a cell below compares it with decodes. It does not hold for trees that grow from nodes which may be wrong
# (EAGLE-2, OPT-Tree, and SAGE where each node's own distribution or a mean over all nodes is read), for drafters that
# learn from rejected nodes, and at temperatures above 0. These are decoded, on fewer pictures, and compared with the
# others on the same ones.
#
# **Seeds.** A seed draws pictures from the test split that no other seed has and that no earlier version of this
# chapter asked about, and has them described at length. All intervals are Student's over seeds.
#
# **One budget**: at most 64 nodes and 8 levels for every policy, the paper's own allowance for SAGE; and, since SAGE
# rarely uses all of it, static trees of SAGE's mean size. **One tuning budget**: four settings a policy, tried on the
# same pictures, which no verdict sees, of five seeds; the best by accepted length goes into the comparison of lengths,
# the cheapest into that of speed. SAGE runs as stated, and tuned by the same search as its rivals.
#
# **Drafters of five strengths.** Two are shipped, and the second went on from the first: it was distilled on the
# target's own texts and is surer. Which of them became the chapter's was not decided blindly (`CHANGELOG.md`). Three
# weaker ones are the first layer of the shipped drafter, trained on for 5, 12 and 40 steps on texts written by rule.
# They are named here by the share of the target's tokens that is their first choice. Chain, static tree and SAGE are
# tuned for each of them.
#
# The rivals are *chains* of one guess per level; the fixed 25 nodes of SpecVLM
# {cite:p}`ji2025specvlm`, which the paper compares with; a *static tree* fitted by dynamic programming to measured
# acceptance, as Sequoia's is {cite:p}`chen2024sequoia`; and two trees that adapt by other means: EAGLE-2
# {cite:p}`li2024eagle2` keeps the nodes of the largest path probability after drafting more than it may verify,
# OPT-Tree {cite:p}`wang2024opttree` stops growing when another level would add less than a threshold to the expected
# accepted length. The last two are our re-implementations of the selection rules, on this chapter's drafter. Their
# released defaults are `RELEASED` of each class; the root, which they count and we do not, is left out there.

# %%
results = experiment.execute(profile)
jobs = probes.jobs(profile)
probed = pd.DataFrame(
    chain.from_iterable(runs.run_all(probes.exactness, jobs, show="SAGE: float64"))
)
replayed = (results.decodes.how == "replayed").sum()
print(f"{replayed} replays, {len(results.decodes) - replayed} decodes")

# %% [markdown]
# **Who competes.** The first seven shape the tree; the last two draft without a model, and their trees are SAGE's:

# %% tags=["hide-input"] mystnb={"markdown_format": "myst"}
competitors.who(results)

# %% [markdown]
# Is a replay the decode? Requests of every seed, decoded by five policies and with every drafter: the text, and of
# every round the drafts accepted, nodes, levels and forwards.

# %% tags=["nbval-check-output"]
checked = results.checked
print(
    f"decodes that are their replay, round for round: {checked.equal.sum()} of {len(checked)}"
)

# %% [markdown]
# What tuning tried, and what it chose, for the chapter's drafter; the interval is over the five tuning seeds:

# %% tags=["hide-input"]
figures.table(tables.tuning(results))

# %% [markdown]
# What the pair can do, measured on a thousand test pictures when it was trained (`data/vision_language/README.md`); and
# of the requests here, what each drafter guesses and how long a description is:

# %% tags=["hide-input"]
picture = stepper.decode(1000, decoding.policies["sage"]())
length = results.of("sage").length
quality = results.measured["quality"]
figures.table(
    pd.DataFrame(
        [
            ("garment named rightly", f"{quality['class named']:.1%}"),
            ("measured properties told rightly", f"{quality['levels right']:.1%}"),
            ("the same, by always saying the commonest", f"{quality['commonest']:.1%}"),
            *(
                (
                    f"target's tokens that are the first choice of {drafter}",
                    f"{results.agreement[pair]:.1%}",
                )
                for pair, (_, drafter) in setting.family.pairs.items()
            ),
            (
                "tokens of a description here",
                f"{length.mean():.0f} ({length.min()} to {length.max()})",
            ),
        ],
        columns=["what", "measured"],
    )
)

# %% [markdown]
# ### A decode, round by round
#
# Step through one description. Each column of the tree is a level; the green path is what the target accepted, the
# yellow word is its bonus token. Watch the tree grow deeper after a sure round and wider after an unsure one.

# %% tags=["hide-input"]
stepper.show(picture, decoding.policies["sage"]())

# %% [markdown]
# ### Is entropy a signal?

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: how often the drafter's likeliest token is the target's, by confidence at that token, for drafters of five strengths; dotted: equality. Right: rank correlation of the confidence with the accepted length of the fixed tree, at the root of the same round and at that of the round before, which is the one that SAGE uses; mean and 95 % interval over seeds.", "name": "fig-sage-signal"}, "image": {"alt": "Left a line plot of reliability of the confidence, right an interval plot of rank correlations."}}
figure = draw.signal(results) if profile != "smoke" else None
# %% [markdown]
# At a token, confidence separates right guesses from wrong ones with every drafter; the probability of the likeliest
# candidate, which every drafter has at hand, separates them slightly better still (reasons of `sage-entropy-signal`).
# At the root of a *tree* it says less (right, first group): a path of eight levels passes through eight distributions,
# and the first tells little of the others. And SAGE shapes a tree by what was drafted *before*, which tells still less
# of this round, with the two surest drafters nothing (second group). That can only help if confidence has a memory:

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Correlation of the confidence with itself, by lag in SAGE's rounds (left) and in tokens (right), minus its mean over random orders of each text; mean and 95 % interval over seeds. What lies on zero cannot be looked ahead to.", "name": "fig-sage-memory"}, "image": {"alt": "Two plots of autocorrelation against lag for five drafters."}}
figure = draw.memory(results) if profile != "smoke" else None
# %% [markdown]
# From one token to the next there is a memory, clear with the surer drafters and faint with the weakest; two tokens on
# it is gone, in texts whose sentences are made of a free choice and the words that follow from it. From one of SAGE's
# rounds to the next the correlation lies slightly below zero, with every drafter: after a sure round a less sure one
# is a little likelier than by chance. A round moves the text on by several tokens, and the next begins behind the
# target's own word, most often one that the drafter did not expect.
#
# ### Equal budgets

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accepted drafts per round against the nodes that a round verifies on average, one panel per drafter, named by the share of tokens that it guesses. Lines: the most nodes allowed run from 4 to 64, with up to 8 levels; single points: SpecVLM's tree, and for the chapter's drafter the two that must be decoded. Mean and 95 % interval over seeds. Adapting pays where SAGE's line lies above the static tree's.", "name": "fig-sage-nodes"}, "image": {"alt": "Five panels of accepted length against tree size for four policies."}}
figure = draw.curves(results, "nodes")
# %% [markdown]
# **At no size does adapting beat a fixed shape.** The static tree lies above SAGE wherever both stand. SAGE as stated
# stops where its threshold cuts, far below the nodes it may have: allowing more changes nothing, and its line ends
# early. Tuning opens the threshold, and the line goes on to the right, below the static one. EAGLE-2's and OPT-Tree's
# trees, which adapt by each node's own distribution, are level with the static tree or above it. The two are not far
# apart, since a fitted tree knows already how often each rank is right.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accepted drafts per round against the levels allowed, from 2 to 8, with up to 64 nodes; panels as before.", "name": "fig-sage-depth"}, "image": {"alt": "Five panels of accepted length against depth for four policies."}}
figure = draw.curves(results, "depth")
# %% [markdown]
# The surer the drafter, the more depth pays. Where most guesses are right, each level allowed adds to the accepted
# path up to the last; where a third or more are wrong, five levels have nearly all of it, and what helps is width.
# (SAGE's first round has its start tree of 25 nodes and 5 levels, whatever is allowed.)

# %% tags=["hide-input"]
figures.table(
    tables.budgets(results),
    shown=["policy", "accepted per round", "nodes", "levels", "cost per token"],
    folded={
        "The drafter's forwards, and how many pictures": [
            "drafter's forwards",
            "pictures",
        ]
    },
)

# %% [markdown]
# `cost per token` counts the forwards of both models at their recorded cost by number of rows, in forwards of the
# target over one row; plain decoding costs 1. Both prefills and the host's work are left out, on all sides alike.
#
# **What the paper credits to adapting is depth.** SpecVLM's tree, the paper's comparison, has 25 nodes and ends at
# level 5, while SAGE may go to level 8. Held to five levels, SAGE falls behind SpecVLM's tree; and a static tree with
# the same 25 nodes and eight levels is ahead of SAGE as stated by more than a token a round. A chain of 8 guesses,
# which adapts to nothing, has more accepted than SAGE as stated, too. How SAGE stands against SpecVLM's tree depends
# on the drafter: well ahead with the surest, level with the chapter's, behind with the weaker ones, which seldom get
# past level 5 and want width (reasons of `sage-longer`).

# %% tags=["hide-input"] mystnb={"figure": {"caption": "SAGE's accepted drafts (left) and nodes (right) per round by the constant of its threshold, 0.1 in the paper, for five drafters; mean and 95 % interval over seeds.", "name": "fig-sage-threshold"}, "image": {"alt": "Two line plots against the threshold's constant."}}
figure = draw.threshold(results)
# %% [markdown]
# The paper's 0.1 cuts early: a smaller constant has more nodes drafted and more of them accepted, with every drafter.
# With the sure ones a few more nodes do it, with the weak ones the tree grows several times as large for one more
# accepted draft.
#
# ### Three switches, and what the paper leaves open

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accepted drafts per round minus those of SAGE as stated, within seeds, mean and 95 % interval. Left: its three ideas switched off one at a time, by drafter; left of zero the idea helps. Right: other readings of the paper, with the chapter's drafter; right of zero they do better than ours. The last three are decoded.", "name": "fig-sage-switches"}, "image": {"alt": "Two interval plots of variants of SAGE against the variant as stated."}}
figure = draw.switches(results)
# %% [markdown]
# **Of the three ideas none lengthens the accepted path, and one saves work where the drafter is weak.** Without
# look-ahead, that is, shaped by the confidence at its own root, the tree does better: by then the old confidence is
# out of date, as the figure of memory shows. A constant width in the place of the inverse one changes next to nothing.
# History never acts with the sure drafters, since more than 3 drafts are accepted on average and the cap stays where
# it starts. With the weak ones it lowers the depth; that costs some accepted drafts, and saves the drafter's forwards
# for levels that are seldom reached. On the right, what matters is where the tree takes its probabilities from: grown
# from each node's own distribution, with the threshold on each token, SAGE gains most, and that is the step towards
# EAGLE-2 and OPT-Tree.
#
# ### Sampling, and drafters without a model
#
# At temperature 1 the target takes less likely tokens, and guesses fail more often. Token Recycling and prompt lookup
# draft without a model; their trees are SAGE's. All of these are decoded.

# %% tags=["hide-input"]
figures.table(
    tables.decoded(results),
    shown=["setting", "policy", "accepted per round", "nodes", "cost per token"],
    folded={
        "Levels, the drafter's forwards, and how many pictures": [
            "levels",
            "drafter's forwards",
            "pictures",
        ]
    },
    keys=2,
)

# %% [markdown]
# The order stays as it was: the trees that are grown from each node's own distribution and the static tree with SAGE's
# allowance are ahead of SAGE. Drafters without a model find little to copy in texts whose every sentence is new.
#
# ### Longer texts, and less picture

# %% tags=["hide-input"] mystnb={"figure": {"caption": "SAGE's gain in accepted length over three rivals after the first 10, 20, 40 and 80 tokens of the same texts. The paper's claim is a line that rises.", "name": "fig-sage-length"}, "image": {"alt": "Line plot of the gain against generation length."}}
figure = draw.by_length(results) if profile != "smoke" else None
# %% tags=["hide-input"] mystnb={"figure": {"caption": "Accepted length that is left when the drafter does without a share of the picture's tokens, by rule and share, mean and 95 % interval over seeds; dotted: the bounds of the claim. The target's attention is SpecVLM's rule; random choice is the control.", "name": "fig-sage-pruning"}, "image": {"alt": "Interval plot of the accepted length left for six ways of pruning."}}
figure = draw.pruned(results) if profile != "smoke" else None
# %% [markdown]
# The gain over SpecVLM's tree does not grow with the text: nothing in the method knows the length but a history of ten
# rounds. The paper's texts are up to 25 times as long. And this drafter does need its picture: with a fifth or a tenth
# of the tokens left about a tenth of the accepted length is lost. Whose attention chooses them hardly matters, and
# chance does as well, since 49 tokens of a 28-pixel picture are not the thousands of a video, most of which repeat
# each other.
#
# ### What it costs in seconds
#
# Seconds belong to a machine. The next two figures are drawn from what `palimpsest bench --only decoding` recorded on
# one machine, all policies taking turns request by request.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Recorded cost of one forward of N rows, in units of one row of the target. Verifying a tree pays while this curve is flat; where it has doubled, a round must give twice as much.", "name": "fig-sage-cost"}, "image": {"alt": "Line plot of relative forward cost against the number of rows for target and drafter."}}
recorded = pd.read_csv(paths.DATA / "bench" / "verify_cost.cpu.csv")
figure = draw.verify_cost(recorded)

# %% tags=["hide-input"]
print(sentences.verify_cost(recorded))
# %% tags=["hide-input"] mystnb={"figure": {"caption": "Recorded decode time without prefills, by stage, relative to plain decoding with the same code; grey: transformers' own plain, assisted and prompt-lookup decoding. Numbers are speed relative to plain, with 95 % intervals over seeds.", "name": "fig-sage-times"}, "image": {"alt": "Stacked horizontal bars of decode time by stage for every policy and three peers."}}
bench = pd.read_csv(paths.DATA / "bench" / "decoding.cpu.csv")
figure = draw.times(bench)
# %% [markdown]
# **Speculation pays here; which tree it is matters little.** Every policy with the model drafter beats plain decoding,
# by this decoder and by transformers' own `generate`. Between most shapes the intervals overlap: a wide tree has more
# accepted and pays for it in both models' forwards, and the two nearly cancel. The OPT-Tree-style policy is behind
# them, since choosing its nodes takes time on the host after each of the drafter's forwards. The cost is not where
# equation 6 puts it. A forward over all nodes costs about as much as two forwards of one row, while the drafter,
# called once per level, takes as long as the verification. So depth is dear and width is cheap, and the small trees of
# SAGE and the chain are as fast as trees that have far more accepted. transformers' assisted generation loses on
# models this small to what it does between the forwards; so does prompt lookup, which finds nothing to copy.

# %% tags=["hide-input"]
real = Costs(pd.read_csv(paths.DATA / "bench" / "real_forwards.cpu.csv"))
figures.table(tables.speeds_of_both(results, bench))

# %% [markdown]
# The table puts the speed that counted forwards and their recorded cost give beside the wall clock of the same
# policies.
#
# The two differ by what counting leaves out, the host's work, and agree in how close the policies are; the clock's
# intervals are wide, with two requests a seed. Counted over all pictures, differences of a few per cent can be told
# apart, and `sage-faster` is judged by them. One of its comparisons is kinder to SAGE than it should be: the four
# settings of the static tree all have up to 64 nodes, and with the surest drafter a small static tree would cost less
# than the cheapest of them.
#
# ### On a real language model
#
# Profile `study` is the same comparison on SmolLM2-135M: 30 layers behind an EfficientNet-lite0 tower, the picture's
# 49 tokens before the model's own chat format, and a drafter of its first 4 layers, distilled on what the target says.
# It wants a GPU, and is shown only as recorded there.

# %% tags=["hide-input"]
record = records.shown("sage", "study")
if record:
    measured = record["tuned"][-1]
    arms = tables.arms(record["rows"])
    first = ["policy", "accepted per round", "nodes", "cost a token", "speed"]
    display(figures.table(tables.pair(measured)))
    display(
        figures.table(
            arms, first, {"Levels, equal texts, rate": arms.columns.drop(first)}
        )
    )
    display(figures.table(tables.forwards(measured)))

# %% [markdown]
# ## The claims
#
# `data/claims/sage.yaml` names the quantity that decides each claim, the sign that the claim wants, and the margin.
# Each cell prints the verdict; the reasons stand in the table after the last.

# %% tags=["claim-lossless", "nbval-check-output"]
verdicts = page.Verdicts(
    "sage",
    profile,
    claims.described(setting),
    claims.judgements,
    results,
    probed,
    bench,
    real,
)
verdicts.show("sage-lossless")

# %% tags=["claim-entropy-signal", "nbval-check-output"]
verdicts.show("sage-entropy-signal")

# %% tags=["claim-temporal", "nbval-check-output"]
verdicts.show("sage-temporal")

# %% tags=["claim-longer", "nbval-check-output"]
verdicts.show("sage-longer")

# %% tags=["claim-faster", "nbval-check-output"]
verdicts.show("sage-faster")

# %% tags=["claim-length-gap", "nbval-check-output"]
verdicts.show("sage-length-gap")

# %% tags=["claim-pruning", "nbval-check-output"]
verdicts.show("sage-pruning")

# %% tags=["claim-overhead", "nbval-check-output"]
verdicts.show("sage-overhead")

# %% tags=["hide-input"]
verdicts.record()

# %% [markdown]
# ## Where we differ
#
# **Lemma 4.3 is false.** It says that confidence bounds the largest probability from below by
# $p_1 \ge \tfrac1k + \alpha \tfrac{k-1}{k}$. Two tokens of one half each, $k = 10$:

# %% tags=["nbval-check-output"]
half = torch.tensor([0.5, 0.5] + [1e-12] * 8)
alpha = float(1 + (half * half.log()).sum() / np.log(10))
print(
    f"alpha {alpha:.3f}; the lemma's bound {(1 + 9 * alpha) / 10:.3f}; the probability {half.max():.3f}; k^(alpha - 1) {10 ** (alpha - 1):.3f}"
)

# %% [markdown]
# What holds is $p_1 \ge e^{-H} = k^{\alpha - 1}$. Proof: the entropy is a mean of $-\ln \tilde P_i$, and each of these
# is at least
# $-\ln p_1$; so $H \ge -\ln p_1$, and $H = (1 - \alpha) \ln k$. Equality holds where all tokens that occur are equally likely, so
# the bound cannot be improved.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Largest probability against confidence: this drafter's distributions (blue), random ones (grey), m equal tokens (crosses). Red is the lemma's bound, with points below it; green is the corrected bound, with none.", "name": "fig-sage-lemma"}, "image": {"alt": "Scatter plot of largest probability against alpha with two bound curves."}}
figure = draw.lemma(results)

# %% tags=["hide-input"]
print(sentences.lemma(results))
# %% [markdown]
# **Theorem 4.4 rests on it.** It says that the drafter's first choice is the target's wherever $\alpha > (k - 2 + 4 k
# \varepsilon) / (2 (k-1))$, if no probability of the two models differs by more than $\varepsilon$. The two equal
# tokens have an $\alpha$ above that threshold and no first choice at all. A condition that suffices: if $p_1 - p_2 > 2
# \varepsilon$ on the whole vocabulary, the order of the two cannot turn over, since each moves by at most
# $\varepsilon$.
#
# **Theorem 4.8, derived again.** Let one level have $W$ children with chances of acceptance $q_w = q_1 w^{-\beta}$. By
# the paper's own equation 6 the speed-up is
#
# $$S(W) = \frac{1 + \sum_{w \le W} q_w}{c_d W + c_t} .$$
#
# Setting the derivative to zero, $q_W = c_d\, S(W)$: the last child pays as long as its chance exceeds the price of a
# node times the speed-up that one has without it. Hence $W^* = \bigl(q_1 / (c_d S^*)\bigr)^{1/\beta}$. The theorem's
# exponent $1/(1+\beta)$ would belong to a tail $w^{-(1+\beta)}$. In either form **$W^*$ rises with $q_1$**, while SAGE
# narrows the tree where the drafter is sure. The two agree only if the tail falls faster as $q_1$ rises, as it must
# where the chances sum to one:


# %% tags=["nbval-check-output"]
def best_width(q, price=0.02):
    return (
        int(np.argmax((1 + np.cumsum(q)) / (price * np.arange(1, len(q) + 1) + 1))) + 1
    )


ranks = np.arange(1, 65)
for beta in (1.5, 2.0, 3.0):
    fixed = [best_width(q1 * ranks**-beta) for q1 in (0.2, 0.4, 0.6)]
    print(f"beta {beta}: best width at q1 = 0.2, 0.4, 0.6: {fixed}")
whole = {
    beta: ranks**-beta / (ranks**-beta).sum() for beta in (0.2, 0.6, 1.0, 1.5, 2.5, 4.0)
}
print(
    "chances that sum to one, q1 to best width:",
    {f"{q[0]:.2f}": best_width(q) for q in whole.values()},
)

# %% [markdown]
# **Equation 6 charges drafting by the node.** A drafter that takes a level at a time, as the paper's and ours do, pays
# by the level: the table of budgets shows drafter's forwards and nodes side by side. Width is nearly free to draft;
# depth is not.
#
# **The headline number.** The abstract's 3.36 is not the best cell of the paper's own table, which has 3.44. In all of
# its cells SAGE may use 64 nodes and 8 levels, and the static trees 25 nodes and 5.
#
# **What this chapter cannot say.** Its target has a few million parameters and says what rules taught it. Its weaker
# drafters are one layer of the good one, and its texts are short beside the paper's thousand tokens. How a
# 72-billion-parameter model's confidence behaves on video is not measured. A forward of our target costs about as much
# as its Python; what seconds show here is the shape of the trade-off. Profile `study`, above, tries neither static
# caches nor CUDA graphs.

# %% tags=["remove-input"]
page.passage(
    "What a neighbour adds. That SAGE's threshold is hard on unsure drafters is seen from another side: the same recycled pairs are "
    "accepted more often in a tree that fills the budget by search than in SAGE's [[neighbours-tree supported]]."
)

# %% [markdown]
# ## Exercises
#
# ```{exercise}
# :label: sage-ex-chain
# A drafter's token is accepted with probability $a$, independently. How many drafts does a chain of length $n$ have
# accepted on average, and what is the limit for long chains?
# ```
#
# ```{solution} sage-ex-chain
# :class: dropdown
# $\sum_{i=1}^n a^i = a (1 - a^n) / (1 - a)$, with limit $a / (1 - a)$: depth stops paying once $a^n$ is small.
# ```
#
# ```{exercise}
# :label: sage-ex-shortcut
# In the toy, with which distribution does the shortcut answer? Compute the first child's share by hand.
# ```
#
# ```{solution} sage-ex-shortcut
# :class: dropdown
# Token 3 is offered first and accepted with probability $\min(1, 0.1/0.4) = 0.25$, while the target says it with
# probability 0.1.
# ```
#
# ```{exercise}
# :label: sage-ex-tree
# Fit a static tree of 10 nodes to this pair's acceptance. How deep is it, and what does each rank's chance look like?
# ```

# %% tags=["solution", "hide-cell"]
from palimpsest.decoding.policies.static import fitted_tree

acceptance = results.measured["acceptance"]["vision"]
small = fitted_tree(acceptance, 10, 8)
print("chances by rank:", [round(a, 2) for a in acceptance])
print("nodes by level:", np.bincount(small.depths)[1:].tolist())

# %% [markdown]
# ```{exercise}
# :label: sage-ex-evening
# (An evening.) Write a policy that adapts by the plainest signal there is: a chain as long as what was accepted in the last round, plus
# two. Decode some descriptions with it and with chains of fixed length; compare passes of both models. At which lengths of the fixed
# chain does it win, and at which does it lose?
# ```
#
# ```{solution} sage-ex-evening
# :class: dropdown
# A policy is a rule from signal and history to a tree. The cell below has it, on four pictures. It spares the drafter after a miss, and
# pays for that with a short chain just where the next guess would have been right again; compare the chapter's figure of memory.
# ```


# %% tags=["solution", "hide-cell"]
class Follow(decoding.Policy):
    def next(self, signal, history):
        return decoding.Tree.chain(min(8, history[-1] + 2) if history else 4)


chain_of = decoding.policies["chain"]
tried = {"follow": Follow(), **{f"chain of {n}": chain_of(n) for n in (2, 4, 8)}}
pair = [setting.family.decoder(name) for name in ("target", "drafter")]
asked = setting.inputs("tuning", setting.tuning_seeds[0], "target")[:4]
for name, policy in tried.items():
    stats = [
        decoding.generate(*pair, one, policy=policy, max_new_tokens=80).stats
        for one in asked
    ]
    passes = [
        sum(s.target_forwards for s in stats),
        sum(s.draft_forwards for s in stats),
    ]
    print(f"{name:10s} target {passes[0]}, drafter {passes[1]}")

# %% [markdown]
# ## Provenance

# %% tags=["hide-input"]
page.provenance(
    profile,
    experiment.execute,
    {"data set": "Fashion-MNIST (MIT), shipped subset; models and texts ours"},
)
