"""Makers of test data, and helpers that several tests share."""
