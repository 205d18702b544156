# How the emulated PC (tests/emulated_pc.py) starts: a boot sector that reads one program to 1 MB, and the program's first
# steps, to 64 bits with every vector register enabled. There is no operating system and no interrupt.

.set DISK, 0x1f0                # the first ATA disk: data; then error, sectors, address (4), command
.set READ_SECTORS, 0x20
.set BUSY, 0x80
.set READY, 0x08
.set PROGRAM, 0x100000
.set TABLES, 0x1000             # three pages of page tables
.set STACK, 0xf000000

.section .boot, "ax"
.code16
boot:
  cli
  cld
  xorw %ax, %ax
  movw %ax, %ds
  inb $0x92, %al                # address line 20
  orb $2, %al
  andb $0xfe, %al
  outb %al, $0x92
  lgdtl descriptors_pointer
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  ljmpl $0x10, $protected

.code32
protected:
  movw $0x18, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movl $1, %ebx                 # next sector
  movl sectors, %esi
  movl $PROGRAM, %edi
command:
  movl $256, %ecx
  cmpl %ecx, %esi
  cmovbl %esi, %ecx
  movw $DISK + 2, %dx
  movb %cl, %al                 # 0 stands for 256
  outb %al, %dx
  movl %ebx, %eax
  incw %dx
  outb %al, %dx
  shrl $8, %eax
  incw %dx
  outb %al, %dx
  shrl $8, %eax
  incw %dx
  outb %al, %dx
  movb %ah, %al
  orb $0xe0, %al
  incw %dx
  outb %al, %dx
  incw %dx
  movb $READ_SECTORS, %al
  outb %al, %dx
  addl %ecx, %ebx
  subl %ecx, %esi
sector:
  movw $DISK + 7, %dx
  inb %dx, %al
  testb $BUSY, %al
  jnz sector
  testb $READY, %al
  jz sector
  movl %ecx, %ebp
  movl $256, %ecx
  movw $DISK, %dx
  rep insw
  movl %ebp, %ecx
  loop sector
  testl %esi, %esi
  jnz command
  movl $PROGRAM, %eax
  jmp *%eax

.p2align 3
descriptors:                    # none, none, 32-bit code, data, 64-bit code
  .quad 0, 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
descriptors_pointer:
  .word . - descriptors - 1
  .long descriptors
.org 0x1f0
.globl sectors
sectors:                        # of the program; who makes the disk writes it
  .long 0
.org 0x1fe
  .word 0xaa55

.section .entry, "ax"
.code32
entry:
  movl $TABLES, %edi            # one gigabyte in pages of 2 MB, each where it is
  xorl %eax, %eax
  movl $0x3000 / 4, %ecx
  rep stosl
  movl $TABLES + 0x1003, TABLES
  movl $TABLES + 0x2003, TABLES + 0x1000
  movl $TABLES + 0x2000, %edi
  movl $0x83, %eax
  movl $512, %ecx
page:
  movl %eax, (%edi)
  addl $0x200000, %eax
  addl $8, %edi
  loop page
  movl $TABLES, %eax
  movl %eax, %cr3
  movl $0x40620, %eax           # CR4: OSXSAVE, OSXMMEXCPT, OSFXSR, PAE
  movl %eax, %cr4
  movl $0xc0000080, %ecx        # EFER: LME
  rdmsr
  orl $0x100, %eax
  wrmsr
  movl $0x80000033, %eax        # CR0: PG, NE, ET, MP, PE
  movl %eax, %cr0
  ljmpl $0x20, $long

.code64
long:
  movl $STACK, %esp
  movl $0xd, %eax
  xorl %ecx, %ecx
  cpuid                         # EAX: what XCR0 may hold
  andl $0x600e7, %eax           # x87, SSE, AVX, AVX-512 (3 bits), AMX (2 bits)
  xorl %edx, %edx
  xorl %ecx, %ecx
  xsetbv
  call start
