"""Uses of a finished network: predictions of files and videos, pseudo-labels, export."""
