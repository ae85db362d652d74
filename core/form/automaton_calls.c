/* What follows from the calls between the rules of an automaton: how deep each state must still go, which rules begin
 * with which, and where a state may go on. */
#include <string.h>

#include "core/base/mem.h"
#include "core/form/automaton_impl.h"

enum {
    NEVER = UINT8_MAX,     /* of a need: there is no end */
    SWEEP_WORK = 1 << 26,  /* cells and calls looked at until the needs are found */
    CALLS_MAX = 1 << 17,
    ENTRIES_MAX = 1 << 20, /* numbers of all entries */
};

enum deq_rc deq_made_init(struct deq_made *m, uint32_t n_rules, struct deq_err *err)
{
    m->n = 1;
    m->n_rules = n_rules;
    m->calls_cap = 256;
    m->ends = DEQ_NEW_ARRAY(bool, DEQ_FORM_STATES_MAX);
    m->tail = DEQ_NEW_ARRAY(bool, DEQ_FORM_STATES_MAX);
    m->first_call = DEQ_NEW_ARRAY(uint32_t, DEQ_FORM_STATES_MAX + 1);
    m->call = DEQ_NEW_ARRAY(struct deq_made_call, m->calls_cap);
    m->start = DEQ_NEW_ARRAY(uint16_t, n_rules);
    m->done = DEQ_NEW_ARRAY(bool, n_rules);
    return m->ends && m->tail && m->first_call && m->call && m->start && m->done
               ? DEQ_OK
               : deq_fail(err, DEQ_ENOMEM, "no memory for a form");
}

void deq_made_free(struct deq_made *m)
{
    deq_free(m->next);
    deq_free(m->ends);
    deq_free(m->tail);
    deq_free(m->first_call);
    deq_free(m->call);
    deq_free(m->start);
    deq_free(m->done);
}

enum deq_rc deq_made_room(struct deq_made *m, uint32_t n_classes, struct deq_err *err)
{
    if (m->n <= m->rows_cap)
        return DEQ_OK;
    const size_t row = n_classes * sizeof *m->next, had = m->rows_cap * row, has = 2 * (size_t)m->n * row;
    uint16_t *more = m->next ? deq_realloc(m->next, had, has) : deq_alloc(has);
    if (!more)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a form");
    memset((char *)more + had, 0, has - had);
    m->next = more;
    m->rows_cap = 2 * m->n;
    return DEQ_OK;
}

enum deq_rc deq_made_call(struct deq_made *m, uint32_t rule, uint16_t to, struct deq_err *err)
{
    if (m->n_calls == CALLS_MAX)
        return deq_fail(err, DEQ_EINVAL, "too large: its rules are called at more than %d places", CALLS_MAX);
    if (m->n_calls == m->calls_cap) {
        struct deq_made_call *more =
            deq_realloc(m->call, m->calls_cap * sizeof *more, 2 * (size_t)m->calls_cap * sizeof *more);
        if (!more)
            return deq_fail(err, DEQ_ENOMEM, "no memory for a form");
        m->call = more;
        m->calls_cap *= 2;
    }
    m->call[m->n_calls++] = (struct deq_made_call){rule, to};
    return DEQ_OK;
}

/* --- How deep it must go --- */

/* Nothing need be stacked for a call behind which its own rule just ends. */
static void find_tails(struct deq_made *m, const struct deq_automaton *a)
{
    for (uint32_t q = 1; q < m->n; q++) {
        const uint16_t *next = m->next + (size_t)q * a->n_classes;
        m->tail[q] = m->ends[q] && m->first_call[q] == m->first_call[q + 1];
        for (uint32_t c = 0; m->tail[q] && c < a->n_classes; c++)
            m->tail[q] = !next[c];
    }
}

static uint8_t need_of_call(const struct deq_made *m, const struct deq_automaton *a, const struct deq_made_call *c)
{
    const uint16_t start = m->start[c->rule];
    if (!start || a->place[start].need == NEVER)
        return NEVER;
    const unsigned inner = a->place[start].need + !m->tail[c->to], need = DEQ_MAX(inner, a->place[c->to].need);
    return need > DEQ_FORM_DEPTH ? (uint8_t)NEVER : (uint8_t)need;
}

