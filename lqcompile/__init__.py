"""Compiler for networks of learned low-bit codes."""
