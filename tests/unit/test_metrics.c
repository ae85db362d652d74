/* Counters, gauges, histograms and their Prometheus text, without a daemon. */
#include "server/metrics.h"

#include "tests/unit/test.h"

static struct metrics m;

#define LABELS "model_name=\"tiny\",engine=\"0\"" /* of vLLM's names */

/* The text of a scrape; free with deq_buf_free. model: NULL while none is loaded. */
static struct deq_buf scrape(const char *model)
{
    const struct metrics_now now = {.ready = true,
                                    .model_name = model,
                                    .fingerprint = "0123456789abcdef",
                                    .max_waiting = 7};
    struct deq_buf b = {.max = 1 << 20};
    metrics_render(&m, &now, &b);
    CHECK(!b.failed);
    return b;
}

/* Whether the line stands in the text as a whole. */
static bool has_line(const struct deq_buf *text, const char *line)
{
    const size_t n = strlen(line);
    for (const char *p = text->data; (p = strstr(p, line)); p += n)
        if ((p == text->data || p[-1] == '\n') && p[n] == '\n')
            return true;
    return false;
}

static void set(struct deq_engine_stats *s, uint64_t step)
{
    uint64_t value = 0;
#define SET(name, dimension, kind, help) \
    for (size_t i = 0; i < sizeof s->name / sizeof(uint64_t); i++) \
        ((uint64_t *)&s->name)[i] = value += step;
    DEQ_ENGINE_STATS(SET)
#undef SET
}

/* What is printed of a statistic whose value no other number in the text has. */
static void check_series(const struct deq_buf *text, const char *what, uint64_t value, enum deq_stat_kind kind)
{
    char end[32], name[64] = "", type[96];
    snprintf(end, sizeof end, " %llu\n", (unsigned long long)value);
    const char *at = strstr(text->data, end);
    CHECK_MSG(at, "%s is not printed", what);
    if (!at)
        return;
    while (at > text->data && at[-1] != '\n')
        at--;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(at, "{ "), at);
    snprintf(type, sizeof type, "# TYPE %s %s", name, kind == DEQ_COUNTER ? "counter" : "gauge");
    CHECK_MSG(has_line(text, type), "%s: no line \"%s\"", what, type);
    const size_t n = strlen(name);
    CHECK_MSG((n > 6 && !strcmp(name + n - 6, "_total")) == (kind == DEQ_COUNTER), "%s: %s", what, name);
}