/* One place's needs from those of where it leads. */
static bool renew_need(const struct deq_made *m, const struct deq_automaton *a, uint32_t q)
{
    struct deq_form_place *p = &a->place[q];
    const uint16_t *next = m->next + (size_t)q * a->n_classes;
    uint8_t by_bytes = NEVER;
    for (uint32_t c = 0; c < a->n_classes; c++)
        by_bytes = next[c] ? DEQ_MIN(by_bytes, a->place[next[c]].need) : by_bytes;
    uint8_t need = m->ends[q] ? 0 : by_bytes;
    for (uint32_t c = m->first_call[q]; need && c < m->first_call[q + 1]; c++) {
        const uint8_t by_call = need_of_call(m, a, &m->call[c]);
        need = DEQ_MIN(need, by_call);
    }
    const bool changed = need != p->need || by_bytes != p->need_bytes;
    p->need = need;
    p->need_bytes = by_bytes;
    return changed;
}

static enum deq_rc find_needs(const struct deq_made *m, struct deq_automaton *a, struct deq_err *err)
{
    uint64_t work = 0;
    for (uint32_t q = 0; q < m->n; q++)
        a->place[q] = (struct deq_form_place){.need = NEVER, .need_bytes = NEVER, .ends = m->ends[q]};
    for (bool changed = true; changed && work < SWEEP_WORK; work += (uint64_t)m->n * a->n_classes + m->n_calls) {
        changed = false;
        for (uint32_t q = m->n - 1; q > 0; q--) /* ends were mostly met last */
            changed = renew_need(m, a, q) || changed;
    }
    for (size_t i = 0; i < (size_t)m->n * a->n_classes; i++)
        m->next[i] = a->place[m->next[i]].need == NEVER ? 0 : m->next[i];
    return work < SWEEP_WORK ? DEQ_OK : deq_fail(err, DEQ_EINVAL, "too large: its automaton takes too long to make");
}

/* --- Which rules begin with which --- */

/* order: the rules such that each comes behind those that it may begin with. */
static enum deq_rc order_rules(const struct deq_made *m, uint32_t *order, uint32_t *ret_n, struct deq_err *err)
{
    uint32_t n = 0, left = 0;
    bool *placed = DEQ_NEW_ARRAY(bool, m->n_rules);
    if (!placed)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a form");
    for (uint32_t r = 0; r < m->n_rules; r++)
        left += m->done[r];
    for (bool more = true; more && n < left;) {
        more = false;
        for (uint32_t r = 0; r < m->n_rules; r++) {
            const uint16_t q = m->start[r];
            bool ready = m->done[r] && !placed[r];
            for (uint32_t c = m->first_call[q]; q && ready && c < m->first_call[q + 1]; c++)
                ready = placed[m->call[c].rule];
            if (ready)
                order[n++] = r;
            placed[r] = placed[r] || ready;
            more = more || ready;
        }
    }
    deq_free(placed);
    *ret_n = n;
    return n == left ? DEQ_OK
                     : deq_fail(err, DEQ_EINVAL, "left recursion: a rule begins with itself, and would never read "
                                                 "anything");
}

/* --- Where a state goes on --- */

struct entries {
    struct deq_automaton *a;
    uint32_t n, cap;
    struct deq_err *err;
};

static enum deq_rc add_entry(struct entries *e, struct deq_form_place *p, const uint16_t *numbers, uint32_t n)
{
    const uint16_t *all = e->a->entries + p->entry;
    for (uint32_t i = 0; i < p->n_entries; i++, all += 2 + all[1]) /* each once */
        if (all[1] + 2u == n && !memcmp(all, numbers, n * sizeof *all))
            return DEQ_OK;
    if (p->n_entries == DEQ_FORM_READINGS)
        return deq_fail(e->err, DEQ_EINVAL, "too ambiguous: at one place more than %d rules may begin",
                        DEQ_FORM_READINGS);
    if (e->n + n > ENTRIES_MAX)
        return deq_fail(e->err, DEQ_EINVAL, "too large: its rules begin with too many others");
    if (e->n + n > e->cap) {
        const size_t cap = 2 * ((size_t)e->n + n);
        uint16_t *more = deq_realloc(e->a->entries, e->cap * sizeof *more, cap * sizeof *more);
        if (!more)
            return deq_fail(e->err, DEQ_ENOMEM, "no memory for a form");
        e->a->entries = more;
        e->cap = (uint32_t)cap;
    }
    memcpy(e->a->entries + e->n, numbers, n * sizeof *numbers);
    e->n += n;
    p->n_entries++;
    return DEQ_OK;
}

