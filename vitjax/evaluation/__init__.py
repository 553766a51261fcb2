"""Scores of what a model has learnt: of its features (few-shot, neighbours, linear probe) and of its probabilities."""
