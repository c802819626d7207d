"""The loop: its updates, its data, stopping and resuming, work counted, bad input."""

import math
import subprocess
import sys

import pytest
import torch
from language_problems import SETTINGS, VOCABULARY, F, R, data, model, same_bits, sparse, state, task

from palimpsest import unlearning
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.runs.sources import closure
from palimpsest.unlearning.language import METHODS, NPO, SAU, GradAscent, GradDiff, LoraSettings, Update, unlearn
from palimpsest.unlearning.language.trainer import schedule

# The loop.


@pytest.mark.parametrize("masked", [False, True])
def test_a_run_is_torch_adamw_with_clipping_warm_up_and_decay(masked):
    net, by_hand, (forget, retain, _) = model(), model(), data()
    masks = sparse(net) if masked else None
    settings = {"lr": 1e-3, "epochs": 3, "batch_size": 3, "weight_decay": 0.1}
    report = unlearn(net, forget, retain, GradDiff(), update=Update(masks), **settings)
    start, problem, step = state(by_hand), task(by_hand), 0
    matrices = [p for p in by_hand.parameters() if p.ndim == 2]
    vectors = [p for p in by_hand.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}])
    for epoch in range(3):
        for forget_batch, retain_batch in problem.batches(epoch):
            for group in adam.param_groups:
                group["lr"] = 1e-3 * [0.5, 1, 1, 0.75, 0.5, 0.25][step]
            adam.zero_grad()
            GradDiff().loss(problem, forget_batch, retain_batch).backward()
            for name, kept in (masks.kept if masks else {}).items():
                by_hand.get_parameter(name).grad.mul_(kept)
            norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
            assert norm > 1  # else clipping is not tested
            assert report.log[step]["norm"] == pytest.approx(norm.item(), rel=1e-6)
            adam.step()
            for name, kept in (masks.kept if masks else {}).items():  # decay would have moved these
                p = by_hand.get_parameter(name)
                p.data = torch.where(kept, p.data, start[name])
            step += 1
    assert step == len(report.log) == 6
    for name, p in net.named_parameters():
        moved = (by_hand.get_parameter(name) - start[name]).norm()
        # Double precision, times what six steps of Adam amplify where a gradient is small.
        assert (p - by_hand.get_parameter(name)).norm() <= 1e-7 * moved


