/* The spectral radius of f's Jacobian at the state of a prompt's last position: below 1 plain iteration comes back to
 * that state, the faster the smaller it is.
 *
 * What is before a position is final when it is solved, so the Jacobian of all positions together is block triangular,
 * and its spectrum is that of the blocks df_t/dz_t. The last one's is estimated by the power method (von Mises and
 * Pollaczek-Geiringer 1929) on differences of the very evaluations that solve: J v ~ (f(z + s v) - f(z)) / s, in a row
 * like any other of the batch. The largest eigenvalues may be a complex pair, under which lengths swing; so the
 * estimate is the geometric mean of the growth over the later half of the products. The first vector is the same for
 * everybody. */
#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/engine/engine_impl.h"
#include "core/math/elementary.h"
#include "core/math/kern.h"

/* s relative to the state's length: what bends f beside what rounds it, by 24 bits and by 16 */
static const float STEP = 0x1p-9f, STEP_OF_INTEGERS = 0x1p-6f;

enum deq_rc deq_jacobian_reserve(const struct deq_engine *e, struct sequence *s, struct deq_err *err)
{
    const size_t D = e->cell->state_dim;
    if (!s->req.products)
        return DEQ_OK;
    if (!(s->power.z = DEQ_NEW_ARRAY(float, 3 * D)))
        return deq_fail(err, DEQ_ENOMEM, "no memory for a sequence");
    s->power.found = s->power.z + D;
    s->power.fz = s->power.z + 2 * D;
    return DEQ_OK;
}

bool deq_jacobian_open(const struct sequence *s, const struct row *r)
{
    return s->power.z && !s->power.over && r->position + 1 == s->req.n_prompt;
}

bool deq_jacobian_begun(const struct sequence *s, const struct row *r)
{
    return s->power.begun && r->position + 1 == s->req.n_prompt;
}

/* r->z = the state, and a step along v, whose length is given. */
static void put_step(const struct deq_power *p, size_t D, struct row *r, const float *v, double length)
{
    const float scale = (float)(p->step / length);
    for (size_t i = 0; i < D; i++)
        r->z[i] = p->z[i] + scale * v[i];
}

static double length_of(const float *v, size_t D)
{
    return sqrt((double)deq_kern()->dot(v, v, D));
}

/* What is before it may have become final in the step that found the state, and then f is another by a little. */
void deq_jacobian_begin(const struct deq_engine *e, struct sequence *s, struct row *r)
{
    const size_t D = e->cell->state_dim;
    if (s->power.begun)
        return;
    s->power.begun = true;
    memcpy(s->power.z, r->z, D * sizeof(float));
    memcpy(s->power.found, r->fz, D * sizeof(float));
}

/* r->fz = f at the state: the first step, along a vector of random numbers. */
static void take_base(const struct deq_engine *e, struct deq_power *p, struct row *r)
{
    const size_t D = e->cell->state_dim;
    const double length = length_of(p->z, D);
    p->based = true;
    memcpy(p->fz, r->fz, D * sizeof(float));
    p->step = (double)(e->serving.numeric == DEQ_CLASS_FLOAT32 ? STEP : STEP_OF_INTEGERS) * (length > 0 ? length : 1);
    for (size_t i = 0; i < D; i++)
        r->fz[i] = (float)(deq_rng_uniform(5, 0, i) - 0.5);
    put_step(p, D, r, r->fz, length_of(r->fz, D));
}

void deq_jacobian_advance(const struct deq_engine *e, struct sequence *s, struct row *r)
{
    const size_t D = e->cell->state_dim;
    struct deq_power *p = &s->power;
    if (!p->based) {
        take_base(e, p, r);
        return;
    }
    if (p->done == s->req.products) {
        memcpy(r->fz, p->found, D * sizeof(float));
        p->over = true;
        return;
    }
    deq_kern()->sub(r->fz, r->fz, p->fz, D);
    const double length = length_of(r->fz, D), growth = length / p->step;
    p->done++;
    if (!(growth > 0 && isfinite(growth))) {
        p->log_growth = growth > 0 ? (double)NAN : -(double)INFINITY;
        p->done = s->req.products;
    } else if (p->done > s->req.products / 2) {
        p->log_growth += deq_log(growth);
    }
    if (p->done < s->req.products)
        put_step(p, D, r, r->fz, length);
    else
        memcpy(r->z, p->z, D * sizeof(float));
}

float deq_jacobian_radius(const struct sequence *s)
{
    const uint32_t counted = s->req.products - s->req.products / 2;
    return s->power.over ? (float)deq_exp(s->power.log_growth / counted) : NAN;
}
