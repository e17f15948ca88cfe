"""Label spaces and domain files: which images and labels a data set has, and what they mean."""
