"""Quantize a network of timm, compile it, and compare every code of the artifact with the ONNX file.

    python examples/quantize_timm.py mobilenetv2_100 --pretrained --images images.npy --out models/

Needs the extra `[timm]`. Bases come from calibration alone: for the accuracy of the float network, train on afterwards
as docs/tutorial.md does. Depthwise layers stay in float. `--pretrained` downloads timm's weights; without it they are
random, which is enough to see what a network takes and whether it compiles. Images are as the network reads them,
normalized: float32[N, 3, rows, columns]; without any, random ones are taken.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import timm
import torch

import lqcompile
from lqcompile.errors import LQCompileError
from lqcompile.verify import verify


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a name of timm.list_models()")
    parser.add_argument("--pretrained", action="store_true", help="timm's weights, downloaded; otherwise random ones")
    parser.add_argument("--images", type=Path, help=".npy file to calibrate and compare with")
    parser.add_argument("--size", type=int, default=224, help="rows and columns of random images")
    parser.add_argument("--weight-bits", type=int, default=2)
    parser.add_argument("--act-bits", type=int, default=2)
    parser.add_argument("--target", default="x86")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the ONNX file and the artifact")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Quantize, export, build and compare."""
    args = parse(argv)
    images = torch.randn(8, 3, args.size, args.size) if args.images is None else torch.from_numpy(np.load(args.images))
    model = timm.create_model(args.model, pretrained=args.pretrained)
    if not args.pretrained:
        model.train()(images)  # random weights: the batch normalizations have seen nothing yet
    skip = ("first", "last", "depthwise")
    lqcompile.quantize(model, args.weight_bits, args.act_bits, skip=skip, edge_bits=8, basis="int8")
    lqcompile.calibrate(model, [images])
    path, artifact = args.out / f"{args.model}.onnx", args.out / f"{args.model}.tar"
    lqcompile.export(model.eval(), images[:1], path)
    report = lqcompile.build(path, target=args.target, output=artifact)
    bits = Counter("float" if layer["weight_bits"] == 32 else f"{layer['weight_bits']} bits" for layer in report.layers)
    print(
        f"{args.model}: {', '.join(f'{count} layers with weights of {kind}' for kind, count in sorted(bits.items()))}"
    )

    compiled = lqcompile.load(artifact)
    forced = verify(path, compiled, {compiled.inputs[0].name: images[:2].numpy()}).to_json()["forced"]
    differ = forced["mismatches"] + forced["integer_mismatches"]
    print(f"{differ} of {forced['codes'] + forced['integers']:,} codes and integers differ")
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    try:
        main()
    except LQCompileError as error:
        raise SystemExit(f"error: {error}") from None
