/* The index of a checkpoint in pieces (model.safetensors.index.json), beside two files of tensors that are sound: what
 * is taken has the tensors of both, each once, and gives their numbers. */
#include "core/data/safetensors.h"
#include "core/import/checkpoint_files.h"
#include "tests/fuzz/mutate.h"

enum { NUMBERS = 6 };

static const float numbers[NUMBERS] = {1, 2, 3, 4, 5, 6};

static void put_piece(const char *name, const char *first, const char *second)
{
    const struct deq_tensor_out t[] = {{first, DEQ_F32, 2, {2, 3}, numbers}, {second, DEQ_F32, 1, {6}, numbers}};
    struct deq_buf head;
    deq_buf_init(&head, 4096);
    FUZZ_HOLDS(deq_safetensors_header(t, DEQ_COUNT(t), NULL, &head));
    deq_buf_add(&head, numbers, sizeof numbers);
    deq_buf_add(&head, numbers, sizeof numbers);
    fuzz_put("shards", name, head.data, head.len);
    deq_buf_free(&head);
}

static void check(struct deq_checkpoint *c)
{
    struct deq_err err;
    for (size_t i = 0; i < deq_checkpoint_count(c); i++) {
        const struct deq_checkpoint_tensor *t = deq_checkpoint_at(c, i);
        float out[NUMBERS];
        FUZZ_HOLDS(deq_checkpoint_find(c, t->name) == t && t->count == NUMBERS);
        FUZZ_HOLDS(!deq_checkpoint_read(c, t, 0, NUMBERS, out, &err) && !memcmp(out, numbers, sizeof out));
    }
}

FUZZ(shards)
{
    static bool there;
    static char path[256];
    struct deq_checkpoint *c;
    struct deq_err err;
    if (!there) {
        put_piece("one.safetensors", "a", "b");
        put_piece("two.safetensors", "c", "d");
        there = true;
    }
    fuzz_put("shards", "model.safetensors.index.json", data, n);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", fuzz_dir("shards"));
    const enum deq_rc rc = deq_checkpoint_open(path, &c, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    check(c);
    deq_checkpoint_close(c);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
FUZZ_MUTATOR
{
    return fuzz_mutate_json(data, n, max, seed);
}
#endif
