#include "server/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/flags.h"
#include "core/base/installed.h"
#include "core/base/utf8.h"

#define AT(field) offsetof(struct conf, field)
#define U32(name, field, lo, hi, def, help) {name, DEQ_OPT_U32, AT(field), lo, hi, def, NULL, help}
#define FLT(name, field, lo, hi, def, help) {name, DEQ_OPT_FLOAT, AT(field), lo, hi, def, NULL, help}
#define BYTES(name, field, lo, hi, def, help) {name, DEQ_OPT_BYTES, AT(field), lo, hi, def, NULL, help}
#define BOOL(name, field, def, help) {name, DEQ_OPT_BOOL, AT(field), 0, 0, def, NULL, help}
#define STR(name, field, def, choices, help)                                                                           \
    {name, DEQ_OPT_STR, AT(field), 0, sizeof(((struct conf *)0)->field), def, choices, help}
#define ENUM(name, field, def, choices, help) {name, DEQ_OPT_ENUM, AT(field), 0, 0, def, choices, help}
#define LIST(name, field, help) {name, DEQ_OPT_LIST, AT(field), 0, sizeof(((struct conf *)0)->field), "", NULL, help}

static const struct deq_opt options[] = {
    STR("server.listen", listen, "127.0.0.1:8080", NULL,
        "Address to listen on: 127.0.0.1:8080, [::1]:8080, 0.0.0.0:8080, unix:/run/deqd.sock,mode=0660. Port 0 takes a "
        "free one."),
    STR("server.admin_listen", admin_listen, "", NULL,
        "A second address, without TLS, for probes, metrics and administration only; empty: none."),
    LIST("server.cors_origins", cors_origins,
         "Sites whose pages may use this server from a browser: [\"https://app.example.com\"], exactly as the browser "
         "says; \"*\" for all. Pages of others get 403."),
    LIST("server.hosts", hosts,
         "Names, without a port, under which it is asked for, beside addresses, localhost and names without a dot. "
         "Others get 421 when it listens on loopback, and everywhere once the list is not empty; \"*\" for all."),
    U32("server.http_threads", http_threads, 1, 64, "2", "Threads that read and write connections."),
    U32("server.max_connections", max_connections, 8, 100000, "1024",
        "Connections open at once; further ones get 503."),
    U32("server.max_connections_per_address", max_connections_per_address, 0, 100000, "0",
        "Connections of one address; 0 is no limit."),
    U32("server.header_timeout_ms", header_timeout_ms, 100, 3600000, "10000",
        "From accept to the last header line, absolute."),
    U32("server.body_timeout_ms", body_timeout_ms, 100, 3600000, "30000",
        "From the last header line to the last byte of the body, absolute."),
    U32("server.idle_timeout_ms", idle_timeout_ms, 1000, 3600000, "30000",
        "Keep-alive: how long an idle connection stays open."),
    U32("server.drain_delay_ms", drain_delay_ms, 0, 3600000, "5000",
        "After SIGTERM: not ready at once, but new requests are served for so long. (SIGINT goes on without it.)"),
    U32("server.shutdown_timeout_ms", shutdown_timeout_ms, 0, 3600000, "30000",
        "Then: running requests may finish for so long before they are ended."),
    BYTES("server.max_body_bytes", max_body_bytes, 1024, 1073741824.0, "1M", "Largest request body."),
    BOOL("server.page", page, "true",
         "The page at / for people, which asks this server's own API; false: nothing is there (404)."),
    ENUM("server.sandbox", sandbox, "auto", "auto|always|never",
         "Whether the kernel refuses this process what serving does not take (other programs, new connections, files "
         "to write but for state.dir and engine.cache_dir). auto: where the system can, else with a warning; always: "
         "or it does not start."),
    STR("model.path", model_path, "models/stories", NULL, "Model directory."),
    STR("model.name", model_name, "", NULL,
        "Name it is served under, as in stories or org/model; empty: the directory's."),
    {"model.numeric_class", DEQ_OPT_ENUM, AT(numeric), 0, 0, "model", "model|" DEQ_CLASS_CHOICES,
     "What products are computed in: the model's own class, or another, which makes other answers of it (deq eval "
     "--class says what it costs)."},
    STR("tls.cert", tls_cert, "", NULL,
        "PEM file with the certificate and its chain; with tls.key, server.listen speaks TLS 1.2 and 1.3 only. Read "
        "again on SIGHUP."),
    STR("tls.key", tls_key, "", NULL, "PEM file with the private key."),
    STR("auth.keys_file", keys_file, "", NULL,
        "API keys, a line each: NAME SHA256-IN-HEX [admin] [priority] [weight=N] [depth=fixed|elastic]; empty: no key "
        "is asked for, and nothing is served that asks for an admin's. Read again on SIGHUP."),
    BOOL("auth.open_metrics", open_metrics, "false", "/metrics asks for no key."),
    U32("engine.threads", threads, 0, 256, "0",
        "Compute threads; 0 is one a core, and no more than the container's share of processors."),
    ENUM("engine.pin", pin, "auto", "auto|always|never",
         "Whether each compute thread keeps to a core of its own. auto: where this daemon has a thread on every core "
         "that it may use, no quota buys less, and no other deqd or deq (of its network namespace) keeps to one of "
         "them. Never where there are fewer cores than threads."),
    U32("engine.max_sequences", max_sequences, 1, 65536, "32",
        "Sequences solved at once; further requests wait in the queue. An eighth more, of rows and of the default "
        "cache too, is for callers who have none."),
    U32("engine.max_rows", max_rows, 0, 65536, "0",
        "Rows of one evaluation, all windows together, at least 64; 0 is 8 for each sequence, at least 64."),
    U32("engine.max_positions", max_positions, 2, 16777216, "2048",
        "Prompt and generated tokens of one request; may exceed what a position sees, which slides."),
    BYTES("engine.cache_bytes", cache_bytes, 0, 1e13, "0",
          "Key/value cache; 0 is what max_sequences full windows need."),
    STR("engine.cache_dir", cache_dir, "", NULL,
        "Directory that the prefix cache is kept in from one run to the next, of one daemon: written when it stops, "
        "read when it starts. What is in it can be read as texts can. Empty: none."),
    U32("engine.cache_save_ms", cache_save_ms, 0, 86400000, "300000",
        "The prefix cache is also saved so often while the daemon runs, where blocks have come to it; 0: only when it "
        "stops."),
    U32("engine.stall_ms", stall_ms, 100, 3600000, "10000",
        "Liveness fails when the engine, busy or idle, gave no sign of life for so long."),
    ENUM("depth.mode", depth_mode, "fixed", "fixed|elastic",
         "elastic: while tokens come later than depth.objective_ms, the tolerance of requests that name none opens by "
         "steps of 1.5, to limits.tol_max, and closes again; answers tell it. A key's depth=... and a request's own "
         "deq.depth go before this."),
    U32("depth.objective_ms", depth_objective_ms, 1, 3600000, "100",
        "99 of 100 tokens are to come within so many milliseconds of the one before."),
    U32("queue.max_requests", queue_requests, 0, 1000000, "256", "Requests that wait; further ones get 429."),
    U32("queue.max_tokens", queue_tokens, 1, 1e9, "1000000",
        "Prompt tokens of waiting requests; further requests get 429."),
    U32("queue.timeout_ms", queue_timeout_ms, 1, 86400000, "60000", "A request that waited so long gets 503."),
    STR("state.dir", state_dir, "", NULL,
        "Directory of saved states (/v1/states), a file each; several daemons may share it. Empty: none are kept."),
    U32("state.max_states", state_max, 1, 100000, "1000", "Saved states; a further one is refused with 507."),
    BYTES("state.max_bytes", state_max_bytes, 4096, 1e15, "4G",
          "Bytes of all saved states together; one that would be too many is refused with 507."),
    U32("limits.max_logprobs", max_logprobs, 0, 1000, "20", "Most probable tokens that a request may ask for."),
    U32("limits.max_stop", max_stop, 0, 64, "16", "Stop strings of a request."),
    U32("limits.max_stop_bytes", max_stop_bytes, 1, 65536, "256", "Bytes of a stop string."),
    U32("limits.max_n", max_n, 1, 1024, "16", "Choices of a prompt (n, best_of)."),
    U32("limits.max_prompts", max_prompts, 1, 4096, "128", "Prompts of a request."),
    U32("limits.max_window", max_window, 1, 64, "16",
        "Rows of a sequence that are solved at once (deq.window, deq.prefill_window): its share of a step."),
    U32("limits.max_requests_per_key", max_requests_per_key, 0, 1000000, "0",
        "Requests of one API key, waiting and running; further ones get 429; 0 is no limit."),
    BYTES("limits.max_logits_bytes", max_logits_bytes, 1024, 17179869184.0, "64M",
          "Answer of /v1/logits, /v1/equilibria and /v1/embeddings, as float32, with its base64 where it is that."),
    BYTES("limits.answer_bytes", answer_bytes, 4194304, 1e12, "128M",
          "Memory of all requests' bodies and answers together, until they are read. An answer has its part before it "
          "is begun; one caller has at most half of it."),
    FLT("limits.tol_min", tol_min, 1e-7, 10, "1e-5", "Smallest tolerance that a request may ask for."),
    FLT("limits.tol_max", tol_max, 1e-7, 10, "0.5", "Largest tolerance that a request may ask for."),
    U32("limits.max_iter", max_iter_max, 1, 100000, "64", "Most evaluations of a position that a request may ask for."),
    STR("limits.unknown_fields", unknown_fields, "refuse", "refuse|ignore",
        "A field that no API here knows: refuse names it in a 400, ignore goes on without it."),
    STR("sampling.seed", sampling_seed, "random", NULL,
        "Seed of requests that have none: random, one for each, which the answer tells (deq.seed); "
        "or a whole number, the same for all."),
    U32("stream.buffer_bytes", stream_buffer_bytes, 4096, 16777216, "262144",
        "Unread bytes of a stream before its sequence pauses."),
    U32("stream.flush_ms", stream_flush_ms, 0, 1000, "10",
        "Tokens of a stream that come faster are sent together, of many streams every two, four, ... of it; 0 sends "
        "after every step of the engine."),
    U32("stream.ping_ms", stream_ping_ms, 100, 3600000, "15000",
        "A comment line is sent to a silent stream so often, so that proxies keep it open."),
    U32("stream.stall_ms", stream_stall_ms, 100, 3600000, "20000",
        "The time over which stream.min_bytes_per_s is averaged: a client that reads nothing for so long is dropped."),
    U32("stream.min_bytes_per_s", stream_min_rate, 1, 1000000000, "4096",
        "A client that reads less than this while more lies there, averaged over stream.stall_ms, is dropped; of whole "
        "answers too."),
    STR("chat.message", chat_message, "", NULL,
        "A message of a chat as text, {role} and {content} filled in ({content_trimmed}: without blanks around it); "
        "empty: the model's own, or contents joined by line breaks. \\n is a new line."),
    STR("chat.begin", chat_begin, "", NULL, "What stands once before the first message, with chat.message."),
    STR("chat.reply", chat_reply, "assistant:", NULL, "What stands before the answer, with chat.message."),
    STR("chat.stop", chat_stop, "", NULL,
        "Text or a special token that ends an answer, like what begins the next message; empty: none with "
        "chat.message, else the template's own."),
    STR("log.level", log_level, "info", "error|warn|info|debug",
        "Least level of the log, JSON lines on standard error."),
};

