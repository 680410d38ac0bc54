// Kernels with the mistakes that the emulation is there to notice. Nothing but the tests of the emulation launches them.
#include "emulation.hpp"

// Half of the threads never reach the barrier.
KERNEL(faulty_barrier, 64, u32 *out) {
    if (threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = 1;
}

// Reads what another thread writes without waiting for it.
KERNEL(faulty_order, 64, u32 *out) {
    SHARED u32 shared[64];
    shared[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = shared[63 - threadIdx.x];
}

// Sixteen bytes from an address that is no multiple of sixteen.
KERNEL(faulty_load, 32, u32 *out) {
    struct Quad {
        u32 word[4];
    };
    out[threadIdx.x] = emulated_load16<Quad>(out + 1).word[0];
}

// A shuffle that only some lanes of a warp take part in.
KERNEL(faulty_shuffle, 32, u32 *out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffffffu, threadIdx.x, 1);
}
