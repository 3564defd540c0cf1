// The counting kernels compiled for the CPU: a thread for each thread of a block, block after block.
//
// Shared memory is static, so that it lives as long as a launch; __syncthreads is a barrier of all threads.

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __shared__ static

struct Dimension {
    unsigned x;
};
static thread_local Dimension threadIdx, blockIdx;
static Dimension blockDim;
static std::barrier<>* block_barrier;

struct alignas(16) float4 {
    float x, y, z, w;
};

static void __syncthreads() { block_barrier->arrive_and_wait(); }
template <typename T> static T __ldg(const T* address) { return *address; }
static unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }
static float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }
static float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
static float __frcp_rn(float a) { return 1.0f / a; }
static float __fmul_rn(float a, float b) { return a * b; }

// As the GPU converts: towards zero, NaN to 0, what does not fit to the nearest that does.
static int __float2int_rz(float value) {
    if (std::isnan(value)) return 0;
    return (int)std::clamp((double)value, -2147483648.0, 2147483647.0);
}

template <typename T> static T atomicAdd(T* at, T value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
template <typename T> static void atomicMax(T* at, T value) {
    T seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(at, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
}
template <typename T> static void atomicMin(T* at, T value) {
    T seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (value < seen && !__atomic_compare_exchange_n(at, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
}

#include "counting.cu"

template <typename Kernel, typename... Arguments>
static void launch(unsigned blocks, unsigned threads, Kernel kernel, Arguments... arguments) {
    std::barrier<> barrier(threads);
    block_barrier = &barrier;
    blockDim = {threads};
    std::vector<std::thread> running;
    for (unsigned number = 0; number < threads; ++number)
        running.emplace_back([=, &barrier] {
            threadIdx = {number};
            for (unsigned block = 0; block < blocks; ++block) {
                blockIdx = {block};
                kernel(arguments...);
                barrier.arrive_and_wait();
            }
        });
    for (std::thread& thread : running) thread.join();
}

extern "C" {
void launch_measure(unsigned blocks, unsigned threads, const Item* items, const Region* regions, unsigned first,
                    Extremes* extremes, Nonfinite* nonfinite, unsigned* any) {
    launch(blocks, threads, measure, items, regions, first, extremes, nonfinite, any);
}
void launch_widen_mergeable(unsigned blocks, unsigned threads, const Extremes* extremes, int* exponents, u64* counts) {
    launch(blocks, threads, widen_mergeable, extremes, exponents, counts);
}
void launch_count_mergeable(unsigned blocks, unsigned threads, const Item* items, const Region* regions,
                            const int* exponents, u64* counts) {
    launch(blocks, threads, count_mergeable, items, regions, exponents, counts);
}
void launch_widen_tensorrt(unsigned blocks, unsigned threads, const Extremes* extremes, float* widths, u64* counts) {
    launch(blocks, threads, widen_tensorrt, extremes, widths, counts);
}
void launch_count_tensorrt(unsigned blocks, unsigned threads, const Item* items, const Region* regions,
                           const float* widths, u64* counts) {
    launch(blocks, threads, count_tensorrt, items, regions, widths, counts);
}
void launch_end_batch(unsigned blocks, unsigned threads, u64* counts) {
    launch(blocks, threads, end_batch, counts);
}
void launch_compare_images(unsigned blocks, unsigned threads, const Item* items, const Region* regions, unsigned* differs) {
    launch(blocks, threads, compare_images, items, regions, differs);
}
}
