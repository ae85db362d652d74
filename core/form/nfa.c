#include "core/form/nfa.h"

#include "core/base/mem.h"

enum {
    NEST_MAX = 2000,        /* expressions within each other; alternatives and sequences as they are made are not */
    NULLABLE_WORK = 1 << 25,
};

/* --- Which rules match nothing --- */

static bool is_nullable(const struct deq_exprs *x, const bool *rule, const bool *node, deq_expr e)
{
    const struct deq_expr_node *n = &x->at[e];
    switch (n->op) {
    case DEQ_EXPR_EMPTY: return true;
    case DEQ_EXPR_SEQ: return node[n->a] && node[n->b];
    case DEQ_EXPR_ALT: return node[n->a] || node[n->b];
    case DEQ_EXPR_REPEAT: return !n->lo || node[n->a];
    case DEQ_EXPR_MEMBER: return (!n->lo || node[n->a]) && (x->at[n->b].op != DEQ_EXPR_MEMBER || node[n->b]);
    case DEQ_EXPR_LIST: return x->at[n->a].op != DEQ_EXPR_MEMBER || node[n->a];
    case DEQ_EXPR_RULE: return rule[n->lo];
    default: return false;
    }
}

enum deq_rc deq_nfa_nullable(const struct deq_exprs *x, bool *ret, struct deq_err *err)
{
    bool *node = DEQ_NEW_ARRAY(bool, x->n);
    uint64_t work = 0;
    if (!node)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a form");
    for (bool changed = true; changed && work < NULLABLE_WORK; work += x->n) {
        changed = false;
        for (deq_expr e = 0; e < x->n; e++) /* parts come before what they are part of */
            node[e] = is_nullable(x, ret, node, e);
        for (uint32_t r = 0; r < x->n_rules; r++) {
            changed = changed || ret[r] != node[x->rule[r]];
            ret[r] = node[x->rule[r]];
        }
    }
    deq_free(node);
    return work < NULLABLE_WORK ? DEQ_OK : deq_fail(err, DEQ_EINVAL, "too large: its rules depend on each other too "
                                                                      "deeply");
}

/* --- States and edges --- */

enum deq_rc deq_nfa_init(struct deq_nfa *n, const struct deq_exprs *x, const bool *nullable, struct deq_err *err)
{
    *n = (struct deq_nfa){.x = x, .nullable = nullable, .n_edges = 1, .states_cap = 1024, .edges_cap = 1024};
    n->called = DEQ_NEW_ARRAY(bool, x->n_rules);
    n->first = DEQ_NEW_ARRAY(uint32_t, n->states_cap);
    n->edge = DEQ_NEW_ARRAY(struct deq_nfa_edge, n->edges_cap);
    return n->called && n->first && n->edge ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for a form");
}

void deq_nfa_free(struct deq_nfa *n)
{
    deq_free(n->called);
    deq_free(n->first);
    deq_free(n->edge);
}

static void give_up(struct deq_nfa *n, bool too_large)
{
    n->too_large = n->too_large || (too_large && !n->failed);
    n->failed = true;
}

/* Room for one more of size bytes in *array; false: there is none. */
static bool grow(struct deq_nfa *n, void **array, uint32_t used, uint32_t *cap, size_t size)
{
    if (n->failed || used < *cap)
        return !n->failed;
    if (used >= DEQ_NFA_MAX) {
        give_up(n, true);
        return false;
    }
    void *more = deq_realloc(*array, *cap * size, 2 * (size_t)*cap * size);
    if (!more) {
        give_up(n, false);
        return false;
    }
    *array = more;
    *cap *= 2;
    return true;
}

static uint32_t state(struct deq_nfa *n)
{
    void *first = n->first;
    const bool ok = grow(n, &first, n->n_states, &n->states_cap, sizeof *n->first);
    n->first = first;
    if (!ok)
        return 0;
    n->first[n->n_states] = 0;
    return n->n_states++;
}

static void edge(struct deq_nfa *n, uint32_t from, struct deq_nfa_edge e)
{
    void *edges = n->edge;
    const bool ok = grow(n, &edges, n->n_edges, &n->edges_cap, sizeof *n->edge);
    n->edge = edges;
    if (!ok)
        return;
    e.next = n->first[from];
    n->edge[n->n_edges] = e;
    n->first[from] = n->n_edges++;
}

static void pass(struct deq_nfa *n, uint32_t from, uint32_t to)
{
    edge(n, from, (struct deq_nfa_edge){.kind = DEQ_NFA_EMPTY, .to = to});
}

static void read_bytes(struct deq_nfa *n, uint32_t from, uint32_t to, uint32_t lo, uint32_t hi)
{
    edge(n, from, (struct deq_nfa_edge){.kind = DEQ_NFA_BYTES, .to = to, .lo = lo, .hi = hi});
}

