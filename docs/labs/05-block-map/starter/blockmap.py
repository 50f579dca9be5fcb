"""Lab 5: the block map. These functions become methods of BlockMap in unionfs/union/blockmap.py.

`self.shift` is the logarithm of the block size, `self.have` the blocks that the upper has, as bits of an integer, the
first block lowest; `self.watermark` is in bytes: what lies behind it is the upper's.
"""


def runs(self, start, end):
    """Yield Run(start, end, in_upper): who has the bytes from `start` to `end`, in order and without gaps."""
    raise NotImplementedError("write runs")


def torn(self, start, end):
    """A list of runs of the lower file that must be copied before the bytes from `start` to `end` are replaced: those
    of blocks that would be replaced in part, whole. Empty, where only whole blocks are replaced."""
    raise NotImplementedError("write torn")


def add(self, start, end):
    """The upper has the bytes from `start` to `end` now: note the blocks that lie wholly in that. True when there are
    new ones."""
    raise NotImplementedError("write add")
