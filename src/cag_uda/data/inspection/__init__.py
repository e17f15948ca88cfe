"""Look through a data set before training: its faults, its layout, its labels."""
