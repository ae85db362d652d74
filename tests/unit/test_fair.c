/* Fairness between callers, without an engine: the order of a queue, its places, the sharing of a step. */
#include "server/work/fair.h"

#include "tests/unit/test.h"

enum { SECOND = 1000000000 };

static struct fair fair;

/* Index of the job that comes next. */
static size_t next(const struct fair_job *jobs, size_t n, uint64_t now_ns)
{
    size_t best = 0;
    for (size_t i = 0; i < n; i++)
        fair_forget(&jobs[i]);
    for (size_t i = 0; i < n; i++)
        fair_see(&jobs[i]);
    for (size_t i = 1; i < n; i++)
        best = fair_before(&fair, &jobs[i], &jobs[best], now_ns) ? i : best;
    return best;
}

TEST(fair_order_within_a_caller)
{
    fair = (struct fair){0};
    struct account *a = fair_account(&fair, 7);
    struct fair_job jobs[] = {{a, 0, false, 10}, {a, 20, false, 5}, {a, -20, false, 30}, {a, 0, false, 9}};
    CHECK(next(jobs, 4, 30) == 2);      /* the lower number */
    jobs[2].priority = 0;
    CHECK(next(jobs, 4, 30) == 3);      /* then who came first */
    jobs[1].priority = 1;
    CHECK(next(jobs, 4, 3ull * SECOND + 4) == 3);
    CHECK(next(jobs, 4, 3ull * SECOND + 7) == 1); /* it waits three whole seconds, the others two */
    for (size_t i = 0; i < 4; i++)
        CHECK(!fair_before(&fair, &jobs[i], &jobs[i], 40));
}

/* Neither a lower number nor age sets one caller before another who had less. */
TEST(fair_order_between_callers)
{
    fair = (struct fair){0};
    struct account *flood = fair_account(&fair, 1), *mine = fair_account(&fair, 2);
    fair_charge(&fair, flood, 1000);
    struct fair_job jobs[] = {{flood, -20, false, 0},
                              {flood, 0, false, 0},
                              {mine, 0, false, 59ull * SECOND},
                              {mine, 20, false, 59ull * SECOND}};
    CHECK(next(jobs, 4, 60ull * SECOND) == 2);
    jobs[0].across = true; /* a key that may */
    CHECK(next(jobs, 4, 60ull * SECOND) == 0);
    jobs[0].priority = 20;
    CHECK(next(jobs, 4, 60ull * SECOND) == 2);
    jobs[0] = jobs[1];
    /* callers that had as much: whose wait is the longest, and then his first */
    struct account *other = fair_account(&fair, 3);
    struct fair_job even[] = {{mine, 0, false, 50}, {other, 0, false, 40}, {mine, -1, false, 60}, {mine, 0, false, 30}};
    CHECK(next(even, 4, 100) == 2);
    CHECK(next(even, 2, 100) == 1);
    even[0].arrived_ns = 30;
    CHECK(next(even, 2, 100) == 0);
}

/* Two floods beside each other, one of twice the weight: served tokens stay in proportion, whatever the sizes of their
 * jobs. */
TEST(fair_order_is_in_proportion)
{
    fair = (struct fair){0};
    struct account *a = fair_account(&fair, 1), *b = fair_account(&fair, 2);
    double had[2] = {0};
    for (unsigned i = 0; i < 3000; i++) {
        const struct fair_job jobs[] = {{a, (int)(i % 41) - 20, false, 0}, {b, 0, false, i}};
        const size_t k = next(jobs, 2, 3000);
        const double tokens = k ? 60 : 17;
        fair_charge(&fair, jobs[k].account, tokens / (k ? 2 : 1));
        had[k] += tokens;
        CHECK(fabs(had[1] - 2 * had[0]) <= 60 + 2 * 17); /* a job of each */
    }
    /* who was away does not save up */
    struct account *late = fair_account(&fair, 3);
    fair_charge(&fair, late, 1);
    CHECK(late->virtual_time > had[0] - 100);
}

TEST(fair_accounts_are_bounded)
{
    fair = (struct fair){0};
    struct account *busy = fair_account(&fair, 5);
    busy->in_flight = 1;
    busy->virtual_time = 9;
    for (uint64_t id = 0; id < 100000; id++)
        CHECK(fair_account(&fair, id * FAIR_ACCOUNTS + 5)->id == id * FAIR_ACCOUNTS + 5);
    CHECK(fair_account(&fair, 5) == busy && busy->virtual_time == 9);
}

