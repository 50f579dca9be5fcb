"""Lab 4: predict, then copy a file up."""

# How many bytes of data does the first write of 1 byte into the middle of a file of 1 MiB copy?
# Predict it before you measure: copyup=whole, and copyup=block with blocks of 4096 bytes.
PREDICTION = {"whole": None, "block": None}


def copy_up(lower, name, work, upper):
    """Copy the object `name` from the directory `lower` into the directory `upper`; all three are descriptors.

    It is built in the directory `work`, on the same file system as `upper`, and appears in `upper` at once and whole:
    who looks meanwhile, or after a crash at any moment, finds nothing there or all of it. A regular file or a symbolic
    link; content, holes, mode, owner, modification time to the nanosecond and extended attributes stay.
    """
    raise NotImplementedError("write copy_up")
