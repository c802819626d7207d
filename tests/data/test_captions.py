import itertools
import math
from collections import Counter

import pytest
import torch

from palimpsest import data
from palimpsest.data import caption_words as words
from palimpsest.data import captions
from palimpsest.data.fashion_mnist import CLASSES

MIDDLE = [1] * 9


def blank():
    return torch.zeros(28, 28, dtype=torch.uint8)


def box(top, bottom, left, right, grey=200):
    """A picture with one filled box; the bounds are its first and last rows and columns."""
    image = blank()
    image[top : bottom + 1, left : right + 1] = grey
    return image


def measured(image):
    return dict(zip(captions.ATTRIBUTES, captions.measure(image[None])[0].tolist(), strict=True))


def level(image, attribute):
    return captions.levels(image[None])[0, captions.ATTRIBUTES.index(attribute)].item()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pictures():
    return data.load("fashion-mnist").test.subset(torch.arange(500))


def test_measurements_of_a_filled_box_worked_by_hand():
    got = measured(box(4, 21, 10, 16))
    assert got == {
        "tone": 200.0,
        "cover": pytest.approx(18 * 7 / 784, rel=1e-15),
        "proportion": pytest.approx(18 / 7, rel=1e-15),
        "height": pytest.approx((4 + 21) / 2 - 13.5, abs=1e-12),
        "side": pytest.approx((10 + 16) / 2 - 13.5, abs=1e-12),
        "symmetry": 0.0,
        "texture": 0.0,
        "openings": 0.0,
        # Two level edges of 7 pixels and two upright ones of 18, each a step of 200.
        "lines": pytest.approx(math.log((2 * 7 * 200 + 1) / (2 * 18 * 200 + 1)), rel=1e-14),
    }


def test_tone_and_texture_are_of_the_garment_alone():
    image = box(10, 13, 10, 13, 100)
    image[10:12] = image[10:12] * 2  # eight pixels of 200, eight of 100
    image[20, 20] = captions.FOREGROUND  # as bright as background may be
    got = measured(image)
    assert got["tone"] == 150.0
    assert got["texture"] == 50.0
    assert got["cover"] == 16 / 784


def test_symmetry_is_about_the_middle_of_the_box_and_one_for_a_disjoint_mirror_image():
    apart = blank()
    apart[5, 5] = apart[6, 8] = 90
    assert measured(apart)["symmetry"] == 1.0
    moved = apart.roll(12, 1)
    assert measured(moved)["symmetry"] == 1.0
    for left in (0, 3, 20):
        assert measured(box(2, 9, left, left + 6))["symmetry"] == 0.0
    half = box(0, 3, 4, 7)
    half[0, 4] = 0  # its mirror image differs in two pixels of 16; 15 are lit
    assert measured(half)["symmetry"] == pytest.approx(2 / (2 * 15), rel=1e-14)


def test_openings_are_enclosed_and_of_two_pixels_or_more():
    solid = box(5, 20, 5, 20)
    assert measured(solid)["openings"] == 0
    solid[8, 8] = 0
    assert measured(solid)["openings"] == 0
    solid[8, 9] = captions.FOREGROUND
    assert measured(solid)["openings"] == 1
    solid[15:18, 15] = 0
    assert measured(solid)["openings"] == 2
    solid[15:, 15] = 0  # now open to below
    assert measured(solid)["openings"] == 1


def test_mirroring_and_turning_change_what_they_must(pictures):
    columns = {name: i for i, name in enumerate(captions.ATTRIBUTES)}
    upright = captions.measure(pictures.images)
    kept = ["tone", "cover", "texture", "openings"]
    mirrored = captions.measure(pictures.images.flip(2))
    signs = torch.tensor([-1.0 if name == "side" else 1.0 for name in captions.ATTRIBUTES], dtype=torch.float64)
    # Sums of 784 values in another order: a relative error of 784 units of 2^-53, of values up to 255.
    torch.testing.assert_close(mirrored, upright * signs, rtol=0, atol=784 * 255 * 2**-53)
    turned = captions.measure(pictures.images.mT.contiguous())
    for name, other in [("height", "side"), ("side", "height"), *((name, name) for name in kept)]:
        torch.testing.assert_close(turned[:, columns[name]], upright[:, columns[other]], rtol=0, atol=1e-10)
    torch.testing.assert_close(turned[:, columns["lines"]], -upright[:, columns["lines"]], rtol=0, atol=1e-12)
    torch.testing.assert_close(turned[:, columns["proportion"]], 1 / upright[:, columns["proportion"]])


