/* A prefix cache out of a file (saved.h; prefix_copy.c writes it). Keys are hashes with the engine's secret, so that
 * comes along, and what is restored goes on with it. */
#include <string.h>

#include "core/base/mem.h"
#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"

enum { SECRET, KEYS, STATES, REACHED, PLACES, ENTRY_PAGES, PARTS };

enum { HELD = 1, NEEDED }; /* of a page in the file: by entries; of which one is there */

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

static enum deq_rc read_table(const struct reading *r, struct deq_prefix_table *t, struct deq_hash *ret_secret,
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
static bool is_sound(const struct deq_prefix_table *t, const struct deq_engine *e)
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
        t->row[t->entry_pages[k]] = HELD;
    }
    for (size_t p = 0; p < t->n_pages; p++)
        if (!t->row[p])
            return false;
    return sum == t->sum && deq_saved_finite(t->states, t->n * e->prefix.state_dim) &&
           deq_saved_finite(t->reached, 2 * t->n);
}

/* An entry that went while the file was written is none. */
static bool is_there(const struct deq_prefix_table *t, size_t i)
{
    return t->reached[2 * i] >= 0;
}

static void note_needed(struct deq_prefix_table *t)
{
    const uint32_t *rows = t->entry_pages;
    for (size_t i = 0; i < t->n; rows += t->places[2 * i + 1], i++)
        for (uint32_t k = 0; is_there(t, i) && k < t->places[2 * i + 1]; k++)
            t->row[rows[k]] = NEEDED;
}

/* The pages that are needed, into free ones of the engine's; *ret_taken: how many. */
static enum deq_rc read_pages(const struct reading *r, struct deq_prefix_table *t, struct deq_engine *e,
                              uint32_t *ret_taken, struct deq_err *err)
{
    const size_t bytes = e->cell->page_bytes;
    void *page = deq_alloc(bytes);
    enum deq_rc rc = page ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", r->path);
    *ret_taken = 0;
    for (size_t i = 0; i < t->n_pages && !rc; i++) {
        if (t->row[i] != NEEDED)
            continue;
        rc = deq_tensor_read(r->f, r->pages, i * bytes, bytes, page, err);
        if (!rc && !deq_page_fits(e->cell, page))
            rc = deq_fail(err, DEQ_EFORMAT, "%s: page %zu is none of this model's", r->path, i);
        t->page[i] = e->pages.free[e->pages.n_free - 1 - (*ret_taken)++];
        if (!rc)
            e->cell->ops->page_put(e->cell, t->page[i], page);
    }
    deq_free(page);
    return rc;
}

/* Nothing can fail any more. Returns how many entries there are. */
static size_t fill(const struct deq_prefix_table *t, uint32_t taken, struct deq_engine *e)
{
    uint32_t *numbers = t->entry_pages;
    size_t n = 0;
    e->pages.n_free -= taken;
    for (size_t i = 0; i < t->n; numbers += t->places[2 * i + 1], i++) {
        const struct deq_prefix_entry entry = {.key = t->keys[i],
                                               .page = numbers,
                                               .state = t->states + i * e->prefix.state_dim,
                                               .reached = {t->reached[2 * i], t->reached[2 * i + 1] != 0},
                                               .first_page = t->places[2 * i],
                                               .n_pages = t->places[2 * i + 1]};
        if (!is_there(t, i))
            continue;
        for (uint32_t k = 0; k < entry.n_pages; k++)
            numbers[k] = t->page[numbers[k]];
        deq_prefix_put(&e->prefix, &entry);
        n++;
    }
    return n;
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
    struct deq_prefix_table t = {0};
    struct deq_hash secret;
    uint32_t taken;
    struct reading r = {.path = path};
    if (e->prefix.n || e->pages.n_free != e->pages.n_pages)
        return deq_fail(err, DEQ_EINVAL, "%s: is for an engine that has solved nothing yet", path);
    enum deq_rc rc = deq_saved_open(of, NULL, most_bytes(e), path, &f, err);
    r.f = f;
    if (!rc)
        rc = find_tensors(&r, e, err);
    if (!rc && !deq_prefix_table_new(&t, (size_t)r.t[KEYS]->shape[0], (size_t)r.t[ENTRY_PAGES]->count,
                                     e->prefix.state_dim, e->pages.n_pages))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", path);
    if (!rc)
        rc = read_table(&r, &t, &secret, err);
    if (!rc && !is_sound(&t, e))
        rc = deq_fail(err, DEQ_EFORMAT, "%s: its blocks are not those of a cache", path);
    if (!rc)
        note_needed(&t);
    if (!rc)
        rc = read_pages(&r, &t, e, &taken, err);
    if (!rc) {
        e->secret = secret;
        *ret_blocks = fill(&t, taken, e);
    }
    deq_prefix_table_free(&t);
    deq_safetensors_close(f);
    return rc;
}
