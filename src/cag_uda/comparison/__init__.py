"""Comparisons: several methods, or variants of one, on one pair of domains with one budget.

`settings` reads which methods and variants there are, `plan` makes a recipe of each, `cells` runs
what is missing, `table` puts together what the runs hold, `pages` writes it, and `questions`
measures what the ablation asks of single networks.
"""
