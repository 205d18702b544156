"""Which runs there are, in the order in which they are worth most: a network, a setting, a method, a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
"""Highest learning rates that every method is tried with at every setting: seed 0 of the first network chooses."""

CLAIMED = ("W2A2", "W1A2", "W3A3")
"""Settings that claims are made of; these get seeds first."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The narrower form of a network that a CPU can train.

    Args:
        width: factor on the channels.
        image_size: rows and columns; 14 for the images of 28 averaged over 2x2 pixels.
        twin_epochs: passes of the float twin, from fresh weights.
    """

    width: float
    image_size: int
    twin_epochs: int


FORMS = {
    "vgg_small": Form(width=0.125, image_size=14, twin_epochs=4),
    "resnet20": Form(width=0.5, image_size=14, twin_epochs=4),
}

EPOCHS, LONG_EPOCHS = 1, 6
"""Passes of a run, from the weights of the twin; the second shows on the first network what more training is worth."""

LONG = ((FLOAT, FLOAT), ("W2A2", "lq"), ("W3A3", "lq"))
"""Settings and methods of the longer runs: those that are held against float."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Args:
        network: key of `FORMS`.
        setting: key of `SETTINGS`.
        method: of `METHODS`, or "float" for the float network trained on.
        seed: of weights, order and augmentation; runs of a seed share their float twin.
        lr: highest learning rate.
        epochs: `EPOCHS` or `LONG_EPOCHS`.
    """

    network: str
    setting: str
    method: str
    seed: int
    lr: float
    epochs: int = EPOCHS

    @property
    def bits(self) -> tuple[int, int]:
        """Of weights and activations."""
        return SETTINGS[self.setting]


Choice = Callable[[str, str], float | None]
"""From a setting and a method to the learning rate that was chosen for them, None while it is not."""


def matrix(networks: Sequence[str], seeds: int, chosen: Choice) -> list[Case]:
    """All runs that are known by now; stopped anywhere, what is done makes a table.

    First everything on the first network with one seed and both rates. The better rates then serve all other runs:
    further seeds of the claimed settings, the longer runs and the other networks seed by seed, and at last the other
    settings.

    Args:
        networks: keys of `FORMS`.
        seeds: of each network.
        chosen: the rate for a setting and a method.
    """
    first, *rest = networks
    others = [setting for setting in SETTINGS if setting not in (FLOAT, *CLAIMED)]
    found = [
        Case(network=first, setting=setting, method=method, seed=0, lr=lr)
        for setting, method in _pairs((*CLAIMED, *others))
        for lr in RATES
    ]
    claimed, other = _pairs(CLAIMED), _pairs(others)
    order = [(first, seed, EPOCHS, claimed) for seed in range(1, seeds)]
    for seed in range(seeds):
        order.append((first, seed, LONG_EPOCHS, LONG))
        order += [(network, seed, EPOCHS, claimed) for network in rest]
    order += [(network, seed, EPOCHS, other) for seed in range(seeds) for network in networks]
    for network, seed, epochs, pairs in order:
        for setting, method in pairs:
            lr = chosen(setting, method)
            if lr is not None:
                found.append(Case(network=network, setting=setting, method=method, seed=seed, lr=lr, epochs=epochs))
    return list(dict.fromkeys(found))


def _pairs(settings: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Float, and every setting with every method."""
    return (FLOAT, FLOAT), *((setting, method) for setting in settings for method in METHODS)
