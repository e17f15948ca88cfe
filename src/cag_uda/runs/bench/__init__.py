"""Costs of a method's step on this device, as ratios measured within one run (`cag-uda bench`).

Costs of single operations, and comparisons with other software (the released code's loops, kornia,
cityscapesscripts), are scripts in the repository's `benchmarks/`.
"""
