// The scheduler behind emulation.hpp, and the C interface that tests load.
#include "emulation.hpp"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

Index3 threadIdx, blockIdx, blockDim, gridDim;
Kernel *Kernel::all = nullptr;

extern "C" char __start_shared_memory[] __attribute__((weak));
extern "C" char __stop_shared_memory[] __attribute__((weak));

namespace {

constexpr std::size_t STACK = 128 << 10;
constexpr u32 MOST_THREADS = 1024;

enum class State { Ready, AtBarrier, AtWarp, Done };

// Sixteen bytes on their way into shared memory.
struct Copy {
    void *to;
    unsigned char bytes[16];
};

// Begun once, a fiber serves block after block: it waits where its last thread ended.
struct Fiber {
    ucontext_t start;
    jmp_buf point;
    char *stack = nullptr;
    bool begun = false;
    State state = State::Ready;
    u32 turn = 0; // exchanges so far
    std::vector<Copy> copies;         // that belong to no set yet
    std::deque<std::vector<Copy>> sets; // that nobody waited for
};

// What the lanes of a warp give each other. Two sets: a lane can be one exchange ahead of another, never two.
struct Warp {
    u32 given[2][32][6];
    u32 arrived = 0;
};

Fiber fibers[MOST_THREADS];
Warp warps[MOST_THREADS / 32];
std::vector<u32> ready;
jmp_buf scheduler;
jmp_buf failure;
u32 current, threads, waiting, done;
// Shared memory of the launch: the last bytes before a page without access.
constexpr std::size_t MOST_SHARED = 227 << 10, PAGE = 4096;
char *shared_end;
std::size_t shared_bytes;
const Kernel *running;
void **parameters;
thread_local char message[256];
std::mutex turn; // there is one of everything
u64 random_state;

u32 random_below(u32 n) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (u32)((random_state >> 33) % n);
}

void wait_as(State state) {
    fibers[current].state = state;
    if (!_setjmp(fibers[current].point)) _longjmp(scheduler, 1);
}

void body() {
    for (;;) {
        running->invoke(parameters);
        if (!fibers[current].copies.empty()) emulated_fault("copies that nobody can wait for");
        for (auto &set : fibers[current].sets) {
            if (!set.empty()) emulated_fault("copies that nobody waited for");
        }
        done++;
        wait_as(State::Done);
    }
}

void wake(u32 first, u32 last, State state) {
    for (u32 i = first; i < last; i++) {
        if (fibers[i].state == state) {
            fibers[i].state = State::Ready;
            ready.push_back(i);
        }
    }
}

// Who runs next, by its place in `ready`. In most blocks anyone; in some the first in an order that stays the same, so that
// warps get as far ahead of the others as barriers let them.
u32 next(bool eager, u32 order) {
    if (!eager) return random_below((u32)ready.size());
    u32 first = 0;
    for (u32 i = 1; i < ready.size(); i++) {
        if ((ready[i] ^ order) < (ready[first] ^ order)) first = i;
    }
    return first;
}

void run_block() {
    std::size_t bytes = (std::size_t)(__stop_shared_memory - __start_shared_memory);
    if (bytes) std::memset(__start_shared_memory, 0xff, bytes);
    if (shared_bytes) std::memset(shared_end - shared_bytes, 0xff, shared_bytes);
    ready.clear();
    waiting = done = 0;
    for (u32 i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        if (!fiber.stack) fiber.stack = static_cast<char *>(std::malloc(STACK));
        fiber.state = State::Ready;
        fiber.turn = 0;
        fiber.copies.clear();
        fiber.sets.clear();
        warps[i / 32].arrived = 0;
        ready.push_back(i);
    }
    bool eager = random_below(4) == 0;
    u32 order = random_below(MOST_THREADS);
    while (done < threads) {
        if (ready.empty()) emulated_fault("threads wait for others that ended or wait elsewhere");
        u32 pick = next(eager, order);
        current = ready[pick];
        ready[pick] = ready.back();
        ready.pop_back();
        threadIdx = {current, 0, 0};
        if (_setjmp(scheduler)) continue;
        Fiber &fiber = fibers[current];
        if (fiber.begun) _longjmp(fiber.point, 1);
        fiber.begun = true;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack;
        fiber.start.uc_stack.ss_size = STACK;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, body, 0);
        setcontext(&fiber.start);
    }
}

} // namespace

