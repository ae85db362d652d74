/* What a pickle of PyTorch means: the tensors of a state dict and, by name, everything else that was
 * in it. Not the tensors' bytes.
 *
 *   {"model": OrderedDict(a.weight=_rebuild_tensor_v2(storage "0", offset, size, stride, ...), ...), "epoch": 3}
 *
 * gives the tensor model.a.weight and the ignored entry epoch. A name is the path of keys (of a list: numbers) joined
 * by dots. A container without tensors or containers in it is one ignored entry. Every view is checked against its
 * storage before anything is read. */
#ifndef DEQ_DATA_TORCH_STATE_H
#define DEQ_DATA_TORCH_STATE_H

#include "core/data/safetensors.h"

enum {
    DEQ_TORCH_DIMS_MAX = DEQ_ST_DIMS_MAX,
    DEQ_TORCH_NAME_MAX = DEQ_ST_NAME_MAX,
    DEQ_TORCH_ENTRIES_MAX = 65536, /* tensors and ignored entries together: a model's and its optimiser's */
    DEQ_TORCH_DEPTH_MAX = 32,      /* containers inside each other */
};

struct deq_torchfile_tensor {
    const char *name;
    enum deq_dtype dtype; /* F32, F16, BF16 or F64 */
    unsigned n_dims;
    uint64_t shape[DEQ_TORCH_DIMS_MAX];
    uint64_t stride[DEQ_TORCH_DIMS_MAX]; /* in elements */
    uint64_t count;                      /* product of shape: at most the storage's elements */
    uint64_t offset;                     /* elements of the storage before the first */
    uint64_t storage;                    /* number of the storage; tied tensors and views have the same */
};

struct deq_torchfile_ignored {
    const char *name;
    const char *what; /* "integer", "list", "int64 tensor", ... */
};

struct deq_torch_state {
    struct deq_torchfile_tensor *tensors; /* in the order of the pickle */
    struct deq_torchfile_ignored *ignored;
    size_t n_tensors, n_ignored, cap_tensors, cap_ignored;
    const struct deq_torchfile_tensor **by_name; /* sorted */
};

/* Finds the storage called key and its size; false when there is none. */
typedef bool deq_torch_find_fn(void *ctx, const char *key, size_t key_len, uint64_t *ret_storage, uint64_t *ret_bytes);

/* name: of the pickle, for messages. The bytes are not needed afterwards. On failure *state is as
 * after deq_torch_state_free. */
enum deq_rc deq_torch_state_parse(const void *bytes, size_t n, const char *name, deq_torch_find_fn *find, void *ctx,
                                  struct deq_torch_state *state, struct deq_err *err);
void deq_torch_state_free(struct deq_torch_state *state);

#endif
