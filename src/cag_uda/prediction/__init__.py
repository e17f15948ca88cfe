"""What a finished network is used for: predictions of files and videos, pseudo-labels, export."""