const struct deq_opt_table conf_table = {options, DEQ_COUNT(options)};

struct flags {
    const char *config;
    struct deq_args sets; /* --set, and what is short for it */
    bool check_config, print_fields, print_routes, print_config, health_probe, version;
};

#define FLAG(field) offsetof(struct flags, field)
static const struct deq_opt flag_rows[] = {
    {"--config", DEQ_OPT_ARG, FLAG(config), 0, 0, NULL, "FILE",
     "YAML file with any of the keys below; else, when deqd is installed, the installed file"},
    {"--model", DEQ_OPT_ARGS, FLAG(sets), 0, DEQ_ARGS_MAX, NULL, "DIR", "short for --set model.path=DIR"},
    {"--listen", DEQ_OPT_ARGS, FLAG(sets), 0, DEQ_ARGS_MAX, NULL, "ADDR:PORT",
     "short for --set server.listen=ADDR:PORT"},
    {"--set", DEQ_OPT_ARGS, FLAG(sets), 0, DEQ_ARGS_MAX, NULL, "KEY=VALUE",
     "any key (repeatable); a list is [a, b]; null is the default of what is no list"},
    {"--check-config", DEQ_OPT_BOOL, FLAG(check_config), 0, 0, NULL, NULL,
     "check the configuration and what it names (keys, certificate, model, memory), say what is wrong, stop (exit 2)"},
    {"--print-fields", DEQ_OPT_BOOL, FLAG(print_fields), 0, 0, NULL, NULL,
     "print every field of every request's body and stop"},
    {"--print-routes", DEQ_OPT_BOOL, FLAG(print_routes), 0, 0, NULL, NULL, "print every path and stop"},
    {"--print-config", DEQ_OPT_BOOL, FLAG(print_config), 0, 0, NULL, NULL,
     "print the whole configuration as YAML and stop; checks values, reads no other file"},
    {"--health-probe", DEQ_OPT_BOOL, FLAG(health_probe), 0, 0, NULL, NULL,
     "ask the daemon at server.listen whether it is ready: exit 0 or 1"},
    {"--version", DEQ_OPT_BOOL, FLAG(version), 0, 0, NULL, NULL, "print the version and stop"},
};

