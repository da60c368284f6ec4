"""Records, the silos that hold them, and how they are read, held out and partitioned: see `privet.data.load.load`."""

from privet.data.records import DataReport, Dataset, Record, Silo

__all__ = ["DataReport", "Dataset", "Record", "Silo"]