def test_the_step_size_rises_over_the_first_epoch_and_falls_to_zero():
    assert [schedule(step, 8, 2) for step in range(8)] == [0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [schedule(step, 4, 0) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [schedule(step, 2, 2) for step in range(2)] == [0.5, 1]
    net, (forget, retain, _) = model(), data()
    log = unlearn(net, forget, retain, GradAscent(), lr=8e-5, epochs=2, batch_size=2, warmup_epochs=0.5).log
    assert [row["lr"] for row in log] == pytest.approx([4e-5, 8e-5, 8e-5, 6e-5, 4e-5, 2e-5])
    assert [(row["epoch"], row["step"]) for row in log] == [(e, 3 * e + s) for e in range(2) for s in range(3)]
    assert log[0].keys() == {"epoch", "step", "forget", "loss", "lr", "norm"}


def test_an_epoch_passes_over_the_forget_set_once_and_over_retain_rows_in_turn():
    problem = task(model(), batch_size=4)
    seen_retain = []
    for epoch in range(4):  # 24 draws are three turns of 8 rows
        batches = list(problem.batches(epoch))
        assert [len(b.rows) for b, _ in batches] == [3, 3] == [len(b.rows) for _, b in batches]
        assert sorted(torch.cat([b.rows for b, _ in batches]).tolist()) == list(range(F))
        seen_retain += torch.cat([b.rows for _, b in batches]).tolist()
        for pair, whole in zip(batches[0], (problem.forget, problem.retain), strict=True):
            width = pair.encoded.ids.shape[1]
            assert torch.equal(pair.encoded.ids, whole.ids[pair.rows, :width])
            assert (whole.labels[pair.rows, width:] == IGNORED).all()
            assert (pair.encoded.labels[:, -1] != IGNORED).any()
    turns = [seen_retain[i : i + R] for i in range(0, len(seen_retain), R)]
    assert all(sorted(turn) == list(range(R)) for turn in turns)
    assert turns[0] != turns[1]
    orders = [[b.rows.tolist() for b, _ in task(model(), seed=s).batches(e)] for s in (0, 1) for e in (0, 1)]
    assert len({str(order) for order in orders}) == 4


def test_two_runs_give_the_same_bits_and_another_seed_others():
    forget, retain, _ = data()
    ends = []
    for seed in (5, 5, 6):
        net = model(dtype=torch.float32)
        torch.manual_seed(len(ends))  # no random number comes from the global generator
        report = unlearn(net, forget, retain, SAU(), update=Update(sparse(net)), seed=seed, **SETTINGS)
        ends.append((state(net), report.log))
    (first, log), (second, again), (third, _) = ends
    assert all(same_bits(first[name], second[name]) for name in first)
    assert log == again
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_unlearning_forgets_and_keeps():
    net, (forget, retain, _) = model(dtype=torch.float32), data()
    log = unlearn(net, forget, retain, NPO(), lr=3e-3, epochs=10, batch_size=6).log
    assert log[-1]["forget"] < 0.5 * log[0]["forget"]
    assert log[-1]["retain"] < 0.8 * log[0]["retain"]
    assert not net.training


def widths(encoded: Encoded, rows: torch.Tensor) -> int:
    return len(rows) * max(int((encoded.labels[row] >= 0).nonzero().max()) + 1 for row in rows)


def test_tokens_forward_and_backward_are_counted():
    forget, retain, idk = data()
    problem = task(model())
    passes = {"forget": 0, "retain": 0, "idk": 0}
    for epoch in range(2):
        for own, kept in problem.batches(epoch):
            passes["forget"] += widths(forget, own.rows)
            passes["idk"] += widths(idk, own.rows)
            passes["retain"] += widths(retain, kept.rows)
    whole = {
        name: sum(widths(d, rows) for rows in torch.arange(F).split(3))
        for name, d in (("forget", forget), ("idk", idk))
    }
    steps = passes["forget"] + passes["retain"]
    wanda = sum(widths(retain, rows) for rows in problem.retain_rows(0).split(3))
    rows = torch.cat([problem.retain_rows(e) for e in range(2)]).unique()
    frozen = sum(widths(retain, part) for part in rows.split(3))
    expected = {
        "GradAscent": (passes["forget"], passes["forget"]),
        "GradDiff": (steps, steps),
        "NPO": (whole["forget"] + steps, steps),
        "IdkDPO": (whole["forget"] + whole["idk"] + steps + passes["idk"], steps + passes["idk"]),
        "NPO + SAM": (whole["forget"] + steps + passes["forget"], steps + passes["forget"]),
        "SAU": (whole["forget"] + wanda + steps, steps),
        "RMU": (frozen + steps, steps),
    }
    for name, work in expected.items():
        net = model()
        update = Update(sparse(net)) if name == "SAU" else Update()
        report = unlearn(net, forget, retain, METHODS[name], update=update, idk=idk, **SETTINGS)
        assert (report.tokens_forward, report.tokens_backward) == work, name
        assert report.seconds > 0


# After each epoch.


def test_after_epoch_ends_the_run():
    net, (forget, retain, _) = model(), data()
    seen = []

    def look(epoch):
        seen.append((epoch, state(net)))
        return epoch < 2

    report = unlearn(net, forget, retain, NPO(), after_epoch=look, **{**SETTINGS, "epochs": 5})
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert len(report.log) == 4
    assert all(torch.equal(value, seen[-1][1][name]) for name, value in state(net).items())
    seen.clear()
    unlearn(net, forget, retain, NPO(), after_epoch=lambda epoch: seen.append(epoch), **SETTINGS)
    assert seen == [1, 2]  # None is no answer


def test_after_update_ends_the_run_within_an_epoch(tmp_path):
    net, (forget, retain, _) = model(), data()
    seen = []

    def look(updates):
        seen.append((updates, state(net)))
        return updates < 3

    where = {"checkpoint": tmp_path, **SETTINGS, "epochs": 5}
    report = unlearn(net, forget, retain, NPO(), after_update=look, **where)
    assert [updates for updates, _ in seen] == [1, 2, 3]
    assert len(report.log) == 3
    assert all(torch.equal(value, seen[-1][1][name]) for name, value in state(net).items())
    again = model()
    unlearn(again, forget, retain, NPO(), after_update=look, **where)  # finds that it had ended
    assert len(seen) == 3
    assert all(torch.equal(value, state(again)[name]) for name, value in state(net).items())


@pytest.mark.parametrize("lora", [None, LoraSettings(2, 4)], ids=["all", "lora"])
@pytest.mark.parametrize(("values", "best"), [((None, 0.5, 0.2, None, 0.3), 3), ((0.5, 0.5, None, None, 0.9), 1)])
def test_a_run_is_taken_where_it_was_best(lora, values, best, tmp_path):
    """The model is what it is when a run of the same schedule is stopped there; a resumed run remembers."""
    forget, retain, _ = data()
    sizes = {**SETTINGS, "epochs": 5, "lora": lora}
    ended = model()
    unlearn(ended, forget, retain, NPO(), after_epoch=lambda epoch: epoch < best, **sizes)
    net = model()
    report = unlearn(net, forget, retain, NPO(), choose=lambda epoch: values[epoch - 1], **sizes)
    assert report.epochs == best
    assert all(torch.equal(value, state(net)[name]) for name, value in state(ended).items())

    def stopped(epoch):
        if epoch == 4:
            raise KeyboardInterrupt
        return values[epoch - 1]

    net = model()
    with pytest.raises(KeyboardInterrupt):
        unlearn(net, forget, retain, NPO(), choose=stopped, checkpoint=tmp_path, **sizes)
    net = model()
    report = unlearn(net, forget, retain, NPO(), choose=lambda epoch: values[epoch - 1], checkpoint=tmp_path, **sizes)
    assert report.epochs == best
    assert all(torch.equal(value, state(net)[name]) for name, value in state(ended).items())


def test_a_run_of_which_no_epoch_may_be_taken_leaves_the_model_as_it_was():
    net, (forget, retain, _) = model(), data()
    start = state(net)
    assert unlearn(net, forget, retain, NPO(), choose=lambda epoch: None, **SETTINGS).epochs == 0
    assert all(torch.equal(value, start[name]) for name, value in state(net).items())


@pytest.mark.parametrize("name", ["NPO", "task vector"])
def test_after_epoch_sees_the_model_as_the_run_would_leave_it_and_cannot_change_it(name):
    forget, retain, _ = data()
    ends = []
    for spoil in (False, True):
        net, seen = model(), []

        def look(_, net=net, seen=seen, spoil=spoil):
            seen.append(state(net))
            for p in net.parameters() if spoil else ():
                p.data.zero_()
            return True

        unlearn(net, forget, retain, METHODS[name], after_epoch=look, **SETTINGS)
        assert all(torch.equal(value, state(net)[key]) for key, value in seen[-1].items())
        ends.append(state(net))
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_a_negated_task_vector_forgets_what_it_was_tuned_on():
    net, (forget, retain, _) = model(), data()
    problem = task(net)
    before = problem.sequence_logprobs(forget).sum()
    unlearn(net, forget, retain, METHODS["task vector"], **SETTINGS)
    assert problem.sequence_logprobs(forget).sum() < before


# Bad input.


def test_bad_input_is_refused_by_name_and_changes_nothing():
    net, (forget, retain, _) = model(), data()
    before = state(net)

    def refused(match, net=net, forget=forget, retain=retain, method=METHODS["NPO"], **changes):
        with pytest.raises(ValueError, match=match):
            unlearn(net, forget, retain, method, **{**SETTINGS, **changes})

    refused("model: got Linear, want a transformers decoder", net=torch.nn.Linear(2, 2))
    half = model(dtype=torch.bfloat16)
    refused(r"model: got weights of \['torch.bfloat16'\], want float32 or float64", net=half)
    half.model.norm.float()
    refused("model: got weights of", net=half)
    refused("method: got 'NPO', want an objective", method="NPO")
    for value in (0, -0.1, math.nan, math.inf, "0.1", None, True):
        refused("lr: got ", lr=value)
    for name in ("epochs", "batch_size"):
        for value in (0, -1, 1.5, True):
            refused(f"{name}: got {value!r}, want an integer of at least 1", **{name: value})
    for name in ("weight_decay", "warmup_epochs"):
        for value in (-0.1, math.nan, "0"):
            refused(f"{name}: got {value!r}", **{name: value})
    for value in (-1, 0.5, True):
        refused(f"seed: got {value!r}", seed=value)
    refused("forget: got no sequence", forget=forget.subset(torch.arange(0)))
    refused("forget: got list, want Encoded", forget=[1])
    refused("retain: got Encoded, want Encoded with ids and labels", retain=Encoded(retain.ids, retain.labels[:, 1:]))
    unlabelled = retain.labels.clone()
    unlabelled[2] = IGNORED
    refused("retain: row 2 has no answer token", retain=Encoded(retain.ids, unlabelled))
    high = forget.ids.clone()
    high[1, 2] = VOCABULARY
    refused(f"forget: got token {VOCABULARY}, want 0 to {VOCABULARY - 1}", forget=Encoded(high, forget.labels))
    refused("forget: got token -3", forget=Encoded(forget.ids - 3, forget.labels))
    wrong = retain.labels.clone()
    wrong[wrong >= 0] = VOCABULARY
    refused(f"retain: got token {VOCABULARY}", retain=Encoded(retain.ids, wrong))
    for name in ("DPO", "IdkDPO"):
        refused(f"idk: got None, want one for each of {F}", method=METHODS[name])
        refused(f"idk: got {R} sequences, want one for each of {F}", method=METHODS[name], idk=retain)
    refused(
        "lora: got adapters and scaling 'redistribute'", method=SAU(), lora=LoraSettings(), update=Update(sparse(net))
    )
    assert all(torch.equal(value, before[name]) for name, value in state(net).items())


def test_neither_the_pruner_nor_the_list_of_methods_imports_transformers():
    """It is slow to import."""
    code = "import sys; from palimpsest import pruning, unlearning; unlearning.methods('vision')"
    code += "; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_registry_lists_the_methods():
    assert unlearning.methods("language") == sorted(METHODS)
    assert "SAU" in unlearning.methods("language")
    with pytest.raises(ValueError, match="domain: got 'audio', want one of"):
        unlearning.methods("audio")
    # A change of how classifiers train is none of language models.
    assert not any("lockstep" in name or "classifiers" in name for name in closure(unlearn).modules)
