"""Federated single-life learning: a Flower app."""
