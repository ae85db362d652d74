#include "server/net/tls.h"

#include <gnutls/abstract.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"

enum { PEM_MAX_BYTES = 1 << 20, CHAIN_MAX = 8 };

struct tls {
    char cert_path[1024], key_path[1024];
    pthread_mutex_t lock; /* what follows */
    char *cert, *key;     /* PEM */
    size_t cert_len, key_len;
};

static struct tls *served;

/* GnuTLS takes both over: it frees them after the handshake. */
static int import(const struct tls *t, gnutls_pcert_st **ret_certs, unsigned *ret_n, gnutls_privkey_t *ret_key)
{
    const gnutls_datum_t cert = {(unsigned char *)t->cert, (unsigned)t->cert_len},
                         key = {(unsigned char *)t->key, (unsigned)t->key_len};
    unsigned n = CHAIN_MAX;
    gnutls_pcert_st *certs = gnutls_malloc(CHAIN_MAX * sizeof *certs);
    gnutls_privkey_t private_key = NULL;
    if (!certs)
        return GNUTLS_E_MEMORY_ERROR;
    int rc = gnutls_pcert_list_import_x509_raw(certs, &n, &cert, GNUTLS_X509_FMT_PEM, 0);
    if (rc < 0)
        n = 0;
    else
        rc = gnutls_privkey_init(&private_key);
    if (rc >= 0)
        rc = gnutls_privkey_import_x509_raw(private_key, &key, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (rc < 0) {
        for (unsigned i = 0; i < n; i++)
            gnutls_pcert_deinit(&certs[i]);
        gnutls_free(certs);
        gnutls_privkey_deinit(private_key);
        return rc;
    }
    *ret_certs = certs;
    *ret_n = n;
    *ret_key = private_key;
    return 0;
}

static int retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info, gnutls_pcert_st **certs,
                    unsigned *n_certs, gnutls_ocsp_data_st **ocsp, unsigned *n_ocsp, gnutls_privkey_t *key,
                    unsigned *flags)
{
    (void)session;
    (void)info;
    *ocsp = NULL;
    *n_ocsp = 0;
    *flags = GNUTLS_CERT_RETR_DEINIT_ALL;
    pthread_mutex_lock(&served->lock);
    const int rc = import(served, certs, n_certs, key);
    pthread_mutex_unlock(&served->lock);
    return rc < 0 ? -1 : 0;
}

/* The key must be the certificate's: both have the same public half, which a file may say of another private one. */
static enum deq_rc check(const struct tls *t, struct deq_err *err)
{
    gnutls_pcert_st *certs = NULL;
    gnutls_privkey_t key = NULL;
    gnutls_pubkey_t public_key = NULL;
    unsigned n = 0;
    unsigned char of_cert[64] = {0}, of_key[64] = {0};
    size_t n_cert = sizeof of_cert, n_key = sizeof of_key;
    int rc = import(t, &certs, &n, &key);
    if (rc < 0)
        return deq_fail(err, DEQ_EFORMAT, "tls.cert %s, tls.key %s: %s", t->cert_path, t->key_path,
                        gnutls_strerror(rc));
    const int sound = gnutls_privkey_verify_params(key);
    rc = sound < 0 ? sound : gnutls_pubkey_init(&public_key);
    if (rc >= 0)
        rc = gnutls_pubkey_import_privkey(public_key, key, 0, 0);
    if (rc >= 0)
        rc = gnutls_pubkey_get_key_id(public_key, GNUTLS_KEYID_USE_SHA256, of_key, &n_key);
    if (rc >= 0)
        rc = gnutls_pubkey_get_key_id(certs[0].pubkey, GNUTLS_KEYID_USE_SHA256, of_cert, &n_cert);
    const bool same = rc >= 0 && n_key == n_cert && !memcmp(of_key, of_cert, n_key);
    gnutls_pubkey_deinit(public_key);
    gnutls_privkey_deinit(key);
    for (unsigned i = 0; i < n; i++)
        gnutls_pcert_deinit(&certs[i]);
    gnutls_free(certs);
    if (sound < 0)
        return deq_fail(err, DEQ_EFORMAT, "tls.key: %s is damaged: %s", t->key_path, gnutls_strerror(sound));
    return same ? DEQ_OK
                : deq_fail(err, DEQ_EFORMAT, "tls.key: %s does not belong to the certificate %s", t->key_path,
                           t->cert_path);
}

static enum deq_rc load(const char *cert_path, const char *key_path, struct tls *ret, struct deq_err *err)
{
    struct tls t = {0};
    snprintf(t.cert_path, sizeof t.cert_path, "%s", cert_path);
    snprintf(t.key_path, sizeof t.key_path, "%s", key_path);
    enum deq_rc rc = deq_io_read(cert_path, PEM_MAX_BYTES, &t.cert, &t.cert_len, err);
    if (rc)
        deq_fail_prefix(err, rc, "tls.cert");
    if (!rc && (rc = deq_io_read(key_path, PEM_MAX_BYTES, &t.key, &t.key_len, err)))
        deq_fail_prefix(err, rc, "tls.key");
    if (!rc)
        rc = check(&t, err);
    if (rc) {
        deq_free(t.cert);
        deq_free(t.key);
        return rc;
    }
    *ret = t;
    return DEQ_OK;
}

enum deq_rc tls_new(const char *cert_path, const char *key_path, struct tls **ret, struct deq_err *err)
{
    struct tls *t = DEQ_NEW(struct tls);
    if (!t)
        return deq_fail(err, DEQ_ENOMEM, "no memory for TLS");
    const enum deq_rc rc = load(cert_path, key_path, t, err);
    if (rc) {
        deq_free(t);
        return rc;
    }
    pthread_mutex_init(&t->lock, NULL);
    *ret = t;
    return DEQ_OK;
}

enum deq_rc tls_reload(struct tls *t, struct deq_err *err)
{
    struct tls fresh;
    const enum deq_rc rc = load(t->cert_path, t->key_path, &fresh, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&t->lock);
    char *const cert = t->cert, *const key = t->key;
    t->cert = fresh.cert;
    t->key = fresh.key;
    t->cert_len = fresh.cert_len;
    t->key_len = fresh.key_len;
    pthread_mutex_unlock(&t->lock);
    deq_free(cert);
    deq_free(key);
    return DEQ_OK;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    if (t->key)
        gnutls_memset(t->key, 0, t->key_len);
    deq_free(t->cert);
    deq_free(t->key);
    pthread_mutex_destroy(&t->lock);
    deq_free(t);
}

void *tls_retrieve_function(void)
{
    return (void *)retrieve;
}

void tls_serve(struct tls *t)
{
    served = t;
}

const char *tls_priorities(void)
{
    return "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";
}
