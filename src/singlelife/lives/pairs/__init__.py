"""Which two frames make a pair, and batches of such pairs."""
