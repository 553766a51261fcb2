"""Blocks with parameters that two or more papers use unchanged."""
