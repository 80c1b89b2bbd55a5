"""Pictures of alignment results, and a style for those of other rooms."""
