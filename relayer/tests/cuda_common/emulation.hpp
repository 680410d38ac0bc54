// A GPU without a GPU: enough of CUDA for the kernels of relayer/src/engine/cuda/kernels to compile as C++ and run.
//
// Threads of a block are fibers of one operating-system thread. A fiber runs until it waits for others (at a barrier or a
// shuffle) or ends; who runs next is drawn at random, or in some blocks always the same first, so a kernel that needs a
// certain order of threads, or warps that keep up with each other, does not pass for long. Blocks run one after the other,
// also in random order, and find shared memory full of NaNs. A barrier that some threads never reach is an error, not a
// hang.
//
// What this can't show: that a launch is accepted by a driver, what PTX the compiler makes of it, races between threads
// that never wait for each other inside one stretch of code, blocks that run at the same time, speed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef unsigned char u8;
typedef signed char i8;
typedef int i32;
typedef long long i64;

struct Index3 {
    u32 x, y, z;
};
extern Index3 threadIdx, blockIdx, blockDim, gridDim;

#define DEVICE static inline
#define MEMBER inline
#define DEVICE_CALL static __attribute__((noinline, unused))
#define ALIGNED(bytes) __attribute__((aligned(bytes)))
// One section holds all shared memory, so that it can be filled with NaNs between blocks.
#define SHARED static __attribute__((section("shared_memory")))

// Waiting for others.
void __syncthreads();
void __syncwarp(u32 mask = 0xffffffffu);
inline void __threadfence() {}
// Gives `mine` to the other lanes of the warp and returns what lane `from` gave; every lane must take part.
u32 emulated_exchange(u32 mine, u32 from);
void emulated_mma_i8(i32 *d, const u32 *a, const u32 *b);
void emulated_load_matrices(u32 *words, const void *row);
// Copies into shared memory that are under way. What they write to is garbage from the moment they are asked for until they
// are waited for, the worst that a device may do.
void emulated_copy16(void *to, const void *from, bool there);
void emulated_end_copies();
void emulated_wait_for_copies(u32 pending);
// The shared memory of the launch, which must be of this size; a page without access follows it.
void *emulated_launch_shared(std::size_t bytes);
// Reports a violation and ends the launch.
[[noreturn]] void emulated_fault(const char *what);

template <class T> T emulated_cast(u32 bits) {
    T value;
    std::memcpy(&value, &bits, 4);
    return value;
}
template <class T> u32 emulated_bits(T value) {
    static_assert(sizeof(T) == 4, "shuffles of four bytes");
    u32 bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
template <class T> T __shfl_sync(u32, T value, u32 lane) { return emulated_cast<T>(emulated_exchange(emulated_bits(value), lane % 32)); }
template <class T> T __shfl_down_sync(u32, T value, u32 by) {
    u32 lane = threadIdx.x % 32;
    return emulated_cast<T>(emulated_exchange(emulated_bits(value), lane + by < 32 ? lane + by : lane));
}
template <class T> T __shfl_xor_sync(u32, T value, u32 by) {
    return emulated_cast<T>(emulated_exchange(emulated_bits(value), (threadIdx.x % 32) ^ by));
}

template <class Quad> Quad emulated_load16(const void *address) {
    if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) emulated_fault("a load of 16 bytes that is not aligned");
    Quad quad;
    std::memcpy(&quad, address, 16);
    return quad;
}

inline u32 atomicAdd(u32 *at, u32 value) {
    u32 before = *at;
    *at += value;
    return before;
}

inline float __uint_as_float(u32 bits) { return emulated_cast<float>(bits); }
inline u32 __float_as_uint(float x) { return emulated_bits(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __int2float_rn(i32 x) { return (float)x; }
inline float __uint2float_rn(u32 x) { return (float)x; }
inline i32 __float2int_rn(float x) {
    if (x != x) return 0;
    if (x >= 2147483648.0f) return 2147483647;
    if (x < -2147483648.0f) return -2147483647 - 1;
    return (i32)std::nearbyint((double)x);
}
inline i32 __dp4a(i32 a, i32 b, i32 c) {
    for (int i = 0; i < 4; i++) c += (i32)(i8)(u32(a) >> (8 * i)) * (i32)(i8)(u32(b) >> (8 * i));
    return c;
}

// Kernels by name. Parameters arrive as a driver takes them: a pointer to each; their number and sizes are compared with
// the kernel's own.
struct Kernel {
    const char *name;
    u32 threads, arity;
    const u32 *sizes;
    void (*invoke)(void **);
    Kernel *next;
    static Kernel *all;

    Kernel(const char *name, u32 threads, u32 arity, const u32 *sizes, void (*invoke)(void **))
        : name(name), threads(threads), arity(arity), sizes(sizes), invoke(invoke), next(all) {
        all = this;
    }
};

template <class F> struct Signature;
template <class... A> struct Signature<void (*)(A...)> {
    static constexpr u32 arity = sizeof...(A);
    static constexpr u32 sizes[sizeof...(A)] = {sizeof(A)...};
    template <void (*F)(A...), std::size_t... I> static void call(void **arguments, std::index_sequence<I...>) {
        F(*static_cast<std::remove_const_t<A> *>(arguments[I])...);
    }
    template <void (*F)(A...)> static void invoke(void **arguments) { call<F>(arguments, std::index_sequence_for<A...>()); }
};

#define KERNEL(name, threads, ...)                                                                                        \
    static void name(__VA_ARGS__);                                                                                        \
    static Kernel kernel_##name(#name, threads, Signature<decltype(&name)>::arity, Signature<decltype(&name)>::sizes,     \
                                Signature<decltype(&name)>::invoke<name>);                                                \
    static void name(__VA_ARGS__)
