#include "models/cli/bench/memory.h"

#include "core/base/mem.h"
#include "models/cli/cli.h"

enum { POSITIONS = 256 };
static const uint32_t stream_counts[] = {1, 32};

json_t *bench_memory(const struct bench_machine *m, struct bench_subject *s, struct deq_err *err)
{
    json_t *list = json_array();
    enum deq_rc rc = list ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for figures");
    for (size_t i = 0; i < DEQ_COUNT(stream_counts) && !rc; i++) {
        const struct deq_engine_opts opts = {
            .threads = m->threads, .max_sequences = stream_counts[i], .max_positions = POSITIONS};
        struct deq_engine *engine = NULL;
        double load_s = 0, open_s = 0;
        cli_progress("%s: memory, %u streams", s->name, stream_counts[i]);
        deq_model_free(s->model);
        s->model = NULL;
        const uint64_t before = deq_mem_live();
        deq_mem_peak_restart();
        const double t = bench_now(m);
        if (!(rc = bench_subject_model(s, err))) {
            load_s = bench_now(m) - t;
            rc = deq_engine_new(s->model, &opts, &engine, err);
            open_s = bench_now(m) - t - load_s;
        }
        const uint64_t peak = deq_mem_peak() - before;
        if (!rc) {
            const struct deq_model_info info = deq_model_info(s->model);
            json_t *figures = json_pack("{s:I, s:I, s:f, s:f, s:I, s:f, s:f, s:f}", "streams",
                                        (json_int_t)stream_counts[i], "positions",
                                        (json_int_t)deq_engine_max_positions(engine), "weights_mb",
                                        1e-6 * (double)info.weight_bytes, "engine_mb",
                                        1e-6 * (double)deq_engine_stats(engine).memory_bytes, "bytes_per_position",
                                        (json_int_t)info.cache_bytes_per_token, "peak_mb", 1e-6 * (double)peak,
                                        "load_s", load_s, "open_s", open_s);
            if (json_array_append_new(list, figures))
                rc = deq_fail(err, DEQ_ENOMEM, "no memory for figures");
        }
        deq_engine_free(engine);
    }
    if (!rc)
        return list;
    json_decref(list);
    return NULL;
}