void emulated_fault(const char *what) {
    std::snprintf(message, sizeof message, "%s: %s (block %u %u %u, thread %u)", running->name, what, blockIdx.x, blockIdx.y,
                  blockIdx.z, threadIdx.x);
    _longjmp(failure, 1);
}

void __syncthreads() {
    u32 me = current;
    if (++waiting == threads) {
        waiting = 0;
        wake(0, threads, State::AtBarrier);
        // Whoever came last goes on, or another first.
        fibers[me].state = State::Ready;
        ready.push_back(me);
        if (!_setjmp(fibers[me].point)) _longjmp(scheduler, 1);
    } else {
        wait_as(State::AtBarrier);
    }
    threadIdx = {current, 0, 0};
}

static void meet_warp() {
    u32 me = current, first = me / 32 * 32, last = first + 32 < threads ? first + 32 : threads;
    Warp &warp = warps[me / 32];
    if (++warp.arrived == last - first) {
        warp.arrived = 0;
        wake(first, last, State::AtWarp);
        fibers[me].state = State::Ready;
        ready.push_back(me);
        if (!_setjmp(fibers[me].point)) _longjmp(scheduler, 1);
    } else {
        wait_as(State::AtWarp);
    }
    threadIdx = {current, 0, 0};
}

void __syncwarp(u32 mask) {
    if (mask != 0xffffffffu) emulated_fault("a part of a warp");
    meet_warp();
}

u32 emulated_exchange(u32 mine, u32 from) {
    if (threads % 32 != 0) emulated_fault("a warp that is not whole");
    u32 me = current, set = fibers[me].turn++ % 2;
    warps[me / 32].given[set][me % 32][0] = mine;
    meet_warp();
    return warps[me / 32].given[set][from][0];
}

// PTX ISA, "Matrix fragments for mma.m16n8k32": register `i` of A holds row `lane / 4` (8 more if `i` is odd) and columns
// `lane % 4 * 4 ..+ 4` (16 more from register 2 on); register `i` of B rows `lane % 4 * 4 ..+ 4` (16 more in register 1)
// of column `lane / 4`; register `i` of D row `lane / 4` (8 more from register 2 on) and column `lane % 4 * 2 + i % 2`.
void emulated_mma_i8(i32 *d, const u32 *a, const u32 *b) {
    if (threads % 32 != 0) emulated_fault("a warp that is not whole");
    u32 me = current, set = fibers[me].turn++ % 2, mine = me % 32;
    auto &given = warps[me / 32].given[set];
    for (u32 i = 0; i < 6; i++) given[mine][i] = i < 4 ? a[i] : b[i - 4];
    meet_warp();
    auto byte = [](u32 word, u32 i) { return (i32)(i8)(word >> (8 * i)); };
    for (u32 i = 0; i < 4; i++) {
        u32 row = mine / 4 + i / 2 * 8, column = mine % 4 * 2 + i % 2;
        for (u32 k = 0; k < 32; k++) {
            u32 left = given[row % 8 * 4 + k % 16 / 4][row / 8 + k / 16 * 2];
            u32 right = given[column * 4 + k % 16 / 4][4 + k / 16];
            d[i] += byte(left, k % 4) * byte(right, k % 4);
        }
    }
}

// PTX ISA, "ldmatrix": with 8 x 8 elements of 16 bits, lane `l` gets elements `l % 4 * 2 ..+ 2` of row `l / 4` of each tile.
void emulated_load_matrices(u32 *words, const void *row) {
    if (threads % 32 != 0) emulated_fault("a warp that is not whole");
    auto address = reinterpret_cast<std::uintptr_t>(row);
    if (address % 16 != 0) emulated_fault("a row of sixteen bytes that is not aligned");
    u32 me = current, set = fibers[me].turn++ % 2, lane = me % 32;
    auto &given = warps[me / 32].given[set];
    std::memcpy(given[lane], &address, sizeof address);
    meet_warp();
    for (u32 tile = 0; tile < 4; tile++) {
        std::memcpy(&address, given[8 * tile + lane / 4], sizeof address);
        std::memcpy(&words[tile], reinterpret_cast<const char *>(address) + lane % 4 * 4, 4);
    }
}

