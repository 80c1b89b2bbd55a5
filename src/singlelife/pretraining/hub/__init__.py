"""Models on the Hub: pushing a run, while it goes on too, and going on with one that is there."""