/* Of those that are idle a new caller takes the place of the one with the least virtual time. */
TEST(fair_account_of_a_new_caller)
{
    fair = (struct fair){0};
    struct account *had[16];
    for (uint64_t i = 0; i < DEQ_COUNT(had); i++) {
        had[i] = fair_account(&fair, 7 + i * FAIR_ACCOUNTS);
        had[i]->in_flight = 1;
        had[i]->virtual_time = 100 - (double)(i % 8);
    }
    had[3]->in_flight = had[5]->in_flight = had[6]->in_flight = 0;
    CHECK(fair_account(&fair, 7 + 16 * FAIR_ACCOUNTS) == had[6]);
    CHECK(had[6]->virtual_time == 0 && had[6]->id == 7 + 16 * FAIR_ACCOUNTS);
}

/* Where all that a caller may have are busy, it shares the last of them with its owner, and takes nobody's. */
TEST(fair_account_where_all_are_busy)
{
    fair = (struct fair){0};
    struct account *busy[16];
    for (uint64_t i = 0; i < DEQ_COUNT(busy); i++) {
        busy[i] = fair_account(&fair, 7 + i * FAIR_ACCOUNTS);
        busy[i]->in_flight = 1;
    }
    CHECK(fair_account(&fair, 7 + 16 * FAIR_ACCOUNTS) == busy[15]);
    CHECK_EQ(busy[15]->id, (uint64_t)7 + 15 * FAIR_ACCOUNTS);
    busy[3]->in_flight = 0;
    CHECK(fair_account(&fair, 7 + 16 * FAIR_ACCOUNTS) == busy[3] && busy[3]->id == 7 + 16 * FAIR_ACCOUNTS);
}

TEST(fair_places_of_a_queue)
{
    struct account a = {0};
    CHECK(fair_places(&a, 256) == 256 && fair_places(&a, 0) == 0);
    a.waiting = 1;
    CHECK(fair_places(&a, 256) == 224 && fair_places(&a, 7) == 7 && fair_places(&a, 0) == 0);
}

TEST(fair_places_in_the_engine)
{
    const struct fair_room a = {1, 20, 300}, b = {4000, 50000, 600000}, sum = fair_plus(&a, &b),
                           rest = fair_minus(&sum, &a);
    CHECK(sum.sequences == 4001 && sum.rows == 50020 && sum.pages == 600300);
    CHECK(rest.sequences == 4000 && rest.rows == 50000 && rest.pages == 600000);
    /* 32 and 256 configured */
    const struct fair_room all = {36, 288, 1000}, configured = fair_configured(&all);
    CHECK(configured.sequences == 32 && configured.rows == 256 && configured.pages == 889);
    struct account flood = {.running = 1}, first = {0};
    CHECK(fair_may_begin(&flood, &(struct fair_room){32, 256, 889}, &all));
    CHECK(!fair_may_begin(&flood, &(struct fair_room){33, 256, 889}, &all));
    CHECK(!fair_may_begin(&flood, &(struct fair_room){32, 257, 889}, &all));
    CHECK(!fair_may_begin(&flood, &(struct fair_room){32, 256, 890}, &all));
    CHECK(fair_may_begin(&first, &(struct fair_room){36, 288, 1000}, &all));
    for (uint32_t n = 1; n < 5000; n++) { /* as many as are configured */
        const uint32_t most = fair_with_eighth(n);
        const struct fair_room room = {most, most, most};
        CHECK(fair_configured(&room).rows == n);
        CHECK(fair_may_begin(&flood, &(struct fair_room){n, n, n}, &room));
        CHECK(!fair_may_begin(&flood, &(struct fair_room){n + 1, n, n}, &room));
    }
}

/* A wide job waits for half of the engine: narrow ones of callers who run nothing begin before it, in an eighth
 * together. */
