// A libcuda.so.1 whose GPU is this CPU: the part of the driver API that lqcompile uses, for emulated kernels.
//
// Device code is a shared library that was compiled with emulation.h. Memory starts as rubbish, and ends at a page that
// nothing may touch. `fake_set` makes up drivers, GPUs and shortages.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <elf.h>
#include <map>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "emulation.h"

using emulation::Launch;

namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 256;
std::map<std::string, long long> setting = {
    {"devices", 1}, {"driver", 13000}, {"major", 9}, {"minor", 0}, {"free", 1LL << 32}, {"load", 0}, {"launch", 0},
    {"clock", 0},   {"init", 0}};
// CUdevice_attribute to a setting, or to a number: multiprocessors, clocks in kHz, bits of memory, bytes of the L2 cache.
const std::map<int, const char*> attributes = {{75, "major"}, {76, "minor"}};
const std::map<int, int> numbers = {{16, 2}, {13, 1980000}, {36, 3201000}, {37, 6144}, {38, 60 << 20}};
struct Pages {
  void* start;
  size_t room, size;
};
std::map<uint64_t, Pages> held;
size_t in_use = 0;
double made_up_ns = 0;  // with "clock", kernels in graphs do nothing but take so many nanoseconds a thread block

struct Node {
  std::shared_ptr<Launch> launch;
  uint3_ grid, size;
};
struct Graph {
  std::vector<Node> nodes;
};
Graph* capturing = nullptr;
thread_local void* current_context = nullptr;

bool holds(uintptr_t place, size_t size) {
  auto found = held.upper_bound(place);
  return found != held.begin() && (--found)->first + found->second.size >= place + size;
}

size_t elf_size(const void* data) {
  const auto* header = static_cast<const Elf64_Ehdr*>(data);
  return header->e_shoff + size_t{header->e_shentsize} * header->e_shnum;
}

}  // namespace

extern "C" {

void fake_set(const char* name, long long value) { setting[name] = value; }
long long fake_memory() { return static_cast<long long>(in_use); }

int cuInit(unsigned) { return setting["init"] ? static_cast<int>(setting["init"]) : setting["devices"] ? 0 : 100; }
int cuDriverGetVersion(int* version) { return *version = static_cast<int>(setting["driver"]), 0; }
int cuDeviceGet(int* device, int) { return *device = 0, 0; }
int cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size, "Emulated GPU"), 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  if (const auto number = numbers.find(attribute); number != numbers.end()) return *value = number->second, 0;
  const auto found = attributes.find(attribute);
  if (found == attributes.end()) return 1;
  return *value = static_cast<int>(setting[found->second]), 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = &setting, 0; }
int cuCtxSetCurrent(void* context) { return context == &setting ? current_context = context, 0 : 201; }
int cuStreamCreate(void** stream, unsigned) { return *stream = &held, 0; }
int cuStreamSynchronize(void*) { return capturing ? 900 : 0; }
int cuGetErrorString(int status, const char** text) {
  return *text = status == 719 ? "unspecified launch failure" : "made up", 0;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  *total = setting["free"];
  *free = *total - in_use;
  return 0;
}

