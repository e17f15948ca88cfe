"""Label spaces, domains, reading, loading, and a look at data before training."""
