"""Lives: which there are, from their recording to a dataset of frames, and the pairs that training draws from it.

`registry` names them, `resolve` leads from what a user names to a `prepared` life, and `prepare` makes that once, of
what `video` reads or `simulation` renders. `scene` says where its frames were taken from, `pairs` which two of them
make a pair, and `hub` shares it.
"""
