"""Files on disk as arrays: found by patterns, decoded, read ahead, kept in a cache."""
