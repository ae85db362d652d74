/* What a model and an engine will take is known before it is taken, to the byte; and the limits of cgroups,
 * as they look from inside. */
#include "server/work/memory.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/cell/config.h"
#include "core/cell/kv_layout.h"
#include "core/cell/transformer.h"
#include "tests/unit/test.h"

TEST(memory_is_what_was_said)
{
    static const char *const dirs[] = {"tests/golden/tiny", "tests/golden/tiny-trellis", "models/stories"};
    static const struct deq_engine_opts opts[] = {{0},
                                                  {.threads = 3, .max_sequences = 1, .max_positions = 2},
                                                  {.threads = 2, .max_sequences = 7, .max_rows = 65,
                                                   .max_positions = 500, .prefill_block = 32},
                                                  {.threads = 1, .max_sequences = 3, .max_positions = 100,
                                                   .cache_bytes = 5000011}};
    for (size_t d = 0; d < DEQ_COUNT(dirs); d++) {
        struct deq_model *m = NULL;
        struct deq_err err;
        CHECK_MSG(deq_model_load(dirs[d], NULL, &m, &err) == DEQ_OK, "%s", err.text);
        for (size_t i = 0; m && i < DEQ_COUNT(opts); i++) {
            struct deq_engine *e = NULL;
            struct deq_memory said;
            CHECK_MSG(deq_check(dirs[d], NULL, &opts[i], &said, &err) == DEQ_OK, "%s", err.text);
            const uint64_t before = deq_mem_bytes();
            CHECK_MSG(deq_engine_new(m, &opts[i], &e, &err) == DEQ_OK, "%s", err.text);
            if (!e)
                continue;
            const uint64_t took = deq_mem_bytes() - before;
            CHECK_MSG(took == said.engine_bytes, "%s, options %zu: said %llu, asked for %llu", dirs[d], i,
                      (unsigned long long)said.engine_bytes, (unsigned long long)took);
            const struct deq_engine_stats st = deq_engine_stats(e);
            CHECK_MSG(said.engine_bytes == st.memory_bytes, "%s, options %zu: said %llu, took %llu", dirs[d], i,
                      (unsigned long long)said.engine_bytes, (unsigned long long)st.memory_bytes);
            CHECK(said.weight_bytes == deq_model_info(m).weight_bytes);
            struct deq_weights *w = NULL;
            struct deq_arch *arch = NULL;
            char path[64];
            snprintf(path, sizeof path, "%s/config.json", dirs[d]);
            CHECK(deq_config_load(path, &arch, &err) == DEQ_OK);
            snprintf(path, sizeof path, "%s/model.safetensors", dirs[d]);
            const uint64_t unloaded = deq_mem_bytes();
            CHECK(deq_weights_load(path, arch, true, &w, &err) == DEQ_OK);
            const uint64_t loaded = deq_mem_bytes() - unloaded, weights = said.weight_bytes + said.load_bytes;
            /* not said: tables of tensors, the file's JSON */
            CHECK_MSG(loaded >= weights && loaded < weights + weights / 100 + (64 << 10),
                      "%s: said %llu, asked for %llu", dirs[d], (unsigned long long)weights,
                      (unsigned long long)loaded);
            deq_weights_free(w);
            deq_free(arch);
            deq_engine_free(e);
        }
        deq_model_free(m);
    }
}

static uint64_t packed_vocabulary_bytes(const struct deq_vocabulary *v)
{
    uint64_t bytes = deq_packed_bytes(&v->packed.tails) + deq_packed_bytes(&v->packed.rounded);
    for (unsigned c = 0; c < deq_clusters(&v->shape); c++)
        bytes += deq_packed_bytes(&v->packed.head[c]) + deq_packed_bytes(&v->packed.head_proj[c]) +
                 deq_packed_bytes(&v->packed.embed[c]) + deq_packed_bytes(&v->packed.embed_proj[c]);
    return bytes;
}

static uint64_t packed_bytes(struct deq_weights *packed)
{
    const struct deq_transformer_weights *t = deq_transformer_weights(packed);
    uint64_t bytes = packed->n * sizeof(float) + packed_vocabulary_bytes(&t->vocabulary) +
                     deq_packed_bytes(&t->predictor.packed.tok) + deq_packed_bytes(&t->predictor.packed.state) +
                     deq_packed_bytes(&t->predictor.packed.out);
    for (unsigned l = 0; l < t->arch.n_block; l++) {
        const struct deq_block_weights *b = &t->block[l];
        bytes += deq_packed_bytes(&b->packed.inject) + deq_packed_bytes(&b->packed.qkv) +
                 deq_packed_bytes(&b->packed.out) + deq_packed_bytes(&b->packed.up) + deq_packed_bytes(&b->packed.down);
    }
    return bytes;
}

/* What is said beforehand against what was packed, for every kind of matrix. */
TEST(memory_of_packed_weights)
{
    for (unsigned c = 0; c < 48; c++) {
        const bool bf16 = c & 1;
        struct deq_transformer_arch a = {
            .base = {.kind = &deq_transformer_kind, .vocab = {.size = 70, .d_model = 24},
                     .predictor_hidden = c & 8 ? 12 : 0},
            .n_head = 2, .d_head = 8, .d_inner = 40, .attn_window = 16 + c, .n_block = 1 + (c >> 1 & 1),
            .norm = c & 4 ? DEQ_NORM_POST : DEQ_NORM_PRE, .norm_affine = true};
        if (c >= 16) {
            struct deq_vocab *v = &a.base.vocab;
            v->n_cutoffs = 2;
            v->cutoffs[0] = 10;
            v->cutoffs[1] = 66;
            v->div_val = c & 2 ? 4 : 1;
            v->head_bias = true;
            v->head_untied = c & 4;
            v->proj_untied[1] = c >= 32;
        }
        struct deq_weights *w = NULL, *packed = NULL;
        struct deq_err err;
        CHECK_MSG(!deq_weights_new(&a.base, &w, &err) && !deq_weights_packed(&a.base, w, bf16, &packed, &err), "%s",
                  err.text);
        if (packed)
            CHECK_EQ(packed->bytes, packed_bytes(packed));
        deq_weights_free(packed);
        deq_weights_free(w);
    }
}

