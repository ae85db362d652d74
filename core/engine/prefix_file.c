/* The prefix cache as a file (saved.h): its entries in order of use, each page once however many entries hold it. Keys
 * are hashes with the engine's secret, so that goes along, and what was restored goes on with it. */
#include <string.h>

#include "core/base/mem.h"
#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"

enum { SECRET, KEYS, STATES, REACHED, PLACES, ENTRY_PAGES, PARTS };

/* The entries of a cache beside each other, as they stand in a file. */
struct table {
    struct deq_hash *keys; /* [n] */
    float *states;         /* [n, D] */
    float *reached;        /* [n, 2] */
    uint32_t *places;      /* [n, 2] */
    uint32_t *entry_pages; /* [sum] */
    uint32_t *page;        /* [n_pages] number in the engine */
    uint32_t *row;         /* [pages of the engine] number + 1 in the file, 0: none */
    size_t n, sum, n_pages;
};

static void table_free(struct table *t)
{
    deq_free(t->keys);
    deq_free(t->states);
    deq_free(t->reached);
    deq_free(t->places);
    deq_free(t->entry_pages);
    deq_free(t->page);
    deq_free(t->row);
}

/* False: no memory. */
static bool table_new(struct table *t, size_t n, size_t sum, size_t state_dim, size_t n_pages)
{
    *t = (struct table){.keys = DEQ_NEW_ARRAY(struct deq_hash, n),
                        .states = DEQ_NEW_ARRAY(float, n * state_dim),
                        .reached = DEQ_NEW_ARRAY(float, 2 * n),
                        .places = DEQ_NEW_ARRAY(uint32_t, 2 * n),
                        .entry_pages = DEQ_NEW_ARRAY(uint32_t, sum),
                        .page = DEQ_NEW_ARRAY(uint32_t, n_pages),
                        .row = DEQ_NEW_ARRAY(uint32_t, n_pages)};
    return t->keys && t->states && t->reached && t->places && t->entry_pages && t->page && t->row;
}

/* --- Writing --- */

static void add_entry(struct table *t, const struct deq_prefix *c, const struct deq_prefix_entry *e)
{
    const size_t i = t->n++;
    t->keys[i] = e->key;
    memcpy(t->states + i * c->state_dim, e->state, c->state_dim * sizeof(float));
    t->reached[2 * i] = e->reached.residual_max;
    t->reached[2 * i + 1] = e->reached.missed ? 1.0f : 0.0f;
    t->places[2 * i] = (uint32_t)e->first_page;
    t->places[2 * i + 1] = e->n_pages;
    for (uint32_t k = 0; k < e->n_pages; k++) {
        uint32_t *row = &t->row[e->page[k]];
        if (!*row) {
            t->page[t->n_pages] = e->page[k];
            *row = (uint32_t)++t->n_pages;
        }
        t->entry_pages[t->sum++] = *row - 1;
    }
}

struct pages {
    const struct deq_cell *cell;
    const uint32_t *page;
    void *bytes; /* of the last one */
};

static const void *page_of(void *ctx, size_t i)
{
    const struct pages *p = ctx;
    p->cell->ops->page_get(p->cell, p->page[i], p->cell->page_tok, p->bytes);
    return p->bytes;
}

enum deq_rc deq_prefix_write(const struct deq_saved_of *of, const struct deq_engine *e, const char *path,
                             struct deq_err *err)
{
    const struct deq_prefix *c = &e->prefix;
    struct pages pages = {.cell = e->cell, .bytes = deq_alloc(e->cell->page_bytes)};
    struct table t;
    enum deq_rc rc = DEQ_OK;
    if (!table_new(&t, c->n, (size_t)c->n_pages, c->state_dim, e->pages.n_pages) || !pages.bytes)
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
    for (uint32_t i = c->oldest; !rc && i != UINT32_MAX; i = c->entries[i].prev)
        add_entry(&t, c, &c->entries[i]);
    pages.page = t.page;
    const struct deq_tensor_out tensors[] = {
        [SECRET] = {"secret", DEQ_U8, 1, {sizeof e->secret}, &e->secret},
        [KEYS] = {"keys", DEQ_U8, 2, {t.n, sizeof *t.keys}, t.keys},
        [STATES] = {"states", DEQ_F32, 2, {t.n, c->state_dim}, t.states},
        [REACHED] = {"reached", DEQ_F32, 2, {t.n, 2}, t.reached},
        [PLACES] = {"places", DEQ_I32, 2, {t.n, 2}, t.places},
        [ENTRY_PAGES] = {"entry_pages", DEQ_I32, 1, {t.sum}, t.entry_pages}};
    const struct deq_saved_content content = {of, tensors, DEQ_COUNT(tensors), t.n_pages, e->cell->page_bytes, page_of,
                                              &pages};
    if (!rc)
        rc = deq_saved_write(&content, path, NULL, err);
    table_free(&t);
    deq_free(pages.bytes);
    return rc;
}

