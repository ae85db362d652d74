#include "server/work/flush.h"

#include "core/base/base.h"

struct flush flush_begin(uint64_t now_ns, uint64_t step_ns, uint32_t interval_ms, size_t n)
{
    return (struct flush){.now_ns = now_ns,
                          .step_ns = step_ns,
                          .interval_ns = interval_ms * 1000000ull,
                          .share_ns = interval_ms ? n * 1000000000ull / FLUSHES_PER_S : 0};
}

static bool is_due(const struct flush *f, const struct flush_stream *s)
{
    const uint64_t since_ns = f->now_ns - s->flushed_ns;
    const bool in_time = since_ns + f->step_ns < f->interval_ns; /* the next step will be */
    return (s->has == FLUSH_NEW && since_ns >= f->interval_ns) ||
           (s->has != FLUSH_NOTHING && !in_time && since_ns + f->step_ns / 2 >= f->share_ns);
}

void flush_see(struct flush *f, const struct flush_stream *s)
{
    f->some = f->some || is_due(f, s);
}

bool flush_goes(const struct flush *f, struct flush_stream *s)
{
    const uint64_t half_ns = DEQ_MAX(f->interval_ns, f->share_ns) / 2;
    const bool along = f->some && s->has != FLUSH_NOTHING && f->now_ns - s->flushed_ns >= half_ns;
    const bool goes = along || is_due(f, s);
    if (goes)
        *s = (struct flush_stream){FLUSH_NOTHING, f->now_ns};
    else if (s->has == FLUSH_NEW)
        s->has = FLUSH_HELD;
    return goes;
}
