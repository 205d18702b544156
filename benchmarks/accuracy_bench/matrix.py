"""Which runs there are, in the order in which they are worth most: a network, a setting, a method, a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

FLOAT = "float"

METHODS = ("lq", "lsq", "dorefa-pact")
"""As `lqcompile.nn.quantize` takes them."""

SETTINGS: dict[str, tuple[int, int]] = {
    FLOAT: (32, 32),
    "W1/32": (1, 32),
    "W2/32": (2, 32),
    "W3/32": (3, 32),
    "W1A2": (1, 2),
    "W2A2": (2, 2),
    "W2A3": (2, 3),
    "W3A3": (3, 3),
}
"""Bits of weights and activations; 32 is float."""

RATES = (0.01, 0.03)
"""Highest learning rates that every method is tried with at every setting: seed 0 of each network chooses."""

CLAIMED = ("W2A2", "W1A2", "W3A3")
"""Settings that claims are made of; these get seeds first."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The narrower form of a network, and the training, that a CPU has time for.

    Args:
        width: factor on the channels.
        image_size: rows and columns; 14 for the images of 28 averaged over 2x2 pixels.
        twin_epochs: passes of the float twin, from fresh weights.
        epochs: passes of every run, from the weights of the twin.
    """

    width: float
    image_size: int
    twin_epochs: int
    epochs: int


FORMS = {
    "vgg_small": Form(width=0.125, image_size=14, twin_epochs=4, epochs=1),
    "resnet20": Form(width=0.5, image_size=14, twin_epochs=4, epochs=1),
}

FIRST = "vgg_small"
"""The network that gets all settings first, and larger forms."""

LARGER = (replace(FORMS[FIRST], width=0.25), replace(FORMS[FIRST], epochs=6))
"""Forms of the first network that show whether width or training is what the distance to float comes from."""

HELD_TO_FLOAT = ((FLOAT, FLOAT), ("W2A2", "lq"), ("W3A3", "lq"))
"""Settings and methods that the larger forms are run with."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Args:
        network: key of `FORMS`.
        form: of `FORMS` or `LARGER`.
        setting: key of `SETTINGS`.
        method: of `METHODS`, or "float" for the float network trained on.
        seed: of weights, order and augmentation; runs of a seed share their float twin.
        lr: highest learning rate.
    """

    network: str
    form: Form
    setting: str
    method: str
    seed: int
    lr: float

    @property
    def bits(self) -> tuple[int, int]:
        """Of weights and activations."""
        return SETTINGS[self.setting]


Choice = Callable[[str, str, str], float | None]
"""From a network, a setting and a method to the learning rate that was chosen for them, None while it is not."""


def matrix(networks: Sequence[str], seeds: int, chosen: Choice) -> list[Case]:
    """All runs that are known by now; stopped anywhere, what is done makes a table.

    First everything on the first network with one seed and both rates. The better rates then serve all its other runs:
    further seeds of the claimed settings and the larger forms. The other networks choose for themselves in the same
    way, claimed settings first; at last come the further seeds of the other settings.

    Args:
        networks: keys of `FORMS`.
        seeds: of each network.
        chosen: the rate for a network, a setting and a method.
    """
    claimed, other = _pairs(CLAIMED), _pairs([name for name in SETTINGS if name not in (FLOAT, *CLAIMED)])
    found: list[Case] = []

    def add(network: str, form: Form, seed: int, pairs: Sequence[tuple[str, str]], rates: Sequence[float] = ()) -> None:
        for setting, method in pairs if network in networks else ():
            best = chosen(network, setting, method)
            found.extend(
                Case(network=network, form=form, setting=setting, method=method, seed=seed, lr=lr)
                for lr in rates or (() if best is None else (best,))
            )

    others = {network: form for network, form in FORMS.items() if network != FIRST}
    add(FIRST, FORMS[FIRST], 0, (*claimed, *other), RATES)
    for seed in range(1, seeds):
        add(FIRST, FORMS[FIRST], seed, claimed)
    for network, form in others.items():
        add(network, form, 0, claimed, RATES)
    for seed in range(seeds):
        for form in LARGER:
            add(FIRST, form, seed, HELD_TO_FLOAT)
        for network, form in others.items():
            add(network, form, seed, claimed)
    for network, form in others.items():
        add(network, form, 0, other, RATES)
    for seed in range(1, seeds):
        for network, form in FORMS.items():
            add(network, form, seed, other)
    return list(dict.fromkeys(found))


def _pairs(settings: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Float, and every setting with every method."""
    return (FLOAT, FLOAT), *((setting, method) for setting in settings for method in METHODS)