static const struct deq_command command = {
    .usage = "deqd [--config FILE] [--model DIR] [--listen ADDR:PORT] [--set KEY=VALUE]...",
    .about = "Serves a deep equilibrium language model over HTTP.",
    .flags = {flag_rows, DEQ_COUNT(flag_rows)},
    .min_args = 0,
    .max_args = 0};

void conf_help(void)
{
    static const char *const rows[][2] = {
        {NULL, "Environment"},
        {"DEQD_SERVER_LISTEN", "server.listen, and so every key by its name in capitals; an empty one counts as unset. "
                               "Flags win over the environment, the environment over the file."},
        {"DEQD_CONFIG", "what --config names"},
        {"DEQ_CPU", "ref, avx2, avx512, vnni or amx: the instructions to compute with, else the best of this machine; "
                    "all give the same bits"},
        {"LISTEN_FDS", "sockets that a supervisor opened, which take the place of server.listen and, named \"admin\", "
                       "of server.admin_listen"},
        {"NOTIFY_SOCKET", "is told of start, reload and end, and with WATCHDOG_USEC that the engine makes progress"},
        {NULL, "Signals"},
        {"SIGTERM", "ends: after server.drain_delay_ms no new requests are taken, running ones may finish for "
                    "server.shutdown_timeout_ms"},
        {"SIGINT", "ends without the delay"},
        {"SIGHUP", "reads keys, certificate and model again"},
        {NULL, "Exit status"},
        {"0", "stopped as asked"},
        {"1", "could not start, or failed"},
        {"2", "wrong usage or configuration; as it is, another try will not help"},
    };
    deq_flags_help(&command, stdout);
    printf("\nKeys:\n");
    for (size_t i = 0; i < conf_table.n; i++)
        deq_help_option(stdout, &options[i], options[i].name, options[i].choices);
    for (size_t i = 0; i < DEQ_COUNT(rows); i++)
        if (rows[i][0])
            deq_help_row(stdout, rows[i][0], rows[i][1]);
        else
            printf("\n%s:\n", rows[i][1]);
}

