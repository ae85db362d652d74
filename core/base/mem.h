/* The one file that calls malloc. Blocks are zeroed and aligned to 64 bytes (a cache line, an AVX-512 register); those
 * of megabytes lie in huge pages where the system gives any to who asks. Any thread. A counter tells tests how many
 * calls were made (a solver step must make none), and each call is a place for a fault (core/base/fault.h). */
#ifndef DEQ_BASE_MEM_H
#define DEQ_BASE_MEM_H

#include "core/base/base.h"

void *deq_alloc(size_t bytes);                      /* zeroed; NULL when there is none; size 0 gives a valid block */
void *deq_alloc_array(size_t n, size_t size_bytes); /* NULL also when n*size overflows */
/* Grows or shrinks; bytes past the old size are not zeroed. On failure the old block stays. */
void *deq_realloc(void *p, size_t old_bytes, size_t new_bytes);
/* For libraries that take an allocator: malloc and free, counted nowhere; a fault point only when asked for. */
void *deq_alloc_plain(size_t bytes);
void deq_free_plain(void *p);
void deq_free(void *p); /* takes NULL */
char *deq_strdup(const char *s);

uint64_t deq_mem_calls(void);                    /* allocations so far */
uint64_t deq_mem_bytes(void);                    /* and what they asked for together, freed or not */
/* bytes of the blocks that are held now; libraries' own (OpenBLAS's buffers, jansson) are not among them */
uint64_t deq_mem_live(void);
uint64_t deq_mem_blocks(void); /* and how many they are */
/* the most that deq_mem_live() was since the last deq_mem_peak_restart() */
uint64_t deq_mem_peak(void);
void deq_mem_peak_restart(void);
void deq_mem_count_plain(bool on);               /* those of deq_alloc_plain are fault points too */
void deq_mem_fault(uint64_t nth, bool for_ever); /* deq_fault_set of DEQ_FAULT_ALLOC */

#define DEQ_NEW(type) ((type *)deq_alloc(sizeof(type)))
#define DEQ_NEW_ARRAY(type, n) ((type *)deq_alloc_array((n), sizeof(type)))

#endif
