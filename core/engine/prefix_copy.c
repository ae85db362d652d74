/* The prefix cache into a file (saved.h): its entries in order of use, each page once however many entries hold it. The
 * engine may go on meanwhile. What there is, and which pages hold it, is noted at the beginning; states and pages are
 * copied a slice at a time, by the engine's thread between steps, each time when the thread that writes has none left.
 * An entry that has gone by then is written as none: zeros, of the size that the header has promised. */
#include <pthread.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"

enum { SLICE_BYTES = 256 << 10 }; /* or the pages of one entry */

struct deq_prefix_copy {
    struct deq_prefix_table t;
    struct deq_hash secret;
    uint32_t block;
    size_t state_dim, page_bytes;
    const struct deq_cell *cell;
    const struct deq_engine *at_rest; /* that solves nothing meanwhile: the writer copies itself; NULL: it goes on */
    bool *gone;       /* [t.n_pages] the entry that the page was to be copied with had gone */
    pthread_mutex_t lock; /* guards what follows, and states and reached of t */
    pthread_cond_t moved;
    char *slice;      /* [room, page_bytes] */
    size_t room, at, n; /* pages [at, at + n) of the file stand there */
    size_t entry, used; /* the first that is not copied; of t.entry_pages before its own */
    bool wanted;      /* all of the slice is written */
    bool ended;       /* nothing more is copied */
};

bool deq_prefix_table_new(struct deq_prefix_table *t, size_t n, size_t sum, size_t state_dim, size_t n_pages)
{
    *t = (struct deq_prefix_table){.keys = DEQ_NEW_ARRAY(struct deq_hash, n),
                                   .states = DEQ_NEW_ARRAY(float, n * state_dim),
                                   .reached = DEQ_NEW_ARRAY(float, 2 * n),
                                   .places = DEQ_NEW_ARRAY(uint32_t, 2 * n),
                                   .entry_pages = DEQ_NEW_ARRAY(uint32_t, sum),
                                   .page = DEQ_NEW_ARRAY(uint32_t, n_pages),
                                   .row = DEQ_NEW_ARRAY(uint32_t, n_pages)};
    return t->keys && t->states && t->reached && t->places && t->entry_pages && t->page && t->row;
}

void deq_prefix_table_free(struct deq_prefix_table *t)
{
    deq_free(t->keys);
    deq_free(t->states);
    deq_free(t->reached);
    deq_free(t->places);
    deq_free(t->entry_pages);
    deq_free(t->page);
    deq_free(t->row);
}

/* --- What there is --- */

static void note_entry(struct deq_prefix_table *t, const struct deq_prefix_entry *e)
{
    const size_t i = t->n++;
    t->keys[i] = e->key;
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

/* rest: it solves nothing until the copy is written. */
static enum deq_rc begin(const struct deq_engine *e, bool rest, struct deq_prefix_copy **ret, struct deq_err *err)
{
    const struct deq_prefix *c = &e->prefix;
    struct deq_prefix_copy *copy = DEQ_NEW(struct deq_prefix_copy);
    if (!copy)
        return deq_fail(err, DEQ_ENOMEM, "no memory to copy the prefix cache");
    copy->secret = e->secret;
    copy->block = e->opts.prefill_block;
    copy->state_dim = c->state_dim;
    copy->page_bytes = e->cell->page_bytes;
    copy->cell = e->cell;
    copy->at_rest = rest ? e : NULL;
    copy->room = DEQ_MAX(SLICE_BYTES / copy->page_bytes, (size_t)c->pages_max);
    copy->slice = deq_alloc(copy->room * copy->page_bytes);
    copy->gone = DEQ_NEW_ARRAY(bool, e->pages.n_pages);
    pthread_mutex_init(&copy->lock, NULL);
    pthread_cond_init(&copy->moved, NULL);
    if (!deq_prefix_table_new(&copy->t, c->n, (size_t)c->n_pages, c->state_dim, e->pages.n_pages) || !copy->slice ||
        !copy->gone) {
        deq_prefix_copy_free(copy);
        return deq_fail(err, DEQ_ENOMEM, "no memory to copy the prefix cache");
    }
    for (uint32_t i = c->oldest; i != UINT32_MAX; i = c->entries[i].prev)
        note_entry(&copy->t, &c->entries[i]);
    *ret = copy;
    return DEQ_OK;
}

enum deq_rc deq_prefix_copy_new(struct deq_engine *e, struct deq_prefix_copy **ret, struct deq_err *err)
{
    *ret = NULL;
    if (e->prefix.copied == e->prefix.inserted)
        return DEQ_OK;
    const enum deq_rc rc = begin(e, false, ret, err);
    if (!rc)
        e->prefix.copied = e->prefix.inserted;
    return rc;
}

enum deq_rc deq_prefix_copy_at_rest(const struct deq_engine *e, struct deq_prefix_copy **ret, struct deq_err *err)
{
    return begin(e, true, ret, err);
}

void deq_prefix_copy_free(struct deq_prefix_copy *c)
{
    if (!c)
        return;
    deq_prefix_table_free(&c->t);
    deq_free(c->slice);
    deq_free(c->gone);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->moved);
    deq_free(c);
}

uint32_t deq_prefix_copy_block(const struct deq_prefix_copy *c)
{
    return c->block;
}

/* --- Slices. Caller holds the lock --- */

