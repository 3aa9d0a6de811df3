"""Runs the checks over an evidence source: the pytest plugin, its fixtures, one run from start to
record.
"""
