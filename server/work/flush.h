/* When what steps gave of a stream goes out: when one is over, never in the middle of it, and in one piece, since
 * waking a reader for every token of a fast stream costs more than making it. The first token leaves at once, and any
 * that comes the interval (stream.flush_ms) or more behind the flush before it. Faster ones are held back as long as
 * the next step will be over within that time; of many streams longer, so that all together are flushed FLUSHES_PER_S
 * times a second: until the end of the step that is nearest to it. Streams that are half due go along with one that is:
 * their readers wake up once, together.
 *
 * Rules without a clock: the caller says how late it is. On the thread of whoever owns the streams. */
#ifndef DEQ_SERVER_FLUSH_H
#define DEQ_SERVER_FLUSH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLUSHES_PER_S = 2000 };

struct flush_stream {
    /* since it was last flushed: nothing, its first token in the step just made, older ones */
    enum { FLUSH_NOTHING, FLUSH_NEW, FLUSH_HELD } has;
    uint64_t flushed_ns; /* 0: never */
};

/* The end of a step. */
struct flush {
    uint64_t now_ns, step_ns; /* what a step takes */
    uint64_t interval_ns, share_ns; /* share: of a stream, when all are flushed as often as they may be together */
    bool some; /* some stream is due */
};

/* n: streams that have something. */
struct flush flush_begin(uint64_t now_ns, uint64_t step_ns, uint32_t interval_ms, size_t n);
void flush_see(struct flush *f, const struct flush_stream *s); /* each of them, before any is asked about */
/* Whether s goes out; then it has nothing any more. */
bool flush_goes(const struct flush *f, struct flush_stream *s);

#endif
