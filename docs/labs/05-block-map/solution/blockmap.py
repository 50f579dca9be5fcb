"""Lab 5, a solution: simple, block by block."""


def runs(self, start, end):
    while start < end:
        if start >= self.watermark:
            yield Run(start, end, True)
            return
        block = start >> self.shift
        in_upper = bool(self.have >> block & 1)
        stop = min((block + 1) << self.shift, end, self.watermark)
        while stop < min(end, self.watermark) and bool(self.have >> (stop >> self.shift) & 1) == in_upper:
            stop = min(stop + self.block_size, end, self.watermark)
        if in_upper and stop == self.watermark:
            stop = end
        yield Run(start, stop, in_upper)
        start = stop


def torn(self, start, end):
    if end <= start:
        return []
    first, last = start >> self.shift, (end - 1) >> self.shift
    found = []
    for block in sorted({first, last}):
        begin, stop = block << self.shift, min((block + 1) << self.shift, self.watermark)
        if begin < stop and not self.have >> block & 1 and (start > begin or end < stop):
            found.append(Run(begin, stop, False))
    return found


def add(self, start, end):
    before = self.have
    block = -(-start >> self.shift)
    while block << self.shift < min(end, self.watermark):
        if min((block + 1) << self.shift, self.watermark) <= end:
            self.have |= 1 << block
        block += 1
    return self.have != before
