"""The interactive figure: a reader steps through one decode, round by round, in a page without a server."""

import json
from pathlib import Path

from IPython.display import HTML

from palimpsest import decoding
from palimpsest.chapters.sage.shipped import SHIPPED
from palimpsest.data import fashion_mnist
from palimpsest.data.caption_words import PROMPTS

TEMPLATE = Path(__file__).with_name("stepper.html")


def decode(picture: int, policy: decoding.Policy, most: int = 160) -> dict:
    """The shipped pair describing test picture number `picture`: its text, and each round's tree, accepted path and
    numbers. The stop token is no text: it is "" there, and "(end)" where it stands in a tree."""
    image = fashion_mnist.load().test.images[picture : picture + 1]
    processor, prompt = SHIPPED.processor, PROMPTS["detail"][0]
    target, drafter = (SHIPPED.decoder(name) for name in SHIPPED.pairs["vision"])
    out = decoding.generate(target, drafter, processor(prompt, image), policy=policy, max_new_tokens=most, trace=True)
    tokenizer = processor.tokenizer

    def text(token: int) -> str:
        return "" if token == tokenizer.eos_token_id else tokenizer.decode([token])

    rounds, place = [], 1  # tokens of the text before the round
    for one, accepted in zip(out.stats.trace, out.stats.accepted, strict=True):
        depth, width = one.shape or (None, None)
        # The text may end within the path: what lies behind its stop token is no text.
        path, place = one.path[:accepted], place + accepted + 1
        bonus = text(one.bonus) if place <= len(out.tokens) else ""
        said = [text(token) for token in one.tokens]
        rounds.append(
            {
                "root": text(one.root),
                "nodes": [
                    {"t": (t.strip() or "␣") if t else "(end)", "s": t, "p": p, "d": d, "q": round(q, 3)}
                    for t, p, d, q in zip(said, one.tree.parents, one.tree.depths, one.probs, strict=True)
                ],
                "path": list(path),
                "new": "".join(said[node] for node in path),
                "bonus": bonus,
                "signal": one.signal_alpha,
                "alpha": one.root_alpha,
                "D": depth,
                "W": width,
            }
        )
    return {"prompt": prompt, "picture": image.flatten().tolist(), "tokens": len(out.tokens), "rounds": rounds}


def show(decoded: dict, policy: decoding.Policy, name: str = "stepper") -> HTML:
    """`decoded` as a figure with buttons; `name`: the id of its element, one per page."""
    data = decoded | {"dmax": policy.dmax, "wmax": policy.wmax}
    # "</" would end the script that holds the data.
    text = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    return HTML(TEMPLATE.read_text(encoding="utf-8").replace("ID", name).replace("DATA", text))
