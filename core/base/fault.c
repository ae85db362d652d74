#include "core/base/fault.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/base.h"
#include "core/base/mem.h"

_Atomic bool deq_fault_asked;

static const char *const names[DEQ_FAULT_COUNT] = {"alloc", "io", "short", "eintr", "thread"};

static struct {
    _Atomic uint64_t at, places, hits; /* at: the place that goes wrong; 0: none */
    _Atomic bool for_ever;
} plan[DEQ_FAULT_COUNT];

static deq_fault_judge *_Atomic judge;
static void *_Atomic judge_ctx;

static bool by_plan(enum deq_fault kind)
{
    const uint64_t n = atomic_fetch_add(&plan[kind].places, 1) + 1, at = atomic_load(&plan[kind].at);
    if (!at || n < at)
        return false;
    /* who is interrupted tries again, and gets somewhere */
    return n == at || (atomic_load(&plan[kind].for_ever) && (kind != DEQ_FAULT_EINTR || (n - at) % 2 == 0));
}

bool deq_fault_decide(enum deq_fault kind)
{
    deq_fault_judge *const own = atomic_load(&judge);
    const bool hit = own ? own(atomic_load(&judge_ctx), kind) : by_plan(kind);
    if (hit)
        atomic_fetch_add(&plan[kind].hits, 1);
    return hit;
}

static void look(void)
{
    bool asked = atomic_load(&judge) != NULL;
    for (size_t i = 0; i < DEQ_FAULT_COUNT; i++)
        asked = asked || atomic_load(&plan[i].at);
    atomic_store(&deq_fault_asked, asked);
}

void deq_fault_set(enum deq_fault kind, uint64_t nth, bool for_ever)
{
    atomic_store(&plan[kind].at, 0);
    if (nth) { /* what was counted can still be asked for behind the end */
        atomic_store(&plan[kind].places, 0);
        atomic_store(&plan[kind].hits, 0);
    }
    atomic_store(&plan[kind].for_ever, for_ever);
    atomic_store(&plan[kind].at, nth);
    look();
}

uint64_t deq_fault_places(enum deq_fault kind)
{
    return atomic_load(&plan[kind].places);
}

uint64_t deq_fault_hits(enum deq_fault kind)
{
    return atomic_load(&plan[kind].hits);
}

uint64_t deq_fault_all_hits(void)
{
    uint64_t n = 0;
    for (size_t i = 0; i < DEQ_FAULT_COUNT; i++)
        n += atomic_load(&plan[i].hits);
    return n;
}

void deq_fault_ask(deq_fault_judge *fn, void *ctx)
{
    atomic_store(&judge, NULL); /* nobody meets the old one with the new context */
    atomic_store(&judge_ctx, ctx);
    atomic_store(&judge, fn);
    look();
}

const char *deq_fault_name(enum deq_fault kind)
{
    return names[kind];
}

/* One "kind:N" or "kind:N+"; its end in *at. */
static bool take(const char **at)
{
    for (size_t i = 0; i < DEQ_FAULT_COUNT; i++) {
        const size_t n = strlen(names[i]);
        if (strncmp(*at, names[i], n) || (*at)[n] != ':' || (*at)[n + 1] < '1' || (*at)[n + 1] > '9')
            continue;
        char *end;
        const uint64_t nth = strtoull(*at + n + 1, &end, 10);
        deq_fault_set((enum deq_fault)i, nth, *end == '+');
        *at = end + (*end == '+');
        return !**at || **at == ',';
    }
    return false;
}

enum deq_rc deq_fault_environment(struct deq_err *err)
{
    const char *const text = getenv("DEQ_FAULT"), *at = text;
    while (at && *at) {
        if (!take(&at))
            return deq_fail(err, DEQ_EINVAL,
                            "DEQ_FAULT: \"%s\": expected kind:N or kind:N+, several apart by commas; kinds: alloc, io, "
                            "short, eintr, thread",
                            text);
        at += *at == ',';
    }
    deq_mem_count_plain(text != NULL);
    return DEQ_OK;
}
