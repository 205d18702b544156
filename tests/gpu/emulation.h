// CUDA C on a CPU: enough of the language to run the kernels that TVM writes, one fibre for each thread of a block.
//
// It is written after the documents, not after the kernels: warps meet in votes and shuffles, blocks in barriers, and
// the fragments of matrix instructions are those of the PTX ISA. Between two meetings each thread runs as far ahead as it
// can, asynchronous copies arrive as late as they may, and threads that wait for others in vain end the program: what
// works here by luck of the order should be little.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ __attribute__((section("shared_memory"))) static

typedef unsigned int uint;
typedef unsigned char uchar;
typedef unsigned short ushort;
#define CUDART_INF HUGE_VAL
#define CUDART_INF_F HUGE_VALF

struct uint3_ { int x, y, z; };
struct alignas(8) uint2 { unsigned int x, y; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };

namespace emulation {

constexpr int WARP = 32;
constexpr size_t STACK = 256 << 10;

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "emulated GPU: %s\n", message);
  std::abort();
}

}  // namespace emulation

#include "accesses.h"

namespace emulation {

// Threads that wait for each other: the last one to come computes for all.
struct Meeting {
  int members = 0, arrived = 0;
  unsigned long generation = 0;
  const char* what = nullptr;
};

struct Copy { void* target; const void* source; size_t size; };

struct Thread {
  uint3_ index;
  int warp, lane;
  bool started = false, done = false;
  jmp_buf place;
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK]};
  uintptr_t stack_start = reinterpret_cast<uintptr_t>(stack.get());
  std::vector<std::vector<Copy>> groups;  // asynchronous copies, committed
  std::vector<Copy> open;                 // and not yet
};

struct Warp {
  Meeting meeting;
  uint32_t in[WARP][8], out[WARP][8];
};

struct Block {
  uint3_ index;
  uint32_t first_thread = 0;  // number of its first thread in the launch
  Meeting meeting;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::function<void()> body;
  jmp_buf scheduler;
  unsigned long progress = 0;
};

inline Block block;
inline Thread* current = nullptr;

inline void yield() {
  if (!_setjmp(current->place)) _longjmp(block.scheduler, 1);
}

template <class Compute>
void meet(Meeting& meeting, const char* what, Compute compute) {
  if (meeting.arrived == 0) meeting.what = what;
  if (std::strcmp(meeting.what, what)) fail("threads meet in different instructions");
  if (++meeting.arrived == meeting.members) {
    compute();
    meeting.arrived = 0;
    ++meeting.generation;
    ++block.progress;
    return;
  }
  for (unsigned long before = meeting.generation; before == meeting.generation;) yield();
}

uint32_t shared_thread() { return current->warp * WARP + current->lane + 1; }
uint32_t global_thread() { return block.first_thread + shared_thread(); }
UNWATCHED bool on_stack(uintptr_t place) { return place - current->stack_start < STACK; }

inline Warp& warp() { return block.warps[current->warp]; }

template <class Compute>
void warp_meets(const char* what, Compute compute) { meet(warp().meeting, what, compute); }

inline void enter() {
  block.body();
  check_written();
  current->done = true;
  ++block.progress;
  if (!current->open.empty()) fail("a thread ends with asynchronous copies that it did not commit");
  _longjmp(block.scheduler, 1);
}

inline void resume(Thread& thread) {
  current = &thread;
  if (_setjmp(block.scheduler)) return;
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack.get();
  thread.context.uc_stack.ss_size = STACK;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, enter, 0);
  setcontext(&thread.context);
}

inline void run_block(uint3_ index, uint3_ size) {
  const int count = size.x * size.y * size.z;
  block.index = index;
  block_begins();
  while (static_cast<int>(block.threads.size()) < count) block.threads.push_back(std::make_unique<Thread>());
  block.warps.assign((count + WARP - 1) / WARP, Warp{});
  block.meeting = Meeting{.members = count};
  for (int n = 0; n < count; ++n) {
    Thread& thread = *block.threads[n];
    thread.index = {n % size.x, n / size.x % size.y, n / size.x / size.y};
    thread.warp = n / WARP;
    thread.lane = n % WARP;
    thread.started = thread.done = false;
    thread.groups.clear();
    thread.open.clear();
    ++block.warps[thread.warp].meeting.members;
  }
  for (int left = count; left;) {
    const unsigned long before = block.progress;
    left = 0;
    for (int n = 0; n < count; ++n) {
      Thread& thread = *block.threads[n];
      if (!thread.done) resume(thread);
      left += !thread.done;
    }
    if (left && before == block.progress) fail("threads wait for others that have gone another way");
  }
}

template <class... Arguments>
UNWATCHED void enter_kernel(void (*kernel)(Arguments...), Arguments... arguments) {
  inside = true;
  kernel(arguments...);
  inside = false;
}

struct Launch {
  virtual ~Launch() = default;
  virtual void run(uint3_ grid, uint3_ size) = 0;
};