static void read_text(struct deq_nfa *n, const struct deq_expr_node *text, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < text->hi; i++) {
        const uint32_t after = i + 1 < text->hi ? state(n) : to;
        const unsigned char byte = (unsigned char)n->x->text[text->lo + i];
        read_bytes(n, from, after, byte, byte);
        from = after;
    }
}

static void call(struct deq_nfa *n, uint32_t rule, uint32_t from, uint32_t to)
{
    n->called[rule] = true;
    edge(n, from, (struct deq_nfa_edge){.kind = DEQ_NFA_CALL, .to = to, .lo = rule});
    if (n->nullable[rule])
        pass(n, from, to);
}

static void connect(struct deq_nfa *n, deq_expr e, uint32_t from, uint32_t to, unsigned depth);

static void repeat(struct deq_nfa *n, const struct deq_expr_node *r, uint32_t from, uint32_t to, unsigned depth)
{
    const bool endless = r->hi == DEQ_EXPR_ENDLESS;
    for (uint32_t i = 0; i < (endless ? r->lo : r->hi) && !n->failed; i++) {
        const uint32_t after = state(n);
        if (i >= r->lo)
            pass(n, from, to);
        connect(n, r->a, from, after, depth);
        from = after;
    }
    if (endless) {
        const uint32_t again = state(n);
        pass(n, from, again);
        connect(n, r->a, again, again, depth);
        from = again;
    }
    pass(n, from, to);
}

/* Before a member either none is there yet, or some are, and then `between` comes first. */
static void list(struct deq_nfa *n, const struct deq_expr_node *l, uint32_t none, uint32_t to, unsigned depth)
{
    deq_expr m = l->a;
    uint32_t some = state(n);
    for (; n->x->at[m].op == DEQ_EXPR_MEMBER && !n->failed; m = n->x->at[m].b) {
        const struct deq_expr_node *member = &n->x->at[m];
        const uint32_t here = state(n), none_after = state(n), some_after = state(n);
        pass(n, none, here);
        connect(n, l->b, some, here, depth);
        connect(n, member->a, here, some_after, depth);
        if (!member->lo) {
            pass(n, none, none_after);
            pass(n, some, some_after);
        }
        none = none_after;
        some = some_after;
    }
    if (m != DEQ_NEVER) {
        const uint32_t here = state(n);
        pass(n, none, here);
        connect(n, l->b, some, here, depth);
        connect(n, m, here, some, depth);
    }
    pass(n, none, to);
    pass(n, some, to);
}

/* Long sequences are nested on one side, long alternatives to the left: that is gone through without recursion. */
static void connect(struct deq_nfa *n, deq_expr e, uint32_t from, uint32_t to, unsigned depth)
{
    if (depth > NEST_MAX)
        give_up(n, true);
    while (!n->failed) {
        const struct deq_expr_node *x = &n->x->at[e];
        uint32_t middle;
        switch (x->op) {
        case DEQ_EXPR_SEQ:
            middle = state(n);
            if (n->x->at[x->a].op == DEQ_EXPR_SEQ) {
                connect(n, x->b, middle, to, depth + 1);
                to = middle;
                e = x->a;
            } else {
                connect(n, x->a, from, middle, depth + 1);
                from = middle;
                e = x->b;
            }
            continue;
        case DEQ_EXPR_ALT:
            connect(n, x->b, from, to, depth + 1);
            e = x->a;
            continue;
        case DEQ_EXPR_EMPTY: pass(n, from, to); break;
        case DEQ_EXPR_BYTE: read_bytes(n, from, to, x->lo, x->hi); break;
        case DEQ_EXPR_TEXT: read_text(n, x, from, to); break;
        case DEQ_EXPR_REPEAT: repeat(n, x, from, to, depth + 1); break;
        case DEQ_EXPR_LIST: list(n, x, from, to, depth + 1); break;
        case DEQ_EXPR_RULE: call(n, x->lo, from, to); break;
        default: break;
        }
        return;
    }
}

enum deq_rc deq_nfa_rule(struct deq_nfa *n, uint32_t rule, uint32_t *ret_start, uint32_t *ret_end, struct deq_err *err)
{
    const uint32_t start = state(n), end = state(n);
    connect(n, n->x->rule[rule], start, end, 0);
    if (n->failed)
        return n->too_large ? deq_fail(err, DEQ_EINVAL, "too large: more than %d states", DEQ_NFA_MAX)
                            : deq_fail(err, DEQ_ENOMEM, "no memory for a form");
    *ret_start = start;
    *ret_end = end;
    return DEQ_OK;
}
