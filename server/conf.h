/* The daemon's configuration: one table (conf.c) feeds the YAML file, the environment (DEQD_SERVER_LISTEN for
 * server.listen), the flags, --help and --print-config. Precedence: flags, then environment, then file, then defaults.
 * Read once at start, by the main thread; read-only after that, by any. */
#ifndef DEQ_SERVER_CONF_H
#define DEQ_SERVER_CONF_H

#include "core/base/options.h"
#include "core/deq.h"

enum { CONF_NAME_MAX = 96 }; /* bytes of a model's name */

struct conf {
    /* server */
    char listen[256], admin_listen[256];
    char cors_origins[2048], hosts[2048]; /* lists */
    uint32_t http_threads, max_connections, max_connections_per_address;
    uint32_t header_timeout_ms, body_timeout_ms, idle_timeout_ms;
    uint32_t drain_delay_ms, shutdown_timeout_ms;
    uint64_t max_body_bytes;
    bool page;
    int sandbox; /* enum sandbox_mode */
    /* model */
    char model_path[1024], model_name[CONF_NAME_MAX + 1];
    int numeric; /* enum deq_class + 1; 0: the model's own */
    /* tls, auth */
    char tls_cert[1024], tls_key[1024], keys_file[1024];
    bool open_metrics;
    /* engine */
    uint32_t threads, max_sequences, max_rows, max_positions;
    int pin; /* enum deq_pin */
    uint64_t cache_bytes;
    char cache_dir[1024];
    uint32_t cache_save_ms;
    /* state */
    char state_dir[1024];
    uint32_t state_max;
    uint64_t state_max_bytes;
    /* queue */
    uint32_t queue_requests, queue_tokens, queue_timeout_ms;
    /* limits of a request */
    uint32_t max_logprobs, max_stop, max_stop_bytes, max_n, max_prompts, max_window, max_requests_per_key;
    uint64_t max_logits_bytes, answer_bytes;
    float tol_min, tol_max;
    uint32_t max_iter_max;
    char unknown_fields[8], sampling_seed[24];
    uint32_t stream_buffer_bytes, stream_ping_ms, stream_stall_ms, stream_min_rate, stream_flush_ms;
    uint32_t stall_ms;
    /* depth */
    int depth_mode; /* enum depth_mode - 1 */
    uint32_t depth_objective_ms;
    /* chat */
    char chat_begin[512], chat_message[512], chat_reply[256], chat_stop[64];
    char log_level[8];
};

extern const struct deq_opt_table conf_table;

/* The class that a model is to be loaded in, in *room; NULL: its own. */
static inline const enum deq_class *conf_numeric(const struct conf *c, enum deq_class *room)
{
    *room = (enum deq_class)(c->numeric - 1);
    return c->numeric ? room : NULL;
}

enum conf_action {
    CONF_RUN,
    CONF_CHECK, /* what the configuration names is to be checked, and nothing else */
    CONF_PROBE, /* the daemon that runs with it is to be asked whether it is ready */
    CONF_PRINT, /* as YAML */
    CONF_HELP,  /* from here on none was read */
    CONF_PRINT_VERSION,
    CONF_PRINT_FIELDS,
    CONF_PRINT_ROUTES,
};

/* sampling.seed; false: random, every request without one draws its own. */
bool conf_seed(const struct conf *c, int64_t *ret);
/* Reads everything, and what the command line asks for. Addresses and lists of names are not looked into:
 * http_check_conf does. */
enum deq_rc conf_read(int argc, char **argv, struct conf *ret, enum conf_action *ret_action, struct deq_err *err);
/* Flags and keys, on standard output. */
void conf_help(void);

#endif
