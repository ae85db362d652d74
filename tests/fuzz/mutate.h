/* Mutators for formats that random changes of bytes do not get into; only under libFuzzer.
 *
 *     FUZZ_MUTATOR { return fuzz_mutate_json(data, n, max, seed); }
 *
 * changes data [n] in its place, to at most max bytes, by a function of seed and libFuzzer's own state. */
#ifndef DEQ_FUZZ_MUTATE_H
#define DEQ_FUZZ_MUTATE_H

#include "tests/fuzz/fuzz.h"

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
size_t LLVMFuzzerMutate(uint8_t *data, size_t n, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t max, unsigned seed);
#define FUZZ_MUTATOR size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t max, unsigned seed)

/* JSON: values and members are copied, swapped, dropped, made others; a third of the time any bytes change. */
size_t fuzz_mutate_json(uint8_t *data, size_t n, size_t max, unsigned seed);
/* JSON behind so many letters, and up to the first zero byte; in front and behind bytes change. */
size_t fuzz_mutate_json_in(uint8_t *data, size_t n, size_t max, unsigned seed, size_t letters);
/* A safetensors file: numbers of its tensors, sizes, of one tensor or of all that have the same one, its header as
 * JSON; most times offsets, lengths and what tensors had follow. checksum: and the one at its end that saved states
 * have (core/engine/saved.c). */
size_t fuzz_mutate_safetensors(uint8_t *data, size_t n, size_t max, unsigned seed, bool checksum);
#endif

#endif
