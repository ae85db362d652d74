# Makes the header that is installed, deq.h, of core/deq.h and the headers of rooms that it includes: each where it is
# first included, without its guard, all within one guard and extern "C". What they include of the system stands on top.
#   awk -v version=0.1.0 -f core/one_header.awk core/deq.h

function put(line) { body = body line "\n" }

# depth: of #if within the file, whose guard is the outermost
function take(file,    line, depth, name) {
    taken[file] = 1
    while ((getline line < file) > 0) {
        if (line ~ /^#include "/) {
            split(line, name, "\"")
            if (!(name[2] in taken))
                take(name[2])
        } else if (line ~ /^#include </) {
            if (!(line in asked))
                system_headers = system_headers line "\n"
            asked[line] = 1
        } else if (line ~ /^#if/ && ++depth == 1 || line ~ /^#endif/ && --depth == 0) {
            if (line ~ /^#if/)
                getline line < file # its #define
            if (file == top && line !~ /^#endif/) {
                head = body
                body = ""
            }
        } else {
            put(line)
        }
    }
    close(file)
}

BEGIN {
    top = ARGV[1]
    take(top)
    sub(/^\n+/, "", body)
    sub(/\n+$/, "\n", body)
    gsub(/\n\n\n+/, "\n\n", body)
    printf "%s#ifndef DEQ_H\n#define DEQ_H\n\n%s\n#define DEQ_VERSION \"%s\"\n\n", head, system_headers, version
    printf "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n%s\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n", body
}