/* --- Reading --- */

struct reading {
    const struct deq_safetensors *f;
    const char *path;
    const struct deq_tensor *t[PARTS], *pages;
};

static enum deq_rc find_tensors(struct reading *r, const struct deq_engine *e, struct deq_err *err)
{
    const struct deq_prefix *c = &e->prefix;
    const struct {
        const char *name;
        enum deq_dtype dtype;
        unsigned n_dims;
        uint64_t shape[2];
    } all[PARTS] = {[SECRET] = {"secret", DEQ_U8, 1, {sizeof e->secret}},
                    [KEYS] = {"keys", DEQ_U8, 2, {0, sizeof(struct deq_hash)}},
                    [STATES] = {"states", DEQ_F32, 2, {0, c->state_dim}},
                    [REACHED] = {"reached", DEQ_F32, 2, {0, 2}},
                    [PLACES] = {"places", DEQ_I32, 2, {0, 2}},
                    [ENTRY_PAGES] = {"entry_pages", DEQ_I32, 1, {0}}};
    enum deq_rc rc = deq_saved_tensor(r->f, r->path, "pages", DEQ_U8, 2, (uint64_t[]){0, e->cell->page_bytes},
                                      &r->pages, err);
    for (size_t i = 0; i < PARTS && !rc; i++)
        rc = deq_saved_tensor(r->f, r->path, all[i].name, all[i].dtype, all[i].n_dims, all[i].shape, &r->t[i], err);
    const uint64_t n = rc ? 0 : r->t[KEYS]->shape[0];
    if (!rc && (r->t[STATES]->shape[0] != n || r->t[REACHED]->shape[0] != n || r->t[PLACES]->shape[0] != n))
        rc = deq_fail(err, DEQ_EFORMAT, "%s: its tensors are of different numbers of entries", r->path);
    if (!rc && (n > c->cap || r->pages->shape[0] > e->pages.n_pages ||
                r->t[ENTRY_PAGES]->count > (uint64_t)c->cap * c->pages_max))
        rc = deq_fail(err, DEQ_EFORMAT, "%s: of a larger cache: %llu blocks in %llu pages, here there is room for %u "
                      "in %u", r->path, (unsigned long long)n, (unsigned long long)r->pages->shape[0], c->cap,
                      e->pages.n_pages);
    return rc;
}

static enum deq_rc read_table(const struct reading *r, struct table *t, struct deq_hash *ret_secret,
                              struct deq_err *err)
{
    void *const into[PARTS] = {[SECRET] = ret_secret, [KEYS] = t->keys, [STATES] = t->states,
                               [REACHED] = t->reached, [PLACES] = t->places, [ENTRY_PAGES] = t->entry_pages};
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < PARTS && !rc; i++)
        rc = deq_tensor_read(r->f, r->t[i], 0, (size_t)r->t[i]->count, into[i], err);
    t->n = (size_t)r->t[KEYS]->shape[0];
    t->sum = (size_t)r->t[ENTRY_PAGES]->count;
    t->n_pages = (size_t)r->pages->shape[0];
    return rc;
}

