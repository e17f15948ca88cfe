"""Images and labels as batches: augmentation, sampling by step, sweeps over a whole domain."""
