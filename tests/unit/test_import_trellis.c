/* core/import/import_trellis.c: which number of a checkpoint becomes which of the model. test_golden.c has what is
 * computed with them. */
#include "core/import/import.h"

#include <unistd.h>

#include "core/base/mem.h"
#include "core/cell/config.h"
#include "core/cell/trellis.h"
#include "core/data/torchfile.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define AUTHORS "tests/golden/authors/"

struct pair {
    struct deq_arch *arch;
    struct deq_weights *w;
    struct deq_torchfile *file;
};

/* A committed checkpoint beside what it was imported as. */
static bool open_pair(const char *checkpoint, const char *config, struct pair *p)
{
    static const char *const rest[] = {"tokenizer.json", "tokenizer_config.json", "README.md"};
    struct deq_err err = {0};
    struct deq_import_report r;
    char path[512];
    *p = (struct pair){0};
    CHECK(scratch_begin());
    const char *dir = scratch_path("model");
    const struct deq_import_opts o = {.checkpoint = checkpoint, .config = config, .out_dir = dir};
    CHECK_MSG(!deq_import(&o, &r, &err), "%s", err.text);
    snprintf(path, sizeof path, "%s/config.json", dir);
    CHECK(!deq_config_load(path, &p->arch, &err) && !unlink(path));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK(p->arch && !deq_weights_load(path, p->arch, false, &p->w, &err) && !unlink(path));
    for (size_t i = 0; i < DEQ_COUNT(rest); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, rest[i]);
        CHECK(!unlink(path));
    }
    scratch_end("model", NULL);
    CHECK(!deq_torchfile_open(checkpoint, &p->file, &err));
    return p->w && p->file;
}

static void close_pair(struct pair *p)
{
    deq_torchfile_close(p->file);
    deq_weights_free(p->w);
    deq_free(p->arch);
}

/* The entry's numbers, which deq_free frees. */
static float *entry(const struct pair *p, const char *name, size_t count)
{
    const struct deq_torchfile_tensor *t = deq_torchfile_find(p->file, name);
    float *x = DEQ_NEW_ARRAY(float, count);
    CHECK_MSG(t && t->count == count && !deq_torchfile_read(p->file, t, 0, t->count, x, NULL), "%s", name);
    return x;
}

static void check_taps(const struct pair *p, const char *name, size_t in, float *const *taps)
{
    const struct deq_trellis_arch *a = deq_trellis_arch(p->arch);
    const size_t rows = 4 * (size_t)a->state_size, k = a->kernel_size;
    float *conv = entry(p, name, rows * in * k);
    size_t wrong = 0;
    for (size_t r = 0; r < rows * in; r++)
        for (size_t j = 0; j < k; j++)
            wrong += taps[j][r] != conv[r * k + j];
    CHECK_EQ(wrong, 0ul);
    deq_free(conv);
}

static void check_equal(const struct pair *p, const char *name, const float *x, size_t count)
{
    float *y = entry(p, name, count);
    CHECK(!memcmp(x, y, count * sizeof(float)));
    deq_free(y);
}

TEST(import_trellis_taps)
{
    struct pair p;
    if (open_pair(AUTHORS "trellis-plain/checkpoint.pth", AUTHORS "trellis-plain/config.json", &p)) {
        const struct deq_trellis_weights *w = deq_trellis_weights(p.w);
        const struct deq_trellis_arch *a = deq_trellis_arch(p.arch);
        CHECK(a->state_size == 36 && a->kernel_size == 2 && a->dilation == 1 && !a->embed_scale && !a->levels);
        CHECK(p.arch->segment_len == 24 && p.arch->segment_memory == 1 && p.arch->serving.solver.tol > 0);
        CHECK(!p.arch->vocab.head_untied && !p.arch->vocab.d_out && p.arch->vocab.head_bias);
        check_taps(&p, "trellisnet.inject_conv.weight", 16, w->inject_w);
        check_taps(&p, "trellisnet.func.full_conv.weight", 36, w->state_w);
        check_equal(&p, "trellisnet.inject_conv.bias", w->inject_b, 144);
        check_equal(&p, "trellisnet.func.full_conv.bias", w->state_b, 144);
        check_equal(&p, "encoder.weight", w->vocabulary.embed[0], 72 * 16);
        check_equal(&p, "decoder.bias", w->vocabulary.head_bias, 72);
    }
    close_pair(&p);
}

/* Words by cluster; the logits of the tail clusters in the clusters' order. */
TEST(import_trellis_clusters)
{
    static const uint32_t begin[] = {0, 20, 45, 70};
    struct pair p;
    if (open_pair(AUTHORS "trellis-split/checkpoint.pth", AUTHORS "trellis-split/config.json", &p)) {
        const struct deq_vocabulary *v = &deq_trellis_weights(p.w)->vocabulary;
        float *encoder = entry(&p, "encoder.weight", 70 * 20), *decoder = entry(&p, "decoder.weight", 70 * 24);
        float *tails = entry(&p, "criterion.tail_vectors", 2 * 24), *bias = entry(&p, "criterion.tail_bias", 2);
        CHECK(p.arch->vocab.head_untied && p.arch->vocab.d_out == 24 && p.arch->vocab.n_cutoffs == 2);
        for (size_t c = 0; c < 3; c++) {
            const size_t n = begin[c + 1] - begin[c];
            CHECK(!memcmp(v->embed[c], encoder + begin[c] * 20, n * 20 * sizeof(float)));
            CHECK(!memcmp(v->head[c], decoder + begin[c] * 24, n * 24 * sizeof(float)));
        }
        for (size_t c = 0; c < 2; c++) {
            CHECK(!memcmp(v->tails_w + c * 24, tails + (1 - c) * 24, 24 * sizeof(float)));
            CHECK(v->tails_b[c] == bias[1 - c]);
        }
        deq_free(encoder);
        deq_free(decoder);
        deq_free(tails);
        deq_free(bias);
    }
    close_pair(&p);
}

TEST(import_trellis_levels)
{
    struct pair p;
    if (open_pair(AUTHORS "trellis-explicit/checkpoint.pth", AUTHORS "trellis-explicit/config.json", &p)) {
        const struct deq_trellis_weights *w = deq_trellis_weights(p.w);
        const struct deq_serving *s = &p.arch->serving;
        float *v = entry(&p, "tnet.module.full_conv.weight2_v_raw", 144 * 36 * 2);
        float *g = entry(&p, "tnet.module.full_conv.weight2_g", 144);
        double worst = 0, zeros = 0;
        for (size_t r = 0; r < 144; r++) {
            double sum = 0;
            for (size_t i = r * 72; i < (r + 1) * 72; i++)
                sum += (double)v[i] * (double)v[i];
            for (size_t i = r * 72; i < (r + 1) * 72; i++)
                worst = worse(worst, fabs((double)w->state_w[i % 2][i / 2] - (double)g[r] / sqrt(sum) * (double)v[i]));
            zeros += (double)(w->inject_b[r] == 0);
        }
        CHECK_MSG(worst < 1e-7, "off by %g", worst); /* one rounding of numbers below 1 */
        CHECK(zeros == 144);
        check_equal(&p, "tnet.module.full_conv.bias2", w->state_b, 144);
        CHECK(deq_trellis_arch(p.arch)->levels && s->solver.max_iter == 7 && s->solver.tol == 0 && s->row_window == 1);
        CHECK(s->solver.method == DEQ_PICARD && s->warm == DEQ_WARM_ZERO && p.arch->segment_len == 8);
        deq_free(v);
        deq_free(g);
    }
    close_pair(&p);
}
