// Counting kernels of the GPU observer: what app/observers/kernels.py does on a CPU, for all tensors of a pass at once.
//
// A launch works on items: (region, number) stands for the values [number * ITEM, (number + 1) * ITEM) of a region, as
// many of them as the pass has. All kernels take any block size, need 32 KB of shared memory at most and nothing newer
// than compute capability 5.0. Reciprocals and denormals are IEEE's: compile without fast math.
//
// Magnitudes are compared as integers: for floats that are not negative the order of the bits is that of the values,
// and bits from 0x7f800000 on are NaN or infinity.

typedef unsigned long long u64;

const unsigned SIDE_BINS = 8192;
const unsigned SEARCH_BINS = 2048;
const unsigned NONFINITE = 0x7f800000u;
const unsigned SIGN = 0x80000000u;
const int MIN_EXPONENT = -126;
const int UNSET = -127;  // exponent of a side that has counted nothing, so that nothing has to be folded

// Values of a tensor, clamped to [low, high]: `size` of them belong to the pass's `images` images.
struct Region {
    const float* values;
    u64 size;
    float low, high;
    unsigned images, unused;
};

struct Item {
    unsigned region, number;
};

// Of all bits of a region: the largest as signed, the largest as unsigned, the smallest as unsigned number.
struct Extremes {
    int largest;
    unsigned highest, lowest;
};

struct Nonfinite {
    unsigned count, first_image;
};

struct Span {
    Region region;
    u64 first;
    unsigned count;
};

static __device__ Span span_of(const Item* items, const Region* regions) {
    const Item item = items[blockIdx.x];
    const Region region = regions[item.region];
    const u64 first = (u64)item.number * ITEM;
    const u64 left = region.size > first ? region.size - first : 0;
    return {region, first, left < ITEM ? (unsigned)left : ITEM};
}

// Calls use(value, its place in the region) for each value of the span, four loads of 16 bytes in flight.
template <typename Use>
static __device__ void for_each(const Span& span, Use use) {
    const float4* quads = reinterpret_cast<const float4*>(span.region.values + span.first);
    const unsigned whole = span.count / 4, step = blockDim.x;
    for (unsigned i = threadIdx.x; i < whole; i += 4 * step) {
        float4 loaded[4];
#pragma unroll
        for (unsigned k = 0; k < 4; ++k)
            if (i + k * step < whole) loaded[k] = __ldg(quads + i + k * step);
#pragma unroll
        for (unsigned k = 0; k < 4; ++k) {
            if (i + k * step >= whole) continue;
            const u64 place = span.first + 4 * (i + k * step);
            use(loaded[k].x, place);
            use(loaded[k].y, place + 1);
            use(loaded[k].z, place + 2);
            use(loaded[k].w, place + 3);
        }
    }
    for (unsigned i = 4 * whole + threadIdx.x; i < span.count; i += step)
        use(__ldg(span.region.values + span.first + i), span.first + i);
}

static __device__ float clamped(float value, const Region& region) {
    return fminf(fmaxf(value, region.low), region.high);
}

static __device__ unsigned magnitude_of(const Extremes& seen) {
    const unsigned positive = seen.largest > 0 ? (unsigned)seen.largest : 0;
    const unsigned negative = seen.highest > SIGN ? seen.highest - SIGN : 0;
    return positive > negative ? positive : negative;
}

// Adds the bins that a range of 2^shift bins will be to the first of them, in place; all threads of the block call it.
static __device__ void fold(u64* counts, unsigned bins, unsigned shift) {
    const unsigned kept = ((bins - 1) >> shift) + 1;
    // Sums of a tile are written when all of it is read; the next tile reads nothing that an earlier one wrote.
    for (unsigned first = 0; first < kept; first += blockDim.x) {
        const unsigned k = first + threadIdx.x;
        u64 sum = 0;
        if (k < kept)
            for (unsigned j = k << shift; j < bins && j < (k + 1) << shift; ++j) sum += counts[j];
        __syncthreads();
        if (k < kept) counts[k] = sum;
    }
    __syncthreads();
    for (unsigned k = kept + threadIdx.x; k < bins; k += blockDim.x) counts[k] = 0;
    __syncthreads();
}

