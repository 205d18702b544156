"""Networks of the paper from torch to a verified artifact: network x bits x target, on small images.

Every run takes `SAMPLED`, the deepest with few blocks; ``pytest -m exhaustive tests/test_network_matrix.py`` takes all
networks with all bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lqcompile import cpu, models  # noqa: E402
from lqcompile.build import BuildReport, build  # noqa: E402
from lqcompile.graph.check import load_checked  # noqa: E402
from lqcompile.graph.fuse import make_plan  # noqa: E402
from lqcompile.lowering.lower import lower  # noqa: E402
from lqcompile.models import googlenet, resnet  # noqa: E402
from lqcompile.models.branches import quantize_branches  # noqa: E402
from lqcompile.models.densenet import DenseNet  # noqa: E402
from lqcompile.nn import calibrate, export, quantize  # noqa: E402
from lqcompile.runtime import load  # noqa: E402
from lqcompile.target import find  # noqa: E402
from lqcompile.verify import verify  # noqa: E402

X86, ARM = "x86-avx2", "arm-neon"

BITS = ((1, 2), (2, 2), (3, 3))

SIZES = {"alexnet": 64, "resnet18": 40, "resnet20": 12, "vgg_small": 16}
"""Small images, some of them odd on the way; 32 for the others."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A network with its options for `models.create`."""

    network: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.network, *(name for name, value in self.options.items() if value)])


FORMS = [
    *(Form(network=name) for name in models.names()),
    Form(network="resnet50", options={"float_shortcut": True}),
    Form(network="googlenet_variant", options={"branch_quantizers": True}),
    Form(network="densenet121", options={"branch_quantizers": True}),
]

SAMPLED = {
    "alexnet": (2, 2),
    "googlenet_variant-branch_quantizers": (1, 2),
    "resnet18": (1, 2),
    "resnet20": (3, 3),
    "resnet50-float_shortcut": (1, 1),
    "vgg_small": (2, 2),
    "vgg_variant": (3, 3),
}
"""(weight bits, activation bits) of the forms that every run takes."""

DEEP = ("googlenet_variant", "resnet50")
"""Networks that an ordinary run takes with few blocks, see `shallow`."""

CASES = [
    *(
        pytest.param(form, SAMPLED[str(form)], form.network in DEEP, id=f"{form}-{SAMPLED[str(form)]}")
        for form in FORMS
        if str(form) in SAMPLED
    ),
    *(
        pytest.param(form, bits, False, id=f"{form}-{bits}-whole", marks=pytest.mark.exhaustive)
        for form in FORMS
        for bits in (*BITS, *(bits for name, bits in SAMPLED.items() if name == str(form) and bits not in BITS))
        if form.network in DEEP or SAMPLED.get(str(form)) != bits
    ),
]

runs = pytest.mark.skipif(
    cpu.machine() != "x86_64" or "avx2" not in cpu.cpu_features(), reason=f"this CPU does not run {X86}"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More would wait for one another where other tests run beside this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some blocks of each kind: first and later ones, with and without pooling, with and without a projection."""

    def few_bottlenecks(*, classes: int, in_channels: int, image_size: int, width: float) -> resnet.ResNet:
        return resnet._imagenet((1, 2, 1, 1), classes, in_channels, width, bottleneck=True)

    monkeypatch.setattr(googlenet, "BLOCKS", (*googlenet.BLOCKS[:2], *googlenet.BLOCKS[-2:]))
    monkeypatch.setitem(models.NETWORKS, "resnet50", replace(models.NETWORKS["resnet50"], make=few_bottlenecks))


def exported(folder: Path, model: Any, size: int) -> Path:
    """The file of a network with random weights, calibrated on random images."""
    images = torch.randn(4, 3, size, size)
    calibrate(model, [images], max_passes=1)
    export(model.eval(), images[:1], folder / "model.onnx")
    return folder / "model.onnx"


def created(form: Form, bits: tuple[int, int | None], seed: int, **options: Any) -> tuple[Any, int]:
    """A narrow network, and its image size."""
    torch.manual_seed(seed)
    size = SIZES.get(form.network, 32)
    options |= form.options
    weight_bits, act_bits = bits
    model = models.create(
        form.network, image_size=size, classes=7, width=0.25, weight_bits=weight_bits, act_bits=act_bits, **options
    )
    return model, size


def check_verified(path: Path, seed: int) -> BuildReport:
    """Build for the target that this machine runs: it equals the references. The other has the same layers."""
    report = build(path, target=X86, output=path.with_suffix(".tar"))
    compiled = load(path.with_suffix(".tar"))
    ((name, shape),) = ((port.name, port.shape) for port in compiled.inputs)
    samples = np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)
    result = verify(path, compiled, {name: samples}).to_json()
    assert result["passed"]
    forced, free = result["forced"], result["free"]
    assert (forced["integer_mismatches"], forced["mismatches"], free["output_mismatches"]) == (0, 0, 0)
    exact = [layer for layer in report.layers if layer["act_bits"] < 32]
    assert not exact or forced["integers"] > 0
    for_arm = lower(make_plan(load_checked(path)), find(ARM)).choices
    assert list(for_arm) == [layer["name"] for layer in report.layers]
    assert {name for name, choice in for_arm.items() if choice.family in ("float", "packed")} == {
        layer["name"] for layer in report.layers if layer["kernel"] in ("float", "packed")
    }
    return report


@runs
@pytest.mark.parametrize(("form", "bits", "few_blocks"), CASES)
def test_network_from_torch_to_a_verified_artifact(
    tmp_path: Path, form: Form, bits: tuple[int, int], few_blocks: bool, seed: int, request: pytest.FixtureRequest
) -> None:
    if few_blocks:
        request.getfixturevalue("shallow")
    report = check_verified(exported(tmp_path, *created(form, bits, seed)), seed)
    floats = [layer for layer in report.layers if layer["act_bits"] == 32]
    if form.network == "densenet121" and form.options:
        # What leaves the stem and the transitions is in float: a part of every layer that reads a concatenation.
        assert len(floats) == 58 + 3
        assert all(layer["kernel"] == "packed" and "weight-only" in layer["reason"] for layer in floats)
    else:
        assert len(floats) == bool(form.options.get("float_shortcut"))
    assert [layer["weight_bits"] for layer in report.layers[:: len(report.layers) - 1]] == [8, 8]


@runs
def test_dense_blocks_read_floats_and_codes_of_every_branch(tmp_path: Path, seed: int) -> None:
    """DenseNet-121 in small: few layers, with all that makes it hard."""
    torch.manual_seed(seed)
    model = quantize(DenseNet((2, 1), classes=5, in_channels=3, width=0.3), 2, 2, edge_bits=8)
    quantize_branches(model, model.readers())
    report = check_verified(exported(tmp_path, model, 32), seed)
    reads = [[layer["act_bits"] for layer in report.layers[start:end]] for start, end in ((1, 2), (3, 5), (6, 9))]
    assert reads == [[32], [32, 2], [32, 2, 2]]


@runs
def test_weight_only_network(tmp_path: Path, seed: int) -> None:
    report = check_verified(exported(tmp_path, *created(Form(network="vgg_small"), (2, None), seed)), seed)
    assert [layer["act_bits"] for layer in report.layers] == [8, *[32] * 5, 8]
    assert all(layer["weight_bits"] == 2 for layer in report.layers[1:-1])
