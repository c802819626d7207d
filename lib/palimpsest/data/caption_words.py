"""The words of the rule-written captions: what `captions` may say about a garment and about its picture.

The first wording of a list is the usual one, later ones are rarer (`captions.compose` draws them so). Every
predicate belongs to one level of one attribute and occurs in no other wording, so that a text can be read back.
"""

NOUNS = (
    ("T-shirt", "tee"),
    ("pair of trousers", "pair of pants"),
    ("pullover", "jumper"),
    ("dress", "gown"),
    ("coat", "jacket"),
    ("sandal", "open shoe"),
    ("shirt", "button-up"),
    ("sneaker", "trainer"),
    ("bag", "handbag"),
    ("ankle boot", "short boot"),
)
"""By class of Fashion-MNIST, in the order of `fashion_mnist.CLASSES`."""

USES = (
    ("It is worn on the upper body and has short sleeves.", "It goes over the head and suits warm days."),
    ("It covers both legs down to the feet.", "It is worn on the legs and closes at the waist."),
    ("It keeps the upper body warm and has long sleeves.", "It goes over the head and suits cool days."),
    ("It is one piece from the shoulders to the knees.", "It covers the body and falls down to the legs."),
    ("It is worn outdoors over other clothes.", "It opens at the front and keeps out the wind."),
    ("It is worn on the foot in summer.", "It leaves the toes free and is held by straps."),
    ("It has a collar and closes at the front.", "It is worn on the upper body, often at work."),
    ("It is worn on the foot for sport or for walking.", "It has a flat sole and closes with laces."),
    ("It is carried by hand and holds small things.", "It is not worn but carried."),
    ("It is worn on the foot and reaches above the heel.", "It has a firm sole and keeps the foot dry."),
)
"""What each garment is for: knowledge that follows from the class alone."""

PREDICATES = {
    "tone": {
        "dark": ("is dark", "looks dim", "has a low grey level"),
        "medium": ("is mid grey", "has a medium tone", "is neither dark nor light"),
        "light": ("is light", "looks pale", "has a high grey level"),
    },
    "cover": {
        "little": ("fills a small part of the frame", "leaves most of the frame empty", "takes little room"),
        "half": ("fills about half of the frame", "takes half of the room", "covers roughly every second pixel"),
        "most": ("fills most of the frame", "leaves little of the frame empty", "takes nearly all the room"),
    },
    "proportion": {
        "wide": ("is wider than it is tall", "has a wide outline", "lies low and long"),
        "square": ("is about as tall as it is wide", "has a square outline", "would fit a square box"),
        "tall": ("is taller than it is wide", "has a tall outline", "stands high and narrow"),
    },
    "height": {
        "upper": ("is heavier at the top", "has its weight in the upper half", "sits high in the frame"),
        "middle": ("is balanced from top to bottom", "has its weight at mid height", "sits level in the frame"),
        "lower": ("is heavier at the bottom", "has its weight in the lower half", "sits low in the frame"),
    },
    "side": {
        "left": ("leans to the left", "is heavier on the left side", "has its weight on the left"),
        "centre": ("stays in the centre", "is centred from side to side", "has its weight on the middle line"),
        "right": ("leans to the right", "is heavier on the right side", "has its weight on the right"),
    },
    "symmetry": {
        "symmetric": ("is the same on both sides", "has a mirror image of itself", "is fully symmetric"),
        "nearly symmetric": ("is almost symmetric", "differs a little between its sides", "is nearly a mirror image"),
        "lopsided": ("is lopsided", "differs strongly between its sides", "has no symmetry"),
    },
    "texture": {
        "even": ("has an even surface", "shows hardly any shading", "is plain all over"),
        "shaded": ("shows soft shading", "has a gently shaded surface", "varies a little in grey"),
        "bold": ("shows bold contrasts", "has a strongly patterned surface", "varies widely in grey"),
    },
    "openings": {
        "closed": ("has no opening", "shows no gap inside its outline", "is closed all around"),
        "one opening": ("has one opening", "shows a single gap inside its outline", "is pierced once"),
        "several openings": ("has several openings", "shows many gaps inside its outline", "is pierced in places"),
    },
    "lines": {
        "vertical": ("has mainly upright edges", "carries lines that run up and down", "is drawn from top to toe"),
        "mixed": ("has edges in all directions", "carries lines of every kind", "is drawn with no main direction"),
        "horizontal": ("has mainly level edges", "carries lines that run across", "is drawn from side to side"),
    },
}
"""By attribute and level, levels in the order of `captions.THRESHOLDS`; each follows a subject in the singular."""

ORDERS = (
    ("tone", "cover", "proportion", "texture", "symmetry", "height", "side", "openings", "lines"),
    ("proportion", "cover", "side", "height", "symmetry", "tone", "texture", "lines", "openings"),
    ("lines", "openings", "texture", "tone", "proportion", "symmetry", "cover", "side", "height"),
)

OPENERS = (
    "The picture shows {a_noun}.",
    "This is {a_noun}.",
    "Here we see {a_noun} on a black ground.",
    "This grey picture holds {a_noun}.",
)

SUBJECTS = ("It", "The {noun}", "The item", "This piece")

SINGLE = ("{Subject} {first}.", "One can see that {subject} {first}.", "On a closer look {subject} {first}.")
PAIR = (
    "{Subject} {first} and {second}.",
    "{Subject} {first}, and it also {second}.",
    "While {subject} {first}, it {second}.",
)

CLOSERS = (
    "The rest of the picture is black.",
    "Nothing else is in the picture.",
    "There is nothing beside it and nothing behind it.",
)

PROMPTS = {
    "name": ("What garment is this?", "Name the item.", "What does the picture show?"),
    "describe": ("Describe the picture.", "Describe the item.", "What can you see?"),
    "detail": (
        "Describe the picture in detail.",
        "Tell me in detail what the picture shows.",
        "Give a long description of the item.",
    ),
}
"""By kind of text: one or two sentences, four attributes, nearly all attributes."""
