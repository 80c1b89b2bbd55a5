"""Where the models that are compared come from, and how each tells where it looks."""