void emulated_copy16(void *to, const void *from, bool there) {
    auto aligned = [](const void *address) { return reinterpret_cast<std::uintptr_t>(address) % 16 == 0; };
    if (!aligned(to) || (there && !aligned(from))) emulated_fault("a copy of 16 bytes that is not aligned");
    Copy copy = {to, {}};
    if (there) std::memcpy(copy.bytes, from, 16);
    std::memset(to, 0xff, 16);
    fibers[current].copies.push_back(copy);
}

void emulated_end_copies() {
    Fiber &fiber = fibers[current];
    fiber.sets.push_back(std::move(fiber.copies));
    fiber.copies.clear();
}

void emulated_wait_for_copies(u32 pending) {
    auto &sets = fibers[current].sets;
    for (; sets.size() > pending; sets.pop_front()) {
        for (const Copy &copy : sets.front()) std::memcpy(copy.to, copy.bytes, 16);
    }
}

void *emulated_launch_shared(std::size_t bytes) {
    if (bytes != shared_bytes) emulated_fault("another size of shared memory");
    return shared_end - bytes;
}

// 0 if all went well; else `emulated_message` says what did not.
extern "C" int emulated_launch(const char *name, const u32 *grid, u32 block, u32 shared, void **arguments, const u32 *sizes,
                               u32 arity, u64 seed) {
    std::lock_guard<std::mutex> held(turn);
    const Kernel *kernel = Kernel::all;
    while (kernel && std::strcmp(kernel->name, name) != 0) kernel = kernel->next;
    auto refuse = [&](const char *what) {
        std::snprintf(message, sizeof message, "%s: %s", name, what);
        return 1;
    };
    if (!kernel) return refuse("no such kernel");
    if (arity != kernel->arity) return refuse("another number of parameters");
    for (u32 i = 0; i < arity; i++) {
        if (sizes[i] != kernel->sizes[i]) return refuse("a parameter of another size");
    }
    if (block == 0 || block > kernel->threads) return refuse("more threads than it was compiled for");
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 || grid[0] > 2147483647u) {
        return refuse("a grid that no device takes");
    }
    if (shared > MOST_SHARED || shared % 16 != 0) return refuse("shared memory that no device has");
    if (!shared_end) {
        std::size_t body = (MOST_SHARED + PAGE - 1) / PAGE * PAGE;
        void *base = mmap(nullptr, body + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) return refuse("no memory for the emulation");
        shared_end = static_cast<char *>(base) + body;
        if (mprotect(shared_end, PAGE, PROT_NONE) != 0) return refuse("no guard page");
    }
    shared_bytes = shared;
    running = kernel;
    parameters = arguments;
    threads = block;
    random_state = seed;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    if (_setjmp(failure)) {
        // Fibers are left in the middle of things.
        for (Fiber &fiber : fibers) fiber.begun = false;
        return 1;
    }
    u64 count = (u64)grid[0] * grid[1] * grid[2];
    // A random permutation of the blocks, as a walk with a stride that has no factor in common with their number.
    u64 stride = 1 + 2 * random_below(1 << 20), start = random_below(1u << 30) % count;
    auto common = [](u64 a, u64 b) {
        while (b) {
            u64 rest = a % b;
            a = b;
            b = rest;
        }
        return a;
    };
    while (common(stride, count) != 1) stride++;
    for (u64 i = 0; i < count; i++) {
        u64 at = (start + (unsigned __int128)i * stride) % count;
        blockIdx = {(u32)(at % grid[0]), (u32)(at / grid[0] % grid[1]), (u32)(at / grid[0] / grid[1])};
        run_block();
    }
    return 0;
}

extern "C" const char *emulated_message() { return message; }

// Names of all kernels, for the test that every one is tested.
extern "C" const char *emulated_name(u32 i) {
    const Kernel *kernel = Kernel::all;
    while (kernel && i--) kernel = kernel->next;
    return kernel ? kernel->name : nullptr;
}
