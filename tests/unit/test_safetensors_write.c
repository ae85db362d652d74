/* core/data/safetensors_write.c, in pieces: any order, each element once. (Whole files: test_safetensors.c.) */
#include <string.h>

#include "core/base/mem.h"
#include "core/data/safetensors.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

static const struct deq_tensor_out tensors[] = {{.name = "a", .dtype = DEQ_F32, .n_dims = 2, .shape = {2, 3}},
                                                {.name = "b", .dtype = DEQ_BF16, .n_dims = 1, .shape = {5}},
                                                {.name = "c", .dtype = DEQ_F32, .n_dims = 1, .shape = {0}}};

TEST(safetensors_in_pieces)
{
    static const float a[6] = {1, 2, 3, 4, 5, 6};
    static const uint16_t b[5] = {0x3f80, 0x4000, 0, 0x4080, 0xbf80}; /* 1 2 0 4 -1 */
    static const char *const meta[] = {"format", "x", NULL};
    struct deq_safetensors_new *f = NULL;
    struct deq_safetensors *back;
    struct deq_err err = {0};
    float x[6];
    CHECK(scratch_begin());
    CHECK_MSG(!deq_safetensors_create(scratch_path("t"), tensors, 3, meta, &f, &err), "%s", err.text);
    CHECK(!deq_safetensors_put(f, 1, 2, 3, b + 2, &err) && !deq_safetensors_put(f, 0, 1, 5, a + 1, &err));
    CHECK(!deq_safetensors_put(f, 1, 0, 2, b, &err) && !deq_safetensors_put(f, 0, 0, 1, a, &err));
    CHECK_MSG(!deq_safetensors_finish(f, DEQ_OK, &err), "%s", err.text);
    CHECK_MSG(!deq_safetensors_open(scratch_path("t"), &back, &err), "%s", err.text);
    CHECK_EQ(deq_safetensors_meta(back, "format"), "x");
    CHECK(!deq_tensor_to_f32(back, deq_safetensors_find(back, "a"), x, &err) && !memcmp(x, a, sizeof a));
    CHECK(!deq_tensor_piece_to_f32(back, deq_safetensors_find(back, "b"), 1, 4, x, &err));
    CHECK(x[0] == 2 && x[1] == 0 && x[2] == 4 && x[3] == -1);
    CHECK(deq_safetensors_find(back, "c")->count == 0);
    deq_safetensors_close(back);
    scratch_end("t", NULL);
}

TEST(safetensors_in_pieces_that_are_not_all)
{
    static const float a[6] = {0};
    struct deq_safetensors_new *f = NULL;
    struct deq_err err = {0};
    CHECK(scratch_begin());
    CHECK(!deq_safetensors_create(scratch_path("t"), tensors, 2, NULL, &f, &err));
    CHECK_EQ(deq_safetensors_put(f, 0, 4, 3, a, &err), DEQ_EINVAL);
    CHECK(strstr(err.text, "past its end"));
    CHECK(!deq_safetensors_put(f, 0, 0, 6, a, &err) && !deq_safetensors_put(f, 1, 0, 4, a, &err));
    CHECK_EQ(deq_safetensors_finish(f, DEQ_OK, &err), DEQ_EINVAL);
    CHECK(strstr(err.text, "tensor number 1: 8 of 10 bytes were given"));
    scratch_end("t", NULL);
    CHECK(scratch_begin());
    CHECK(!deq_safetensors_create(scratch_path("t"), tensors, 2, NULL, &f, &err));
    CHECK(!deq_safetensors_put(f, 1, 0, 5, a, &err));
    CHECK_EQ(deq_safetensors_finish(f, DEQ_OK, &err), DEQ_EINVAL);
    CHECK(strstr(err.text, "tensor number 0: 0 of "));
    f = NULL;
    CHECK(deq_safetensors_create(scratch_path("t"), tensors, 2, NULL, &f, &err) && !f); /* it is there already */
    scratch_end("t", NULL);
}

/* A header that lacks what found no memory would take a good checkpoint's place. */
TEST(safetensors_without_memory_keep_what_is_there)
{
    static const float a[6] = {1, 2, 3, 4, 5, 6};
    static const char *const meta[] = {"format", "x", "step", "7", NULL};
    const struct deq_tensor_out of[] = {{.name = "a", .dtype = DEQ_F32, .n_dims = 2, .shape = {2, 3}, .data = a}};
    REQUIRE(scratch_begin());
    uint64_t nth = 1;
    for (enum deq_rc rc = DEQ_ENOMEM; rc; nth++) {
        struct deq_safetensors *back;
        struct deq_err err = {0};
        scratch_put("t", "old");
        deq_mem_count_plain(true);
        deq_mem_fault(nth, false);
        rc = deq_safetensors_write(scratch_path("t"), of, 1, meta, &err);
        deq_mem_fault(0, false);
        deq_mem_count_plain(false);
        CHECK_MSG(rc ? rc == DEQ_ENOMEM && scratch_is("t", "old") : true, "allocation %llu", (unsigned long long)nth);
        if (rc)
            continue;
        REQUIRE(!deq_safetensors_open(scratch_path("t"), &back, &err));
        const struct deq_tensor *t = deq_safetensors_find(back, "a");
        CHECK_MSG(t && t->n_dims == 2 && deq_safetensors_meta(back, "format") && deq_safetensors_meta(back, "step"),
                  "allocation %llu: it lacks something", (unsigned long long)nth);
        deq_safetensors_close(back);
    }
    CHECK(nth > 20);
    scratch_end("t", NULL);
}