// One block an item: updates extremes, and counts what is not finite before it is clamped; `any` tells that there was some.
extern "C" __global__ void measure(
    const Item* items, const Region* regions, unsigned first_image, Extremes* extremes, Nonfinite* nonfinite, volatile unsigned* any) {
    __shared__ Extremes seen;
    __shared__ Nonfinite bad;
    const Span span = span_of(items, regions);
    if (!span.count) return;
    if (!threadIdx.x) {
        seen = {-0x7fffffff - 1, 0, 0xffffffffu};
        bad = {0, 0xffffffffu};
    }
    __syncthreads();
    Extremes mine = {-0x7fffffff - 1, 0, 0xffffffffu};
    Nonfinite mine_bad = {0, 0xffffffffu};
    for_each(span, [&](float value, u64 place) {
        if ((__float_as_uint(value) & ~SIGN) >= NONFINITE) {
            const unsigned image = first_image + (unsigned)(place * span.region.images / span.region.size);
            mine_bad.count += 1;
            mine_bad.first_image = image < mine_bad.first_image ? image : mine_bad.first_image;
        }
        const unsigned bits = __float_as_uint(clamped(value, span.region));
        mine.largest = (int)bits > mine.largest ? (int)bits : mine.largest;
        mine.highest = bits > mine.highest ? bits : mine.highest;
        mine.lowest = bits < mine.lowest ? bits : mine.lowest;
    });
    atomicMax(&seen.largest, mine.largest);
    atomicMax(&seen.highest, mine.highest);
    atomicMin(&seen.lowest, mine.lowest);
    if (mine_bad.count) {
        atomicAdd(&bad.count, mine_bad.count);
        atomicMin(&bad.first_image, mine_bad.first_image);
    }
    __syncthreads();
    if (threadIdx.x) return;
    const unsigned region = items[blockIdx.x].region;
    atomicMax(&extremes[region].largest, seen.largest);
    atomicMax(&extremes[region].highest, seen.highest);
    atomicMin(&extremes[region].lowest, seen.lowest);
    if (bad.count) {
        atomicAdd(&nonfinite[region].count, bad.count);
        atomicMin(&nonfinite[region].first_image, bad.first_image);
        *any = 1;
    }
}

// One block a region and sign (blockIdx.x = 2 * region + sign): makes the bins of that sign wide enough for the extremes.
extern "C" __global__ void widen_mergeable(const Extremes* extremes, int* exponents, u64* counts) {
    const Extremes seen = extremes[blockIdx.x / 2];
    const unsigned positive = seen.largest > 0 ? (unsigned)seen.largest : 0;
    const unsigned negative = seen.highest > SIGN ? seen.highest - SIGN : 0;
    // 2^(biased - 126) is the power of two above the magnitude; 8192 bins reach it.
    const int biased = (int)((blockIdx.x % 2 ? negative : positive) >> 23);
    const int exponent = biased - 126 - 13 > MIN_EXPONENT ? biased - 126 - 13 : MIN_EXPONENT;
    const int before = exponents[blockIdx.x];
    __syncthreads();
    if (exponent <= before) return;
    const int shift = exponent - before < 13 ? exponent - before : 13;
    if (before != UNSET) fold(counts + (u64)blockIdx.x * SIDE_BINS, SIDE_BINS, shift);
    if (!threadIdx.x) exponents[blockIdx.x] = exponent;
}

// One block an item: counts onto the grid of powers of two; counts is [region][sign][8192], zeros are positive.
//
// 16 bits a bin suffice for the values of an item, so that both signs fit the shared memory of every GPU. Exact zeros,
// often half of a tensor, are counted in registers: a bin takes one at a time.
extern "C" __global__ void count_mergeable(const Item* items, const Region* regions, const int* exponents, u64* counts) {
    __shared__ unsigned pairs[SIDE_BINS];
    __shared__ unsigned zeros;
    const Span span = span_of(items, regions);
    if (!span.count) return;
    for (unsigned k = threadIdx.x; k < SIDE_BINS; k += blockDim.x) pairs[k] = 0;
    if (!threadIdx.x) zeros = 0;
    __syncthreads();
    const unsigned region = items[blockIdx.x].region;
    const float up = __int_as_float((127 - exponents[2 * region]) << 23);
    const float down = __int_as_float((127 - exponents[2 * region + 1]) << 23);
    unsigned mine = 0;
    for_each(span, [&](float value, u64) {
        const float x = clamped(value, span.region);
        if (x == 0.0f) {
            mine += 1;
            return;
        }
        const unsigned bin = (unsigned)__float2int_rz(fabsf(x) * (x < 0.0f ? down : up));
        const unsigned place = (bin < SIDE_BINS ? bin : SIDE_BINS - 1) + (x < 0.0f ? SIDE_BINS : 0);
        atomicAdd(&pairs[place / 2], place % 2 ? 0x10000u : 1u);
    });
    if (mine) atomicAdd(&zeros, mine);
    __syncthreads();
    u64* sum = counts + (u64)region * 2 * SIDE_BINS;
    for (unsigned k = threadIdx.x; k < SIDE_BINS; k += blockDim.x) {
        const unsigned pair = pairs[k];
        if (pair & 0xffffu) atomicAdd(sum + 2 * k, (u64)(pair & 0xffffu));
        if (pair >> 16) atomicAdd(sum + 2 * k + 1, (u64)(pair >> 16));
    }
    if (!threadIdx.x && zeros) atomicAdd(sum, (u64)zeros);
}

