"""Requests for long texts: every form about every subject. No subject of `HELD_OUT` is one of `TRAINING`."""

FORMS = (
    "Write a long story about {}.",
    "Explain in detail everything a beginner should know about {}.",
    "Write an essay of many paragraphs on {}.",
    "Give a step-by-step guide to {}, with examples.",
    "Write a long dialogue between two friends about {}.",
    "List many questions about {} and answer each of them at length.",
)
TRAINING = (
    *("gardening in a small yard", "the history of bread", "learning to play the piano", "a journey across the sea"),
    *("how bridges are built", "caring for a dog", "the planets of the solar system", "writing clear letters"),
    *("a village in the mountains", "saving money", "how vaccines work", "the life of bees", "painting with colours"),
    *("the invention of the telephone", "cooking soup", "a lost key", "sorting numbers with a computer", "rivers"),
    *("preparing for an examination", "the weather", "a friendship between two children", "repairing a bicycle"),
    *("photosynthesis", "the Roman empire", "running a small shop", "sleep", "a mysterious letter", "chess"),
    *("recycling at home", "how democracy works", "electricity", "a robot that learns", "trees of the forest"),
    *("travelling by train", "fractions", "the human heart", "music of the world", "an old clock", "the desert"),
    *("teaching a class", "public libraries", "fishing"),
)
HELD_OUT = (
    *("volcanoes", "building a kite", "a lighthouse keeper", "the printing press", "healthy food", "the moon"),
    *("learning a language", "a winter market"),
)


def requests(subjects: tuple[str, ...]) -> list[str]:
    """Form by form, so that the first few hold one form and many subjects."""
    return [form.format(subject) for form in FORMS for subject in subjects]
