/* A pickle straight into the machine and the meaning of tensors: no zip, no checksum in the way.
 *
 * Input: the sizes in bytes of storages 0 to 31 (uint16, little endian), then the pickle. */
#include "core/data/torch_state.h"
#include "tests/fuzz/fuzz.h"

enum { STORAGES = 32 };

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
    FUZZ_HOLDS(t->n_dims <= DEQ_TORCH_DIMS_MAX && *t->name && strlen(t->name) <= DEQ_TORCH_NAME_MAX);
    for (unsigned d = 0; d < t->n_dims; d++) {
        count *= t->shape[d];
        last += t->shape[d] ? (unsigned __int128)(t->shape[d] - 1) * t->stride[d] : 0;
    }
    FUZZ_HOLDS(count == t->count && count <= n && (!count || last < n));
}

FUZZ(torchpickle)
{
    struct deq_torch_state state;
    struct deq_err err;
    if (n < 2 * STORAGES)
        return;
    char *copy = fuzz_copy(data, n);
    const enum deq_rc rc =
        deq_torch_state_parse((const uint8_t *)copy + 2 * STORAGES, n - 2 * STORAGES, "fuzz", find, copy, &state, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
    } else {
        for (size_t i = 0; i < state.n_tensors; i++)
            check(&state.tensors[i], (const uint8_t *)copy);
        deq_torch_state_free(&state);
    }
    free(copy);
}