/* Those of q: itself, where it reads a byte, and those of the rules that it calls, on top of where each call leads. */
static enum deq_rc add_entries(const struct deq_made *m, struct entries *e, uint16_t q)
{
    struct deq_form_place *p = &e->a->place[q];
    const uint16_t itself[2] = {q, 0};
    enum deq_rc rc = DEQ_OK;
    p->entry = e->n;
    if (p->need_bytes <= DEQ_FORM_DEPTH)
        rc = add_entry(e, p, itself, 2);
    for (uint32_t c = m->first_call[q]; !rc && c < m->first_call[q + 1]; c++) {
        const struct deq_made_call *call = &m->call[c];
        if (need_of_call(m, e->a, call) == NEVER)
            continue;
        const struct deq_form_place *start = &e->a->place[m->start[call->rule]];
        uint32_t at = start->entry;
        for (uint32_t i = 0; !rc && i < start->n_entries; i++) {
            const uint16_t *inner = e->a->entries + at;
            const uint32_t stacked = inner[1], own = !m->tail[call->to];
            uint16_t numbers[2 + DEQ_FORM_DEPTH] = {inner[0], (uint16_t)(stacked + own), call->to};
            at += 2 + stacked;
            if (stacked + own > DEQ_FORM_DEPTH)
                continue;
            memcpy(numbers + 2 + own, inner + 2, stacked * sizeof *inner);
            rc = add_entry(e, p, numbers, 2 + stacked + own);
        }
    }
    const uint16_t *first = e->a->entries + p->entry;
    p->alone = p->n_entries == 1 && first[0] == q && !first[1];
    return rc;
}

static enum deq_rc find_entries(const struct deq_made *m, struct deq_automaton *a, struct deq_err *err)
{
    struct entries e = {.a = a, .cap = 1024, .err = err};
    uint32_t *order = DEQ_NEW_ARRAY(uint32_t, m->n_rules), n = 0;
    bool *has = DEQ_NEW_ARRAY(bool, m->n);
    a->entries = DEQ_NEW_ARRAY(uint16_t, e.cap);
    enum deq_rc rc = order && has && a->entries ? order_rules(m, order, &n, err)
                                                : deq_fail(err, DEQ_ENOMEM, "no memory for a form");
    for (uint32_t i = 0; !rc && i < n; i++) {
        const uint16_t q = m->start[order[i]];
        if (q)
            rc = add_entries(m, &e, q);
        if (q)
            has[q] = true;
    }
    for (uint32_t q = 1; !rc && q < m->n; q++)
        if (!has[q] && a->place[q].need != NEVER)
            rc = add_entries(m, &e, (uint16_t)q);
    deq_free(order);
    deq_free(has);
    return rc;
}

enum deq_rc deq_made_finish(struct deq_made *m, uint32_t root, struct deq_automaton *a, struct deq_err *err)
{
    const uint16_t start = m->start[root];
    a->n_places = m->n;
    a->place = DEQ_NEW_ARRAY(struct deq_form_place, m->n);
    if (!a->place)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a form");
    enum deq_rc rc = deq_made_room(m, a->n_classes, err);
    if (!rc)
        find_tails(m, a);
    rc = rc ? rc : find_needs(m, a, err);
    rc = rc ? rc : find_entries(m, a, err);
    if (!rc && (!start || a->place[start].need == NEVER))
        rc = deq_fail(err, DEQ_EINVAL, "no text fits it that the model's vocabulary can spell, with rules at most %d "
                                       "deep in each other", DEQ_FORM_DEPTH);
    a->start = start;
    a->next = m->next;
    m->next = NULL;
    return rc;
}

size_t deq_automaton_bytes(const struct deq_automaton *a)
{
    size_t entries = 0;
    for (uint32_t q = 1; q < a->n_places; q++)
        entries = DEQ_MAX(entries, (size_t)a->place[q].entry);
    return a->n_places * (a->n_classes * sizeof *a->next + sizeof *a->place) + entries * sizeof *a->entries;
}
