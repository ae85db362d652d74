/* Loss against time. On paper: both axes, every point, the front as a line, the choice filled, the budget dashed. */
#include <math.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "models/cli/tune/tune.h"

struct axes { /* of what is drawn: microseconds a token read and one written, loss in percent above the exact one */
    double x0, x1, y0, y1, exact;
};

static double percent(const struct axes *a, const struct tune_point *p)
{
    return 100 * tune_worse(p)->mean / a->exact;
}

/* Points that lose far more than the budget would press the others into a line. */
static struct axes make_axes(const struct tuning *t)
{
    const double budget = t->opts.budget, exact = t->exact;
    struct axes a = {INFINITY, 0, 0, 100 * budget * 1.5, exact};
    for (size_t i = 0; i < t->n; i++) {
        const double x = 1e6 * tune_seconds(&t->point[i]), y = percent(&a, &t->point[i]);
        a.x0 = fmin(a.x0, x);
        a.x1 = fmax(a.x1, x);
        if (isfinite(y)) {
            a.y0 = fmin(a.y0, y);
            a.y1 = fmax(a.y1, fmin(y, 1000 * budget));
        }
    }
    const double dx = fmax(a.x1 - a.x0, 1e-9) * 0.05, dy = fmax(a.y1 - a.y0, 1e-9) * 0.05;
    return (struct axes){a.x0 - dx, a.x1 + dx, a.y0 - dy, a.y1 + dy, exact};
}

/* 0..1, from the left and from below; what lies above stays at the edge. */
static double across(const struct axes *a, const struct tune_point *p)
{
    return (1e6 * tune_seconds(p) - a->x0) / (a->x1 - a->x0);
}

static double up(const struct axes *a, double y)
{
    return fmin((y - a->y0) / (a->y1 - a->y0), 1);
}

void tune_plot_text(FILE *out, const struct tuning *t)
{
    enum { W = 64, H = 16 };
    char at[H][W + 1];
    const struct axes a = make_axes(t);
    const struct tune_point *p = t->point;
    memset(at, ' ', sizeof at);
    for (int y = 0; y < H; y++)
        at[y][W] = 0;
    memset(at[H - 1 - (int)(up(&a, 100 * t->opts.budget) * (H - 1))], '-', W);
    for (int pass = 0; pass < 3; pass++) /* what matters more covers what matters less */
        for (size_t i = 0; i < t->n; i++) {
            const int rank = i == t->chosen ? 2 : p[i].front ? 1 : 0;
            if (rank == pass && isfinite(percent(&a, &p[i])))
                at[H - 1 - (int)(up(&a, percent(&a, &p[i])) * (H - 1))][(int)(across(&a, &p[i]) * (W - 1))] =
                    "ox@"[rank];
        }
    fprintf(out, "\nloss above the exact one (o: a setting, x: of the front, @: chosen; line: the budget)\n");
    for (int y = 0; y < H; y++)
        fprintf(out, "%8.3f%% |%s\n", a.y1 - (a.y1 - a.y0) * y / (H - 1), at[y]);
    fprintf(out, "          +%.*s\n           %-*.0f%.0f us a token read and one written\n", W,
            "----------------------------------------------------------------", W - 8, a.x0, a.x1);
}

enum { WIDTH = 720, HEIGHT = 420, LEFT = 70, BOTTOM = 50, TOP = 40, RIGHT = 20 };

static double px(double across)
{
    return LEFT + across * (WIDTH - LEFT - RIGHT);
}

static double py(double up)
{
    return HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP);
}

static void svg_axes(struct deq_buf *b, const struct axes *a, double budget)
{
    for (int i = 0; i <= 5; i++) {
        const double t = i / 5.0, x = px(t), y = py(t);
        deq_buf_fmt(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", x, py(0), x, py(1));
        deq_buf_fmt(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", px(0), y, px(1), y);
        deq_buf_fmt(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.0f</text>\n", x, py(0) + 18,
                    a->x0 + t * (a->x1 - a->x0));
        deq_buf_fmt(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.2f %%</text>\n", px(0) - 6, y + 4,
                    a->y0 + t * (a->y1 - a->y0));
    }
    const double line = py(up(a, 100 * budget));
    deq_buf_fmt(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#c33\" stroke-dasharray=\"5 4\"/>\n",
                px(0), line, px(1), line);
    deq_buf_fmt(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", px(0.5), HEIGHT - 8,
                "microseconds a token read and one written");
}

/* The front from left to right. */
static void svg_front(struct deq_buf *b, const struct axes *a, const struct tune_point *p, size_t n)
{
    double last = -INFINITY;
    deq_buf_fmt(b, "<polyline fill=\"none\" stroke=\"#36c\" points=\"");
    for (;;) {
        size_t next = n;
        for (size_t i = 0; i < n; i++)
            if (p[i].front && tune_seconds(&p[i]) > last && (next == n || tune_seconds(&p[i]) < tune_seconds(&p[next])))
                next = i;
        if (next == n)
            break;
        last = tune_seconds(&p[next]);
        deq_buf_fmt(b, "%.1f,%.1f ", px(across(a, &p[next])), py(up(a, percent(a, &p[next]))));
    }
    deq_buf_fmt(b, "\"/>\n");
}

enum deq_rc tune_plot_svg(const char *path, const struct tuning *t, struct deq_err *err)
{
    struct deq_buf b;
    const struct tune_point *p = t->point;
    const struct axes a = make_axes(t);
    deq_buf_init(&b, 1 << 20);
    deq_buf_fmt(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
                    "font-size=\"12\">\n<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n"
                    "<text x=\"%d\" y=\"24\" font-size=\"14\">loss above the exact one; dashed: the budget</text>\n",
                WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    svg_axes(&b, &a, t->opts.budget);
    svg_front(&b, &a, p, t->n);
    for (size_t i = 0; i < t->n; i++)
        if (isfinite(percent(&a, &p[i])))
            deq_buf_fmt(&b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%d\" stroke=\"#36c\" fill=\"%s\"/>\n",
                        px(across(&a, &p[i])), py(up(&a, percent(&a, &p[i]))), i == t->chosen ? 6 : 4,
                        i == t->chosen ? "#c33" : p[i].front ? "#36c" : "white");
    deq_buf_fmt(&b, "</svg>\n");
    const struct deq_part part = {b.data, b.len};
    const enum deq_rc rc = b.failed ? deq_fail(err, DEQ_ENOMEM, "%s: no memory to draw it", path)
                                    : deq_io_replace(path, &part, 1, err);
    deq_buf_free(&b);
    return rc;
}