template <class... Arguments>
struct Prepared : Launch {
  void (*kernel)(Arguments...);
  std::tuple<Arguments...> values;
  void run(uint3_ grid, uint3_ size) override {
    block.body = [this] { std::apply([entry = kernel](Arguments... arguments) { enter_kernel(entry, arguments...); }, values); };
    launch_begins();
    block.first_thread = 0;
    for (int y = 0; y < grid.y; ++y)
      for (int x = 0; x < grid.x; ++x, block.first_thread += size.x * size.y) run_block({x, y, 0}, size);
  }
};

template <class... Arguments, size_t... Index>
Launch* prepare(void (*kernel)(Arguments...), void** parameters, std::index_sequence<Index...>) {
  auto* launch = new Prepared<Arguments...>;
  launch->kernel = kernel;
  launch->values = {*static_cast<Arguments*>(parameters[Index])...};
  return launch;
}

template <class... Arguments>
Launch* prepare(void (*kernel)(Arguments...), void** parameters) {
  return prepare(kernel, parameters, std::index_sequence_for<Arguments...>{});
}

}  // namespace emulation

namespace emulation {
UNWATCHED inline uint3_ thread_index() { return current->index; }
UNWATCHED inline uint3_ block_index() { return block.index; }
}  // namespace emulation

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index())

// ------------------------------------------------------------------ functions of CUDA C

