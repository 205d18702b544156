"""What tuning found: which kernel is fastest for which contraction on which machine."""
