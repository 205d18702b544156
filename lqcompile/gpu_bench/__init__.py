"""Timing an artifact on an NVIDIA GPU against what a user of that GPU would run instead."""
