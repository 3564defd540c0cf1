"""What the counting kernels and their callers agree on."""

#: A kernel works on so many values at a time.
BLOCK = 4096
#: Room for its bins: packed sixteen at a time, behind those that there are already.
INDICES = BLOCK + 16
#: Bins of one sign on the mergeable grid.
SIDE = 8192
ZERO_BINS = 64
#: Counts of a region of the mergeable grid: the positive side, the negative side, exact zeros.
COLUMNS = 2 * SIDE + ZERO_BINS
TENSORRT_BINS = 2048

#: What a kernel returns: all is counted; a tensor that was all zeros so far needs a range first; else a bad region.
OK = -1
NEEDS_RANGE = -2
#: Extremes of a region that has seen nothing.
NO_EXTREMES = (-(1 << 31), 0, (1 << 32) - 1)
