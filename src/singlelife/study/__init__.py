"""A study: many trainings, scores and evaluations as one file of data, made in order and never twice."""
