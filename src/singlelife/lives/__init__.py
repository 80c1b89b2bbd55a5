"""Lives: from a recording to a dataset of frames, and to the pairs that training draws from it.

`registry` lists the lives, `resolve` turns what a user names into a `prepared` life, and `prepare` makes that once
from what `video` reads or `simulation` renders. `scene` finds where frames were taken from, `pairs` chooses which two
make a pair, and `hub` shares the life.
"""
