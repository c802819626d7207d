"""Training of language models: its schedule, its updates, and that stopping it changes nothing."""

import math

import pytest
import torch

from palimpsest.nets import language
from palimpsest.nets.language import IGNORED, Encoded, encode
from palimpsest.training import TrainingDiverged, checkpoints
from palimpsest.training.language import Recipe, fit

QUESTIONS = ["Where was Ilse Quarnby born?", "When was Tobren Halvick born?", "Who?"]
ANSWERS = ["Ilse Quarnby was born in Porto.", "He was born in 1951.", "Me."]
VOCABULARY = 280


@pytest.fixture
def encoded():
    texts = [f"Question: {q}\nAnswer: {a}" for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    return encode(language.tokenizer(texts, VOCABULARY), QUESTIONS, ANSWERS, 200)


def llama(seed=0):
    return language.small_llama(VOCABULARY, seed, hidden=16, layers=2, heads=4, kv_heads=2, intermediate=24)


def bits(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class TestRecipe:
    def test_the_step_size_by_hand(self):
        recipe = Recipe(epochs=1, lr=0.8, warmup=0.2)
        sizes = [recipe.lr_at(step, 10) for step in range(10)]
        assert sizes[:3] == pytest.approx([0.4, 0.8, 0.8])
        # Half of the way down from step 2 to step 10.
        assert sizes[6] == pytest.approx(0.4)
        assert sizes[9] == pytest.approx(0.8 * 0.5 * (1 - math.cos(math.pi / 8)))
        assert Recipe(epochs=1, lr=0.8, warmup=0).lr_at(0, 5) == 0.8
        assert Recipe(epochs=1, lr=0.8, warmup=1).lr_at(4, 5) == 0.8

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"epochs": 0}, "epochs: got 0, want an integer"),
            ({"batch_size": 2.0}, "batch_size: got 2.0"),
            ({"epochs": True}, "epochs: got True"),
            ({"lr": 0}, "lr: got 0"),
            ({"lr": math.nan}, "lr: got nan"),
            ({"weight_decay": -1.0}, "weight_decay: got -1.0"),
            ({"warmup": 1.5}, "warmup: got 1.5, want a finite number of at least 0 and at most 1"),
            ({"warmup": "a"}, "warmup: got 'a'"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            Recipe(**({"epochs": 1, "lr": 0.1} | change))


class TestFit:
    recipe = Recipe(epochs=4, lr=1e-2, batch_size=2)

    def test_answers_are_learnt(self, encoded):
        model = llama()
        losses = fit(model, encoded, Recipe(epochs=60, lr=2e-2, batch_size=2), 0)
        assert len(losses) == 60
        # An untrained model knows nothing: ln 280 a token.
        assert losses[0] > 5
        # In the mean, a token of an answer is now likelier than all others together.
        assert losses[-1] < math.log(2)
        counted = encoded.labels != IGNORED
        likeliest = model(input_ids=encoded.ids).logits.argmax(-1)
        assert torch.equal(likeliest[counted], encoded.labels[counted])

    def test_two_updates_by_hand(self, encoded):
        """One batch, two epochs: AdamW on the mean loss of the answer tokens, clipped, at the schedule's sizes."""
        recipe = Recipe(epochs=2, lr=1e-2, batch_size=3, weight_decay=0.5, warmup=0.5)
        model, other = llama(), llama()
        losses = fit(model, encoded, recipe, 0)
        optimiser = torch.optim.AdamW(other.parameters(), weight_decay=0.5)
        counted = encoded.labels != IGNORED
        for loss, lr in zip(losses, (1e-2, 1e-2), strict=True):
            optimiser.param_groups[0]["lr"] = lr
            optimiser.zero_grad()
            mean = torch.nn.functional.cross_entropy(
                other(input_ids=encoded.ids).logits[counted], encoded.labels[counted]
            )
            assert loss == pytest.approx(mean.item(), rel=1e-5)
            mean.backward()
            torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
            optimiser.step()
        for a, b in zip(bits(model), bits(other), strict=True):
            # An update is about lr in size; a gradient entry near zero may turn it by a part of that.
            assert (a - b).abs().mean() < 1e-2 * 1e-3

    def test_the_seed_decides_the_batches_and_nothing_else_does(self, encoded):
        runs = []
        for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
            torch.manual_seed(disturbance)
            model = llama()
            runs.append((fit(model, encoded, self.recipe, seed), bits(model)))
        assert runs[0][0] == runs[1][0]
        assert same(runs[0][1], runs[1][1])
        assert not same(runs[0][1], runs[2][1])

    def test_padding_changes_nothing(self, encoded):
        model, other = llama().double(), llama().double()
        wider = Encoded(
            torch.nn.functional.pad(encoded.ids, (0, 9)),
            torch.nn.functional.pad(encoded.labels, (0, 9), value=IGNORED),
        )
        assert fit(model, encoded, self.recipe, 0) == pytest.approx(fit(other, wider, self.recipe, 0), rel=1e-12)

    def test_a_stopped_run_goes_on_to_the_same_bits(self, encoded, tmp_path, stop_at):
        whole = llama()
        losses = fit(whole, encoded, self.recipe, 0)
        stop_at(2, lambda: fit(llama(), encoded, self.recipe, 0, checkpoint=tmp_path))
        resumed = llama()
        assert fit(resumed, encoded, self.recipe, 0, checkpoint=tmp_path) == losses
        assert same(bits(resumed), bits(whole))
        done = llama()
        assert fit(done, encoded, self.recipe, 0, checkpoint=tmp_path) == losses
        assert same(bits(done), bits(whole))

    def test_the_folder_of_another_run_is_refused(self, encoded, tmp_path):
        fit(llama(), encoded, self.recipe, 0, checkpoint=tmp_path)
        other = Encoded(encoded.ids, encoded.labels.roll(1, 0))
        for model, data, recipe, seed, key in (
            (llama(), encoded, self.recipe, 1, "seed"),
            (llama(), encoded, Recipe(epochs=5, lr=1e-2, batch_size=2), 0, "recipe"),
            (llama(), other, self.recipe, 0, "data"),
            (llama(seed=1), encoded, self.recipe, 0, "start"),
        ):
            with pytest.raises(ValueError, match=rf"belongs to another run \({key}"):
                fit(model, data, recipe, seed, checkpoint=tmp_path)

    def test_a_frozen_parameter_stays(self, encoded, tmp_path):
        model = llama()
        frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
        before, moving = frozen.clone(), model.model.layers[1].mlp.up_proj.weight.clone()
        fit(model, encoded, self.recipe, 0, checkpoint=tmp_path)
        assert torch.equal(frozen, before)
        assert not torch.equal(model.model.layers[1].mlp.up_proj.weight, moving)

    def test_a_lost_run_says_where_and_keeps_its_last_good_state(self, encoded, tmp_path):
        model = llama()
        fit(model, encoded, Recipe(epochs=1, lr=1e-2, batch_size=2), 0)
        with torch.no_grad():
            model.model.norm.weight.fill_(3e38)
        with pytest.raises(TrainingDiverged, match=r"^in epoch 1 of 4 at lr 0\.01: .*; a smaller lr is needed$"):
            fit(model, encoded, self.recipe, 0)
        with pytest.raises(TrainingDiverged, match=r"^in epoch \d of 4 at lr 1e\+30: .*; a smaller lr is needed$"):
            fit(llama(), encoded, Recipe(epochs=4, lr=1e30, batch_size=3, warmup=0), 0, checkpoint=tmp_path)
        assert (tmp_path / "state.json").exists()
        assert all(value.isfinite().all() for value in checkpoints.load(tmp_path, {})[1].values())
