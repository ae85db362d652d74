/* What fuzz targets share. A target is a file fuzz_NAME.c with
 *
 *     FUZZ(NAME) { ... data [n] ... }
 *
 * which reads any bytes as a stranger or a file gives them, and holds what comes of it against what was promised
 * (FUZZ_HOLDS). Under libFuzzer (make fuzz T=NAME) it is a program; for `make replay` all targets are in one, which
 * runs each over its corpus, tests/fuzz/corpus/NAME. What a text chooses by (an endpoint, a kind) are letters in front
 * of it, so that inputs can be read. Bytes lie in a block of exactly their length: what is read behind it is seen.
 *
 * A target whose format random bytes do not get into has a mutator beside it (mutate.h). */
#ifndef DEQ_FUZZ_H
#define DEQ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/base/hash.h"

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#define FUZZ(id)                                                                                                       \
    static void fuzz_##id(const uint8_t *data, size_t n);                                                              \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);                                                         \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)                                                          \
    {                                                                                                                  \
        fuzz_##id(data, n);                                                                                            \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static void fuzz_##id(const uint8_t *data, size_t n)
#else
struct fuzz_target {
    const char *name;
    void (*one)(const uint8_t *data, size_t n);
    struct fuzz_target *next;
};
void fuzz_register(struct fuzz_target *t); /* replay.c */
#define FUZZ(id)                                                                                                       \
    static void fuzz_##id(const uint8_t *data, size_t n);                                                              \
    __attribute__((constructor)) static void register_##id(void)                                                       \
    {                                                                                                                  \
        static struct fuzz_target t = {#id, fuzz_##id, NULL};                                                          \
        fuzz_register(&t);                                                                                             \
    }                                                                                                                  \
    static void fuzz_##id(const uint8_t *data, size_t n)
#endif

/* A promise. One that is broken ends the program with its place and its words, which is what a fuzzer looks for. */
#define FUZZ_HOLDS(cond) ((cond) ? (void)0 : fuzz_broken(__FILE__, __LINE__, #cond))
_Noreturn void fuzz_broken(const char *file, int line, const char *what);

/* Takes the letter in front, one of `most` from 'A' on; other bytes stand for one of them too. *data, *n: the rest. */
unsigned fuzz_letter(const uint8_t **data, size_t *n, unsigned most);
/* A block of exactly n bytes; free. With a zero behind it: fuzz_text. */
char *fuzz_copy(const uint8_t *data, size_t n);
char *fuzz_text(const uint8_t *data, size_t n);
/* Up to the first zero byte, and what stands behind it (none: nothing). */
size_t fuzz_split(const uint8_t *data, size_t n, const uint8_t **rest, size_t *ret_rest);
/* The path of a file in memory that has these bytes; it holds until the next call. */
const char *fuzz_file(const void *data, size_t n);
/* The process's own directory for a use; removed with its files at the end, but for a crash. */
const char *fuzz_dir(const char *use);
void fuzz_put(const char *use, const char *name, const void *data, size_t n);
void fuzz_empty(const char *use);
/* The checksum of what stands before it in saved states and prefix caches (core/engine/saved.h). */
struct deq_hash fuzz_saved_sum(const void *data, size_t n);

/* A sequence of numbers that is a function of its beginning. */
uint64_t fuzz_next(uint64_t *state);
/* Of it: how long the next piece of `left` bytes is, 1 to most. */
size_t fuzz_piece(uint64_t *state, size_t most, size_t left);

/* What is said of an error: a code, and one line of printable text. */
void fuzz_check_err(enum deq_rc rc, const struct deq_err *err);

/* A model of the golden ones ("tiny", "tiny-trellis", "tiny-looped"), loaded once. */
struct deq_model;
const struct deq_model *fuzz_model(const char *name);

#endif
