/* Prints what CPUID says that the processor has, by the names of Linux's /proc/cpuinfo, of the features that lqcompile's
 * x86 targets ask for. Source: Intel's Software Developer's Manual, volume 2, CPUID.
 */
#include <cpuid.h>
#include <stdio.h>

enum { EAX, EBX, ECX, EDX };

static const struct {
  const char *name;
  unsigned leaf, subleaf, output, bit;
} FEATURES[] = {
    {"fma", 1, 0, ECX, 12},
    {"popcnt", 1, 0, ECX, 23},
    {"avx2", 7, 0, EBX, 5},
    {"bmi2", 7, 0, EBX, 8},
    {"avx512f", 7, 0, EBX, 16},
    {"avx512dq", 7, 0, EBX, 17},
    {"avx512bw", 7, 0, EBX, 30},
    {"avx512vl", 7, 0, EBX, 31},
    {"avx512vbmi", 7, 0, ECX, 1},
    {"avx512_vnni", 7, 0, ECX, 11},
    {"avx512_bitalg", 7, 0, ECX, 12},
    {"avx512_vpopcntdq", 7, 0, ECX, 14},
    {"amx_tile", 7, 0, EDX, 24},
    {"amx_int8", 7, 0, EDX, 25},
    {"avx_vnni", 7, 1, EAX, 4},
};

int main(void) {
  for (unsigned index = 0; index < sizeof FEATURES / sizeof *FEATURES; index++) {
    unsigned found[4];
    if (!__get_cpuid_count(FEATURES[index].leaf, FEATURES[index].subleaf, &found[EAX], &found[EBX], &found[ECX], &found[EDX]))
      continue;
    if (found[FEATURES[index].output] >> FEATURES[index].bit & 1) printf("%s ", FEATURES[index].name);
  }
  return 0;
}