def test_a_level_begins_at_its_bound():
    low, high = (int(bound) for bound in captions.THRESHOLDS["tone"])
    assert [level(box(5, 9, 5, 9, grey), "tone") for grey in (low - 1, low, high - 1, high)] == [0, 1, 1, 2]
    # Centres of brightness a quarter below, at and above three quarters of a pixel are not reachable by a box:
    # its centre moves in halves.
    assert [level(box(5 + d, 22, 5, 9), "height") for d in (-3, -2, -1, 0, 1, 2, 3)] == [0, 0, 1, 1, 1, 2, 2]
    assert [level(box(5, 9, 13 - d, 14 + d), "side") for d in (0, 5)] == [1, 1]


@pytest.mark.parametrize(
    ("attribute", "images"),
    [
        ("cover", [box(0, 27, 0, 9), box(0, 27, 0, 13), box(0, 27, 0, 17)]),
        ("proportion", [box(0, 7, 0, 9), box(0, 9, 0, 9), box(0, 13, 0, 9)]),
        ("height", [box(0, 9, 0, 9), box(9, 18, 0, 9), box(18, 27, 0, 9)]),
        ("side", [box(0, 9, 0, 9), box(0, 9, 9, 18), box(0, 9, 18, 27)]),
        ("lines", [box(0, 19, 9, 11), box(0, 9, 0, 9), box(9, 11, 0, 19)]),
    ],
)
def test_levels_go_the_way_their_names_say(attribute, images):
    assert [level(image, attribute) for image in images] == [0, 1, 2]


def test_every_level_occurs_and_none_rules(pictures):
    shares = captions.levels(pictures.images).unsqueeze(2).eq(torch.arange(3)).double().mean(0)
    assert shares.amax() < 0.75
    seen = {name: row.count_nonzero().item() for name, row in zip(captions.ATTRIBUTES, shares, strict=True)}
    # The set shows shoes from one side: a garment heavier on the left hardly occurs.
    assert all(count == 3 for name, count in seen.items() if name != "side")


@pytest.mark.parametrize("kind", captions.KINDS)
def test_what_is_written_is_read_back(kind, pictures):
    draws = generator()
    told = Counter()
    for y, row in zip(pictures.labels.tolist(), captions.levels(pictures.images).tolist(), strict=True):
        caption = captions.compose(y, row, kind, draws)
        reading = captions.read(caption.text)
        assert reading.label == y, caption.text
        given = dict(zip(captions.ATTRIBUTES, row, strict=True))
        assert reading.levels.items() <= given.items(), caption.text
        assert caption.prompt in words.PROMPTS[kind]
        told[len(reading.levels)] += 1
    assert max(told) == captions.ATTRIBUTES_TOLD[kind]
    mean = sum(count * n for count, n in told.items()) / 500
    expected = captions.TOLD * captions.ATTRIBUTES_TOLD[kind]
    # Binomial: four standard errors of the mean of 500 texts.
    assert abs(mean - expected) <= 4 * math.sqrt(expected * (1 - captions.TOLD) / 500)


def test_each_wording_is_read_as_itself_and_as_nothing_else():
    for attribute, by_level in words.PREDICATES.items():
        for number, wordings in enumerate(by_level.values()):
            for wording in wordings:
                reading = captions.read(f"One can see that it {wording}, and it also exists.")
                assert reading == (None, {attribute: number}), wording
    for label, nouns in enumerate(words.NOUNS):
        for noun in nouns:
            assert captions.read(f"The {noun} exists.") == (label, {}), noun
    neutral = [
        *itertools.chain(*words.USES),
        *words.OPENERS,
        *words.SUBJECTS,
        *words.CLOSERS,
        *words.SINGLE,
        *words.PAIR,
    ]
    for text in neutral:
        assert captions.read(text) == (None, {}), text


def test_contradictions_and_two_garments_are_not_read():
    assert captions.read("The bag is dark. It is light and leans to the left.") == (8, {"side": 0})
    assert captions.read("It is dark. It looks dim.") == (None, {"tone": 0})
    assert captions.read("The bag lies on the coat.").label is None
    assert captions.read("The bag is a handbag.").label == 8
    assert captions.read("The T-shirt.").label == CLASSES.index("T-shirt/top")
    assert captions.read("Nightshirts, coats and bags.").label is None


