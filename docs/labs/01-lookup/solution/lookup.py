"""Lab 1, a solution."""


def find(stack, parents, name):
    top = None
    for parent in parents:
        found = stack.dialect.find(parent, name)
        if found is None:
            continue
        if found is WHITEOUT:
            return top
        if not stat.S_ISDIR(found.st_mode):
            return top or Found(parent, name, found, [])
        if top is None:
            top = Found(parent, name, found, [])
        top.directories.append(parent.child(name))
    return top
