// What a kernel needs of the machine it is compiled for. nvcc compiles these sources for the GPU; a C++ compiler
// compiles the same sources for the host, where `emulation.hpp` (relayer/tests/cuda_common) stands in for the device.
#pragma once

#ifdef __CUDACC__

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef unsigned char u8;
typedef signed char i8;
typedef int i32;
typedef long long i64;

// A kernel by its plain name, launched with at most `threads` threads to a block.
#define KERNEL(name, threads, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
#define DEVICE static __device__ __forceinline__
// The same as a member of a struct.
#define MEMBER __device__ __forceinline__
// A function worth calling: large, and not in an inner loop.
#define DEVICE_CALL static __device__ __noinline__
#define SHARED __shared__
#define ALIGNED(bytes) __align__(bytes)

#else
#include "emulation.hpp"
#endif

#define WARP 32u
#define ALL_LANES 0xffffffffu

// Sixteen bytes that a thread loads at once.
struct ALIGNED(16) Quad {
    u32 word[4];
};

// Loads sixteen bytes that nothing writes while the kernel runs. The address is a multiple of sixteen.
DEVICE Quad load16(const void *address) {
#ifdef __CUDACC__
    uint4 v = __ldg((const uint4 *)address);
    return {{v.x, v.y, v.z, v.w}};
#else
    return emulated_load16<Quad>(address);
#endif
}

// The same for bytes that are read once: they need not stay in a cache.
DEVICE Quad stream16(const void *address) {
#ifdef __CUDACC__
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(address));
    return {{v.x, v.y, v.z, v.w}};
#else
    return emulated_load16<Quad>(address);
#endif
}

// Reads what another block wrote in the same launch, past this multiprocessor's own cache.
DEVICE float load_shared_result(const float *address) {
#ifdef __CUDACC__
    return __ldcg(address);
#else
    return *address;
#endif
}

// Asks for sixteen bytes to be copied into shared memory, past the registers; for zeros if they are not `there`, and then
// nothing is read, wherever `from` points. Both addresses are multiples of sixteen.
DEVICE void copy16(void *to, const void *from, bool there) {
#ifdef __CUDACC__
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
#else
    emulated_copy16(to, from, there);
#endif
}

// Ends a set of copies, empty or not.
DEVICE void end_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" : : : "memory");
#else
    emulated_end_copies();
#endif
}

// Waits for this thread's copies, except those of its last `PENDING` sets.
template <u32 PENDING> DEVICE void wait_for_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" : : "n"(PENDING) : "memory");
#else
    emulated_wait_for_copies(PENDING);
#endif
}

// The shared memory that a launch brings (`Kernel::shared` of driver.rs), as `COUNT` things in a row.
template <class T, u32 COUNT> DEVICE T *launch_shared() {
#ifdef __CUDACC__
    extern SHARED ALIGNED(128) u8 launched[];
    return (T *)launched;
#else
    return static_cast<T *>(emulated_launch_shared(COUNT * sizeof(T)));
#endif
}

// Four tiles of 8 x 16 bytes from shared memory, spread over the lanes of a warp as the matrix instruction wants them: lane
// `l` gets word `l % 4` of row `l / 4` of each. The address of row `r` of tile `t` is that of lane `8 * t + r`.
DEVICE void load_matrices(u32 words[4], const Quad *row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"((u32)__cvta_generic_to_shared(row)));
#else
    emulated_load_matrices(words, row);
#endif
}

// d += a * b for a 16 x 32 tile of signed bytes in rows and a 32 x 8 tile in columns, spread over the lanes of a warp as
// PTX says for mma.m16n8k32. The sums are exact, so their order is nobody's business.
DEVICE void mma_i8(i32 d[4], const u32 a[4], const u32 b[2]) {
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulated_mma_i8(d, a, b);
#endif
}

DEVICE u32 lane_index() { return threadIdx.x % WARP; }
DEVICE u32 warp_index() { return threadIdx.x / WARP; }

// Elements of any number, shared out among all threads of a launch.
DEVICE u64 first_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE u64 index_step() { return (u64)gridDim.x * blockDim.x; }
