"""Benchmarks that a user can run on a model of their own: every figure is a ratio within one run."""
