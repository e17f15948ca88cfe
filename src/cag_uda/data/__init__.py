"""Label spaces, domains, reading, augmentation, loading, and rendered scenes."""