/* Every page is some entry's, every entry has pages, and numbers are numbers. */
static bool is_sound(const struct table *t, const struct deq_engine *e)
{
    size_t sum = 0;
    for (size_t i = 0; i < t->n; i++) {
        const uint32_t first = t->places[2 * i], n = t->places[2 * i + 1];
        if (!n || n > e->prefix.pages_max || first > UINT32_MAX / 2 || n > t->sum - sum)
            return false;
        sum += n;
    }
    for (size_t k = 0; k < t->sum; k++) {
        if (t->entry_pages[k] >= t->n_pages)
            return false;
        t->row[t->entry_pages[k]] = 1;
    }
    for (size_t p = 0; p < t->n_pages; p++)
        if (!t->row[p])
            return false;
    return sum == t->sum && deq_saved_finite(t->states, t->n * e->prefix.state_dim) &&
           deq_saved_finite(t->reached, 2 * t->n);
}

/* The pages, into free ones of the engine's. */
static enum deq_rc read_pages(const struct reading *r, struct table *t, struct deq_engine *e, struct deq_err *err)
{
    const size_t bytes = e->cell->page_bytes;
    void *page = deq_alloc(bytes);
    enum deq_rc rc = page ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", r->path);
    for (size_t i = 0; i < t->n_pages && !rc; i++) {
        rc = deq_tensor_read(r->f, r->pages, i * bytes, bytes, page, err);
        t->page[i] = e->pages.free[e->pages.n_free - 1 - i];
        if (!rc && !e->cell->ops->page_put(e->cell, t->page[i], page))
            rc = deq_fail(err, DEQ_EFORMAT, "%s: page %zu is none of this model's", r->path, i);
    }
    deq_free(page);
    return rc;
}

/* Nothing can fail any more. */
static void fill(const struct table *t, struct deq_engine *e)
{
    uint32_t *numbers = t->entry_pages;
    e->pages.n_free -= (uint32_t)t->n_pages;
    for (size_t k = 0; k < t->sum; k++)
        numbers[k] = t->page[numbers[k]];
    for (size_t i = 0; i < t->n; i++) {
        const struct deq_prefix_entry entry = {.key = t->keys[i],
                                               .page = numbers,
                                               .state = t->states + i * e->prefix.state_dim,
                                               .reached = {t->reached[2 * i], t->reached[2 * i + 1] != 0},
                                               .first_page = t->places[2 * i],
                                               .n_pages = t->places[2 * i + 1]};
        deq_prefix_put(&e->prefix, &entry);
        numbers += entry.n_pages;
    }
}

/* What a full cache takes as a file, at most. */
static uint64_t most_bytes(const struct deq_engine *e)
{
    const struct deq_prefix *c = &e->prefix;
    const uint64_t entry = sizeof(struct deq_hash) + (c->state_dim + 2) * sizeof(float) +
                           (2 + (uint64_t)c->pages_max) * sizeof(uint32_t);
    return DEQ_SAVED_HEAD_MAX + (uint64_t)e->pages.n_pages * e->cell->page_bytes + c->cap * entry;
}

enum deq_rc deq_prefix_read(const struct deq_saved_of *of, struct deq_engine *e, const char *path, size_t *ret_blocks,
                            struct deq_err *err)
{
    struct deq_safetensors *f = NULL;
    struct table t = {0};
    struct deq_hash secret;
    struct reading r = {.path = path};
    if (e->prefix.n || e->pages.n_free != e->pages.n_pages)
        return deq_fail(err, DEQ_EINVAL, "%s: is for an engine that has solved nothing yet", path);
    enum deq_rc rc = deq_saved_open(of, NULL, most_bytes(e), path, &f, err);
    r.f = f;
    if (!rc)
        rc = find_tensors(&r, e, err);
    if (!rc && !table_new(&t, (size_t)r.t[KEYS]->shape[0], (size_t)r.t[ENTRY_PAGES]->count, e->prefix.state_dim,
                          e->pages.n_pages))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", path);
    if (!rc)
        rc = read_table(&r, &t, &secret, err);
    if (!rc && !is_sound(&t, e))
        rc = deq_fail(err, DEQ_EFORMAT, "%s: its blocks are not those of a cache", path);
    if (!rc)
        rc = read_pages(&r, &t, e, err);
    if (!rc) {
        e->secret = secret;
        fill(&t, e);
        *ret_blocks = t.n;
    }
    table_free(&t);
    deq_safetensors_close(f);
    return rc;
}
