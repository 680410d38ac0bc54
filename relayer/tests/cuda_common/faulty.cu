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

// Reads what is being copied into shared memory without waiting for it.
KERNEL(faulty_copy, 32, u32 *out) {
    SHARED u32 shared[32][4];
    emulated_copy16(shared[threadIdx.x], out, threadIdx.x == 0);
    emulated_end_copies();
    out[threadIdx.x] = shared[threadIdx.x][0];
    emulated_wait_for_copies(0);
}

// Copies into shared memory that are never waited for.
KERNEL(faulty_end, 32, u32 *out) {
    SHARED u32 shared[32][4];
    emulated_copy16(shared[threadIdx.x], out, false);
}

// More shared memory than the launch brings.
KERNEL(faulty_shared, 32, u32 *out) {
    out[threadIdx.x] = *static_cast<u32 *>(emulated_launch_shared(64));
}

// A shuffle that only some lanes of a warp take part in.
KERNEL(faulty_shuffle, 32, u32 *out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffffffu, threadIdx.x, 1);
}