inline int __popc(unsigned int value) { return __builtin_popcount(value); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
template <class To, class From> To bits_as(From value) { To result; std::memcpy(&result, &value, sizeof result); return result; }
inline double __longlong_as_double(long long value) { return bits_as<double>(value); }
inline float __int_as_float(int value) { return bits_as<float>(value); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

inline void __syncthreads() {
  emulation::Outside outside;
  emulation::meet(emulation::block.meeting, "__syncthreads", emulation::barrier_passed);
}

inline unsigned int __ballot_sync(unsigned int mask, bool condition) {
  using namespace emulation;
  Outside outside;
  if (mask != 0xffffffffu) fail("a vote of part of a warp");
  warp().in[current->lane][0] = condition;
  warp_meets("ballot", [] {
    uint32_t bits = 0;
    for (int lane = 0; lane < WARP; ++lane) bits |= warp().in[lane][0] << lane;
    for (int lane = 0; lane < WARP; ++lane) warp().out[lane][0] = bits;
  });
  return warp().out[current->lane][0];
}

inline int __reduce_add_sync(unsigned int mask, int value) {
  using namespace emulation;
  Outside outside;
  if (mask != 0xffffffffu) fail("a sum of part of a warp");
  warp().in[current->lane][0] = value;
  warp_meets("reduce_add", [] {
    uint32_t sum = 0;
    for (int lane = 0; lane < WARP; ++lane) sum += warp().in[lane][0];
    for (int lane = 0; lane < WARP; ++lane) warp().out[lane][0] = sum;
  });
  return warp().out[current->lane][0];
}

inline float __shfl_xor_sync(unsigned int mask, float value, int step) {
  using namespace emulation;
  Outside outside;
  if (mask != 0xffffffffu) fail("a shuffle of part of a warp");
  warp().in[current->lane][0] = bits_as<uint32_t>(value);
  warp().in[current->lane][1] = step;
  warp_meets("shfl_xor", [] {
    for (int lane = 0; lane < WARP; ++lane) warp().out[lane][0] = warp().in[lane ^ warp().in[lane][1]][0];
  });
  return bits_as<float>(warp().out[current->lane][0]);
}

// ------------------------------------------------------------------ what kernels write as inline PTX

// dp4a.u32.s32: four products of unsigned by signed bytes, added to a sum.
inline int lq_dot(unsigned int codes, int weights, int sum) {
  for (int byte = 0; byte < 4; ++byte)
    sum += static_cast<int>(codes >> 8 * byte & 255) * static_cast<int8_t>(weights >> 8 * byte);
  return sum;
}

#include "wgmma.h"

// cp.async: data arrives when the thread waits for its group, and not before.
inline void start_copy(void* target, const void* source, size_t size) {
  using namespace emulation;
  Outside outside;
  if (reinterpret_cast<uintptr_t>(target) % size || reinterpret_cast<uintptr_t>(source) % size)
    fail("an asynchronous copy between addresses that are not aligned to its size");
  copy_begins(target);
  touch_global(source, size, false);
  write_shared(target, size, shared_thread(), static_cast<const char*>(source));
  current->open.push_back({target, source, size});
}
inline void lq_copy4(void* target, const void* source) { start_copy(target, source, 4); }
inline void lq_copy8(void* target, const void* source) { start_copy(target, source, 8); }
inline void lq_copy16(void* target, const void* source) { start_copy(target, source, 16); }
inline void lq_commit() {
  emulation::Outside outside;
  emulation::current->groups.push_back(std::move(emulation::current->open));
  emulation::current->open.clear();
}
inline void wait_groups(size_t left) {
  emulation::Outside outside;
  auto& groups = emulation::current->groups;
  while (groups.size() > left) {
    for (const auto& copy : groups.front()) {
      std::memcpy(copy.target, copy.source, copy.size);
      emulation::end_copy(copy.target, copy.size, emulation::shared_thread());
      emulation::copy_arrives(copy.target);
    }
    groups.erase(groups.begin());
  }
}
inline void lq_wait0() { wait_groups(0); }
inline void lq_wait1() { wait_groups(1); }
inline void lq_wait2() { wait_groups(2); }
inline void lq_wait3() { wait_groups(3); }

// ldmatrix.m8n8.b16: thread 8 i + r gives the address of row r (16 bytes) of matrix i; thread l gets the 32 bits number
// l % 4 of row l / 4 of each matrix.
inline void lq_fragment4(unsigned int* held, const void* row) {
  using namespace emulation;
  Outside outside;
  if (reinterpret_cast<uintptr_t>(row) % 16) fail("a row of ldmatrix that is not aligned");
  std::memcpy(warp().in[current->lane], &row, sizeof row);
  warp_meets("ldmatrix.x4", [] {
    for (int i = 0; i < 4; ++i) {
      int banks = 0;
      for (int row = 0; row < 8; ++row) {
        const char* from;
        std::memcpy(&from, warp().in[8 * i + row], sizeof from);
        read_shared(from, 16, MANY);
        banks |= 1 << reinterpret_cast<uintptr_t>(from) / 16 % 8;
      }
      if (banks != 255) fail("rows of ldmatrix that meet in a bank");
    }
    for (int lane = 0; lane < WARP; ++lane)
      for (int i = 0; i < 4; ++i) {
        const char* from;
        std::memcpy(&from, warp().in[8 * i + lane / 4], sizeof from);
        std::memcpy(&warp().out[lane][i], from + 4 * (lane % 4), 4);
      }
  });
  std::memcpy(held, warp().out[current->lane], 16);
}

// mma.m16n8k256 of one-bit factors, and.popc. With g = lane / 4 and t = lane % 4, a thread holds of A (16 rows of 256
// bits) words t and 4 + t of rows g and g + 8: (g, t), (g + 8, t), (g, 4 + t), (g + 8, 4 + t); of B (8 columns) words t
// and 4 + t of column g; of C rows g, g, g + 8, g + 8 of columns 2 t, 2 t + 1, 2 t, 2 t + 1.
inline void lq_b1mma(int* sums, const unsigned int* codes, const unsigned int* weights) {
  using namespace emulation;
  Outside outside;
  std::memcpy(warp().in[current->lane], codes, 16);
  std::memcpy(warp().in[current->lane] + 4, weights, 8);
  warp_meets("mma.b1", [] {
    uint32_t a[16][8], b[8][8];
    for (int lane = 0; lane < WARP; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const uint32_t* in = warp().in[lane];
      a[g][t] = in[0], a[g + 8][t] = in[1], a[g][t + 4] = in[2], a[g + 8][t + 4] = in[3];
      b[g][t] = in[4], b[g][t + 4] = in[5];
    }
    for (int lane = 0; lane < WARP; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        uint32_t sum = 0;
        for (int word = 0; word < 8; ++word) sum += __builtin_popcount(a[row][word] & b[column][word]);
        warp().out[lane][i] = sum;
      }
  });
  for (int i = 0; i < 4; ++i) sums[i] += warp().out[current->lane][i];
}

// mma.m16n8k32 of unsigned by signed bytes. Element i of a thread's fragment (low byte first) is of A in row g for
// i = 0..3 and 8..11 and in row g + 8 otherwise, in column 4 t + i % 4, and 16 more from i = 8 on; of B in row 4 t + i % 4,
// and 16 more from i = 4 on, of column g; of C in row g for i = 0, 1 and g + 8 for i = 2, 3, in column 2 t + i % 2.
inline void lq_i8mma(int* sums, const unsigned int* codes, const unsigned int* weights) {
  using namespace emulation;
  Outside outside;
  std::memcpy(warp().in[current->lane], codes, 16);
  std::memcpy(warp().in[current->lane] + 4, weights, 8);
  warp_meets("mma.u8.s8", [] {
    uint8_t a[16][32];
    int8_t b[32][8];
    for (int lane = 0; lane < WARP; ++lane) {
      const int g = lane >> 2, t = lane & 3;
      const auto* bytes = reinterpret_cast<const uint8_t*>(warp().in[lane]);
      for (int i = 0; i < 16; ++i) a[i < 4 || (i >= 8 && i < 12) ? g : g + 8][4 * t + (i & 3) + (i < 8 ? 0 : 16)] = bytes[i];
      for (int i = 0; i < 8; ++i) b[4 * t + (i & 3) + (i < 4 ? 0 : 16)][g] = static_cast<int8_t>(bytes[16 + i]);
    }
    for (int lane = 0; lane < WARP; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = (lane >> 2) + (i < 2 ? 0 : 8), column = (lane & 3) * 2 + (i & 1);
        int32_t sum = 0;
        for (int k = 0; k < 32; ++k) sum += a[row][k] * b[k][column];
        warp().out[lane][i] = sum;
      }
  });
  for (int i = 0; i < 4; ++i) sums[i] += static_cast<int>(warp().out[current->lane][i]);
}

// In C++ 'alignas' cannot follow 'static', as it follows '__shared__' in CUDA C.
#define alignas(bytes) __attribute__((aligned(bytes)))
