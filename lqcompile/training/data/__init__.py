"""Data sets for training: image sets that users have on disk, without torchvision."""

from lqcompile.training.data.load import load_data
from lqcompile.training.data.source import Arrays, Data, Normalization, Samples, Source

__all__ = ["Arrays", "Data", "Normalization", "Samples", "Source", "load_data"]
