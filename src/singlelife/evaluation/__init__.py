"""Evaluations of frozen models: depth and correspondence."""
