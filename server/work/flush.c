#include "server/work/flush.h"

#include "core/base/base.h"

struct flush flush_begin(uint64_t now_ns, uint64_t step_ns, uint32_t interval_ms, size_t n)
{
    const uint64_t interval_ns = interval_ms * 1000000ull, share_ns = n * 1000000000ull / FLUSHES_PER_S;
    struct flush f = {.now_ns = now_ns, .step_ns = step_ns, .interval_ns = interval_ns};
    uint64_t hold_ns = interval_ns;
    while (hold_ns && hold_ns < share_ns)
        hold_ns *= 2;
    if (hold_ns > interval_ns)
        f.tick = (now_ns + step_ns / 2) / hold_ns; /* at the end of the step that is nearest */
    return f;
}

bool flush_goes(const struct flush *f, struct flush_stream *s)
{
    const uint64_t since_ns = f->now_ns - s->flushed_ns;
    const bool slow = s->has == FLUSH_NEW && since_ns >= f->interval_ns;
    const bool due = f->tick ? f->tick != s->tick : since_ns + f->step_ns >= f->interval_ns;
    const bool goes = s->has != FLUSH_NOTHING && (slow || due);
    if (goes)
        *s = (struct flush_stream){FLUSH_NOTHING, f->now_ns, f->tick};
    else if (s->has == FLUSH_NEW)
        s->has = FLUSH_HELD;
    return goes;
}
