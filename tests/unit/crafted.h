/* Checkpoints of PyTorch written by hand, pickles byte by byte, zip containers entry by entry; and what reads them. */
#ifndef DEQ_TEST_CRAFTED_H
#define DEQ_TEST_CRAFTED_H

#include <stddef.h>
#include <stdint.h>

#include "core/data/torchfile.h"

struct bytes {
    unsigned char p[1 << 16];
    size_t n;
};

void put(struct bytes *b, const void *p, size_t n);
void put_int(struct bytes *b, uint64_t v, unsigned n);

#define PUT(b, literal) put(b, literal, sizeof(literal) - 1)

/* A zip container, entry by entry. */
struct zip_out {
    struct bytes file, directory;
    unsigned n;
};

struct how { /* what is wrong with an entry */
    unsigned method, flags;
    uint32_t crc_error, size_error;
};

void zip_put(struct zip_out *z, const char *name, const void *data, size_t n, struct how how);
void zip_end(struct zip_out *z);

/* Opens, reads every tensor, and returns the first error in err; DEQ_OK when there was none. */
enum deq_rc read_all(struct deq_torchfile *f, struct deq_err *err);

void check_ignored(const struct deq_torchfile *f, const char *name, const char *what);

/* Opens and reads a block of exactly n bytes. */
enum deq_rc try_file(const void *bytes, size_t n, struct deq_err *err);

/* The floats of the storage "0" in a file of try_pickle. */
extern const float six[6];

/* A file with this pickle and one storage "0" of six floats. */
enum deq_rc try_pickle(const struct bytes *pickle, struct deq_torchfile **ret, struct deq_err *err);
void put_text(struct bytes *b, const char *s);
void put_tuple(struct bytes *b, unsigned n, const int64_t *v);

struct tensor_in {
    const char *class, *key;
    int64_t elements, offset;
    unsigned n_dims;
    int64_t shape[9], stride[9];
};

void put_tensor(struct bytes *b, const struct tensor_in *t);

#endif
