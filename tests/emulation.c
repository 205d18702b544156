/* Runs one entry point of a compiled network, linked in: a device without operating system library or Python.
 *
 * Standard input holds int64 numbers and raw bytes: 0 for `run` or 1 for `sums`, the count of arguments, then for each
 * 0 and its value (an integer), or 1, type code, bits, dimensions, the shape, the size in bytes and the bytes (a
 * tensor). The bytes of all tensors go to standard output in the end.
 */
#include <stddef.h>
#include <stdint.h>

typedef struct { int32_t type, id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } Type;
typedef struct {
  void *data;
  Device device;
  int32_t dimensions;
  Type type;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;
typedef struct {
  int32_t kind;
  uint32_t padding;
  union { int64_t integer; void *pointer; } value;
} Any;
typedef struct { void *sync; int32_t tasks; } Group;
typedef int (*Task)(int task, Group *group, void *data);
typedef int Entry(void *, const Any *, int32_t, Any *);

enum { CPU = 1, INTEGER = 1, TENSOR = 7, MOST = 64, RANK = 8, TASKS = 3, MEMORY = 64 << 20, ALIGNMENT = 64 };

Entry __tvm_ffi_run __attribute__((weak)), __tvm_ffi_sums __attribute__((weak));
extern int (*__TVMBackendParallelLaunch)(Task, void *, int) __attribute__((weak));

#if defined(__aarch64__)
enum { READ = 63, WRITE = 64, EXIT = 93 };

static long call(long number, long first, long second, long third) {
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = first, x1 __asm__("x1") = second;
  register long x2 __asm__("x2") = third;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
  return x0;
}
#elif defined(__x86_64__)
enum { READ, WRITE, EXIT };

long call(long number, long first, long second, long third); /* tests/pc.c */
#else
enum { READ = 3, WRITE = 4, EXIT = 1 };

static long call(long number, long first, long second, long third) {
  register long r7 __asm__("r7") = number, r0 __asm__("r0") = first, r1 __asm__("r1") = second;
  register long r2 __asm__("r2") = third;
  __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
  return r0;
}
#endif

static void stop(int code) {
  for (;;) call(EXIT, code, 0, 0);
}

static void move(long number, int stream, void *data, size_t size) {
  for (size_t done = 0; done < size;) {
    long count = call(number, stream, (long)((char *)data + done), (long)(size - done));
    if (count <= 0) stop(3);
    done += (size_t)count;
  }
}

static int64_t number(void) {
  int64_t value;
  move(READ, 0, &value, sizeof value);
  return value;
}

/* What the compiler may call. */
void *memset(void *target, int value, size_t size) {
  for (volatile char *byte = target; size; size--) *byte++ = (char)value;
  return target;
}

void *memcpy(void *target, const void *source, size_t size) {
  const char *from = source;
  for (volatile char *byte = target; size; size--) *byte++ = *from++;
  return target;
}

float expf(float x) { /* e^x = (e^(x / 1024))^1024 with five terms of the series, in double */
  double part = (double)x / 1024, power = 1 + part * (1 + part / 2 * (1 + part / 3 * (1 + part / 4)));
  for (int i = 0; i < 10; i++) power *= power;
  return (float)power;
}

float nearbyintf(float x) { /* to even, by the limit of the mantissa */
  volatile float shift = x < 0 ? -8388608.0f : 8388608.0f, shifted = x + shift;
  return x > -8388608.0f && x < 8388608.0f ? shifted - shift : x;
}

void __aeabi_unwind_cpp_pr0(void) {}

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  (void)kind;
  for (int32_t i = 0; i < count; i++)
    for (const char *letter = parts[i]; letter && *letter; letter++) call(WRITE, 2, (long)letter, 1);
}

static int launch(Task task, void *data, int tasks) {
  Group group = {0, tasks > 0 ? tasks : TASKS};
  for (int i = 0; i < group.tasks; i++) {
    int code = task(i, &group, data);
    if (code) return code;
  }
  return 0;
}

static char memory[MEMORY] __attribute__((aligned(ALIGNMENT)));

__attribute__((used)) void start(void) {
  static Any arguments[MOST], result;
  static Tensor tensors[MOST];
  static int64_t shapes[MOST][RANK], sizes[MOST];
  size_t used = 0;
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = launch;
  Entry *entry = number() ? __tvm_ffi_sums : __tvm_ffi_run;
  int64_t total = number();
  if (!entry || total > MOST) stop(2);
  for (int64_t i = 0; i < total; i++) {
    if (!number()) {
      arguments[i].kind = INTEGER;
      arguments[i].value.integer = number();
      continue;
    }
    Tensor *tensor = &tensors[i];
    tensor->device.type = CPU;
    tensor->type.code = (uint8_t)number();
    tensor->type.bits = (uint8_t)number();
    tensor->type.lanes = 1;
    tensor->dimensions = (int32_t)number();
    if (tensor->dimensions > RANK) stop(2);
    for (int32_t axis = 0; axis < tensor->dimensions; axis++) shapes[i][axis] = number();
    tensor->shape = shapes[i];
    sizes[i] = number();
    if (sizes[i] > (int64_t)(MEMORY - used)) stop(4);
    tensor->data = memory + used;
    used += ((size_t)sizes[i] + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    move(READ, 0, tensor->data, (size_t)sizes[i]);
    arguments[i].kind = TENSOR;
    arguments[i].value.pointer = tensor;
  }
  int code = entry(0, arguments, (int32_t)total, &result);
  for (int64_t i = 0; i < total; i++)
    if (tensors[i].data) move(WRITE, 1, tensors[i].data, (size_t)sizes[i]);
  stop(code ? 1 : 0);
}

#if !defined(__x86_64__) /* The stack starts aligned. */
__asm__(".globl _start\n_start: bl start\n");
#endif
