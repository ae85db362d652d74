/* States of texts: taken from a sequence, given to one, in files. */
#include "core/engine/state.h"

#include <math.h>
#include <string.h>

#include "core/base/layout.h"
#include "core/base/mem.h"
#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"

/* The first page that the last of n positions still reads: layers behind the loop may have to be run on it again. */
static size_t first_page(const struct deq_cell *c, size_t n)
{
    const size_t last = n - 1, back = c->lookback;
    return (last > back ? last - back : 0) / c->page_tok;
}

static void lay_out(struct deq_state *s, const struct deq_cell *c, size_t n, struct deq_layout *l)
{
    const size_t first = first_page(c, n);
    *s = (struct deq_state){.n_tokens = n,
                            .first_page = first,
                            .n_pages = (uint32_t)((n - 1) / c->page_tok + 1 - first),
                            .page_tok = c->page_tok,
                            .page_bytes = c->page_bytes,
                            .state_dim = c->state_dim};
    (void)deq_layout_part(l, 1, sizeof *s); /* itself */
    DEQ_PART(l, s->tokens, n);
    DEQ_PART(l, s->state, c->state_dim);
    s->pages = deq_layout_part(l, s->n_pages, c->page_bytes);
}

uint64_t deq_state_size(const struct deq_cell *shape, size_t n_tokens)
{
    struct deq_state s;
    struct deq_layout l = {0};
    lay_out(&s, shape, n_tokens, &l);
    return l.bytes;
}

enum deq_rc deq_state_make(const struct deq_cell *shape, size_t n_tokens, struct deq_state **ret, struct deq_err *err)
{
    if (!n_tokens)
        return deq_fail(err, DEQ_EINVAL, "a state is that of at least one token");
    struct deq_state *s = deq_alloc((size_t)deq_state_size(shape, n_tokens));
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the state of %zu tokens", n_tokens);
    struct deq_layout l = {.base = (char *)s};
    lay_out(s, shape, n_tokens, &l);
    *ret = s;
    return DEQ_OK;
}

void deq_state_free(struct deq_state *s)
{
    deq_free(s);
}

struct deq_state_info deq_state_info(const struct deq_state *s)
{
    return (struct deq_state_info){.tokens = s->tokens,
                                   .n_tokens = s->n_tokens,
                                   .filled = s->filled,
                                   .residual_max = s->reached.residual_max,
                                   .converged = !s->reached.missed};
}

/* --- Of a sequence --- */

void deq_seq_keep(const struct deq_engine *e, const struct sequence *from, struct deq_state *s)
{
    const size_t P = s->page_tok;
    memcpy(s->tokens, from->tokens, s->n_tokens * sizeof *s->tokens);
    memcpy(s->state, from->state, s->state_dim * sizeof(float));
    s->reached = from->reached;
    for (uint32_t i = 0; i < s->n_pages; i++) {
        const size_t page = s->first_page + i, held = DEQ_MIN(s->n_tokens - page * P, P);
        e->cell->ops->page_get(e->cell, deq_page_of(&from->ring, page), (uint32_t)held, s->pages + i * s->page_bytes);
    }
    s->filled = true;
}

/* The last position of a text without a further prompt is read out again, as it is; else the next one follows. */
void deq_seq_resume(struct deq_engine *e, struct sequence *s, const struct deq_state *from)
{
    for (uint32_t i = 0; i < from->n_pages; i++) {
        const size_t page = from->first_page + i;
        deq_seq_make_writable(e, s, page * from->page_tok);
        e->cell->ops->page_put(e->cell, deq_page_of(&s->ring, page), from->pages + i * from->page_bytes);
    }
    memcpy(s->state, from->state, from->state_dim * sizeof(float));
    s->given = s->req.n_prompt == from->n_tokens;
    s->n_committed = from->n_tokens - s->given;
    s->n_explicit = from->n_tokens;
    s->reached = s->prompt_reached = from->reached;
    s->from_cache = s->approximate = true;
    e->stats.state_tok += from->n_tokens;
}

/* --- Files --- */

static const void *page_of(void *ctx, size_t i)
{
    const struct deq_state *s = ctx;
    return s->pages + i * s->page_bytes;
}

