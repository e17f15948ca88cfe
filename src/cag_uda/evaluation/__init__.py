"""How good a segmenter is: confusion matrices, scores, protocols, intervals, inference.

The only package that may open the labels of a target. Names are imported from their modules.
"""
