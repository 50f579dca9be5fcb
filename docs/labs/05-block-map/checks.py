"""Lab 5: the three functions against bytes that are counted one by one, then files that are written at random."""

import os
import random
from itertools import pairwise

from unionfs.lab.checks import Wrong, check
from unionfs.lab.checks import union_of as made_union
from unionfs.union.blockmap import Origin

BLOCK = 4096


def maps(student):
    """Maps of few blocks, the smallest first, with each set of blocks and some watermarks; and the blocks."""
    for count in range(1, 5):
        for have in range(1 << count):
            for watermark in sorted({count * BLOCK, count * BLOCK - 1, count * BLOCK - BLOCK // 2, 1}):
                made = student.module.BlockMap(Origin(0, b"f", count * BLOCK, 0), watermark)
                made.have = have & (1 << -(-watermark // BLOCK)) - 1
                yield made


def ranges(made):
    edges = sorted({0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, made.watermark, made.watermark + 10, 4 * BLOCK})
    return [(start, end) for start in edges for end in edges if start < end]


def is_upper(made, offset):
    return offset >= made.watermark or bool(made.have >> offset // BLOCK & 1)


def described(made):
    blocks = [number for number in range(made.count) if made.have >> number & 1]
    return f"blocks of {BLOCK}, watermark {made.watermark}, in the upper: blocks {blocks or 'none'}"


@check(3)
def who_has_which_bytes(student):
    """runs: in order, without gaps, each as long as it can be, and right."""
    for made in maps(student):
        for start, end in ranges(made):
            found = [tuple(run) for run in made.runs(start, end)]
            changes = [at for at in _edges(made, start, end) if is_upper(made, at) != is_upper(made, at - 1)]
            right = [(a, b, is_upper(made, a)) for a, b in pairwise([start, *changes, end])]
            if found != right:
                raise Wrong(f"{described(made)}\nruns({start}, {end})\nyours      {found}\nshould be  {right}")


def _edges(made, start, end):
    return sorted({at for at in (*range(0, 5 * BLOCK, BLOCK), made.watermark) if start < at < end})


@check(3)
def what_must_be_copied_before_a_write(student):
    """torn: the lower's bytes of blocks that are replaced in part, whole blocks, and no more."""
    for made in maps(student):
        for start, end in ranges(made):
            runs = made.torn(start, end)
            found = {block for run in runs for block in range(run.start // BLOCK, -(-run.end // BLOCK))}
            right, allowed = set(), set()
            for number in range(made.count):
                begin, stop, edge = number * BLOCK, min((number + 1) * BLOCK, made.watermark), (number + 1) * BLOCK
                if is_upper(made, begin) or (start <= begin and end >= stop):
                    continue
                if start < stop and end > begin:
                    right.add(number)
                if start < edge and end > begin:  # behind the watermark, in the block that it cuts
                    allowed.add(number)
            if not right <= found <= allowed:
                raise Wrong(f"{described(made)}\ntorn({start}, {end})\nyours      blocks {sorted(found)}\n"
                            f"should be  blocks {sorted(right)}")  # fmt: skip


@check(2)
def which_blocks_are_there_now(student):
    """add: a block counts when all of it was written, up to the watermark."""
    for made in maps(student):
        for start, end in ranges(made):
            before = made.have
            said = made.add(start, end)
            new = {
                number for number in range(made.count)
                if start <= number * BLOCK and end >= min((number + 1) * BLOCK, made.watermark)
            }  # fmt: skip
            right = before | sum(1 << number for number in new)
            found, made.have = made.have, before
            if found & (1 << made.count) - 1 != right or (right != before and not said):
                raise Wrong(f"{described(made)}\nadd({start}, {end})\nyours      {found:b}, said {said}\n"
                            f"should be  {right:b}, {right != before}")  # fmt: skip


@check(2)
def files_that_are_written_at_random(student):
    """A union copies by block with your map; each read must be what a plain file would give."""
    dice = random.Random(1)
    for turn in range(30):
        size = dice.choice([5000, 20_000, 100_000])
        content = bytearray(dice.randbytes(size))
        with made_union(student.Union, [{}, {"f": "x"}], writable=True) as union:
            (union.place / "1/f").write_bytes(content)
            union.close()
            layers = {"lower": [union.place / "1"], "upper": union.place / "0", "work": union.place / "work"}
            with student.Union(**layers, copyup="block", copyup_complete="never") as mine:
                done = []
                with mine.open("f", os.O_RDWR) as file:
                    for _ in range(dice.randrange(1, 8)):
                        offset, length = dice.randrange(size + 3000), dice.randrange(1, 9000)
                        data = dice.randbytes(length)
                        file.pwrite_all(data, offset)
                        content[len(content) : offset] = bytes(max(0, offset - len(content)))
                        content[offset : offset + length] = data
                        done.append(f"write {length} bytes at {offset}")
                        _same(file.pread(len(content) + 10, 0), content, size, done, turn)


def _same(found, right, size, done, turn):
    if found != right:
        different = (at for at, (a, b) in enumerate(zip(found, right, strict=False)) if a != b)
        at = next(different, min(len(found), len(right)))
        raise Wrong(f"file {turn}, of {size} bytes: " + "; ".join(done) + f"\nthe first wrong byte is at {at}")
