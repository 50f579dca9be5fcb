"""Lab 2, a solution."""


def merge(dialect, directories):
    merged = {}
    hidden = set()
    for directory in directories:
        visible, deleted = dialect.read(directory)
        for name, kind in visible.items():
            if name not in merged and name not in hidden:
                merged[name] = (directory, kind)
        hidden |= deleted
    return merged


def is_empty(dialect, directories):
    hidden = set()
    for directory in directories:
        visible, deleted = dialect.read(directory)
        if visible.keys() - hidden:
            return False
        hidden |= deleted
    return True
