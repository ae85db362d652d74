/* The files of tls.cert and tls.key: what is taken is a pair, is taken again and serves handshakes, each with as many
 * certificates; what is refused while there are good ones leaves these. Input: the certificates up to a zero byte, the
 * key.
 *
 * Under libFuzzer what lies in a PEM block changes as the bytes that it stands for. */
#include "server/net/tls.h"

#include <gnutls/abstract.h>

#include "tests/fuzz/mutate.h"

enum { HANDSHAKES = 2, PATH_BYTES = 128 };

static const char *path_of(const char *name, char out[PATH_BYTES])
{
    snprintf(out, PATH_BYTES, "%s/%s", fuzz_dir("tls"), name);
    return out;
}

/* What the key signs, the certificate's half verifies. */
static void check_pair(const gnutls_pcert_st *cert, gnutls_privkey_t key)
{
    const gnutls_datum_t text = {(unsigned char *)"text", 4};
    const gnutls_pk_algorithm_t kind = gnutls_privkey_get_pk_algorithm(key, NULL);
    const gnutls_sign_algorithm_t way = kind == GNUTLS_PK_EDDSA_ED25519 ? GNUTLS_SIGN_EDDSA_ED25519
                                                                        : gnutls_pk_to_sign(kind, GNUTLS_DIG_SHA256);
    gnutls_datum_t signature = {0};
    if (gnutls_privkey_sign_data2(key, way, 0, &text, &signature) < 0)
        return; /* a kind that does not sign so */
    FUZZ_HOLDS(gnutls_pubkey_verify_data2(cert->pubkey, way, GNUTLS_VERIFY_ALLOW_BROKEN, &text, &signature) >= 0);
    gnutls_free(signature.data);
}

/* What GnuTLS asks for, and frees. */
static void serve(struct tls *t)
{
    gnutls_certificate_retrieve_function3 *retrieve;
    void *const function = tls_retrieve_function();
    unsigned first = 0;
    memcpy(&retrieve, &function, sizeof retrieve);
    tls_serve(t);
    for (int i = 0; i < HANDSHAKES; i++) {
        gnutls_pcert_st *certs = NULL;
        gnutls_ocsp_data_st *ocsp = NULL;
        gnutls_privkey_t key = NULL;
        unsigned n = 0, n_ocsp = 1, flags = 0;
        FUZZ_HOLDS(!retrieve(NULL, NULL, &certs, &n, &ocsp, &n_ocsp, &key, &flags));
        FUZZ_HOLDS(certs && key && n && !ocsp && !n_ocsp && (flags & GNUTLS_CERT_RETR_DEINIT_ALL));
        FUZZ_HOLDS(!i || n == first);
        first = n;
        check_pair(certs, key);
        for (unsigned k = 0; k < n; k++)
            gnutls_pcert_deinit(&certs[k]);
        gnutls_free(certs);
        gnutls_privkey_deinit(key);
    }
    tls_serve(NULL);
}