// One block a region: gives a region that was all zeros its range, doubles the range of one that the extremes left.
extern "C" __global__ void widen_tensorrt(const Extremes* extremes, float* widths, u64* counts) {
    const float absmax = __uint_as_float(magnitude_of(extremes[blockIdx.x]));
    const float before = widths[blockIdx.x];
    __syncthreads();
    if (absmax == 0.0f) return;
    const float smallest = 1.17549435e-38f;
    float width = before;
    if (before == 0.0f) width = absmax / SEARCH_BINS > smallest ? absmax / SEARCH_BINS : smallest;
    unsigned shift = 0;
    while (absmax > width * SEARCH_BINS) {
        width *= 2.0f;
        shift += 1;
    }
    // See app.quant.histogram.is_range_anew: what was counted before is in the first bin then.
    if (before != 0.0f && shift > 11) width = absmax / SEARCH_BINS;
    // Bin 2048 holds the values of exactly the range: half of the doubled one.
    if (shift) fold(counts + (u64)blockIdx.x * (SEARCH_BINS + 1), SEARCH_BINS + 1, shift < 12 ? shift : 12);
    if (!threadIdx.x) widths[blockIdx.x] = width;
}

// One block an item: counts onto TensorRT's grid; counts is [region][2049], the last bin for values of exactly the range.
extern "C" __global__ void count_tensorrt(const Item* items, const Region* regions, const float* widths, u64* counts) {
    __shared__ unsigned bins[SEARCH_BINS + 1];
    const Span span = span_of(items, regions);
    if (!span.count) return;
    for (unsigned k = threadIdx.x; k <= SEARCH_BINS; k += blockDim.x) bins[k] = 0;
    __syncthreads();
    const unsigned region = items[blockIdx.x].region;
    const float per_width = __frcp_rn(widths[region]);
    unsigned mine = 0;
    for_each(span, [&](float value, u64) {
        const float x = fabsf(clamped(value, span.region));
        if (x == 0.0f) {
            mine += 1;
            return;
        }
        const unsigned bin = (unsigned)__float2int_rz(__fmul_rn(x, per_width));
        atomicAdd(&bins[bin < SEARCH_BINS ? bin : SEARCH_BINS], 1u);
    });
    if (mine) atomicAdd(&bins[0], mine);
    __syncthreads();
    u64* sum = counts + (u64)region * (SEARCH_BINS + 1);
    for (unsigned k = threadIdx.x; k <= SEARCH_BINS; k += blockDim.x)
        if (bins[k]) atomicAdd(sum + k, (u64)bins[k]);
}

// One block a region: when a batch ends, values of exactly the range belong to the last bin.
extern "C" __global__ void end_batch(u64* counts) {
    if (threadIdx.x) return;
    u64* sum = counts + (u64)blockIdx.x * (SEARCH_BINS + 1);
    sum[SEARCH_BINS - 1] += sum[SEARCH_BINS];
    sum[SEARCH_BINS] = 0;
}

// One block an item: marks the regions of which not every image has the very bits of the first.
extern "C" __global__ void compare_images(const Item* items, const Region* regions, unsigned* differs) {
    const Span span = span_of(items, regions);
    const u64 image_size = span.region.size / span.region.images;
    for_each(span, [&](float value, u64 place) {
        if (__float_as_uint(value) != __float_as_uint(__ldg(span.region.values + place % image_size)))
            differs[items[blockIdx.x].region] = 1;
    });
}
