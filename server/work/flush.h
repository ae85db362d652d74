/* When what steps gave of a stream goes out: when one is over, never in the middle of it, and in one piece, since
 * waking a reader for every token of a fast stream costs more than making it. The first token leaves at once, and any
 * that comes the interval (stream.flush_ms) or more behind the flush before it. Faster ones are held back as long as
 * the next step will be over within that time. Many streams are held until a clock ticks that they share, so that their
 * readers wake up once, together: every two intervals, or four, or eight, and all of them together go out FLUSHES_PER_S
 * times a second at most.
 *
 * Rules without a clock: the caller says how late it is. On the thread of whoever owns the streams. */
#ifndef DEQ_SERVER_FLUSH_H
#define DEQ_SERVER_FLUSH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLUSHES_PER_S = 1000 };

struct flush_stream {
    /* since it was last flushed: nothing, its first token in the step just made, older ones */
    enum { FLUSH_NOTHING, FLUSH_NEW, FLUSH_HELD } has;
    uint64_t flushed_ns, tick; /* at the last flush; 0: never */
};

/* The end of a step. */
struct flush {
    uint64_t now_ns, step_ns, interval_ns;
    uint64_t tick; /* of many streams, the number of the last; else 0 */
};

/* step_ns: what a step takes. n: streams that have something. */
struct flush flush_begin(uint64_t now_ns, uint64_t step_ns, uint32_t interval_ms, size_t n);
/* Whether s goes out; then it has nothing any more. */
bool flush_goes(const struct flush *f, struct flush_stream *s);

#endif
