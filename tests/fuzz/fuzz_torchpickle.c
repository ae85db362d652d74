/* A pickle straight into the machine and the meaning of tensors: no zip, no checksum in the way.
 *
 * Input: the sizes in bytes of storages 0 to 31 (uint16, little endian), then the pickle. */
#include <stdlib.h>
#include <string.h>

#include "core/data/torch_state.h"

enum { STORAGES = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool find(void *ctx, const char *key, size_t key_len, uint64_t *ret_storage, uint64_t *ret_bytes)
{
    const uint8_t *sizes = ctx;
    unsigned i = 0;
    if (!key_len || key_len > 4)
        return false;
    for (size_t k = 0; k < key_len; k++)
        i = 10 * i + ((unsigned char)key[k] - (unsigned)'0');
    i %= STORAGES;
    *ret_storage = i;
    *ret_bytes = sizes[2 * i] | (uint64_t)sizes[2 * i + 1] << 8;
    return true;
}

/* What an importer relies on, computed another way. */
static void check(const struct deq_torchfile_tensor *t, const uint8_t *sizes)
{
    unsigned __int128 last = t->offset, count = 1;
    const uint64_t n = (sizes[2 * t->storage] | (uint64_t)sizes[2 * t->storage + 1] << 8) / deq_dtype_bytes(t->dtype);
    if (t->n_dims > DEQ_TORCH_DIMS_MAX || !*t->name || strlen(t->name) > DEQ_TORCH_NAME_MAX)
        abort();
    for (unsigned d = 0; d < t->n_dims; d++) {
        count *= t->shape[d];
        last += t->shape[d] ? (unsigned __int128)(t->shape[d] - 1) * t->stride[d] : 0;
    }
    if (count != t->count || count > n || (count && last >= n))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct deq_torch_state state;
    struct deq_err err;
    if (n < 2 * STORAGES)
        return 0;
    uint8_t *copy = malloc(n); /* exactly as long as it is, so that a byte read past the end is seen */
    if (!copy)
        return 0;
    memcpy(copy, data, n);
    if (!deq_torch_state_parse(copy + 2 * STORAGES, n - 2 * STORAGES, "fuzz", find, copy, &state, &err)) {
        for (size_t i = 0; i < state.n_tensors; i++)
            check(&state.tensors[i], copy);
        deq_torch_state_free(&state);
    }
    free(copy);
    return 0;
}
