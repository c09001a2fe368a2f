"""Sentences from templates, with the words of their entities: the training data of the tiny model.

Names are put together of syllables, so that most of those a model is judged by are new to it: it
has to read the words around them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

LABELS = ("person", "city", "company", "product", "date", "amount")

_FIRST = "Anna Maria Peter John Emma Paul Laura David Sara Tom Nina Karl Rosa Max Julia".split()
_SYLLABLES = (
    "ba ber co dan el fer gol hart in jo kan lin mor nes ol per ran sel tor vin wes".split()
)
_ENDS = {"city": ("burg", "ton", "ville", "ford"), "company": ("Inc", "Ltd", "Group", "AG")}
_MONTHS = "January March April June July October November".split()
_KINDS = "camera phone lamp radio printer watch kettle".split()
_TEMPLATES = (
    "{person} moved to {city} in {date}.",
    "{company} sold its {product} for {amount}.",
    "On {date}, {person} joined {company} in {city}.",
    "The {product} was made by {company} and cost {amount}.",
    "{person} and {person} met in {city}.",
    "Nobody in {city} wanted to buy the {product}.",
    "I paid {amount} for it, and it broke within a week.",
    "{person}, who works for {company}, was born on {date}.",
    "In {city} the {product} from {company} was never sold.",
    "It was a good day, and nothing happened.",
    "{company} will open in {city} on {date}, said {person}.",
    "They gave {person} {amount} and a {product}.",
)


@dataclass(frozen=True)
class Sentence:
    """Text, and its entities as first character, character behind the last, label."""

    text: str
    entities: tuple[tuple[int, int, str], ...]


def sentence(rng: random.Random) -> Sentence:
    """One sentence, of one template or two."""
    template = rng.choice(_TEMPLATES)
    if rng.random() < 0.1:
        template += " " + rng.choice(_TEMPLATES)
    text, entities = "", []
    while template:
        before, _, rest = template.partition("{")
        text += before
        label, closed, template = rest.partition("}")
        if closed:
            name = _name(rng, label)
            entities.append((len(text), len(text) + len(name), label))
            text += name
    return Sentence(text, tuple(entities))


def _name(rng: random.Random, label: str) -> str:
    if label == "amount":
        return f"{rng.choice('$€')}{rng.randint(2, 900)}"
    if label == "date":
        date = f"{rng.choice(_MONTHS)} {rng.randint(1990, 2026)}"
        return date if rng.random() < 0.5 else f"{rng.randint(1, 28)} {date}"
    made = "".join(rng.choices(_SYLLABLES, k=2)).capitalize()
    if label == "person":
        first = rng.choice(_FIRST)
        return f"{first} {made}" if rng.random() < 0.8 else first
    if label == "product":
        return f"{made} {rng.choice(_KINDS)}"
    end = rng.choice(_ENDS[label])
    return made + end if label == "city" else f"{made} {end}"
