"""Many tasks on many models: suites as data, results that are kept, and the comparison."""
