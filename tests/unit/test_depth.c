/* server/work/depth.c: the level reaches the texts that run, those that come, and nobody else's. Objectives of a
 * nanosecond and of an hour make sure what the loop decides, whatever the machine. */
#include "tests/unit/jobs.h"

#include <unistd.h>

#include "core/base/clock.h"

struct opened {
    struct probe *p;
    float tol_max;
};

static struct opened seen[4];

/* What the engine says at a text's end. */
static enum deq_verdict on_event(struct job *j, const struct deq_event *e)
{
    for (size_t i = 0; e->kind == DEQ_EVENT_END && i < DEQ_COUNT(seen); i++)
        if (&seen[i].p->job == j)
            seen[i].tol_max = e->tol_max;
    return DEQ_CONTINUE;
}

static struct probe *prepare(size_t i, float tol, bool elastic)
{
    struct probe *p = jobs_prepare(i, 1 + i, NEVER);
    p->job.on_event = on_event;
    p->job.elastic = elastic;
    p->job.request.solve.tol = tol;
    seen[i] = (struct opened){.p = p};
    return p;
}

static void wait_for_level(uint64_t level)
{
    for (int i = 0; i < HANG_S * 1000 && atomic_load(&jobs.metrics.depth_level) != level; i++)
        usleep(1000);
    CHECK_EQ(atomic_load(&jobs.metrics.depth_level), level);
}

TEST(depth_opens_for_who_allows_it)
{
    REQUIRE(jobs_begin(4));
    sched_free(jobs.sched);
    jobs.conf.depth_objective_ms = 0; /* no gap is that short */
    REQUIRE(sched_new(&jobs.conf, jobs.model, &jobs.metrics, &jobs.sched, NULL) == DEQ_OK);
    struct probe *elastic = prepare(0, 0.3f, true), *fixed = prepare(1, 0.3f, false), *late = prepare(2, 0.2f, true),
                 *late_fixed = prepare(3, 0.2f, false);
    CHECK(jobs_submit(elastic) == SUBMIT_OK && jobs_submit(fixed) == SUBMIT_OK);
    wait_for_level(2); /* 0.3 * 1.5^2 is more than limits.tol_max, 0.5 */
    CHECK(jobs_submit(late) == SUBMIT_OK && jobs_wait(&late->begun));
    CHECK(jobs_submit(late_fixed) == SUBMIT_OK && jobs_wait(&late_fixed->begun));
    wait_for_level(3); /* of the smaller tolerance */
    for (size_t i = 0; i < DEQ_COUNT(seen); i++)
        sched_cancel(&seen[i].p->job);
    jobs_check_end(elastic, JOB_CANCELED);
    jobs_check_end(fixed, JOB_CANCELED);
    jobs_check_end(late, JOB_CANCELED);
    jobs_check_end(late_fixed, JOB_CANCELED);
    CHECK_EQ(seen[0].tol_max, 0.5f);
    CHECK_EQ(seen[1].tol_max, 0.3f);
    CHECK(seen[2].tol_max >= 0.45f && seen[2].tol_max <= 0.5f); /* it was admitted at level 2 */
    CHECK_EQ(seen[3].tol_max, 0.2f);
    CHECK(jobs.metrics.depth_changes[1] == 3 && jobs.metrics.depth_tokens > 0);
    jobs_end();
}
