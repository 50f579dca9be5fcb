"""Lab 2: what `ls` shows. What this file defines takes the place of the same in unionfs/union/listing.py."""


def merge(dialect, directories):
    """A dict: name -> (directory of the topmost layer that has it, type).

    `directories` are the real directories of one merged directory, topmost first; `dialect.read(directory)` gives a
    dict of the names that it shows, with their types, and the set of those that it deletes.
    """
    raise NotImplementedError("write merge")


def is_empty(dialect, directories):
    """Does the merged directory show no name? rmdir(2) asks, so it should not read more than it must."""
    raise NotImplementedError("write is_empty")
