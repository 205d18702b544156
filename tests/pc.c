/* Input and output of the emulated PC, in place of system calls: the first disk, behind the program, is read from and
 * the second written to, as streams. In the end the second disk's first sector gets int64 1 and the exit code, and Bochs
 * is told to stop.
 */
#include <stddef.h>
#include <stdint.h>

enum { READ, WRITE, EXIT };
enum { DISK = 0x1f0, DEVICE = 0x1f6, COMMAND = 0x1f7, BUSY = 0x80, READY = 0x08, SECTOR = 512, SHUTDOWN = 0x8900 };
enum { READ_SECTORS = 0x20, WRITE_SECTORS = 0x30 };

typedef struct {
  uint32_t sector; /* next of the disk */
  size_t used;     /* bytes of the buffer */
  char buffer[SECTOR];
} Stream;

static Stream streams[2] = {{.used = SECTOR}, {.sector = 1}};

extern const uint32_t sectors; /* of the program, from the boot sector */

static void out(uint16_t port, uint8_t value) {
  __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

/* One sector of disk 0 (in) or 1 (out). */
static void transfer(int disk, uint32_t sector, void *data) {
  size_t words = SECTOR / 2;
  out(DEVICE, (uint8_t)(0xe0 | disk << 4 | sector >> 24));
  out(DISK + 2, 1);
  for (int byte = 0; byte < 3; byte++) out((uint16_t)(DISK + 3 + byte), (uint8_t)(sector >> 8 * byte));
  out(COMMAND, disk ? WRITE_SECTORS : READ_SECTORS);
  while ((in(COMMAND) & (BUSY | READY)) != READY) {}
  if (disk)
    __asm__ volatile("rep outsw" : "+S"(data), "+c"(words) : "d"(DISK) : "memory");
  else
    __asm__ volatile("rep insw" : "+D"(data), "+c"(words) : "d"(DISK) : "memory");
  while (in(COMMAND) & BUSY) {}
}

static void finish(long code) {
  static int64_t status[SECTOR / sizeof(int64_t)] = {1};
  if (streams[1].used) transfer(1, streams[1].sector, streams[1].buffer);
  status[1] = code;
  transfer(1, 0, status);
  for (;;)
    for (const char *letter = "Shutdown"; *letter; letter++) out(SHUTDOWN, (uint8_t)*letter);
}

/* As the system calls of the same names; `WRITE` to stream 2 (errors) goes nowhere. */
long call(long number, long stream, long data, long size) {
  char *bytes = (char *)data;
  if (number == EXIT) finish(stream);
  if (number == WRITE && stream == 2) return size;
  Stream *disk = &streams[number];
  for (long done = 0; done < size; done++) {
    if (number == READ && disk->used == SECTOR) {
      transfer(0, 1 + sectors + disk->sector++, disk->buffer);
      disk->used = 0;
    }
    if (number == READ) {
      bytes[done] = disk->buffer[disk->used++];
      continue;
    }
    disk->buffer[disk->used++] = bytes[done];
    if (disk->used == SECTOR) {
      transfer(1, disk->sector++, disk->buffer);
      disk->used = 0;
    }
  }
  return size;
}
