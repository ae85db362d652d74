/* Runs a fuzz target over the files that are named: seeds and cases that were found once. No libFuzzer needed. */
#include <stdio.h>

#include "core/base/io.h"
#include "core/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct deq_err err;
        char *data;
        size_t n;
        if (deq_io_read(argv[i], 1 << 20, &data, &n, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        LLVMFuzzerTestOneInput((const uint8_t *)data, n);
        deq_free(data);
    }
    printf("%s: %d inputs\n", argv[0], argc - 1);
    return argc < 2;
}
