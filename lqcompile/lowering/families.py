"""What kernel families have in common, whatever the target."""

BYTE_FAMILIES = ("dot8", "i8mma")
"""Families that multiply bytes, and so form a single integer sum."""