/* config.json may say any window; what is reserved is what the pages asked for can see of it. */
TEST(memory_of_a_claimed_window)
{
    enum { PAGES = 6 };
    struct deq_transformer_arch a = {.base = {.kind = &deq_transformer_kind, .vocab = {.size = 70, .d_model = 24}},
                                     .n_head = 2, .d_head = 8, .d_inner = 40, .n_block = 2, .norm = DEQ_NORM_PRE};
    uint64_t bytes[2] = {0}, said[2] = {0};
    for (int huge = 0; huge < 2; huge++) {
        struct deq_weights *w = NULL, *packed = NULL;
        struct deq_cell *cell = NULL;
        struct deq_pool *pool = NULL;
        a.attn_window = huge ? 1 << 16 : PAGES * DEQ_KV_PAGE_TOK;
        CHECK(!deq_weights_new(&a.base, &w, NULL) && !deq_pool_new(1, &pool, NULL));
        const uint64_t before = deq_mem_bytes();
        CHECK(!deq_weights_packed(&a.base, w, false, &packed, NULL) &&
              !deq_transformer_open(packed, 64, PAGES, pool, &cell, NULL));
        bytes[huge] = deq_mem_bytes() - before;
        said[huge] = deq_transformer_shape(&a.base, 64, PAGES, 1).bytes;
        cell->ops->free(cell);
        deq_weights_free(packed);
        deq_pool_free(pool);
        deq_weights_free(w);
    }
    CHECK_EQ(bytes[1], bytes[0]);
    CHECK_EQ(said[1], said[0]);
}

static char root[64];

static void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s%s", root, name);
    for (char *s = strchr(path + strlen(root) + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = 0;
        (void)mkdir(path, 0700);
        *s = '/';
    }
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && !fclose(f));
}

static void clear(void)
{
    char path[128];
    const char *const files[] = {"/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max",
                                 "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
                                 "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/proc/self/cgroup"};
    for (size_t i = 0; i < DEQ_COUNT(files); i++) {
        snprintf(path, sizeof path, "%s%s", root, files[i]);
        (void)unlink(path);
    }
}

TEST(memory_limits_of_cgroups)
{
    static const struct {
        const char *what, *cgroup, *file[2], *text[2];
        uint64_t limit;
        const char *whose;
    } cases[] = {
        {"version 2", "0::/a/b\n", {"/sys/fs/cgroup/a/b/memory.max", NULL}, {"1048576\n", NULL}, 1048576, "memory.max"},
        {"a parent is tighter", "0::/a/b\n",
         {"/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max"}, {"1048576\n", "4096\n"}, 4096, "memory.max"},
        {"no limit", "0::/a/b\n",
         {"/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max"}, {"max\n", "max\n"}, UINT64_MAX, NULL},
        {"a container: its own top", "0::/\n", {"/sys/fs/cgroup/memory.max", NULL}, {"5\n", NULL}, 5, "memory.max"},
        {"a container that sees the host's path", "0::/../host/path\n",
         {"/sys/fs/cgroup/memory.max", NULL}, {"7\n", NULL}, 7, "memory.max"},
        {"version 1", "9:name=systemd:/\n4:cpu,memory:/x\n0::/\n",
         {"/sys/fs/cgroup/memory/x/memory.limit_in_bytes", NULL}, {"8192\n", NULL}, 8192, "memory.limit_in_bytes"},
        {"version 1, the top", "4:memory:/y\n",
         {"/sys/fs/cgroup/memory/memory.limit_in_bytes", NULL}, {"9\n", NULL}, 9, "memory.limit_in_bytes"},
        {"another controller's path", "4:cpu:/x\n",
         {"/sys/fs/cgroup/memory/x/memory.limit_in_bytes", NULL}, {"8192\n", NULL}, UINT64_MAX, NULL},
        {"nothing that can be read", "nonsense\n\n:\n0:\n", {NULL, NULL}, {NULL, NULL}, UINT64_MAX, NULL},
    };
    snprintf(root, sizeof root, "/tmp/deqd-cgroup-%d", (int)getpid());
    (void)mkdir(root, 0700);
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        const char *whose = NULL;
        put("/proc/self/cgroup", cases[i].cgroup);
        for (size_t k = 0; k < 2; k++)
            if (cases[i].file[k])
                put(cases[i].file[k], cases[i].text[k]);
        const uint64_t got = memory_cgroup_limit(root, &whose);
        CHECK_MSG(got == cases[i].limit, "%s: %llu, expected %llu", cases[i].what, (unsigned long long)got,
                  (unsigned long long)cases[i].limit);
        CHECK(cases[i].whose ? whose && !strcmp(whose, cases[i].whose) : !whose);
        clear();
    }
    const char *whose = NULL;
    CHECK(memory_cgroup_limit(root, &whose) == UINT64_MAX);
    static const char *const left[] = {"/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/a/b",
                                       "/sys/fs/cgroup/a", "/sys/fs/cgroup", "/sys/fs", "/sys", "/proc/self", "/proc",
                                       ""};
    for (size_t i = 0; i < DEQ_COUNT(left); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", root, left[i]);
        CHECK(rmdir(path) == 0);
    }
}
