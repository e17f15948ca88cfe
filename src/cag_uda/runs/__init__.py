"""Runs: a recipe through all its stages, and the folder that holds what came of it."""
