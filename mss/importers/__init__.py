"""Weights of other systems, brought into separators of this package; each file one system."""
