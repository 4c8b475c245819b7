"""Listening tests: building one, serving it, and what its results say."""
