#include "core/form/automaton.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/form/automaton_impl.h"
#include "core/form/nfa.h"

enum {
    WORK_MAX = 5 << 19, /* states, edges and moves looked at while sets are made and sorted: some 50 ms */
    HASH_SLOTS = 1 << 16,
};

/* The making of the rules' automata: sets of the nondeterministic one's states become states. */
struct subsets {
    struct deq_nfa nfa;
    struct deq_made *made;
    bool unspelled[256];      /* [classes] */
    uint32_t *member;         /* pool: the members of all sets, sorted */
    uint32_t n_members, members_cap;
    struct set {
        uint32_t at, n, rule;
    } *set;                   /* [made->n] */
    uint16_t *slot;           /* [HASH_SLOTS] of sets, 0: free */
    uint32_t *starts, *ends;  /* [rules] of the nondeterministic ones */
    uint32_t *mark, stamp;    /* [nfa states] */
    uint32_t *todo, *closed;  /* [nfa states] */
    struct move { uint32_t to, next; } *move; /* lists of targets, a class each */
    uint32_t n_moves, moves_cap;
    uint32_t *list, *called;  /* [rules] */
    uint32_t end;             /* of the rule under way */
    uint64_t work;
    struct deq_err *err;
};

static enum deq_rc no_memory(struct deq_err *err)
{
    return deq_fail(err, DEQ_ENOMEM, "no memory for a form");
}

static enum deq_rc too_large(struct deq_err *err)
{
    return deq_fail(err, DEQ_EINVAL, "too large: its automaton has more than %d states, or takes too long to make",
                    DEQ_FORM_STATES_MAX);
}

/* --- Classes of bytes that no expression tells apart --- */

static void find_classes(const struct deq_exprs *x, const bool spelled[256], struct subsets *s, struct deq_automaton *a)
{
    bool begins[257] = {true};
    for (deq_expr e = 0; e < x->n; e++)
        if (x->at[e].op == DEQ_EXPR_BYTE)
            begins[x->at[e].lo] = begins[x->at[e].hi + 1] = true;
    for (uint32_t i = 0; i < x->text_len; i++)
        begins[(unsigned char)x->text[i]] = begins[(unsigned char)x->text[i] + 1] = true;
    for (unsigned b = 1; b < 256; b++)
        begins[b] = begins[b] || spelled[b] != spelled[b - 1];
    unsigned n = 0;
    for (unsigned b = 0; b < 256; b++) {
        n += begins[b];
        a->class_of[b] = (uint8_t)(n - 1);
        s->unspelled[n - 1] = !spelled[b];
    }
    a->n_classes = n;
}

/* --- Sets --- */

