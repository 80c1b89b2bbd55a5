"""Pretraining of one CroCo model on one life.

`arguments.parse_arguments` reads the command line (without importing torch), `pretrain.pretrain` is the whole run from
top to bottom, and `loop.Trainer` makes its steps.
"""
