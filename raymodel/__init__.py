"""raymodel: one job file takes raw data to a served model on a Ray cluster."""

__version__ = "0.1.0"
