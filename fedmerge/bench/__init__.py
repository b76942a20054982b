"""Benchmark suites: campaigns over methods, target sizes, seeds and chains, as data, and what they say.

A suite is a TOML file (`suites/`); its runs are ordinary campaigns, each with its own `results.json`. What is computed
from them is here; `fedmerge bench` runs them.
"""