int cuMemAlloc_v2(uint64_t* pointer, size_t size) {
  if (!current_context) return 201;
  if (!size) return 1;
  if (in_use + size > static_cast<size_t>(setting["free"])) return 2;
  const size_t room = (size + PAGE - 1) / PAGE * PAGE;
  auto* pages = static_cast<char*>(mmap(nullptr, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (pages == MAP_FAILED) return 2;
  mprotect(pages + room, PAGE, PROT_NONE);
  const size_t slack = (room - size) / ALIGNMENT * ALIGNMENT;  // the end of the memory lies just before the last page
  for (size_t at = 0; at < room; ++at) pages[at] = static_cast<char>(at * 2654435761u >> 13);
  *pointer = reinterpret_cast<uint64_t>(pages + slack);
  held[*pointer] = {pages, room + PAGE, size};
  in_use += size;
  return 0;
}

int cuMemFree_v2(uint64_t pointer) {
  const auto found = held.find(pointer);
  if (found == held.end()) return 1;
  in_use -= found->second.size;
  munmap(found->second.start, found->second.room);
  held.erase(found);
  return 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t target, const void* source, size_t size, void*) {
  if (capturing) return 900;
  return std::memcpy(reinterpret_cast<void*>(target), source, size), 0;
}
int cuMemcpyDtoHAsync_v2(void* target, uint64_t source, size_t size, void*) {
  return std::memcpy(target, reinterpret_cast<void*>(source), size), 0;
}

int cuModuleLoadData(void** module, const void* image) {
  if (setting["load"]) return static_cast<int>(setting["load"]);
  char path[] = "/tmp/lqcompile-emulated-XXXXXX";
  const int file = mkstemp(path);
  const size_t size = elf_size(image);
  const bool written = write(file, image, size) == static_cast<ssize_t>(size);
  close(file);
  *module = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  unlink(path);
  if (!*module) return std::fprintf(stderr, "emulated GPU: %s\n", dlerror()), 200;
  reinterpret_cast<void (*)(decltype(&holds))>(dlsym(*module, "emulated_attach"))(holds);
  return 0;
}

int cuModuleUnload(void* module) { return dlclose(module), 0; }

int cuModuleGetFunction(void** function, void* module, const char* name) {
  return (*function = dlsym(module, (std::string("emulated_") + name).c_str())) ? 0 : 500;
}

int cuFuncLoad(void* function) { return function ? 0 : 400; }

int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   void*, void** parameters, void**) {
  if (!current_context) return 201;
  if (setting["launch"]) return static_cast<int>(setting["launch"]);
  if (!gx || !gy || gz != 1 || gy > 65535 || !bx || !by || bz != 1 || bx * by > 1024) return 1;
  std::shared_ptr<Launch> launch(reinterpret_cast<Launch* (*)(void**)>(function)(parameters));
  const Node node{launch, {int(gx), int(gy), 1}, {int(bx), int(by), 1}};
  if (capturing)
    capturing->nodes.push_back(node);
  else
    node.launch->run(node.grid, node.size);
  return 0;
}

int cuStreamBeginCapture_v2(void*, int) { return capturing ? 901 : (capturing = new Graph, 0); }
int cuStreamEndCapture(void*, void** graph) {
  *graph = setting["launch"] ? delete capturing, nullptr : capturing;  // a launch that failed has broken it
  capturing = nullptr;
  return setting["launch"] ? 901 : 0;
}
int cuGraphInstantiateWithFlags(void** ready, void* graph, unsigned long long) {
  return *ready = new Graph(*static_cast<Graph*>(graph)), 0;
}
int cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), 0; }
int cuGraphExecDestroy(void* graph) { return delete static_cast<Graph*>(graph), 0; }
// Events hold the time of the host, or with "clock" one that is made up.
int cuEventCreate(void** event, unsigned) { return *event = new double(0), 0; }
int cuEventRecord(void* event, void*) {
  if (setting["clock"]) return *static_cast<double*>(event) = 1e-6 * made_up_ns, 0;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return *static_cast<double*>(event) = 1e3 * now.tv_sec + 1e-6 * now.tv_nsec, 0;
}
int cuEventSynchronize(void*) { return 0; }
int cuEventElapsedTime_v2(float* milliseconds, void* before, void* behind) {
  return *milliseconds = static_cast<float>(*static_cast<double*>(behind) - *static_cast<double*>(before)), 0;
}
int cuEventDestroy_v2(void* event) { return delete static_cast<double*>(event), 0; }
int cuGraphLaunch(void* graph, void*) {
  if (!current_context) return 201;
  for (const Node& node : static_cast<Graph*>(graph)->nodes) {
    made_up_ns += setting["clock"] * node.grid.x * node.grid.y;
    if (!setting["clock"]) node.launch->run(node.grid, node.size);
  }
  return 0;
}
}
