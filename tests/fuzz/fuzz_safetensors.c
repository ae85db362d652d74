/* The safetensors container: what is taken has every tensor inside the file, none over another and none apart, and
 * gives finite numbers or says which is not. */
#include <math.h>

#include "core/data/safetensors.h"
#include "tests/fuzz/mutate.h"

enum { ELEMENTS_MAX = 4096 }; /* read of one tensor */

static void read_numbers(const struct deq_safetensors *f, const struct deq_tensor *t)
{
    static float out[ELEMENTS_MAX];
    struct deq_err err;
    if (t->count > ELEMENTS_MAX)
        return;
    const enum deq_rc rc = deq_tensor_to_f32(f, t, out, &err);
    if (rc)
        fuzz_check_err(rc, &err);
    for (uint64_t i = 0; !rc && i < t->count; i++)
        FUZZ_HOLDS(isfinite(out[i]));
    char *bytes = malloc(t->bytes ? t->bytes : 1);
    FUZZ_HOLDS(bytes && !deq_tensor_read(f, t, 0, (size_t)t->count, bytes, &err));
    free(bytes);
}

static void check(const struct deq_safetensors *f, size_t n)
{
    uint64_t header = 0, sum = 0;
    FUZZ_HOLDS(deq_safetensors_bytes(f) == n && deq_safetensors_count(f) <= DEQ_ST_TENSORS_MAX);
    for (size_t i = 0; i < deq_safetensors_count(f); i++) {
        const struct deq_tensor *t = deq_safetensors_at(f, i), *before = i ? deq_safetensors_at(f, i - 1) : NULL;
        unsigned __int128 count = 1;
        FUZZ_HOLDS(t->n_dims <= DEQ_ST_DIMS_MAX && strlen(t->name) <= DEQ_ST_NAME_MAX);
        for (unsigned d = 0; d < t->n_dims; d++)
            count *= t->shape[d];
        FUZZ_HOLDS(count == t->count && count * deq_dtype_bytes(t->dtype) == t->bytes);
        FUZZ_HOLDS(t->offset >= 8 && t->offset <= n && t->bytes <= n - t->offset);
        FUZZ_HOLDS(!before || before->offset + before->bytes == t->offset);
        FUZZ_HOLDS(deq_safetensors_find(f, t->name) == t);
        header = i ? header : t->offset;
        sum += t->bytes;
        read_numbers(f, t);
    }
    FUZZ_HOLDS(!deq_safetensors_count(f) || header + sum == n);
    (void)deq_safetensors_meta(f, "format");
    FUZZ_HOLDS(!deq_safetensors_find(f, "__metadata__"));
}

FUZZ(safetensors)
{
    struct deq_safetensors *f;
    struct deq_err err;
    const enum deq_rc rc = deq_safetensors_parse(data, n, "fuzz", &f, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    check(f, n);
    deq_safetensors_close(f);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
FUZZ_MUTATOR
{
    return fuzz_mutate_safetensors(data, n, max, seed, false);
}
#endif