TEST(fair_narrow_jobs_overtake)
{
    const struct fair_room all = {36, 288, 900}, first = {16, 128, 0}, all_of_it = {33, 264, 0};
    const struct account nobody = {.id = 1}, busy = {.id = 2, .running = 1};
    CHECK(fair_may_overtake(&nobody, &(struct fair_room){1, 8, 0}, &first, &all));
    CHECK(fair_may_overtake(&nobody, &(struct fair_room){4, 32, 100}, &first, &all));
    CHECK(!fair_may_overtake(&nobody, &(struct fair_room){5, 32, 100}, &first, &all));
    CHECK(!fair_may_overtake(&nobody, &(struct fair_room){4, 33, 100}, &first, &all));
    CHECK(!fair_may_overtake(&nobody, &(struct fair_room){4, 32, 101}, &first, &all));
    CHECK(!fair_may_overtake(&busy, &(struct fair_room){1, 8, 0}, &first, &all));
    CHECK(!fair_may_overtake(&nobody, &(struct fair_room){1, 8, 0}, &all_of_it, &all)); /* it would wait for ever */
    /* with all overtakers there, and as much as anybody else may hold beside it, it fits */
    CHECK(4 + 16 + 16 <= all.sequences && 32 + 128 + 128 <= all.rows);
}

/* One that reads a little now and then counts like one that reads nothing; a short wait, or one long ago, does not. */
TEST(fair_slow_readers_give_way)
{
    struct fair_reader r = {0};
    const uint64_t ms = 1000000, began = 5 * ms;
    CHECK(!fair_gives_way(&r, began, began + 100000 * ms));
    fair_reader_is(&r, true, began + 100 * ms);
    fair_reader_is(&r, true, began + 1000 * ms);
    CHECK(!fair_gives_way(&r, began, began + 2100 * ms - 1) && fair_gives_way(&r, began, began + 2100 * ms));
    fair_reader_is(&r, false, began + 1100 * ms);
    CHECK(!fair_gives_way(&r, began, began + 9000 * ms) && fair_slow_ns(&r, began + 9000 * ms) == 1000 * ms);
    fair_reader_is(&r, true, began + 1150 * ms);
    CHECK(!fair_gives_way(&r, began, began + 2149 * ms) && fair_gives_way(&r, began, began + 2150 * ms));
    fair_reader_is(&r, false, began + 2150 * ms);
    fair_reader_is(&r, true, began + 20000 * ms); /* 2 s of 20 */
    CHECK(!fair_gives_way(&r, began, began + 21000 * ms));
    /* half of the time is not most of it */
    const uint64_t late = 3600000 * ms;
    r = (struct fair_reader){0};
    fair_reader_is(&r, true, late + 2000 * ms);
    CHECK(!fair_gives_way(&r, late, late + 4000 * ms) && fair_gives_way(&r, late, late + 4000 * ms + 2));
}

enum { SEATS_MAX = 33 };

/* One step's sharing; returns how many take part. */
static size_t share(struct fair_seat *seat, size_t n, double free_rows, uint64_t turn, bool *ret_throttled)
{
    struct fair_seat *all[SEATS_MAX] = {0};
    size_t in = 0;
    for (size_t i = 0; i < n; i++)
        all[i] = &seat[i];
    *ret_throttled = fair_share(all, n, free_rows, turn);
    for (size_t i = 0; i < n; i++)
        in += fair_takes_part(&seat[i]);
    return in;
}

/* 32 jobs of one caller beside one of another: each step has one of the 32, in turn; with free rows more. */
TEST(fair_share_rotates_the_jobs_of_a_flood)
{
    struct fair_seat seat[SEATS_MAX];
    bool throttled;
    for (size_t i = 0; i < SEATS_MAX; i++)
        seat[i] = (struct fair_seat){.caller = i < SEATS_MAX - 1 ? 1 : 2, .weight = 1, .rows = 8};
    for (unsigned turn = 1; turn <= 64; turn++) {
        CHECK(share(seat, SEATS_MAX, 0, turn, &throttled) == 2 && throttled);
        CHECK(!seat[SEATS_MAX - 1].throttled && seat[SEATS_MAX - 1].last_turn == turn);
    }
    for (size_t i = 0; i < SEATS_MAX; i++)
        CHECK(seat[i].last_turn > 32);
    CHECK(share(seat, SEATS_MAX, 17, 65, &throttled) == 1 + 3); /* 8 as the other, and two of 8 in 17 */
    CHECK(share(seat, SEATS_MAX, 31 * 8, 66, &throttled) == SEATS_MAX && !throttled);
    /* alone nobody waits */
    CHECK(share(seat, SEATS_MAX - 1, 0, 67, &throttled) == SEATS_MAX - 1 && !throttled);
    struct fair_seat odd[] = {{.caller = 1, .weight = 49, .rows = 1}, {.caller = 1, .weight = 49, .rows = 1}};
    CHECK(share(odd, 2, 0, 1, &throttled) == 2 && !throttled); /* though 2 / 49 * 49 is less than 2 */
    /* one row is a share too */
    struct fair_seat thin[] = {{.caller = 1, .weight = 1, .rows = 1},
                               {.caller = 1, .weight = 1, .rows = 1},
                               {.caller = 1, .weight = 1, .rows = 1},
                               {.caller = 2, .weight = 1, .rows = 1}};
    CHECK(share(thin, 4, 0, 1, &throttled) == 2 && throttled && !thin[3].throttled);
}

