"""Benchmarks: each prints a table for the device at hand, and asserts nothing."""