/* A row of DEQ_ENGINE_STATS that no series shows would be counted for nobody. */
TEST(metrics_print_every_statistic_of_the_engine)
{
    struct deq_engine_stats zero = {0}, now;
    metrics_init(&m);
    set(&now, 1000003);
    metrics_engine(&m, &zero, &now);
    struct deq_buf text = scrape(NULL);
#define CHECK_SERIES(name, dimension, kind, help) \
    for (size_t i = 0; i < sizeof now.name / sizeof(uint64_t); i++) \
        check_series(&text, #name, ((const uint64_t *)&now.name)[i], kind);
    DEQ_ENGINE_STATS(CHECK_SERIES)
#undef CHECK_SERIES
    deq_buf_free(&text);
}

#define CHECK_SUM(name, dimension, kind, help)                                                            \
    for (size_t i = 0; i < sizeof a.name / sizeof(uint64_t); i++) {                                       \
        const uint64_t want = (kind) == DEQ_COUNTER ? ((uint64_t *)&a.name)[i] + ((uint64_t *)&b.name)[i] \
                                                    : ((uint64_t *)&b.name)[i];                           \
        CHECK_MSG(((_Atomic uint64_t *)&m.engine.name)[i] == want, #name "[%zu]", i);                     \
    }

/* A reload: a second engine begins beside the first, which then goes. Its gauges go with it, no counter runs
 * backwards. */
TEST(metrics_of_an_engine_that_is_replaced)
{
    struct deq_engine_stats zero = {0}, a, b = {0};
    metrics_init(&m);
    set(&a, 10);
    metrics_engine(&m, &zero, &a);
    CHECK_EQ(m.engine.steps, a.steps);
    CHECK_EQ(m.engine.pages, a.pages);
    const struct deq_engine_stats before = a;
    a.steps += 5;
    a.sequences = 1; /* fewer than before */
    metrics_engine(&m, &before, &a);
    set(&b, 7);
    metrics_engine(&m, &zero, &b);
    CHECK_EQ(m.engine.sequences, 1 + b.sequences);
    CHECK_EQ(m.engine.steps, a.steps + b.steps);
    metrics_engine_gone(&m, &a);
    DEQ_ENGINE_STATS(CHECK_SUM)
    metrics_engine_gone(&m, &b);
    CHECK_EQ(m.engine.steps, a.steps + b.steps);
    CHECK(m.engine.pages == 0 && m.engine.max_rows == 0 && m.engine.memory_bytes == 0);
}

TEST(metrics_histogram_counts_up_to_and_with_a_bound)
{
    metrics_init(&m);
    metrics_observe(&m.choices, 1);
    metrics_observe(&m.choices, 2);
    metrics_observe(&m.choices, 3);
    metrics_observe(&m.choices, 1000);
    struct deq_buf text = scrape("tiny");
    CHECK(has_line(&text, "# TYPE vllm:request_params_n histogram"));
    CHECK(has_line(&text, "vllm:request_params_n_bucket{" LABELS ",le=\"1\"} 1"));
    CHECK(has_line(&text, "vllm:request_params_n_bucket{" LABELS ",le=\"2\"} 2"));
    CHECK(has_line(&text, "vllm:request_params_n_bucket{" LABELS ",le=\"5\"} 3"));
    CHECK(has_line(&text, "vllm:request_params_n_bucket{" LABELS ",le=\"20\"} 3"));
    CHECK(has_line(&text, "vllm:request_params_n_bucket{" LABELS ",le=\"+Inf\"} 4"));
    CHECK(has_line(&text, "vllm:request_params_n_sum{" LABELS "} 1006"));
    CHECK(has_line(&text, "vllm:request_params_n_count{" LABELS "} 4"));
    deq_buf_free(&text);
}

TEST(metrics_of_ends_with_one_name_are_one_series)
{
    metrics_init(&m);
    for (int i = 0; i < DEQ_FINISH_COUNT; i++)
        m.finished[i] = 1ull << i;
    struct deq_buf text = scrape("tiny");
    CHECK(has_line(&text, "deqd_requests_total{finish_reason=\"length\"} 1"));
    CHECK(has_line(&text, "deqd_requests_total{finish_reason=\"stop\"} 6"));
    CHECK(has_line(&text, "deqd_requests_total{finish_reason=\"cancelled\"} 8"));
    CHECK(has_line(&text, "deqd_requests_total{finish_reason=\"numeric_error\"} 16"));
    CHECK(has_line(&text, "deqd_requests_total{finish_reason=\"deadline\"} 32"));
    CHECK(has_line(&text, "deqd_requests_total{finish_reason=\"budget\"} 64"));
    CHECK(has_line(&text, "vllm:request_success_total{" LABELS ",finished_reason=\"stop\"} 6"));
    CHECK(has_line(&text, "vllm:request_success_total{" LABELS ",finished_reason=\"length\"} 97"));
    CHECK(has_line(&text, "vllm:request_success_total{" LABELS ",finished_reason=\"abort\"} 8"));
    deq_buf_free(&text);
}

TEST(metrics_of_responses_show_usual_codes_and_those_that_came)
{
    metrics_init(&m);
    m.http_responses[0][200] = 3;
    m.http_responses[0][418] = 1;
    m.http_responses[1][503] = 2;
    struct deq_buf text = scrape(NULL);
    CHECK(has_line(&text, "deqd_http_responses_total{code=\"200\"} 3"));
    CHECK(has_line(&text, "deqd_http_responses_total{code=\"418\"} 1"));
    CHECK(has_line(&text, "deqd_http_responses_total{code=\"503\"} 0"));
    CHECK(has_line(&text, "deqd_http_probe_responses_total{code=\"503\"} 2"));
    CHECK(!strstr(text.data, "deqd_http_probe_responses_total{code=\"418\"}"));
    deq_buf_free(&text);
}

/* While a model is loaded for the first time there is none to tell of, and all the rest. */
TEST(metrics_without_a_model)
{
    metrics_init(&m);
    struct deq_buf without = scrape(NULL), with = scrape("tiny");
    CHECK(has_line(&without, "deqd_ready 1") && has_line(&without, "deqd_max_requests_waiting 7"));
    CHECK(!strstr(without.data, "deqd_model_info") && !strstr(without.data, "vllm:"));
    CHECK(!strstr(without.data, "deqd_last_step") && strstr(without.data, "\nprocess_resident_memory_bytes "));
    CHECK(has_line(&with, "deqd_model_info{model=\"tiny\",fingerprint=\"0123456789abcdef\"} 1"));
    deq_buf_free(&without);
    deq_buf_free(&with);
}

/* The start of the line up to its value, or to the end of the metric's name. */
static size_t key_of(const char *line)
{
    const char *space = line;
    for (const char *p = line; *p && *p != '\n'; p++)
        if (*p == ' ')
            space = p;
    return (size_t)(space - line);
}

/* The text format: HELP and TYPE once, directly before all samples of a name, and no sample twice. */
TEST(metrics_text_is_well_formed)
{
    metrics_init(&m);
    struct deq_buf text = scrape("tiny");
    const char *name = "", *next;
    size_t n = 0, samples = 0;
    for (const char *line = text.data; *line; line = next) {
        next = strchr(line, '\n');
        REQUIRE(next++);
        if (!strncmp(line, "# HELP ", 7)) {
            name = line + 7;
            n = strcspn(name, " ");
            char help[96], type[96];
            snprintf(help, sizeof help, "# HELP %.*s ", (int)n, name);
            CHECK_MSG(strstr(text.data, help) == line, "%.*s has two HELPs", (int)n, name);
            snprintf(type, sizeof type, "# TYPE %.*s ", (int)n, name);
            CHECK_MSG(!strncmp(next, type, strlen(type)), "%.*s: TYPE is not next", (int)n, name);
        } else if (line[0] != '#') {
            const size_t key = key_of(line);
            samples++;
            CHECK_MSG(!strncmp(line, name, n), "%.*s stands under %.*s", (int)key, line, (int)n, name);
            for (const char *p = next; *p && !strncmp(p, name, n); p = strchr(p, '\n') + 1)
                CHECK_MSG(key_of(p) != key || strncmp(p, line, key), "twice: %.*s", (int)key, line);
        }
    }
    CHECK(samples > 100);
    deq_buf_free(&text);
}
