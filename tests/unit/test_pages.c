/* Pages by number: random opening, writing, sharing, caching and closing keep every count true; a ring is as long as a
 * step needs and no longer. */
#include "core/engine/pages.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/answers.h"
#include "tests/unit/test.h"

enum { PAGES = 10, SEQS = 6, P = 4 };

static void *open_pages(struct deq_pages *p)
{
    struct deq_layout l = {0};
    deq_pages_lay_out(p, PAGES, &l);
    l = (struct deq_layout){.base = deq_alloc(l.bytes)};
    deq_pages_lay_out(p, PAGES, &l);
    deq_pages_init(p, PAGES, P);
    return l.base;
}

/* What must hold of all counts at any time. */
static unsigned count_wrong(const struct deq_pages *p, const struct deq_ring s[SEQS])
{
    unsigned holders[PAGES] = {0}, is_free[PAGES] = {0}, held = 0, reserved = 0, wrong = 0;
    for (int k = 0; k < SEQS; k++) {
        reserved += s[k].n;
        for (uint32_t l = 0; l < s[k].n; l++)
            if (s[k].page[l] != DEQ_PAGE_NONE)
                holders[s[k].page[l]]++;
    }
    for (uint32_t k = 0; k < p->n_free; k++)
        is_free[p->free[k]]++;
    for (int k = 0; k < PAGES; k++) {
        held += holders[k] > 0;
        wrong += holders[k] != p->holders[k] || is_free[k] != (!holders[k] && !p->cached[k]);
    }
    return wrong + (held != p->n_held || reserved != p->n_reserved || reserved > PAGES);
}

TEST(pages_are_counted)
{
    struct deq_pages p = {0};
    struct deq_ring s[SEQS] = {{0}};
    size_t length[SEQS] = {0};
    struct deq_err e = {0};
    void *memory = open_pages(&p);
    unsigned shared = 0, copied = 0, refused = 0, wrong = 0, full = 0;
    for (uint64_t step = 0; step < 20000; step++) {
        const size_t i = deq_rng_below(1, 1, step, SEQS), other = deq_rng_below(1, 4, step, SEQS);
        struct deq_ring *q = &s[i];
        const uint64_t what = deq_rng_below(1, 3, step, 12);
        const uint32_t number = (uint32_t)deq_rng_below(1, 5, step, PAGES);
        if (!q->page) {
            const uint32_t n = 1 + (uint32_t)deq_rng_below(1, 2, step, 5), room = PAGES - p.n_reserved;
            const enum deq_rc rc = deq_ring_open(&p, n, q, &e);
            CHECK(n > room ? rc == DEQ_EFULL && !q->page : !rc && q->n == n);
            length[i] = 0;
            full += n > room;
            /* a fork */
            if (!rc && s[other].page && other != i && length[other] && s[other].n >= q->n && length[other] / P < q->n) {
                for (size_t page = 0; page * P < length[other]; page++)
                    deq_ring_share(&p, q, page, deq_page_of(&s[other], page));
                length[i] = length[other];
                shared++;
            }
        } else if (what == 0) {
            deq_ring_close(&p, q);
        } else if (what == 1 && p.holders[number] && p.cached[number] < 3) {
            deq_pages_cache(&p, number);
        } else if (what == 2 && p.cached[number]) {
            deq_pages_uncache(&p, number);
        } else {
            const size_t at = length[i];
            const uint32_t before = deq_page_of(q, at / P);
            const bool alone = before != DEQ_PAGE_NONE && p.holders[before] == 1 && !p.cached[before];
            uint32_t from;
            if (deq_ring_make_writable(&p, q, at, &from)) {
                const uint32_t now = deq_page_of(q, at / P);
                wrong += p.holders[now] != 1 || p.cached[now] || (alone && now != before);
                wrong += from != (at % P && now != before ? before : (uint32_t)DEQ_PAGE_NONE);
                copied += from != DEQ_PAGE_NONE;
                length[i]++;
            } else {
                refused++;
                wrong += p.n_free != 0 || alone;
            }
        }
        wrong += count_wrong(&p, s);
    }
    CHECK_MSG(!wrong, "%u times wrong", wrong);
    CHECK_MSG(shared > 100 && copied > 100 && refused > 100 && full > 100, "%u shared, %u copied, %u refused, %u full",
              shared, copied, refused, full);
    for (int k = 0; k < SEQS; k++)
        deq_ring_close(&p, &s[k]);
    for (uint32_t k = 0; k < PAGES; k++)
        while (p.cached[k])
            deq_pages_uncache(&p, k);
    CHECK(p.n_free == PAGES && !p.n_reserved && !p.n_held);
    deq_ring_close(&p, &s[0]); /* nothing to give */
    CHECK(deq_ring_open(&p, PAGES + 1, &s[0], &e) == DEQ_EFULL && strstr(e.text, "11") && strstr(e.text, "10"));
    deq_mem_fault(1, false);
    CHECK(deq_ring_open(&p, 2, &s[0], &e) == DEQ_ENOMEM && !p.n_reserved && !s[0].page);
    deq_mem_fault(0, false);
    deq_free(memory);
}

