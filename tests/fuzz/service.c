#include "tests/fuzz/service.h"

#include "server/api/answer.h"
#include "server/api/exchange.h"
#include "server/api/route.h"
#include "server/log.h"
#include "tests/fuzz/fuzz.h"

struct service *fuzz_service(void)
{
    static struct conf conf;
    static struct metrics metrics;
    static struct deq_budget budget;
    static struct service service;
    static const char *const own[] = {"server.listen=127.0.0.1:0", "model.path=tests/golden/tiny",
                                      "engine.threads=1",          "engine.max_positions=48",
                                      "engine.max_sequences=2",    "server.max_body_bytes=16384",
                                      "server.http_threads=2"};
    struct deq_err err = {0};
    if (service.conf)
        return &service;
    bool ok = !deq_opt_defaults(&conf_table, &conf, &err);
    for (size_t i = 0; ok && i < DEQ_COUNT(own); i++)
        ok = !deq_opt_assign(&conf_table, &conf, own[i], &err);
    snprintf(conf.state_dir, sizeof conf.state_dir, "%s", fuzz_dir("states"));
    log_init("error");
    metrics_init(&metrics);
    deq_budget_init(&budget, conf.answer_bytes);
    service = (struct service){.conf = &conf, .metrics = &metrics, .budget = &budget};
    ok = ok && !auth_new("", &service.auth, &err) && !states_new(&conf, &metrics, &service.states, &err) &&
         !store_new(&conf, &metrics, &service.store, &err) && !store_load(service.store, &err);
    if (!ok) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    atomic_store(&service.state, SERVER_READY);
    return &service;
}

struct http_handler fuzz_handler(struct service *s)
{
    return (struct http_handler){.check = route_check,
                                 .handle = route_handle,
                                 .refuse = exchange_error,
                                 .no_memory = answer_no_memory,
                                 .retry_ms = ANSWER_RETRY_MS,
                                 .ctx = s,
                                 .budget = s->budget};
}
