#include "models/cli/bench/bench.h"

#include <stdio.h>

#include "core/base/cores.h"
#include "models/cli/bench/report.h"
#include "models/cli/cli.h"

enum deq_rc bench_add(const struct bench_flags *flags, const struct bench_subject *s, const char *key,
                      const char *title, json_t *list, json_t *report, struct deq_err *err)
{
    cli_progress_end();
    if (!list)
        return err->code;
    char head[256];
    snprintf(head, sizeof head, "%.64s: %s", s->name, title);
    if (!flags->json)
        bench_table(head, list);
    return json_object_set_new(report, key, list) ? deq_fail(err, DEQ_ENOMEM, "no memory for figures") : DEQ_OK;
}

static enum deq_rc one_subject(struct bench_machine *m, const char *name, const struct bench_flags *flags,
                               bench_measure measure, json_t *models, struct deq_err *err)
{
    struct bench_subject s;
    cli_progress("%s: loading", name);
    enum deq_rc rc = bench_subject_open(name, flags->numeric, &s, err);
    if (rc)
        return rc;
    const char *class = deq_class_name(s.arch->serving.numeric);
    json_t *report = json_pack("{s:s, s:I, s:s}", "model", name, "parameters", (json_int_t)s.parameters,
                               "class", class);
    if (!flags->json)
        printf("\n%s: %llu parameters, %s\n", name, (unsigned long long)s.parameters, class);
    rc = report ? measure(m, &s, flags, report, err) : deq_fail(err, DEQ_ENOMEM, "no memory for figures");
    if (json_array_append_new(models, report) && !rc)
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for figures");
    bench_subject_close(&s);
    return rc;
}

int bench_subjects(const char *name, const struct deq_command *c, int argc, char **argv, struct bench_flags *flags,
                   bool (*check)(void *flags), bench_measure measure)
{
    static const char *const shapes[] = {"S", "M", "W"};
    const char *args[BENCH_SUBJECTS_MAX];
    size_t n;
    struct bench_machine m;
    struct deq_err err;
    flags->threads = deq_cores();
    const int code = cli_parse(name, c, argc, argv, flags, args, &n);
    if (code >= 0)
        return code;
    if (check && !check(flags))
        return CLI_USAGE;
    for (size_t i = 0; i < n; i++)
        if (bench_subject_find(args[i], &err))
            return cli_fail(name, err.text);
    if (bench_machine_open(&m, flags->threads, flags->quick, &err))
        return cli_fail(name, err.text);
    bench_machine_measure(&m);
    cli_progress_end();
    if (!flags->json)
        bench_machine_print(&m);
    json_t *models = json_array();
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < (n ? n : DEQ_COUNT(shapes)) && !rc; i++)
        rc = one_subject(&m, n ? args[i] : shapes[i], flags, measure, models, &err);
    json_t *report = json_pack("{s:o, s:o}", "machine", bench_machine_json(&m), "models", models);
    bench_machine_close(&m);
    if (!rc && flags->json)
        return cli_print_json(name, report, JSON_REAL_PRECISION(9));
    json_decref(report);
    return rc ? cli_fail(name, err.text) : CLI_OK;
}
