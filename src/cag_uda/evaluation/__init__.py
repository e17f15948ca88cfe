"""Quality of a segmenter: confusion matrices, scores, protocols, intervals, pseudo-label scores.

The only package that may open the labels of a target. Names are imported from their modules.
"""
