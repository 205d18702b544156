// What emulated kernels read and write, watched for emulation.h: races, bounds, alignment, memory that nobody wrote.
//
// The compiler calls `__tsan_read4` and the like before each access of a kernel (-fsanitize=thread, without its library).
// Only barriers order the threads of a block, and nothing orders blocks: two threads that touch one byte of shared memory
// between the same two barriers race, and so do two threads that touch one byte of the GPU's memory in a launch, if one of
// them writes and not both write the same. That holds whatever the order in which they run here.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#define UNWATCHED __attribute__((no_sanitize("thread"), optimize("O2")))

extern "C" char __start_shared_memory[] __attribute__((weak)), __stop_shared_memory[] __attribute__((weak));

namespace emulation {

constexpr uint32_t MANY = ~0u;  // in place of one thread
constexpr int PAGE_BITS = 12;

struct SharedByte {  // since when: numbers of barriers
  uint32_t written_at = 0, read_at = 0, writer = 0, reader = 0, copies = 0;
  const char* source = nullptr;  // of the copy that wrote it last, or is under way
};

struct GlobalByte { uint32_t writer = 0, reader = 0; };

struct Accesses {
  std::vector<SharedByte> shared;
  std::unordered_map<uintptr_t, std::unique_ptr<GlobalByte[]>> global;  // by page, of this launch
  uintptr_t page_number = 0;                                            // of the page that was touched last
  GlobalByte* page = nullptr;
  uint32_t barrier = 0, block_start = 0;                                // barriers so far, and when the block began
  bool (*holds)(uintptr_t place, size_t size) = nullptr;                // whether the GPU's memory has been allocated
  const char* written = nullptr;                                        // a second time, with what must be equal
  char before[16];
  size_t size = 0;
};

inline Accesses accesses;
inline bool inside = false;  // whether the code of a kernel runs, and not what stands for hardware

struct Outside {
  UNWATCHED Outside() { inside = false; }
  UNWATCHED ~Outside() { inside = true; }
};

// Whoever the threads are, as `shared_thread` and `global_thread` number them from 1 on.
UNWATCHED inline uint32_t shared_thread(), global_thread();
UNWATCHED inline bool on_stack(uintptr_t place);

UNWATCHED inline bool is_shared(const void* place) { return place >= __start_shared_memory && place < __stop_shared_memory; }

UNWATCHED inline SharedByte* shared_bytes(const void* place, size_t size) {
  const char* start = static_cast<const char*>(place);
  if (!is_shared(start) || start + size > __stop_shared_memory) fail("an access that leaves shared memory");
  if (accesses.shared.empty()) accesses.shared.resize(__stop_shared_memory - __start_shared_memory);
  return &accesses.shared[start - __start_shared_memory];
}

UNWATCHED inline void also(uint32_t& who, uint32_t thread, bool others) { who = others && who != thread ? MANY : thread; }

// Equal values may be written twice: `must_stay` is called before the second one is, `check_written` behind it.
UNWATCHED inline void must_stay(const void* place, size_t size) {
  accesses.written = static_cast<const char*>(place), accesses.size = size;
  std::memcpy(accesses.before, place, size);
}

UNWATCHED inline void check_written() {
  if (accesses.written && std::memcmp(accesses.written, accesses.before, accesses.size))
    fail("a race: two threads write unlike values to one place");
  accesses.written = nullptr;
}

UNWATCHED inline void read_shared(const void* place, size_t size, uint32_t thread) {
  SharedByte* bytes = shared_bytes(place, size);
  for (size_t n = 0; n < size; ++n) {
    SharedByte& byte = bytes[n];
    if (byte.copies) fail("a race: shared memory is read while it is copied to");
    if (byte.written_at < accesses.block_start) fail("shared memory is read that nobody wrote");
    if (byte.written_at == accesses.barrier && byte.writer != thread)
      fail("a race: shared memory is read that another thread wrote, without a barrier between");
    also(byte.reader, thread, byte.read_at == accesses.barrier);
    byte.read_at = accesses.barrier;
  }
}

UNWATCHED inline void write_shared(const void* place, size_t size, uint32_t thread, const char* source = nullptr) {
  SharedByte* bytes = shared_bytes(place, size);
  for (size_t n = 0; n < size; ++n) {
    SharedByte& byte = bytes[n];
    // Equal copies by several threads are one.
    const bool same = source && byte.source == source + n && (byte.copies || byte.written_at == accesses.barrier);
    if (byte.copies && !same) fail("a race: shared memory is written while it is copied to");
    if (!same && byte.written_at == accesses.barrier && byte.writer != thread) {
      if (source) fail("a race: shared memory is copied to that another thread wrote, without a barrier between");
      must_stay(place, size);
    }
    if (byte.read_at == accesses.barrier && byte.reader != thread)
      fail("a race: shared memory is written that another thread reads, without a barrier between");
    also(byte.writer, thread, byte.written_at == accesses.barrier);
    byte.written_at = accesses.barrier;
    byte.source = source ? source + n : nullptr;
    byte.copies += source != nullptr;
  }
}

UNWATCHED inline void end_copy(const void* place, size_t size, uint32_t thread) {
  SharedByte* bytes = shared_bytes(place, size);
  for (size_t n = 0; n < size; ++n) {
    --bytes[n].copies;
    also(bytes[n].writer, thread, bytes[n].written_at == accesses.barrier);
    bytes[n].written_at = accesses.barrier;
  }
}

UNWATCHED inline void touch_global(const void* place, size_t size, bool writes) {
  const auto start = reinterpret_cast<uintptr_t>(place);
  if (!accesses.holds(start, size)) fail("an access outside of the memory");
  const uint32_t thread = global_thread();
  if (start >> PAGE_BITS != accesses.page_number) {
    auto& page = accesses.global[accesses.page_number = start >> PAGE_BITS];
    if (!page) page = std::make_unique<GlobalByte[]>(1 << PAGE_BITS);
    accesses.page = page.get();
  }
  GlobalByte* bytes = accesses.page + start % (1 << PAGE_BITS);
  for (size_t n = 0; n < size; ++n) {
    GlobalByte& byte = bytes[n];
    if (writes ? byte.reader && byte.reader != thread : byte.writer && byte.writer != thread)
      fail("a race: one thread reads what another one writes in the same launch");
    if (writes && byte.writer && byte.writer != thread) must_stay(place, size);
    uint32_t& who = writes ? byte.writer : byte.reader;
    also(who, thread, who);
  }
}

UNWATCHED inline void touch(const void* place, size_t size, bool writes) {
  check_written();
  if (reinterpret_cast<uintptr_t>(place) % size) fail("an access that is not aligned to its size");  // and fits a page
  if (!is_shared(place)) return touch_global(place, size, writes);
  writes ? write_shared(place, size, shared_thread()) : read_shared(place, size, shared_thread());
}

UNWATCHED inline void touched(const void* place, size_t size, bool writes) {
  if (!inside || on_stack(reinterpret_cast<uintptr_t>(place))) return;
  Outside outside;
  touch(place, size, writes);
}

UNWATCHED inline void barrier_passed() { ++accesses.barrier; }
UNWATCHED inline void block_begins() { accesses.block_start = ++accesses.barrier; }
UNWATCHED inline void launch_begins() {
  accesses.global.clear();
  accesses.page_number = 0;
}

}  // namespace emulation

