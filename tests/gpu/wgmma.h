// Warpgroup instructions of Hopper for emulation.h: matrices in shared memory, fences, and products that arrive late.
//
// After the PTX ISA: "Matrix-Descriptor", "Swizzling modes", "Register Fragments for wgmma.mma_async.m64nNk256", and
// "Async proxy". Products are computed when the thread waits for them, and stop the program where the instruction could
// have read something else: what was copied but not fenced, or what is being overwritten.
#pragma once
#include <unordered_map>

namespace emulation {

struct Issue { std::vector<uintptr_t> pieces; int threads; };  // of a warpgroup: what it reads, and who waits for it

struct Product { int* sums; uint64_t codes, weights; int columns; std::shared_ptr<Issue> issue; };

struct Asynchronous {  // of a thread
  bool fenced = false;
  std::vector<Product> open;
  std::vector<Product> committed;
  std::vector<uintptr_t> arrived;
};

struct Warpgroup {
  Meeting meeting{.members = 4 * WARP};
  uint64_t in[4 * WARP][2];
  std::shared_ptr<Issue> issue;
};

inline std::unordered_map<const Thread*, Asynchronous> asynchronous;
inline std::unordered_map<int, Warpgroup> warpgroups;
inline std::unordered_map<uintptr_t, int> unfenced, reading;  // pieces of 16 bytes
inline uintptr_t window = 0;                                  // some address of shared memory

inline Asynchronous& mine() { return asynchronous[current]; }
inline uintptr_t piece_of(const void* place) { return reinterpret_cast<uintptr_t>(place) & ~uintptr_t{15}; }
inline void release(std::unordered_map<uintptr_t, int>& counts, uintptr_t piece) {
  if (!--counts[piece]) counts.erase(piece);
}

inline void copy_begins(const void* target) {
  if (reading.count(piece_of(target))) fail("a copy to where wgmma still reads");
}
inline void copy_arrives(const void* target) {
  ++unfenced[piece_of(target)];
  mine().arrived.push_back(piece_of(target));
}

// 16 bytes of a row of a matrix: groups of eight rows, a stride apart; the bits of the address move them in their row.
inline const uint32_t* piece_at(uint64_t matrix, int row, int half) {
  const uint64_t mode = matrix >> 62, start = (matrix & 0x3fff) << 4, stride = (matrix >> 32 & 0x3fff) << 4;
  if (!mode || matrix >> 49 & 7) fail("a matrix that is not swizzled, or not at the start of a pattern");
  const uint64_t pitch = 256 >> mode;
  uint64_t address = start + row / 8 * stride + row % 8 * pitch + half * 16;
  address ^= address >> 3 & (pitch - 16);
  const int64_t distance = static_cast<int64_t>((address - window + 0x20000) & 0x3ffff) - 0x20000;
  return reinterpret_cast<const uint32_t*>(window + distance);
}

inline void issue(int* sums, uint64_t codes, uint64_t weights, int columns) {
  Outside outside;
  if (!mine().fenced) fail("wgmma on registers that are not fenced");
  Warpgroup& group = warpgroups[current->warp / 4];
  uint64_t* in = group.in[current->warp % 4 * WARP + current->lane];
  in[0] = codes, in[1] = weights;
  meet(group.meeting, "wgmma", [&] {
    for (const auto& other : group.in)
      if (other[0] != codes || other[1] != weights) fail("threads of a warpgroup with unlike matrices");
    group.issue = std::make_shared<Issue>(Issue{{}, 4 * WARP});
    for (int row = 0; row < 64 + columns; ++row)
      for (int half = 0; half < 2; ++half)
        group.issue->pieces.push_back(piece_of(row < 64 ? piece_at(codes, row, half) : piece_at(weights, row - 64, half)));
    for (const uintptr_t piece : group.issue->pieces) {
      read_shared(reinterpret_cast<const void*>(piece), 16, MANY);
      if (unfenced.count(piece)) fail("wgmma reads what was copied and not fenced");
      ++reading[piece];
    }
  });
  mine().open.push_back({sums, codes, weights, columns, group.issue});
}

// Of D, a thread holds rows 16 w + g and 8 more of columns 8 n + 2 t and 8 n + 2 t + 1, four registers for each n.
inline void finish(const Product& product) {
  for (int i = 0; i < product.columns / 2; ++i) {
    const int row = current->warp % 4 * 16 + current->lane / 4 + i / 2 % 2 * 8;
    const int column = i / 4 * 8 + current->lane % 4 * 2 + i % 2;
    for (int half = 0; half < 2; ++half) {
      const uint32_t *a = piece_at(product.codes, row, half), *b = piece_at(product.weights, column, half);
      for (int word = 0; word < 4; ++word) product.sums[i] += __builtin_popcount(a[word] & b[word]);
    }
  }
  if (!--product.issue->threads)
    for (const uintptr_t piece : product.issue->pieces) release(reading, piece);
}

}  // namespace emulation

inline size_t __cvta_generic_to_shared(const void* place) {
  emulation::Outside outside;
  emulation::window = reinterpret_cast<uintptr_t>(place);
  return emulation::window;
}

inline void lq_fence_async() {
  emulation::Outside outside;
  for (const uintptr_t piece : emulation::mine().arrived) emulation::release(emulation::unfenced, piece);
  emulation::mine().arrived.clear();
}
inline void lq_wgmma_fence() {
  emulation::Outside outside;
  emulation::mine().fenced = true;
}
inline void lq_wgmma_commit() {
  emulation::Outside outside;
  auto& thread = emulation::mine();
  thread.committed.insert(thread.committed.end(), thread.open.begin(), thread.open.end());
  thread.open.clear();
}
inline void lq_wgmma_wait() {
  emulation::Outside outside;
  auto& thread = emulation::mine();
  if (!thread.open.empty()) emulation::fail("a thread waits for products that it did not commit");
  for (const auto& product : thread.committed) emulation::finish(product);
  thread.committed.clear();
  thread.fenced = false;
}
inline void lq_settle(int*) {
  emulation::Outside outside;
  if (!emulation::mine().committed.empty()) emulation::fail("sums are used while products are under way");
}
inline void lq_b1wgmma32(int* sums, uint64_t codes, uint64_t weights) { emulation::issue(sums, codes, weights, 32); }
inline void lq_b1wgmma64(int* sums, uint64_t codes, uint64_t weights) { emulation::issue(sums, codes, weights, 64); }
inline void lq_b1wgmma128(int* sums, uint64_t codes, uint64_t weights) { emulation::issue(sums, codes, weights, 128); }
inline void lq_b1wgmma256(int* sums, uint64_t codes, uint64_t weights) { emulation::issue(sums, codes, weights, 256); }
