"""Searching for the fastest kernels by measuring them, with TVM's MetaSchedule."""
