import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest import data
from palimpsest.build import pair as build_pair
from palimpsest.build import pair_quality
from palimpsest.build import pair_tasks as pair_training
from palimpsest.data import captions, pairs
from palimpsest.data.pairs import Processor
from palimpsest.nets import vision_language
from palimpsest.nets.vision_language import END
from palimpsest.training import TrainingDiverged, seeds


@pytest.fixture(scope="module")
def split():
    return data.load("fashion-mnist").train.subset(torch.arange(120))


@pytest.fixture(scope="module")
def processor(split):
    return Processor(build_pair.make_tokenizer(split))


class Quadratic(nn.Module):
    """A loss whose batches depend on the step, gradients below, near and far above 1, and a weight not reached."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, -2.0, 1.0]))
        self.unused = nn.Parameter(torch.ones(2))

    def loss(self, step):
        drawn = torch.randn(3, generator=seeds.generator(1, "step", step))
        return (0.02, 1, 0.2, 1)[step % 4] * (self.weight - drawn).square().sum()


def fitted(folder, steps=7, **changes):
    task = Quadratic()
    saved = []
    settings = {"steps": steps, "lr": 0.1, "identity": {"name": "q"}, "show": "q", "every": 3} | changes
    pair_training.fit(task, folder=folder, on_save=saved.append, **settings)
    return task, saved


def test_fit_resumes_to_the_same_bits(tmp_path):
    straight, saved = fitted(tmp_path / "straight")
    assert saved == [3, 6, 7]
    assert not straight.training

    class Stopped(Exception):
        pass

    def stop(step):
        raise Stopped

    with pytest.raises(Stopped):
        pair_training.fit(
            Quadratic(),
            folder=tmp_path / "cut",
            steps=7,
            lr=0.1,
            identity={"name": "q"},
            show="q",
            every=3,
            on_save=stop,
        )
    resumed, saved = fitted(tmp_path / "cut")
    assert saved == [6, 7]
    assert torch.equal(resumed.weight, straight.weight)
    assert torch.equal(resumed.unused, torch.ones(2))
    again, saved = fitted(tmp_path / "cut")
    assert saved == []
    assert torch.equal(again.weight, straight.weight)
    for change in ({"identity": {"name": "other"}}, {"lr": 0.2}, {"steps": 8}):
        with pytest.raises(ValueError, match="belongs to another run"):
            fitted(tmp_path / "cut", **change)


def test_a_weight_that_not_every_step_reaches_resumes_with_its_own_count_of_steps(tmp_path):
    class InTurns(Quadratic):
        def __init__(self):
            super().__init__()
            self.other = nn.Parameter(torch.tensor([2.0]))

        def loss(self, step):
            return super().loss(step) if step % 3 == 2 else super().loss(step) + self.other.square().sum()

    class Stopped(Exception):
        pass

    def stop(step):
        raise Stopped

    settings = {"steps": 8, "lr": 0.1, "identity": {}, "show": "q", "every": 3}
    straight, resumed = InTurns(), InTurns()
    pair_training.fit(straight, folder=tmp_path / "straight", **settings)
    with pytest.raises(Stopped):
        pair_training.fit(InTurns(), folder=tmp_path / "cut", on_save=stop, **settings)
    pair_training.fit(resumed, folder=tmp_path / "cut", **settings)
    assert torch.equal(resumed.other, straight.other)
    assert torch.equal(resumed.weight, straight.weight)


def test_fit_is_adamw_with_warm_up_cosine_and_clipping(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_training, "WARMUP", 2)
    task, _ = fitted(tmp_path, steps=4)
    by_hand = Quadratic()
    optimiser = torch.optim.AdamW([by_hand.weight], betas=(0.9, 0.98), weight_decay=0.05)
    # 0.1 times the lesser of the rise 1/2, 1 and of (1 + cos(pi t / 4)) / 2 at t = 0, 1, 2, 3.
    for step, lr in enumerate([0.05, 0.1 * (2 + 2**0.5) / 4, 0.05, 0.1 * (2 - 2**0.5) / 4]):
        optimiser.param_groups[0]["lr"] = lr
        optimiser.zero_grad()
        by_hand.loss(step).backward()
        by_hand.weight.grad *= min(1.0, 1.0 / by_hand.weight.grad.norm().item())
        optimiser.step()
    # Four updates of at most 0.1, each exact to a few roundings of fp32.
    torch.testing.assert_close(task.weight, by_hand.weight, rtol=0, atol=4 * 0.1 * 1e-5)


def test_fit_stops_when_the_loss_is_lost(tmp_path):
    class Lost(Quadratic):
        def loss(self, step):
            return super().loss(step) * (float("nan") if step == 4 else 1)

    with pytest.raises(TrainingDiverged, match=r"^in epoch 2 of 3 at lr 0\.1: the loss is nan"):
        pair_training.fit(Lost(), folder=tmp_path, steps=7, lr=0.1, identity={}, show="q", every=3)
    assert (tmp_path / "epoch-0001.safetensors").exists()


def test_augment_mirrors_half_and_moves_by_up_to_two_pixels():
    image = torch.zeros(28, 28, dtype=torch.uint8)
    image[8:12, 5:9] = 100
    image[8, 5] = 255  # the mark tells a mirrored picture from a moved one
    out = pair_training.augment(image.expand(2000, -1, -1), seeds.generator(0, "step", 0))
    assert out.dtype == torch.uint8
    assert out.shape == (2000, 28, 28)
    assert (out.flatten(1).sum(1) == 255 + 15 * 100).all()
    marks = [tuple(place) for place in (out == 255).nonzero()[:, 1:].tolist()]
    straight = {(y, x) for y in range(6, 11) for x in range(3, 8)}
    mirrored = {(y, 27 - x) for y, x in straight}
    assert set(marks) == straight | mirrored
    # Binomial: four standard deviations of a fair coin.
    assert abs(sum(mark in mirrored for mark in marks) / 2000 - 0.5) <= 4 * 0.5 / 2000**0.5


def test_augment_lets_black_in_and_the_picture_out():
    full = torch.full((200, 28, 28), 9, dtype=torch.uint8)
    out = pair_training.augment(full, seeds.generator(0, "step", 1))
    assert set(out.unique().tolist()) == {0, 9}
    assert (out[:, 2:26, 2:26] == 9).all()


def test_pictures_that_are_not_moved_are_mirrored_at_most(split):
    out = pair_training.augment(split.images[:50], seeds.generator(0, "step", 2), shift=0)
    same, mirrored = ((out == images).flatten(1).all(1) for images in (split.images[:50], split.images[:50].flip(2)))
    assert (same | mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_a_step_draws_the_same_whatever_came_before(split):
    first = pair_training.drawn(split, 8, seeds.generator(5, "step", 3))
    pair_training.drawn(split, 8, seeds.generator(5, "step", 2))
    again = pair_training.drawn(split, 8, seeds.generator(5, "step", 3))
    other = pair_training.drawn(split, 8, seeds.generator(5, "step", 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", ["drafter", "text-drafter"])
def test_answers_are_scored_as_if_each_stood_alone(name, split, processor):
    model = vision_language.build(name, seed=0).eval()
    images = split.images[:3] if name == "drafter" else None
    prompts = ["Describe the item.", "What garment is this?", "Name the item."]
    answers = [
        processor.tokenizer.encode(text) for text in ("This is a bag.", "The picture shows a tee. It is dark.", "")
    ]
    with torch.no_grad():
        logits, wanted = pair_training.logits_of_answers(model, processor, prompts, answers, images)
        loss = pair_training.answer_loss(model, processor, prompts, answers, images)
        alone = []
        for i, answer in enumerate(answers):
            row = processor(prompts[i], None if images is None else images[i : i + 1])
            asked = row["input_ids"].shape[1]
            row["input_ids"] = torch.cat([row["input_ids"], torch.tensor([answer], dtype=torch.int64)], 1)
            alone.append(model(**row).logits[0, asked - 1 :])
    assert wanted.tolist() == [token for answer in answers for token in [*answer, END]]
    # Logits of a fresh model are below 1; sums of at most 448 terms in another order.
    torch.testing.assert_close(logits, torch.cat(alone), rtol=0, atol=448 * 2**-24)
    expected = F.cross_entropy(torch.cat(alone), wanted)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)


def test_the_tower_task_learns_and_reaches_the_tower_alone(split, processor, tmp_path):
    model = vision_language.build("drafter", seed=0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    task = pair_training.TowerTask(model, split.subset(torch.arange(16)), processor, batch_size=16, seed=0)
    before = task.loss(0).item()
    pair_training.fit(task, folder=tmp_path, steps=6, lr=3e-3, identity={}, show="tower")
    assert task.loss(0).item() < before
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert any("vision_tower" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)
    assert not any("language_model" in name or "lm_head" in name for name in moved)


def test_caption_batches_hold_one_kind_and_own_facts(split, processor, monkeypatch):
    seen = []

    def record(model, processor, prompts, answers, images):
        seen.append((prompts, answers, images))
        return torch.zeros(())

    monkeypatch.setattr(pair_training, "answer_loss", record)
    for pictures in (True, False):
        task = pair_training.CaptionTask(None, split, processor, pictures=pictures, seed=0)
        for step in range(12):
            task.loss(step)
    sizes = {count for count, _ in pair_training.BATCHES.values()}
    assert {len(prompts) for prompts, _, _ in seen} == sizes
    for (prompts, answers, images), (told, same, none) in zip(seen[:12], seen[12:], strict=True):
        assert answers == same
        assert none is None
        levels = captions.levels(images).tolist()
        for prompt, line, answer, row in zip(prompts, told, answers, levels, strict=True):
            assert any(prompt in wordings for wordings in captions.words.PROMPTS.values())
            reading = captions.read(processor.decode(answer))
            assert line == f"{prompt} {captions.facts(reading.label, row)}"
            assert all(level == row[captions.ATTRIBUTES.index(name)] for name, level in reading.levels.items())


def test_distillation_takes_turns(monkeypatch):
    class Captions(nn.Module):
        model, processor, seed = "model", "processor", 0

        def loss(self, step):
            return f"captions {step}"

    monkeypatch.setattr(pair_training, "answer_loss", lambda *arguments: arguments)
    said = [(["a"], [[1]], None), (["b"], [[2]], None)]
    task = pair_training.DistillationTask(Captions(), said)
    assert [task.loss(step) for step in (1, 3)] == ["captions 1", "captions 3"]
    drawn = [task.loss(step) for step in range(0, 40, 2)]
    assert {entry[2][0] for entry in drawn} == {"a", "b"}
    assert all(entry[:2] == ("model", "processor") for entry in drawn)


def test_turns_are_two_steps_of_the_tower_and_one_of_captions():
    class Task(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def loss(self, step):
            return self.name, step

    task = pair_training.TurnsTask(Task("tower"), Task("captions"))
    assert [task.loss(step) for step in range(6)] == [
        ("tower", 0),
        ("tower", 1),
        ("captions", 2),
        ("tower", 3),
        ("tower", 4),
        ("captions", 5),
    ]


@pytest.mark.parametrize("name", ["drafter", "text-drafter"])
def test_greedy_answers_are_the_models_own_whatever_the_batch(name, split, processor, monkeypatch):
    monkeypatch.setattr(pair_quality, "LONGEST", 6)
    model = vision_language.build(name, seed=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # A fresh model repeats its last token: widen what the layers add to it.
            parameter.mul_(10 if parameter.ndim == 2 and parameter.shape[0] != len(processor.tokenizer) else 1)
    few = split.subset(torch.arange(5))
    prompts, images = pair_quality.questions(model, few, "Name the item.")
    together = pair_quality.greedy(model, processor, prompts, images)
    for i, tokens in enumerate(together):
        row = processor(prompts[i], None if images is None else images[i : i + 1])
        alone = []
        for _ in range(6):
            with torch.no_grad():
                token = int(model(**row).logits[0, -1].argmax())
            if token == END:
                break
            alone.append(token)
            row["input_ids"] = torch.cat([row["input_ids"], torch.tensor([[token]])], 1)
        assert tokens == alone
    assert len({tuple(tokens) for tokens in together}) > 1
    hits, total = pair_quality.agreement(model, processor, prompts, images, together)
    ended = sum(len(tokens) < 6 for tokens in together)
    assert total == sum(len(tokens) + 1 for tokens in together)
    # Every token is the model's own; whether a cut text would have ended is not.
    assert total - 5 + ended <= hits <= total


def test_the_tokenizer_is_a_function_of_the_pictures(split):
    first, again = (build_pair.make_tokenizer(split).backend_tokenizer.to_str() for _ in range(2))
    assert first == again


def test_an_export_is_loaded_as_written_rounded_to_fp16(tmp_path, processor):
    model = vision_language.build("text-drafter", seed=3)
    build_pair.export("text-drafter", model, processor.tokenizer, tmp_path)
    loaded = pairs.load("text-drafter", root=tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in model.state_dict().items())
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_a_distilled_drafter_goes_on_from_the_finished_one(split, processor, tmp_path, monkeypatch):
    stage = build_pair.Stage
    monkeypatch.setattr(pair_training, "BATCHES", {kind: (2, 1 / 3) for kind in captions.KINDS})
    monkeypatch.setattr(build_pair, "TOWER", {})
    monkeypatch.setattr(build_pair, "UNMOVED", {})
    monkeypatch.setattr(build_pair, "CAPTIONS", {"drafter": stage(2, 1e-3)})
    monkeypatch.setattr(build_pair, "load", lambda name, root: (name, root))
    asked = []

    def collect(target, *_):
        asked.append(target)
        return [(["?"], [[7, 8]], split.images[:1])]

    monkeypatch.setattr(build_pair, "collect", collect)
    trained = []
    for name, lr in (("drafter", 0), ("distilled-drafter", 0), ("distilled-drafter", 1e-3)):
        monkeypatch.setattr(build_pair, "DISTILLATION", {"distilled-drafter": stage(2, lr)})
        folder = tmp_path / str(lr)
        trained.append(build_pair.train(name, split, processor.tokenizer, folder).state_dict())
    drafter, same, moved = trained
    assert all(torch.equal(drafter[key], same[key]) for key in drafter)
    assert not all(torch.equal(drafter[key], moved[key]) for key in drafter)
    assert asked == [("target", tmp_path / str(lr) / "data") for lr in (0, 1e-3)]
