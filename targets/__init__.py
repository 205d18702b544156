"""What the hardware is: one file per target, each with `TARGET`."""
