"""Simulated lives: a walker in the map of a game, rendered with exact pose and depth."""