static int by_number(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* What the n states in s->todo reach without a byte or a call, of which those are kept that go on by one, or end the
 * rule: s->closed, sorted. Returns how many. */
static uint32_t close_set(struct subsets *s, uint32_t n)
{
    uint32_t n_closed = 0;
    s->stamp++;
    for (uint32_t i = 0; i < n; i++)
        s->mark[s->todo[i]] = s->stamp;
    while (n) {
        const uint32_t q = s->todo[--n];
        bool keep = q == s->end;
        s->work++;
        for (uint32_t i = s->nfa.first[q]; i; i = s->nfa.edge[i].next) {
            const struct deq_nfa_edge *e = &s->nfa.edge[i];
            s->work++;
            keep = keep || e->kind != DEQ_NFA_EMPTY;
            if (e->kind != DEQ_NFA_EMPTY || s->mark[e->to] == s->stamp)
                continue;
            s->mark[e->to] = s->stamp;
            s->todo[n++] = e->to;
        }
        if (keep)
            s->closed[n_closed++] = q;
    }
    qsort(s->closed, n_closed, sizeof *s->closed, by_number);
    for (uint32_t k = n_closed; k > 1; k /= 2) /* comparisons, which cost less than a state */
        s->work += n_closed / 8;
    return n_closed;
}

static uint32_t hash(const uint32_t *set, uint32_t n, uint32_t rule)
{
    uint64_t h = 0xcbf29ce484222325u ^ rule;
    for (uint32_t i = 0; i < n; i++)
        h = (h ^ set[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 29) % HASH_SLOTS;
}

static enum deq_rc keep_members(struct subsets *s, uint32_t n)
{
    if (s->n_members + n > s->members_cap) {
        const size_t cap = 2 * ((size_t)s->members_cap + n);
        uint32_t *more = deq_realloc(s->member, s->members_cap * sizeof *more, cap * sizeof *more);
        if (!more)
            return no_memory(s->err);
        s->member = more;
        s->members_cap = (uint32_t)cap;
    }
    memcpy(s->member + s->n_members, s->closed, n * sizeof *s->closed);
    s->n_members += n;
    return DEQ_OK;
}

/* The state of the set that the n states in s->todo close to; 0: it is empty. */
static enum deq_rc intern(struct subsets *s, uint32_t rule, uint32_t n, uint16_t *ret)
{
    const uint32_t count = close_set(s, n);
    *ret = 0;
    if (s->work > WORK_MAX)
        return too_large(s->err);
    if (!count)
        return DEQ_OK;
    uint32_t at = hash(s->closed, count, rule);
    for (; s->slot[at]; at = (at + 1) % HASH_SLOTS) {
        const struct set *other = &s->set[s->slot[at]];
        if (other->n == count && other->rule == rule &&
            !memcmp(s->member + other->at, s->closed, count * sizeof *s->closed)) {
            *ret = s->slot[at];
            return DEQ_OK;
        }
    }
    if (s->made->n == DEQ_FORM_STATES_MAX)
        return too_large(s->err);
    const uint32_t begin = s->n_members;
    const enum deq_rc rc = keep_members(s, count);
    if (rc)
        return rc;
    const uint16_t id = (uint16_t)s->made->n++;
    s->set[id] = (struct set){begin, count, rule};
    s->made->ends[id] = s->mark[s->end] == s->stamp;
    s->slot[at] = id;
    *ret = id;
    return DEQ_OK;
}

/* --- Where a set goes by each class of bytes, and by each rule --- */

static enum deq_rc add_move(struct subsets *s, uint32_t *list, uint32_t to)
{
    if (++s->work > WORK_MAX)
        return too_large(s->err);
    if (s->n_moves == s->moves_cap) {
        struct move *more =
            deq_realloc(s->move, s->moves_cap * sizeof *more, 2 * (size_t)s->moves_cap * sizeof *more);
        if (!more)
            return no_memory(s->err);
        s->move = more;
        s->moves_cap *= 2;
    }
    s->move[s->n_moves] = (struct move){to, *list};
    *list = s->n_moves++;
    return DEQ_OK;
}

/* Lists of equal length and content; lists of one set are made in one order. */
static bool same_moves(const struct subsets *s, uint32_t a, uint32_t b)
{
    while (a && b && s->move[a].to == s->move[b].to) {
        a = s->move[a].next;
        b = s->move[b].next;
    }
    return !a && !b;
}

static enum deq_rc intern_moves(struct subsets *s, uint32_t rule, uint32_t list, uint16_t *ret)
{
    uint32_t n = 0;
    s->stamp++;
    for (uint32_t m = list; m; m = s->move[m].next) {
        s->work++;
        if (s->mark[s->move[m].to] == s->stamp)
            continue;
        s->mark[s->move[m].to] = s->stamp;
        s->todo[n++] = s->move[m].to;
    }
    return intern(s, rule, n, ret);
}

static enum deq_rc move_by_bytes(struct subsets *s, struct deq_automaton *a, uint16_t id)
{
    const struct set set = s->set[id];
    uint32_t list[256] = {0};
    enum deq_rc rc = DEQ_OK;
    s->n_moves = 1;
    for (uint32_t i = 0; i < set.n; i++)
        for (uint32_t e = s->nfa.first[s->member[set.at + i]]; e; e = s->nfa.edge[e].next) {
            const struct deq_nfa_edge *edge = &s->nfa.edge[e];
            if (edge->kind != DEQ_NFA_BYTES)
                continue;
            for (unsigned c = a->class_of[edge->lo]; !rc && c <= a->class_of[edge->hi]; c++)
                rc = s->unspelled[c] ? DEQ_OK : add_move(s, &list[c], edge->to);
        }
    uint16_t *next = s->made->next + (size_t)id * a->n_classes;
    for (unsigned c = 0; !rc && c < a->n_classes; c++) {
        if (c && same_moves(s, list[c], list[c - 1]))
            next[c] = next[c - 1];
        else if (list[c])
            rc = intern_moves(s, set.rule, list[c], &next[c]);
    }
    return rc;
}

/* All calls of one rule from a set are one. */
static enum deq_rc move_by_calls(struct subsets *s, uint16_t id)
{
    const struct set set = s->set[id];
    uint32_t n_called = 0;
    enum deq_rc rc = DEQ_OK;
    s->n_moves = 1;
    for (uint32_t i = 0; i < set.n; i++)
        for (uint32_t e = s->nfa.first[s->member[set.at + i]]; !rc && e; e = s->nfa.edge[e].next) {
            const struct deq_nfa_edge *edge = &s->nfa.edge[e];
            if (edge->kind != DEQ_NFA_CALL)
                continue;
            if (!s->list[edge->lo])
                s->called[n_called++] = edge->lo;
            rc = add_move(s, &s->list[edge->lo], edge->to);
        }
    s->made->first_call[id] = s->made->n_calls;
    for (uint32_t i = 0; i < n_called; i++) {
        const uint32_t rule = s->called[i];
        uint16_t to = 0;
        rc = rc ? rc : intern_moves(s, set.rule, s->list[rule], &to);
        if (!rc && to)
            rc = deq_made_call(s->made, rule, to, s->err);
        s->list[rule] = 0;
    }
    s->made->first_call[id + 1] = s->made->n_calls;
    return rc;
}

/* The nondeterministic automata of all rules that are called, and scratch for as many states as they have. */
static enum deq_rc read_rules(struct subsets *s, uint32_t root)
{
    enum deq_rc rc = DEQ_OK;
    s->nfa.called[root] = true;
    for (bool more = true; !rc && more;) { /* a rule may call one before it */
        more = false;
        for (uint32_t r = 0; !rc && r < s->nfa.x->n_rules; r++) {
            if (!s->nfa.called[r] || s->made->done[r])
                continue;
            s->made->done[r] = more = true;
            rc = deq_nfa_rule(&s->nfa, r, &s->starts[r], &s->ends[r], s->err);
        }
    }
    if (rc)
        return rc;
    s->mark = DEQ_NEW_ARRAY(uint32_t, s->nfa.n_states);
    s->todo = DEQ_NEW_ARRAY(uint32_t, s->nfa.n_states);
    s->closed = DEQ_NEW_ARRAY(uint32_t, s->nfa.n_states);
    return s->mark && s->todo && s->closed ? DEQ_OK : no_memory(s->err);
}

static enum deq_rc make_rule(struct subsets *s, struct deq_automaton *a, uint32_t rule)
{
    uint16_t id = (uint16_t)s->made->n;
    s->end = s->ends[rule];
    s->todo[0] = s->starts[rule];
    enum deq_rc rc = intern(s, rule, 1, &s->made->start[rule]);
    for (; !rc && id < s->made->n; id++) {
        if ((size_t)s->made->n * a->n_classes > DEQ_FORM_CELLS_MAX)
            return too_large(s->err);
        rc = deq_made_room(s->made, a->n_classes, s->err);
        rc = rc ? rc : move_by_bytes(s, a, id);
        rc = rc ? rc : move_by_calls(s, id);
    }
    return rc;
}

static enum deq_rc make_rules(struct subsets *s, struct deq_automaton *a, uint32_t root)
{
    enum deq_rc rc = read_rules(s, root);
    for (uint32_t r = 0; !rc && r < s->nfa.x->n_rules; r++)
        rc = s->made->done[r] ? make_rule(s, a, r) : DEQ_OK;
    return rc;
}

enum deq_rc deq_automaton_make(const struct deq_exprs *x, uint32_t root, const bool spelled[256],
                               struct deq_automaton *ret, struct deq_err *err)
{
    struct deq_automaton a = {0};
    struct deq_made made = {0};
    struct subsets s = {.made = &made, .moves_cap = 1024, .members_cap = 4096, .err = err};
    bool *nullable = DEQ_NEW_ARRAY(bool, x->n_rules);
    s.member = DEQ_NEW_ARRAY(uint32_t, s.members_cap);
    s.set = DEQ_NEW_ARRAY(struct set, DEQ_FORM_STATES_MAX);
    s.slot = DEQ_NEW_ARRAY(uint16_t, HASH_SLOTS);
    s.move = DEQ_NEW_ARRAY(struct move, s.moves_cap);
    s.list = DEQ_NEW_ARRAY(uint32_t, x->n_rules);
    s.called = DEQ_NEW_ARRAY(uint32_t, x->n_rules);
    s.starts = DEQ_NEW_ARRAY(uint32_t, x->n_rules);
    s.ends = DEQ_NEW_ARRAY(uint32_t, x->n_rules);
    const bool ok = nullable && s.member && s.set && s.slot && s.move && s.list && s.called && s.starts &&
                    s.ends;
    enum deq_rc rc = ok ? deq_made_init(&made, x->n_rules, err) : no_memory(err);
    rc = rc ? rc : deq_nfa_nullable(x, nullable, err);
    rc = rc ? rc : deq_nfa_init(&s.nfa, x, nullable, err);
    if (!rc) {
        find_classes(x, spelled, &s, &a);
        rc = make_rules(&s, &a, root);
    }
    rc = rc ? rc : deq_made_finish(&made, root, &a, err);
    deq_nfa_free(&s.nfa);
    void *const all[] = {nullable, s.member, s.set,  s.slot, s.move,
                         s.list,   s.called, s.starts, s.ends, s.mark, s.todo, s.closed};
    for (size_t i = 0; i < DEQ_COUNT(all); i++)
        deq_free(all[i]);
    deq_made_free(&made);
    if (rc)
        deq_automaton_free(&a);
    else
        *ret = a;
    return rc;
}

void deq_automaton_free(struct deq_automaton *a)
{
    deq_free(a->next);
    deq_free(a->place);
    deq_free(a->entries);
    *a = (struct deq_automaton){0};
}