TEST(pages_ring_holds_what_a_step_touches)
{
    static const uint32_t backs[] = {1, 2, 15, 16, 17, 30, 31, 32, 39, 95}, rows[] = {1, 2, 4, 8, 15, 16, 17, 64},
                          sizes[] = {1, 4, 16};
    unsigned bad = 0, wasteful = 0;
    for (size_t k = 0; k < DEQ_COUNT(sizes); k++)
        for (size_t i = 0; i < DEQ_COUNT(backs); i++)
            for (size_t j = 0; j < DEQ_COUNT(rows); j++) {
                const struct deq_cell c = {.lookback = backs[i], .page_tok = sizes[k]};
                uint32_t most = 0;
                const uint32_t n = deq_pages_needed(&c, 1 << 20, rows[j]);
                for (size_t t = 0; t < 300; t++) { /* rows t..t+w-1 and what the first of them reads */
                    const size_t first = t > backs[i] ? t - backs[i] : 0, last = t + rows[j] - 1;
                    most = DEQ_MAX(most, (uint32_t)(last / sizes[k] - first / sizes[k] + 1));
                }
                /* consecutive logical pages fall into different slots exactly when there are at most n */
                bad += most > n;
                wasteful += n > most;
                for (size_t positions = 1; positions < 100; positions++) {
                    const uint32_t all = (uint32_t)((positions + sizes[k] - 1) / sizes[k]);
                    bad += deq_pages_needed(&c, positions, rows[j]) != DEQ_MIN(all, n);
                }
            }
    CHECK_MSG(bad == 0 && wasteful == 0, "%u too small, %u too large", bad, wasteful);
}

/* Five pages for four of six sequences, and two to spare; where a page is one position, nine for seven of nine; where a
 * text keeps all of its own, which also keeps blocks from being evicted, those of three choices. */
static uint64_t little_cache(const struct deq_model_info *i)
{
    return i->cache_bytes_per_token * (i->lookback > 200 ? 28 * 16 : i->lookback > 16 ? 22 * 16 : 65);
}

/* Company of all kinds in a cache that is far too small for it: hits, forks, evictions, pauses, deadlines, cancels;
 * what is not cut short has the bits that it has alone, and pages in = pages out. */
TEST_EACH_KIND(engine_pages_in_pages_out)
{
    enum { PROBES = 4, ROUNDS = 30, SLOTS = 40 };
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer alone[PROBES], x = {0};
    struct deq_request q[PROBES];
    for (size_t i = 0; i < PROBES; i++) {
        q[i] = tiny_request(m, &p, 10 + 5 * (uint32_t)i, &x);
        q[i].n_prompt = 40 + 25 * i;
        q[i].sampling = (struct deq_sampling){.temperature = i % 2 ? 0.9f : 0, .top_p = 1, .seed = i,
                                              .presence_penalty = i == 3 ? 1 : 0};
        struct deq_engine *e = tiny_engine(m, 1, 1);
        REQUIRE(e);
        alone[i] = ask(e, &q[i], NULL);
        CHECK_EQ(alone[i].not_converged, 0u);
        deq_engine_free(e);
    }
    const struct deq_model_info info = deq_model_info(m);
    const struct deq_engine_opts opts = {.threads = 1, .max_sequences = info.lookback > 16 ? 6 : 9,
                                         .max_positions = 200,
                                         .prefill_block = 32, .cache_bytes = little_cache(&info)};
    struct deq_engine *e = NULL;
    CHECK(deq_engine_new(m, &opts, &e, NULL) == DEQ_OK);
    size_t different = 0, whole = 0, full = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        struct choices *got = DEQ_NEW_ARRAY(struct choices, SLOTS);
        struct deq_admission id[SLOTS] = {{0}};
        size_t which[SLOTS], next = 0;
        uint64_t r = 0;
#define DRAW(n) deq_rng_below(round, 9, r++, (n))
        while (next < SLOTS || deq_active(e)) {
            if (next < SLOTS && DRAW(3) == 0) {
                which[next] = DRAW(PROBES);
                struct deq_request one = q[which[next]];
                one.event = record_choice;
                one.ctx = &got[next];
                one.n = 1 + (uint32_t)DRAW(3);
                one.cache = DRAW(4) == 0 ? DEQ_CACHE_OFF : DEQ_CACHE_EXACT;
                for (size_t k = 0; k < CHOICES; k++)
                    got[next].a[k].vocab = x.vocab;
                const enum deq_rc rc = deq_submit(e, &one, &id[next], NULL);
                CHECK(rc == DEQ_OK || rc == DEQ_EFULL);
                full += rc == DEQ_EFULL;
                next += rc == DEQ_OK;
            }
            const size_t victim = DRAW(SLOTS), what = DRAW(40);
            if (victim < next) {
                if (what == 0)
                    (void)deq_cancel(e, id[victim].id);
                else if (what == 1)
                    (void)deq_expire(e, id[victim].id);
                else if (what < 6)
                    (void)deq_pause(e, id[victim].id, what < 4);
            }
            for (size_t k = 0; k < next && !deq_runnable(e) && deq_active(e); k++)
                (void)deq_pause(e, id[k].id, false);
            deq_step(e);
        }
        for (size_t i = 0; i < SLOTS; i++)
            /* not ended by a deadline, at its last token either */
            if (got[i].a[0].finish == DEQ_FINISH_LENGTH && !got[i].a[0].not_converged) {
                whole++;
                different += !same_answer(&got[i].a[0], &alone[which[i]]);
            }
        const struct deq_engine_stats s = deq_engine_stats(e);
        CHECK(s.pages_used == 0 && s.pages_reserved == 0 && s.rows_open == 0 && s.sequences == 0);
        deq_free(got);
    }
    const struct deq_engine_stats s = deq_engine_stats(e);
    CHECK_MSG(different == 0, "%zu of %zu answers differ from the ones given alone", different, whole);
    CHECK_MSG(whole > ROUNDS * SLOTS / 2 && full > 100 && s.prefix_hits_tok > 1000 &&
                  s.prefix_evictions > (info.lookback > 200 ? 20 : 100),
              "%zu whole, %zu full, %llu tokens hit, %llu evictions", whole, full,
              (unsigned long long)s.prefix_hits_tok, (unsigned long long)s.prefix_evictions);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}
