"""Lab 1: one name, searched top-down. What this file defines takes the place of the same in unionfs/union/lookup.py."""


def find(stack, parents, name):
    """Search `name` in the directories `parents`, topmost first. None: there is no such name.

    `stack.dialect.find(parent, name)` says what one layer has: None, WHITEOUT, or an os.stat_result.
    The answer is `Found(where, name, stat, directories)`: for a file the directory that has it, its name, its stat and
    []; for a directory the same of the topmost one, and the list of all that are merged, each `parent.child(name)`.
    """
    raise NotImplementedError("write find")
