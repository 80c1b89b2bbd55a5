"""Pretraining of one CroCo model on one life: arguments, the loop, checkpoints, pictures.

`arguments.parse_arguments` reads the command line (without importing torch) and `trainer.pretrain` runs it.
"""