#define WATCH(bytes)                                                                                               \
  UNWATCHED void __tsan_read##bytes(void* place) { emulation::touched(place, bytes, false); }                      \
  UNWATCHED void __tsan_write##bytes(void* place) { emulation::touched(place, bytes, true); }                      \
  UNWATCHED void __tsan_unaligned_read##bytes(void* place) { emulation::touched(place, bytes, false); }            \
  UNWATCHED void __tsan_unaligned_write##bytes(void* place) { emulation::touched(place, bytes, true); }

extern "C" {
WATCH(1) WATCH(2) WATCH(4) WATCH(8) WATCH(16)
UNWATCHED void __tsan_read_range(void*, size_t) { if (emulation::inside) emulation::fail("an access of unknown size"); }
UNWATCHED void __tsan_write_range(void*, size_t) { if (emulation::inside) emulation::fail("an access of unknown size"); }
UNWATCHED void __tsan_vptr_update(void**, void*) {}
UNWATCHED void __tsan_func_entry(void*) {}
UNWATCHED void __tsan_func_exit() {}
UNWATCHED void __tsan_init() {}
UNWATCHED int __tsan_atomic32_fetch_add(volatile int* place, int value, int) {  // one thread of the host runs all
  const int before = *place;
  *place = before + value;
  return before;
}
UNWATCHED void emulated_attach(bool (*holds)(uintptr_t, size_t)) { emulation::accesses.holds = holds; }
}