/* "\n" as two characters becomes a line's end: a flag or a variable cannot hold one comfortably. */
static void unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        const bool line_end = *s == '\\' && s[1] == 'n';
        s += line_end;
        *to++ = line_end ? '\n' : *s;
    }
    *to = 0;
}

/* A flag or a variable holds a list with commas. */
static void split_commas(char *list)
{
    char *to = list;
    for (const char *s = list; *s; s++)
        if (*s != ' ')
            *to++ = *s == ',' ? '\n' : *s;
    *to = 0;
}

bool conf_seed(const struct conf *c, int64_t *ret)
{
    const char *s = c->sampling_seed;
    if (!strcmp(s, "random"))
        return false;
    *ret = strtoll(s, NULL, 10);
    return true;
}

static bool is_seed(const char *s)
{
    const size_t n = strlen(s);
    return !strcmp(s, "random") || (n && n < 16 && strspn(s, "0123456789") == n);
}

/* What one option's range cannot say. */
static enum deq_rc check_together(struct conf *c, struct deq_err *err)
{
    if (c->tol_min > c->tol_max)
        return deq_fail(err, DEQ_EINVAL, "limits.tol_min: %g exceeds limits.tol_max %g", (double)c->tol_min,
                        (double)c->tol_max);
    if (c->max_logits_bytes > c->answer_bytes)
        return deq_fail(err, DEQ_EINVAL, "limits.max_logits_bytes: %llu exceeds limits.answer_bytes %llu",
                        (unsigned long long)c->max_logits_bytes, (unsigned long long)c->answer_bytes);
    if (!c->tls_cert[0] != !c->tls_key[0])
        return deq_fail(err, DEQ_EINVAL, "%s: needs the other of tls.cert and tls.key too",
                        c->tls_cert[0] ? "tls.cert" : "tls.key");
    if (c->chat_message[0] && !strstr(c->chat_message, "{content}") && !strstr(c->chat_message, "{content_trimmed}"))
        return deq_fail(err, DEQ_EINVAL, "chat.message: must hold {content} or {content_trimmed}");
    const char *const chat[][2] = {{"chat.message", c->chat_message}, {"chat.begin", c->chat_begin},
                                   {"chat.reply", c->chat_reply}, {"chat.stop", c->chat_stop}};
    for (size_t i = 0; i < DEQ_COUNT(chat); i++)
        if (!deq_utf8_valid(chat[i][1], strlen(chat[i][1])))
            return deq_fail(err, DEQ_EINVAL, "%s: is not UTF-8", chat[i][0]);
    if (!is_seed(c->sampling_seed))
        return deq_fail(err, DEQ_EINVAL,
                        "sampling.seed: \"%s\" is neither random nor a whole number of at most 15 digits",
                        c->sampling_seed);
    split_commas(c->cors_origins);
    split_commas(c->hosts);
    return DEQ_OK;
}

