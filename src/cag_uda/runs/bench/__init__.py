"""Costs of the engine on this device, as ratios measured within one run (`cag-uda bench`).

Comparisons with other software (the released code's loops, kornia, cityscapesscripts) are scripts
in the repository's `benchmarks/`.
"""
