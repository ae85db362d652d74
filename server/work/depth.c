/* Elastic depth (elastic.h) of the jobs that run: what the control loop hears, and what its level does to their
 * tolerances. */
#include "core/base/clock.h"
#include "server/work/sched_impl.h"

static void open_to_level(struct sched *s, const struct job *j)
{
    const float tol = elastic_tol(j->request.solve.tol, s->conf->tol_max, s->elastic.level);
    (void)deq_set_tol(s->engine, j->admission.id, tol);
}

void depth_enter(struct sched *s, struct job *j)
{
    j->levels = j->elastic ? elastic_levels(j->request.solve.tol, s->conf->tol_max) : 0;
    if (j->levels && s->elastic.level)
        open_to_level(s, j);
}

void depth_gap(struct sched *s, struct job *j, uint64_t gap_ns)
{
    if (!j->waited) /* else the gap says how others are served, or how its reader reads */
        elastic_gap(&s->elastic, gap_ns);
    j->waited = false;
}

void depth_follow(struct sched *s)
{
    const unsigned before = s->elastic.level;
    unsigned highest = 0;
    for (const struct job *j = s->running; j; j = j->next)
        highest = DEQ_MAX(highest, j->levels);
    if (!elastic_tick(&s->elastic, highest, s->running != NULL, deq_now_ns()))
        return;
    for (const struct job *j = s->running; j; j = j->next)
        if (j->levels)
            open_to_level(s, j);
    atomic_store(&s->metrics->depth_level, s->elastic.level);
    atomic_fetch_add(&s->metrics->depth_changes[s->elastic.level > before], 1);
}
