#include "core/solve/terms.h"

#include <string.h>

#include "core/base/base.h"

/* Index of a name in a table of n, or n. */
static size_t index_of(const char *name, const char *const *table, size_t n)
{
    size_t i = 0;
    while (i < n && strcmp(name, table[i]))
        i++;
    return i;
}

static const char *const names[] = {[DEQ_PICARD] = "picard", [DEQ_ANDERSON] = "anderson", [DEQ_BROYDEN] = "broyden"};
_Static_assert(DEQ_COUNT(names) == DEQ_SOLVER_COUNT, "a name for each method");

const char *deq_solver_name(enum deq_solver_method m)
{
    return names[m];
}

bool deq_solver_by_name(const char *name, enum deq_solver_method *ret)
{
    const size_t i = index_of(name, names, DEQ_COUNT(names));
    if (i < DEQ_COUNT(names))
        *ret = (enum deq_solver_method)i;
    return i < DEQ_COUNT(names);
}

static const char *const warms[] = {[DEQ_WARM_ZERO] = "zero",
                                    [DEQ_WARM_PREVIOUS] = "previous",
                                    [DEQ_WARM_PREDICTOR] = "predictor",
                                    [DEQ_WARM_PROPOSAL] = "proposal"};
_Static_assert(DEQ_COUNT(warms) == DEQ_WARM_COUNT, "a name for each start");

const char *deq_warm_name(enum deq_warm w)
{
    return warms[w];
}

bool deq_warm_by_name(const char *name, enum deq_warm *ret)
{
    const size_t i = index_of(name, warms, DEQ_COUNT(warms));
    if (i < DEQ_COUNT(warms))
        *ret = (enum deq_warm)i;
    return i < DEQ_COUNT(warms);
}

static const char *const rules[] = {[DEQ_STOP_AT_RESIDUAL] = "residual",
                                    [DEQ_STOP_AT_LATENT] = "latent",
                                    [DEQ_STOP_AT_KL] = "kl",
                                    [DEQ_STOP_AT_ARGMAX] = "argmax"};
_Static_assert(DEQ_COUNT(rules) == DEQ_STOP_RULES, "a name for each rule");

const char *deq_stop_rule_name(enum deq_stop_rule r)
{
    return rules[r];
}

bool deq_stop_rule_by_name(const char *name, enum deq_stop_rule *ret)
{
    const size_t i = index_of(name, rules, DEQ_COUNT(rules));
    if (i < DEQ_COUNT(rules))
        *ret = (enum deq_stop_rule)i;
    return i < DEQ_COUNT(rules);
}

bool deq_warm_is_fixed(enum deq_warm w)
{
    return w == DEQ_WARM_ZERO || w == DEQ_WARM_PROPOSAL;
}

bool deq_stop_reads(enum deq_stop_rule r)
{
    return r == DEQ_STOP_AT_KL || r == DEQ_STOP_AT_ARGMAX;
}

float deq_stop_rule_tol(enum deq_stop_rule r)
{
    return r == DEQ_STOP_AT_LATENT ? 0.03f : r == DEQ_STOP_AT_KL ? 1e-3f : 1e-2f;
}

uint32_t deq_prefill_window(uint32_t window, uint32_t prefill_window)
{
    return prefill_window ? prefill_window : window;
}

uint64_t deq_window_rows(uint32_t n, uint32_t window, uint32_t prefill_window)
{
    const uint64_t all = (uint64_t)n * window;
    return all > prefill_window ? all : prefill_window;
}