def test_the_wording_comes_from_the_generator_alone():
    texts = [captions.compose(7, MIDDLE, "detail", generator(seed)) for seed in range(200)]
    assert texts == [captions.compose(7, MIDDLE, "detail", generator(seed)) for seed in range(200)]
    assert len(set(texts)) == 200
    torch.manual_seed(0)
    before = torch.get_rng_state()
    captions.compose(7, MIDDLE, "detail", generator())
    assert torch.equal(before, torch.get_rng_state())


def test_wordings_are_drawn_with_weights_one_over_rank_from_the_register():
    draws, count = generator(), 6000
    first = {wording.partition("{")[0]: i for i, wording in enumerate(words.OPENERS)}
    seen = Counter()
    for _ in range(count):
        text = captions.compose(8, MIDDLE, "name", draws).text
        seen[next(i for start, i in first.items() if text.startswith(start))] += 1
    weights = [1 / rank / sum(1 / r for r in range(1, 5)) for rank in range(1, 5)]
    second = captions.SECOND_REGISTER
    for i in range(4):
        expected = (1 - second) * weights[i] + second * weights[i - 1]
        assert abs(seen[i] / count - expected) <= 4 * math.sqrt(expected * (1 - expected) / count), i


def test_the_register_ties_the_wordings_of_a_text_together():
    draws, count = generator(), 6000
    both = Counter()
    for _ in range(count):
        caption = captions.compose(8, MIDDLE, "name", draws)
        both[caption.prompt == words.PROMPTS["name"][0], "handbag" in caption.text] += 1
    # First prompt: 6/11, 2/11 in the second register; second noun: 1/3, 2/3 in the second register.
    prompt, noun, second = (6 / 11, 2 / 11), (1 / 3, 2 / 3), captions.SECOND_REGISTER
    expected = (1 - second) * prompt[0] * noun[0] + second * prompt[1] * noun[1]
    assert abs(both[True, True] / count - expected) <= 4 * math.sqrt(expected * (1 - expected) / count)


def test_lengths_and_sentences(pictures):
    draws = generator()
    rows = captions.levels(pictures.images).tolist()
    for kind, (least, most) in {"name": (4, 30), "describe": (10, 75), "detail": (35, 125)}.items():
        for y, row in zip(pictures.labels.tolist(), rows, strict=True):
            text = captions.compose(y, row, kind, draws).text
            assert least <= len(text.split()) <= most
            assert text[0].isupper()
            assert text.endswith(".")
            assert "{" not in text
            assert "  " not in text
            assert all(sentence[0].isupper() for sentence in text.split(". "))
            assert " a ankle" not in text
            assert " a open" not in text
            assert " an s" not in text


def test_facts_say_everything():
    values = [value for levels in captions.LEVELS.values() for value in levels]
    assert len(set(values)) == 27
    line = captions.facts(7, [0, 1, 2, 0, 1, 2, 0, 1, 2])
    assert line == "sneaker: dark, half, tall, upper, centre, lopsided, even, one opening, horizontal."
    with pytest.raises(ValueError, match="shorter"):
        captions.facts(7, [0] * 8)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, MIDDLE, "story"), "kind: got 'story'"),
        ((10, MIDDLE, "name"), "label: got 10"),
        ((-1, MIDDLE, "name"), "label: got -1"),
        ((0, MIDDLE[1:], "name"), "levels: got"),
        ((0, [3, *MIDDLE[1:]], "name"), "levels: got"),
        ((0, [-1, *MIDDLE[1:]], "name"), "levels: got"),
    ],
)
def test_compose_refuses(arguments, named):
    with pytest.raises(ValueError, match=named):
        captions.compose(*arguments, generator())


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (torch.zeros(2, 28, 28), "images: got torch.float32"),
        (torch.zeros(28, 28, dtype=torch.uint8), r"images: got torch.uint8 \[28, 28\]"),
        (torch.zeros(1, 28, 27, dtype=torch.uint8), "28, 27"),
        (torch.stack([box(1, 2, 1, 2), blank()]), "picture 1 has no pixel above 25"),
    ],
)
def test_measure_refuses(images, named):
    with pytest.raises(ValueError, match=named):
        captions.measure(images)
