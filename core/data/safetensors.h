/* The safetensors container: a checked reader in pieces, and an atomic writer.
 *
 *   8 bytes   N, little endian
 *   N bytes   JSON  {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
 *                    "__metadata__": {"k": "v"}}
 *   rest      the tensors' bytes, little endian, row-major; offsets count from here
 *
 * The reader trusts nothing: sizes, ranges, overlaps, holes, duplicates, shape x dtype = bytes. Errors name the file
 * and the tensor. Opening reads the header alone; a tensor's numbers are read when they are asked for, and a file that
 * changed meanwhile is an error. Any thread may read an open file. */
#ifndef DEQ_DATA_SAFETENSORS_H
#define DEQ_DATA_SAFETENSORS_H

#include "core/base/buf.h"
#include "core/base/err.h"

enum { DEQ_ST_DIMS_MAX = 8, DEQ_ST_TENSORS_MAX = 16384, DEQ_ST_HEADER_MAX = 16 << 20, DEQ_ST_NAME_MAX = 256 };

enum deq_dtype { DEQ_F32, DEQ_F16, DEQ_BF16, DEQ_F64, DEQ_I64, DEQ_I32, DEQ_I8, DEQ_U8 };

struct deq_tensor {
    const char *name; /* owned by the file */
    enum deq_dtype dtype;
    unsigned n_dims;
    uint64_t shape[DEQ_ST_DIMS_MAX];
    uint64_t count;    /* elements */
    uint64_t offset;   /* of its bytes, in the file */
    uint64_t bytes;
};

struct deq_safetensors;

enum deq_rc deq_safetensors_open(const char *path, struct deq_safetensors **ret_file, struct deq_err *err);
/* The same checks on a block of memory, which must outlive the file. name: for messages. */
enum deq_rc deq_safetensors_parse(const void *bytes, size_t len, const char *name, struct deq_safetensors **ret_file,
                                  struct deq_err *err);
void deq_safetensors_close(struct deq_safetensors *file);
size_t deq_safetensors_count(const struct deq_safetensors *file);
const struct deq_tensor *deq_safetensors_at(const struct deq_safetensors *file, size_t i);
/* NULL when absent */
const struct deq_tensor *deq_safetensors_find(const struct deq_safetensors *file, const char *name);
/* Bytes of the file, and those of it that stand at [at, at + n), whatever they are. */
uint64_t deq_safetensors_bytes(const struct deq_safetensors *file);
enum deq_rc deq_safetensors_raw(const struct deq_safetensors *file, uint64_t at, size_t n, void *out,
                                struct deq_err *err);
/* NULL when absent */
const char *deq_safetensors_meta(const struct deq_safetensors *file, const char *key);

/* Elements [first, first + n) as they stand in the file. */
enum deq_rc deq_tensor_read(const struct deq_safetensors *file, const struct deq_tensor *t, uint64_t first, size_t n,
                            void *out, struct deq_err *err);
/* DEQ_EFORMAT for a dtype that deq_tensor_to_f32 does not read. */
enum deq_rc deq_tensor_is_float(const struct deq_safetensors *file, const struct deq_tensor *t, struct deq_err *err);
/* Widens F32/F16/BF16/F64 to out [count]; DEQ_EFORMAT for another dtype or (naming the place) a
 * value that is not finite. */
enum deq_rc deq_tensor_to_f32(const struct deq_safetensors *file, const struct deq_tensor *t, float *out,
                              struct deq_err *err);

/* Elements [first, first + n) of it. */
enum deq_rc deq_tensor_piece_to_f32(const struct deq_safetensors *file, const struct deq_tensor *t, uint64_t first,
                                    size_t n, float *out, struct deq_err *err);

/* Writing (safetensors_write.c) */
struct deq_tensor_out {
    const char *name;
    enum deq_dtype dtype;
    unsigned n_dims;
    uint64_t shape[DEQ_ST_DIMS_MAX];
    const void *data; /* already in that dtype; NULL where it is put later */
};
/* meta: pairs key, value, ..., NULL (or NULL). Replaces path atomically. */
enum deq_rc deq_safetensors_write(const char *path, const struct deq_tensor_out *tensors, size_t n,
                                  const char *const *meta, struct deq_err *err);
/* All that stands before the data; false: no memory. */
bool deq_safetensors_header(const struct deq_tensor_out *tensors, size_t n, const char *const *meta,
                            struct deq_buf *out);
/* A new file, for a new directory, whose numbers are put afterwards, in pieces and in any order, each once. */
struct deq_safetensors_new;
enum deq_rc deq_safetensors_create(const char *path, const struct deq_tensor_out *tensors, size_t n,
                                   const char *const *meta, struct deq_safetensors_new **ret, struct deq_err *err);
/* Elements [first, first + n) of tensor i, in its dtype. */
enum deq_rc deq_safetensors_put(struct deq_safetensors_new *file, size_t i, uint64_t first, size_t n, const void *data,
                                struct deq_err *err);
/* rc DEQ_OK: every element must have been put. Syncs, closes and frees; returns rc, or what went wrong here. */
enum deq_rc deq_safetensors_finish(struct deq_safetensors_new *file, enum deq_rc rc, struct deq_err *err);
size_t deq_dtype_bytes(enum deq_dtype t);
const char *deq_dtype_name(enum deq_dtype t);
/* "[4, 3]", cut where it does not fit. */
void deq_shape_text(unsigned n, const uint64_t *shape, char *out, size_t cap);

#endif
