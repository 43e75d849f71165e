"""`clean.steps`: what texts go through, in the order of the job file, before all else.

`spec/` says what a job may write of each step, with the source of its constants; here is one file
for each kind of step, and `cleaner.py`, which runs them.
"""