FUZZ(tls)
{
    const uint8_t *key;
    size_t n_key;
    char cert_path[PATH_BYTES], key_path[PATH_BYTES];
    struct tls *t;
    struct deq_err err;
    const size_t n_cert = fuzz_split(data, n, &key, &n_key);
    fuzz_put("tls", "cert.pem", data, n_cert);
    fuzz_put("tls", "key.pem", key, n_key);
    const enum deq_rc rc = tls_new(path_of("cert.pem", cert_path), path_of("key.pem", key_path), &t, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    serve(t);
    FUZZ_HOLDS(!tls_reload(t, &err));
    fuzz_put("tls", "key.pem", "", 0);
    fuzz_check_err(tls_reload(t, &err), &err);
    serve(t);
    tls_free(t);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
enum { BLOCKS_MAX = 24, BYTES_MAX = 4096, LINE = 64 };

struct block {
    size_t begin, end; /* of its base64, between the lines that frame it */
    size_t whole, behind;
};

static size_t find_blocks(const uint8_t *s, size_t n, struct block out[BLOCKS_MAX])
{
    static const char begin[] = "-----BEGIN ", end[] = "-----END ";
    size_t found = 0;
    for (size_t at = 0; at + sizeof begin < n && found < BLOCKS_MAX; at++) {
        if (memcmp(s + at, begin, sizeof begin - 1))
            continue;
        const uint8_t *first = memchr(s + at, '\n', n - at);
        const size_t from = first ? (size_t)(first - s) + 1 : n;
        size_t to = from;
        while (to + sizeof end < n && memcmp(s + to, end, sizeof end - 1))
            to++;
        if (to + sizeof end >= n)
            break;
        const uint8_t *last = memchr(s + to, '\n', n - to);
        out[found++] = (struct block){from, to, at, last ? (size_t)(last - s) + 1 : n};
        at = to;
    }
    return found;
}

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static size_t decode(const uint8_t *s, size_t n, uint8_t *out, size_t cap)
{
    uint32_t bits = 0;
    size_t have = 0, len = 0;
    for (size_t i = 0; i < n && len < cap; i++) {
        const char *d = s[i] ? strchr(digits, s[i]) : NULL;
        if (!d)
            continue;
        bits = bits << 6 | (uint32_t)(d - digits);
        have += 6;
        if (have >= 8)
            out[len++] = (uint8_t)(bits >> (have -= 8));
    }
    return len;
}

static size_t encode(const uint8_t *s, size_t n, uint8_t *out)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i += 3) {
        const uint32_t left = (uint32_t)DEQ_MIN(n - i, (size_t)3);
        const uint32_t bits = (uint32_t)s[i] << 16 | (left > 1 ? (uint32_t)s[i + 1] << 8 : 0) |
                              (left > 2 ? (uint32_t)s[i + 2] : 0);
        for (unsigned k = 0; k < 4; k++)
            out[at++] = k <= left ? (uint8_t)digits[bits >> (18 - 6 * k) & 63] : '=';
        if (i % (LINE / 4 * 3) == LINE / 4 * 3 - 3 || i + 3 >= n)
            out[at++] = '\n';
    }
    return at;
}

/* Bytes [begin, end) become piece [k]; n when there is no room. */
static size_t replace(uint8_t *s, size_t n, size_t max, size_t begin, size_t end, const uint8_t *piece, size_t k)
{
    if (n - (end - begin) + k > max)
        return n;
    memmove(s + begin + k, s + end, n - end);
    if (k)
        memcpy(s + begin, piece, k);
    return n - (end - begin) + k;
}

FUZZ_MUTATOR
{
    static uint8_t bytes[BYTES_MAX], text[3 * BYTES_MAX], copy[1 << 16];
    struct block b[BLOCKS_MAX];
    uint64_t random = seed;
    const size_t blocks = find_blocks(data, n, b);
    if (!blocks || fuzz_next(&random) % 4 == 0)
        return LLVMFuzzerMutate(data, n, max);
    const struct block *x = &b[fuzz_next(&random) % blocks], *y = &b[fuzz_next(&random) % blocks];
    const size_t whole = y->behind - y->whole;
    const unsigned way = fuzz_next(&random) % 8;
    if (way < 2 && whole <= sizeof copy) { /* stands there too, or in the place of another */
        memcpy(copy, data + y->whole, whole);
        return replace(data, n, max, x->whole, way ? x->behind : x->whole, copy, whole);
    }
    if (way == 2) /* goes */
        return replace(data, n, max, x->whole, x->behind, NULL, 0);
    size_t k = decode(data + x->begin, x->end - x->begin, bytes, sizeof bytes);
    k = LLVMFuzzerMutate(bytes, k, way == 3 ? sizeof bytes : DEQ_MAX(k, (size_t)1));
    return replace(data, n, max, x->begin, x->end, text, encode(bytes, k, text));
}
#endif
