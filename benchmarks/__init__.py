"""Measurements side by side: ``python -m benchmarks``; ``--quick`` only sees that they run."""