/* Variables that begin with ours and are meant for nobody: Kubernetes and linked containers tell of a service called
 * "deqd" or "deqd-x" by DEQD_SERVICE_HOST, DEQD_SERVICE_PORT[_NAME], DEQD_PORT and DEQD_PORT_8080_TCP[_ADDR, ...], each
 * with _X after DEQD. DEQD_CONFIG has been read. */
static bool other_variable(const char *name, const char *value)
{
    if (!strcmp(name, "CONFIG"))
        return true;
    for (const char *s = name; s; s = strchr(s, '_') ? strchr(s, '_') + 1 : NULL) {
        const size_t n = strcspn(s, "_");
        const bool port = n == 4 && !memcmp(s, "PORT", 4);
        if (!strcmp(s, "SERVICE_HOST") || !strncmp(s, "SERVICE_PORT", 12) || (port && !s[4] && strstr(value, "://")) ||
            (port && s[4] && s[5] >= '0' && s[5] <= '9'))
            return true;
    }
    return false;
}

static enum deq_rc set(struct conf *c, const char *flag, const char *text, struct deq_err *err)
{
    const char *key = !strcmp(flag, "--model") ? "model.path" : !strcmp(flag, "--listen") ? "server.listen" : NULL;
    const enum deq_rc rc =
        key ? deq_opt_set(deq_opt_find(&conf_table, key), c, text, 0, err) : deq_opt_assign(&conf_table, c, text, err);
    return rc && !key ? deq_fail_prefix(err, rc, flag) : rc;
}

/* Defaults, file, environment, flags: the later wins. */
static enum deq_rc read_all(const struct flags *f, struct conf *c, struct deq_err *err)
{
    char installed[4096];
    const char *file = f->config ? f->config : getenv("DEQD_CONFIG");
    enum deq_rc rc = deq_opt_defaults(&conf_table, c, err);
    if ((!file || (!*file && !f->config)) && deq_installed("etc/deqd.yaml", installed))
        file = installed;
    if (!rc && file && (*file || f->config))
        rc = deq_opt_load(&conf_table, c, file, err);
    if (rc && file && file == getenv("DEQD_CONFIG"))
        (void)deq_fail_prefix(err, rc, "DEQD_CONFIG");
    if (!rc)
        rc = deq_opt_env(&conf_table, c, "DEQD_", other_variable, err);
    for (size_t i = 0; i < f->sets.n && !rc; i++)
        rc = set(c, f->sets.flag[i], f->sets.item[i], err);
    return rc ? rc : check_together(c, err);
}

/* The first that is asked for, of those that need no configuration and then of the others. */
static enum conf_action action_of(const struct flags *f, bool help)
{
    return help              ? CONF_HELP
           : f->version      ? CONF_PRINT_VERSION
           : f->print_fields ? CONF_PRINT_FIELDS
           : f->print_routes ? CONF_PRINT_ROUTES
           : f->print_config ? CONF_PRINT
           : f->health_probe ? CONF_PROBE
           : f->check_config ? CONF_CHECK
                             : CONF_RUN;
}

enum deq_rc conf_read(int argc, char **argv, struct conf *ret, enum conf_action *ret_action, struct deq_err *err)
{
    struct conf c = {0};
    struct flags f = {0};
    size_t n;
    bool asked_help;
    enum deq_rc rc = deq_flags_parse(&command, argc, argv, &f, NULL, &n, &asked_help, err);
    if (rc)
        return rc;
    *ret_action = action_of(&f, asked_help);
    if (*ret_action >= CONF_HELP)
        return DEQ_OK;
    rc = read_all(&f, &c, err);
    if (rc)
        return rc;
    if (*ret_action != CONF_PRINT) { /* which prints them as they were written */
        unescape(c.chat_message);
        unescape(c.chat_begin);
        unescape(c.chat_reply);
        unescape(c.chat_stop);
    }
    *ret = c;
    return DEQ_OK;
}
