"""Pages for readers: one HTML file each, which needs nothing from elsewhere, and is read by day, by night and at hand.

`report` is the page of a run; `markup` and `drawn` are what it shares with the page of a suite (`fedmerge.bench.page`).
"""
