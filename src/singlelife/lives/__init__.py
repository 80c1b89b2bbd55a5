"""Lives: which there are, from their recording to a dataset of frames, and the pairs that training draws from it.

`registry` names them, `prepare` turns video or a simulation into a `prepared` life once, `pairing` says which two
frames make a pair, and `pair_dataset` reads, crops and masks a batch of pairs.
"""
