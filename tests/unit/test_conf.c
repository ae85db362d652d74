/* server/conf.c: command line, environment and file, whose word counts, and what no single value can tell. */
#include "server/conf.h"

#include <stdlib.h>

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

enum { ARGS_MAX = 12 };

/* Arguments up to a NULL. The environment is the test's own: what begins with DEQD_ was set by it. */
static enum deq_rc read_conf(const char *const *args, struct conf *ret, enum conf_action *ret_action,
                             struct deq_err *err)
{
    char *argv[ARGS_MAX + 2] = {(char[]){"deqd"}};
    int argc = 1;
    for (; args[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)args[argc - 1];
    *err = (struct deq_err){0};
    return conf_read(argc, argv, ret, ret_action, err);
}

TEST(conf_later_words_win)
{
    REQUIRE(scratch_begin());
    struct conf c;
    enum conf_action action;
    struct deq_err err;
    scratch_put("c.yaml",
                "server: {listen: \"127.0.0.1:1\", http_threads: 3}\nlimits: {max_n: 5}\nqueue: {max_requests: 7}\n");
    setenv("DEQD_LIMITS_MAX_N", "6", 1);
    setenv("DEQD_QUEUE_MAX_REQUESTS", "", 1); /* empty is unset */
    setenv("DEQD_SERVER_HOSTS", "a.example, b.example", 1);
    const char *const args[] = {"--config", scratch_path("c.yaml"), "--listen", "127.0.0.1:2", "--set",
                                "server.listen=127.0.0.1:3",
                                "--model", "m", "--set", "chat.message={content}\\n", NULL};
    CHECK_MSG(!read_conf(args, &c, &action, &err), "%s", err.text);
    CHECK_EQ(action, CONF_RUN);
    CHECK_EQ(c.listen, "127.0.0.1:3"); /* the last flag */
    CHECK_EQ(c.http_threads, 3);       /* the file */
    CHECK_EQ(c.max_n, 6);              /* the environment before the file */
    CHECK_EQ(c.queue_requests, 7);
    CHECK_EQ(c.model_path, "m");
    CHECK_EQ(c.hosts, "a.example\nb.example");
    CHECK_EQ(c.chat_message, "{content}\n");
    CHECK_EQ(c.max_prompts, 128); /* nobody's word: the default */
    setenv("DEQD_CONFIG", scratch_path("none.yaml"), 1);
    CHECK_EQ(read_conf((const char *const[]){NULL}, &c, &action, &err), DEQ_ENOTFOUND);
    CHECK_MSG(!strncmp(err.text, "DEQD_CONFIG: ", 13) && strstr(err.text, "none.yaml"), "%s", err.text);
    CHECK_EQ(read_conf(args, &c, &action, &err), DEQ_OK); /* a flag names another */
    unsetenv("DEQD_CONFIG");
    unsetenv("DEQD_LIMITS_MAX_N");
    unsetenv("DEQD_QUEUE_MAX_REQUESTS");
    unsetenv("DEQD_SERVER_HOSTS");
    scratch_end("c.yaml", NULL);
}

TEST(conf_what_is_asked_for)
{
    static const struct {
        const char *args[4];
        enum conf_action action;
    } t[] = {
        {{NULL}, CONF_RUN},
        {{"--check-config"}, CONF_CHECK},
        {{"--health-probe", "--check-config"}, CONF_PROBE},
        {{"--print-config"}, CONF_PRINT},
        {{"--set", "nothing=1", "--help"}, CONF_HELP}, /* which reads none */
        {{"--version", "--print-routes"}, CONF_PRINT_VERSION},
        {{"--print-fields"}, CONF_PRINT_FIELDS},
        {{"--print-routes"}, CONF_PRINT_ROUTES},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct conf c;
        enum conf_action action;
        struct deq_err err;
        const char *args[5] = {t[i].args[0], t[i].args[1], t[i].args[2], t[i].args[3], NULL};
        CHECK_MSG(!read_conf(args, &c, &action, &err), "%s", err.text);
        CHECK_EQ(action, t[i].action);
    }
    struct conf c;
    enum conf_action action;
    struct deq_err err;
    const char *const printed[] = {"--print-config", "--set", "chat.message={content}\\n", NULL};
    CHECK(!read_conf(printed, &c, &action, &err));
    CHECK_EQ(c.chat_message, "{content}\\n"); /* as it was written */
}

TEST(conf_refuses_by_name)
{
    static const struct {
        const char *set[2], *says;
    } t[] = {
        {{"limits.tol_min=0.1", "limits.tol_max=0.01"}, "limits.tol_min: 0.1 exceeds limits.tol_max 0.01"},
        {{"limits.answer_bytes=4M", "limits.max_logits_bytes=5M"},
         "limits.max_logits_bytes: 5242880 exceeds limits.answer_bytes 4194304"},
        {{"tls.cert=c.pem", NULL}, "tls.cert: needs the other of tls.cert and tls.key too"},
        {{"tls.key=k.pem", NULL}, "tls.key: needs the other of tls.cert and tls.key too"},
        {{"chat.message={role}", NULL}, "chat.message: must hold {content} or {content_trimmed}"},
        {{"chat.stop=\xff", NULL}, "chat.stop: is not UTF-8"},
        {{"sampling.seed=-1", NULL}, "sampling.seed: \"-1\" is neither random nor a whole number of at most 15 digits"},
        {{"sampling.seed=1234567890123456", NULL},
         "sampling.seed: \"1234567890123456\" is neither random nor a whole number of at most 15 digits"},
        {{"limits.max_n=0", NULL}, "--set: limits.max_n: \"0\" is not an integer in 1..1024"},
        {{"limits.max_m=1", NULL}, "--set: unknown key limits.max_m (did you mean limits.max_n?)"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct conf c = {.max_n = 77};
        enum conf_action action;
        struct deq_err err;
        const char *const args[] = {"--set", t[i].set[0], t[i].set[1] ? "--set" : NULL, t[i].set[1], NULL};
        CHECK_EQ(read_conf(args, &c, &action, &err), DEQ_EINVAL);
        CHECK_EQ(err.text, t[i].says);
        CHECK_EQ(c.max_n, 77);
    }
}

TEST(conf_seed_is_random_or_a_number)
{
    struct conf c = {.sampling_seed = "random"};
    int64_t seed = 5;
    CHECK(!conf_seed(&c, &seed));
    CHECK_EQ(seed, 5);
    c = (struct conf){.sampling_seed = "123456789012345"};
    CHECK(conf_seed(&c, &seed));
    CHECK_EQ(seed, 123456789012345);
}

/* What Kubernetes and linked containers set for a service called deqd is nobody's mistake; anything like it is. */
TEST(conf_variables_of_others)
{
    static const struct {
        const char *name, *value;
        enum deq_rc rc;
    } t[] = {
        {"DEQD_SERVICE_HOST", "10.0.0.1", DEQ_OK},
        {"DEQD_SERVICE_PORT", "80", DEQ_OK},
        {"DEQD_SERVICE_PORT_HTTP", "80", DEQ_OK},
        {"DEQD_PORT", "tcp://10.0.0.1:80", DEQ_OK},
        {"DEQD_PORT_80_TCP_ADDR", "10.0.0.1", DEQ_OK},
        {"DEQD_BLUE_PORT_80_TCP", "tcp://10.0.0.1:80", DEQ_OK},
        {"DEQD_PORT", "8080", DEQ_EINVAL},
        {"DEQD_SERVICE_HOSTS", "x", DEQ_EINVAL},
        {"DEQD_SERVER_LISTN", "127.0.0.1:1", DEQ_EINVAL},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct conf c;
        enum conf_action action;
        struct deq_err err;
        setenv(t[i].name, t[i].value, 1);
        CHECK_MSG(read_conf((const char *const[]){NULL}, &c, &action, &err) == t[i].rc, "%s=%s: %s", t[i].name,
                  t[i].value, err.text);
        CHECK_MSG(!t[i].rc || strstr(err.text, t[i].name), "%s: %s", t[i].name, err.text);
        unsetenv(t[i].name);
    }
}