/* A slow reader's rows count for nothing; a job at its deadline takes part; weight doubles a share. */
TEST(fair_share_of_slow_readers_and_deadlines)
{
    bool throttled;
    struct fair_seat few[] = {{.caller = 1, .weight = 2, .rows = 8},
                              {.caller = 1, .weight = 2, .rows = 8},
                              {.caller = 1, .weight = 2, .rows = 8},
                              {.caller = 2, .weight = 1, .rows = 8},
                              {.caller = 1, .weight = 2, .rows = 8, .idle = true},
                              {.caller = 1, .weight = 2, .rows = 8, .must = true}};
    CHECK(share(few, DEQ_COUNT(few), 0, 1, &throttled) == 4 && throttled);
    CHECK(!few[0].throttled && !few[1].throttled && few[2].throttled && !few[3].throttled && !few[5].throttled);
    CHECK(few[2].last_turn == 0 && few[4].last_turn == 0 && few[5].last_turn == 1);
    few[5].idle = true; /* its last step, though nobody reads */
    CHECK(fair_takes_part(&few[5]) && !fair_takes_part(&few[4]));
    /* whose only job is idle leaves the others all there is */
    struct fair_seat away[] = {{.caller = 1, .weight = 1, .rows = 8}, {.caller = 1, .weight = 1, .rows = 8},
                               {.caller = 2, .weight = 1, .rows = 8, .idle = true}};
    CHECK(share(away, DEQ_COUNT(away), 0, 1, &throttled) == 2 && !throttled);
    /* a job wider than its caller's share takes its turn too */
    struct fair_seat wide[] = {{.caller = 1, .weight = 1, .rows = 256}, {.caller = 2, .weight = 1, .rows = 8}};
    CHECK(share(wide, 2, 0, 1, &throttled) == 2 && !throttled);
}

/* More callers than are told apart: the further ones count as the last of them, and nobody starves. */
TEST(fair_share_of_many_callers)
{
    enum { N = FAIR_CALLERS + 20 };
    static struct fair_seat seat[N];
    struct fair_seat *all[N];
    for (size_t i = 0; i < N; i++) {
        seat[i] = (struct fair_seat){.caller = i, .weight = 1, .rows = 8};
        all[i] = &seat[i];
    }
    for (unsigned turn = 1; turn <= 21; turn++)
        CHECK(fair_share(all, N, 0, turn));
    for (size_t i = 0; i < N; i++)
        CHECK(seat[i].last_turn > 0);
}

TEST(fair_cost_of_a_step)
{
    struct step_cost c = {0};
    CHECK(step_cost_free_rows(&c) == 0);
    for (unsigned i = 0; i < 300; i++)
        step_cost_add(&c, 8, 1);
    CHECK(step_cost_free_rows(&c) == 0); /* of one size only */
    c = (struct step_cost){0};
    for (unsigned i = 0; i < 1000; i++)
        step_cost_add(&c, 1 + i % 100, 1e-4 + 1e-5 * (1 + i % 100));
    CHECK_MSG(fabs(step_cost_free_rows(&c) - 10) < 1e-3, "%g", step_cost_free_rows(&c));
    /* of one and of two rows: rows that cost nothing, and nothing that costs beside them, are measuring errors */
    c = (struct step_cost){.w = 2, .x = 3, .xx = 5, .y = 2, .xy = 3};
    CHECK(step_cost_free_rows(&c) == 0);
    c = (struct step_cost){.w = 2, .x = 3, .xx = 5, .y = 3, .xy = 5};
    CHECK(step_cost_free_rows(&c) == 0);
    c = (struct step_cost){.w = 2, .x = 3, .xx = 5, .y = 7, .xy = 11}; /* 3 and 4 seconds */
    CHECK(step_cost_free_rows(&c) == 2);
}
