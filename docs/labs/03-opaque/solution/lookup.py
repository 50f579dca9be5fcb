"""Lab 3, a solution."""


def find(stack, parents, name):
    top = None
    bottom = len(stack.layers) - 1
    for parent in parents:
        found = stack.dialect.find(parent, name)
        if found is None:
            continue
        if found is WHITEOUT:
            return top
        if not stat.S_ISDIR(found.st_mode):
            return top or Found(parent, name, found, [])
        directory = parent.child(name)
        if top is None:
            top = Found(parent, name, found, [])
        top.directories.append(directory)
        if parent.layer.index < bottom and stack.dialect.is_opaque(directory):
            return top
    return top