static enum deq_rc write_state(const struct deq_saved_of *of, const struct deq_state *s, const char *path,
                               struct deq_buf *out, struct deq_err *err)
{
    const float reached[2] = {s->reached.residual_max, s->reached.missed ? 1.0f : 0.0f};
    const struct deq_tensor_out tensors[] = {{"tokens", DEQ_I32, 1, {s->n_tokens}, s->tokens},
                                             {"state", DEQ_F32, 1, {s->state_dim}, s->state},
                                             {"reached", DEQ_F32, 1, {2}, reached}};
    const struct deq_saved_content c = {.of = of,
                                        .tensors = tensors,
                                        .n = DEQ_COUNT(tensors),
                                        .n_pages = s->n_pages,
                                        .page_bytes = s->page_bytes,
                                        .page = page_of,
                                        .ctx = (void *)(uintptr_t)s};
    return deq_saved_write(&c, path, out, err);
}

enum deq_rc deq_state_write(const struct deq_saved_of *of, const struct deq_state *s, const char *path,
                            struct deq_err *err)
{
    return write_state(of, s, path, NULL, err);
}

enum deq_rc deq_state_write_buf(const struct deq_saved_of *of, const struct deq_state *s, struct deq_buf *out,
                                struct deq_err *err)
{
    return write_state(of, s, NULL, out, err);
}

/* Whoever writes a file can make its checksum: what is read is looked at. */
static enum deq_rc check_content(const struct deq_state *s, const struct deq_cell *shape, const float reached[2],
                                 const char *path, struct deq_err *err)
{
    for (size_t i = 0; i < s->n_tokens; i++)
        if (s->tokens[i] >= shape->vocab_size)
            return deq_fail(err, DEQ_EFORMAT, "%s: token %u at %zu is outside the vocabulary of %zu", path,
                            s->tokens[i], i, shape->vocab_size);
    if (!deq_saved_finite(s->state, s->state_dim) || !deq_saved_finite(reached, 2))
        return deq_fail(err, DEQ_EFORMAT, "%s: its state is not finite", path);
    for (uint32_t i = 0; i < s->n_pages; i++)
        if (!deq_page_fits(shape, s->pages + i * s->page_bytes))
            return deq_fail(err, DEQ_EFORMAT, "%s: page %u is none of this model's", path, i);
    return DEQ_OK;
}

/* Every tensor whole, into a new state. */
static enum deq_rc read_tensors(const struct deq_safetensors *f, const struct deq_cell *shape, const char *path,
                                struct deq_state **ret, struct deq_err *err)
{
    enum { TOKENS, STATE, REACHED, PAGES, ALL };
    const struct deq_tensor *t[ALL];
    struct deq_state *s = NULL;
    float reached[2];
    enum deq_rc rc = deq_saved_tensor(f, path, "tokens", DEQ_I32, 1, (uint64_t[]){0}, &t[TOKENS], err);
    if (!rc && (!t[TOKENS]->count || t[TOKENS]->count > INT32_MAX))
        rc = deq_fail(err, DEQ_EFORMAT, "%s: of %llu tokens", path, (unsigned long long)t[TOKENS]->count);
    if (!rc)
        rc = deq_state_make(shape, (size_t)t[TOKENS]->count, &s, err);
    if (rc)
        return rc;
    void *const into[ALL] = {s->tokens, s->state, reached, s->pages};
    rc = deq_saved_tensor(f, path, "state", DEQ_F32, 1, (uint64_t[]){s->state_dim}, &t[STATE], err);
    if (!rc)
        rc = deq_saved_tensor(f, path, "reached", DEQ_F32, 1, (uint64_t[]){2}, &t[REACHED], err);
    if (!rc)
        rc = deq_saved_tensor(f, path, "pages", DEQ_U8, 2, (uint64_t[]){s->n_pages, s->page_bytes}, &t[PAGES], err);
    for (size_t i = 0; i < ALL && !rc; i++)
        rc = deq_tensor_read(f, t[i], 0, (size_t)t[i]->count, into[i], err);
    if (!rc)
        rc = check_content(s, shape, reached, path, err);
    if (rc) {
        deq_state_free(s);
        return rc;
    }
    s->reached = (struct deq_reached){reached[0], reached[1] != 0};
    s->filled = true;
    *ret = s;
    return DEQ_OK;
}

enum deq_rc deq_state_read(const struct deq_saved_of *of, const struct deq_cell *shape, const void *bytes,
                           uint64_t max_bytes, const char *path, struct deq_state **ret, struct deq_err *err)
{
    struct deq_safetensors *f = NULL;
    enum deq_rc rc = deq_saved_open(of, bytes, max_bytes, path, &f, err);
    if (!rc)
        rc = read_tensors(f, shape, path, ret, err);
    deq_safetensors_close(f);
    return rc;
}
