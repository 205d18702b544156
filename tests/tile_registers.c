/* AMX for processors without it: runs the tile instructions of a program one by one when they raise SIGILL.
 *
 * The instructions are decoded from the machine code, with their checks, as in Intel's Software Developer's Manual,
 * volume 2: LDTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILESTORED and TDPBUSD. What the manual answers with #UD ends
 * the program with a message. Every thread has tile registers of its own.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, BYTES = 64 };
enum { NONE, OPERAND_SIZE, REPEAT, REPEAT_NOT }; /* VEX.pp: none, 66, F3, F2 */
enum { CONFIGURE, RELEASE, ZERO, LOAD, STORE, SPLIT_STORE, MULTIPLY, KINDS };

typedef struct {
  int configured;
  uint16_t bytes[TILES];
  uint8_t rows[TILES];
  uint8_t data[TILES][ROWS][BYTES];
} State;

static _Thread_local State state;
static uint64_t counts[KINDS];
static struct sigaction before;

static const int REGISTERS[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void check(int fine, const char *rule) {
  if (fine) return;
  fprintf(stderr, "tile instruction: #UD: %s\n", rule);
  abort();
}

static void count(int kind) { __atomic_fetch_add(&counts[kind], 1, __ATOMIC_RELAXED); }

static void configure(const uint8_t *config) {
  check(config[0] == 1, "palette is 1");
  for (int i = 1; i < 16; i++) check(!config[i], "start row and reserved bytes are zero");
  for (int i = TILES; i < 16; i++) check(!config[16 + 2 * i] && !config[17 + 2 * i], "only eight tiles have columns");
  for (int i = TILES; i < 16; i++) check(!config[48 + i], "only eight tiles have rows");
  memset(&state, 0, sizeof state);
  memcpy(state.bytes, config + 16, sizeof state.bytes);
  memcpy(state.rows, config + 48, sizeof state.rows);
  for (int i = 0; i < TILES; i++) {
    check(state.rows[i] <= ROWS && state.bytes[i] <= BYTES, "at most 16 rows of 64 bytes");
    check(!state.rows[i] == !state.bytes[i], "rows and columns are zero together");
  }
  state.configured = 1;
}

static void usable(int tile) { check(state.configured && state.rows[tile], "the tile is configured"); }

static void multiply(int sums, int left, int right) {
  usable(sums), usable(left), usable(right);
  check(sums != left && sums != right && left != right, "three different tiles");
  check(state.bytes[sums] % 4 == 0 && state.bytes[left] % 4 == 0 && state.bytes[right] % 4 == 0, "whole words");
  check(state.rows[sums] == state.rows[left], "rows of sums and left factor");
  check(state.bytes[sums] == state.bytes[right], "columns of sums and right factor");
  check(state.bytes[left] / 4 == state.rows[right], "depth of the factors");
  for (int m = 0; m < state.rows[sums]; m++) {
    int32_t row[BYTES / 4];
    memcpy(row, state.data[sums][m], sizeof row);
    for (int k = 0; k < state.bytes[left] / 4; k++)
      for (int n = 0; n < state.bytes[sums] / 4; n++)
        for (int i = 0; i < 4; i++)
          row[n] += (int32_t)state.data[left][m][4 * k + i] * (int8_t)state.data[right][k][4 * n + i];
    memset(state.data[sums][m], 0, BYTES);
    memcpy(state.data[sums][m], row, state.bytes[sums]);
  }
  memset(state.data[sums][state.rows[sums]], 0, (ROWS - state.rows[sums]) * BYTES);
}

/* Runs the instruction at `code`; returns its length, or 0 where it is none of these. */
static int run(const uint8_t *code, const greg_t *registers) {
  if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84)) return 0; /* VEX.128.0F38.W0 */
  int prefix = code[2] & 3, other = ~code[2] >> 3 & 15, opcode = code[3], modrm = code[4];
  int mode = modrm >> 6, tile = modrm >> 3 & 7, right = modrm & 7;
  if (opcode == 0x5E && mode == 3 && prefix == OPERAND_SIZE) {
    multiply(tile, right, other);
    count(MULTIPLY);
    return 5;
  }
  if (opcode == 0x49 && modrm == 0xC0 && prefix == NONE) {
    memset(&state, 0, sizeof state);
    count(RELEASE);
    return 5;
  }
  if (opcode == 0x49 && mode == 3 && right == 0 && prefix == REPEAT_NOT) {
    usable(tile);
    memset(state.data[tile], 0, sizeof state.data[tile]);
    count(ZERO);
    return 5;
  }
  int tiles = opcode == 0x4B && (prefix == REPEAT_NOT || prefix == REPEAT) && right == 4;
  if (mode == 3 || !(tiles || (opcode == 0x49 && prefix == NONE && tile == 0))) return 0;
  int length = 5, base = right | (~code[1] >> 5 & 1) << 3;
  int64_t stride = 0, displacement = 0;
  if (right == 4) {
    int sib = code[length++], index = (sib >> 3 & 7) | (~code[1] >> 6 & 1) << 3;
    base = (sib & 7) | (~code[1] >> 5 & 1) << 3;
    if (index != 4) stride = (int64_t)registers[REGISTERS[index]] << (sib >> 6);
  }
  int absolute = mode == 0 && (base & 7) == 5;
  if (absolute && right != 4) return 0; /* relative to the instruction pointer: constants lie elsewhere */
  if (mode == 1) displacement = (int8_t)code[length++];
  if (mode == 2 || absolute) {
    int32_t wide;
    memcpy(&wide, code + length, sizeof wide);
    displacement = wide;
    length += 4;
  }
  uint8_t *at = (uint8_t *)((absolute ? 0 : registers[REGISTERS[base]]) + displacement);
  if (opcode == 0x49) {
    configure(at + stride);
    count(CONFIGURE);
    return length;
  }
  usable(tile);
  if (prefix == REPEAT_NOT) {
    memset(state.data[tile], 0, sizeof state.data[tile]);
    for (int row = 0; row < state.rows[tile]; row++) memcpy(state.data[tile][row], at + row * stride, state.bytes[tile]);
    count(LOAD);
  } else {
    for (int row = 0; row < state.rows[tile]; row++) memcpy(at + row * stride, state.data[tile][row], state.bytes[tile]);
    count(STORE);
    if ((uintptr_t)at % BYTES || stride % BYTES) count(SPLIT_STORE); /* rows that cross lines of the cache */
  }
  return length;
}

static void handle(int signal, siginfo_t *information, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  int length = run((const uint8_t *)registers[REG_RIP], registers);
  (void)information;
  registers[REG_RIP] += length;
  if (!length) sigaction(signal, &before, NULL); /* another instruction: what happened without this file */
}

/* Takes over SIGILL. */
void tile_registers_install(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, &before);
}

/* Instructions run since the last call, by kind, in the order of the enumeration. */
void tile_registers_counts(uint64_t *found) {
  for (int kind = 0; kind < KINDS; kind++) found[kind] = __atomic_exchange_n(&counts[kind], 0, __ATOMIC_RELAXED);
}