/* The entry as it was noted, or NULL. Pages that it still holds are as they were: whatever is written into one that the
 * cache holds goes into a copy. */
static const struct deq_prefix_entry *still_there(const struct deq_prefix_copy *c, const struct deq_engine *e)
{
    const struct deq_prefix_table *t = &c->t;
    const uint32_t *rows = t->entry_pages + c->used, *place = t->places + 2 * c->entry;
    const struct deq_prefix_entry *entry = deq_prefix_find(&e->prefix, &t->keys[c->entry]);
    bool same = entry && entry->first_page == place[0] && entry->n_pages == place[1];
    for (uint32_t k = 0; same && k < place[1]; k++)
        same = entry->page[k] == t->page[rows[k]] && !c->gone[rows[k]];
    return same ? entry : NULL;
}

/* Of the entry's pages, those that no entry before it has. They are the next in the file. */
static uint32_t new_pages(const struct deq_prefix_copy *c)
{
    const uint32_t *rows = c->t.entry_pages + c->used;
    uint32_t n = 0;
    for (uint32_t k = 0; k < c->t.places[2 * c->entry + 1]; k++)
        n += rows[k] == c->at + c->n + n;
    return n;
}

static void copy_entry(struct deq_prefix_copy *c, const struct deq_engine *e, uint32_t n_new)
{
    const struct deq_prefix_entry *entry = still_there(c, e);
    float *reached = c->t.reached + 2 * c->entry, *state = c->t.states + c->entry * c->state_dim;
    for (uint32_t k = 0; k < n_new; k++) {
        const size_t row = c->at + c->n;
        char *const to = c->slice + c->n++ * c->page_bytes;
        c->gone[row] = !entry;
        if (entry)
            c->cell->ops->page_get(c->cell, c->t.page[row], c->cell->page_tok, to);
        else
            memset(to, 0, c->page_bytes);
    }
    reached[0] = entry ? entry->reached.residual_max : -1.0f;
    reached[1] = entry && entry->reached.missed ? 1.0f : 0.0f;
    if (entry)
        memcpy(state, entry->state, c->state_dim * sizeof *state);
    c->used += c->t.places[2 * c->entry + 1];
    c->entry++;
}

static void next_slice(struct deq_prefix_copy *c, const struct deq_engine *e)
{
    c->at += c->n;
    c->n = 0;
    for (uint32_t n; c->entry < c->t.n && (n = new_pages(c)) <= c->room - c->n;)
        copy_entry(c, e, n);
    c->wanted = false;
}

/* --- From the engine's thread --- */

void deq_prefix_copy_more(struct deq_prefix_copy *c, const struct deq_engine *e)
{
    pthread_mutex_lock(&c->lock);
    if (c->wanted)
        next_slice(c, e);
    pthread_cond_signal(&c->moved);
    pthread_mutex_unlock(&c->lock);
}

void deq_prefix_copy_end(struct deq_prefix_copy *c)
{
    pthread_mutex_lock(&c->lock);
    c->ended = true;
    pthread_cond_signal(&c->moved);
    pthread_mutex_unlock(&c->lock);
}

/* --- From the thread that writes --- */

static const void *page_of(void *ctx, size_t i)
{
    struct deq_prefix_copy *c = ctx;
    pthread_mutex_lock(&c->lock);
    while (i >= c->at + c->n && !c->ended) {
        c->wanted = true;
        if (c->at_rest)
            next_slice(c, c->at_rest);
        else
            pthread_cond_wait(&c->moved, &c->lock);
    }
    const void *const page = i < c->at + c->n ? c->slice + (i - c->at) * c->page_bytes : NULL;
    pthread_mutex_unlock(&c->lock);
    return page; /* it stays until a later one is asked for */
}

enum deq_rc deq_prefix_copy_write(const struct deq_saved_of *of, struct deq_prefix_copy *c, const char *path,
                                  struct deq_err *err)
{
    const struct deq_prefix_table *t = &c->t;
    const struct deq_tensor_out tensors[] = {
        {"secret", DEQ_U8, 1, {sizeof c->secret}, &c->secret},
        {"keys", DEQ_U8, 2, {t->n, sizeof *t->keys}, t->keys},
        {"states", DEQ_F32, 2, {t->n, c->state_dim}, t->states},
        {"reached", DEQ_F32, 2, {t->n, 2}, t->reached},
        {"places", DEQ_I32, 2, {t->n, 2}, t->places},
        {"entry_pages", DEQ_I32, 1, {t->sum}, t->entry_pages}};
    const struct deq_saved_content content = {.of = of,
                                              .tensors = tensors,
                                              .n = DEQ_COUNT(tensors),
                                              .n_pages = t->n_pages,
                                              .page_bytes = c->page_bytes,
                                              .pages_first = true,
                                              .page = page_of,
                                              .ctx = c};
    return deq_saved_write(&content, path, NULL, err);
}

enum deq_rc deq_prefix_write(const struct deq_saved_of *of, const struct deq_engine *e, const char *path,
                             struct deq_err *err)
{
    struct deq_prefix_copy *c;
    enum deq_rc rc = deq_prefix_copy_at_rest(e, &c, err);
    if (rc)
        return rc;
    rc = deq_prefix_copy_write(of, c, path, err);
    deq_prefix_copy_free(c);
    return rc;
}
