/* core/base/io_replace.c: all or nothing, through links, beside other writers, and into what is no file. */
#define _GNU_SOURCE
#include "core/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

/* Entries of the directory besides . and .. */
static unsigned entries(void)
{
    unsigned n = 0;
    DIR *d = opendir(scratch_dir());
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n - 2;
}

TEST(io_replace_touches_no_other_file)
{
    REQUIRE(scratch_begin());
    struct deq_err e;
    struct stat st;
    const struct deq_part new = {"new", 3};
    static const char *const others[] = {"f.tmp", ".f.tmp", ".f.0123456789abcdeg.tmp", ".g.0123456789abcdef.tmp",
                                         ".f.0123456789abcdef.tmp.old", "ff"};
    for (size_t i = 0; i < DEQ_COUNT(others); i++)
        scratch_put(others[i], "mine");
    CHECK(!symlink("ff", scratch_path("f.part")));
    /* what a killed writer left goes away, what one that is still at work holds stays */
    scratch_put(".f.0123456789abcdef.tmp", "left");
    scratch_put(".f.fedcba9876543210.tmp", "held");
    const int held = open(scratch_path(".f.fedcba9876543210.tmp"), O_RDONLY);
    CHECK(held >= 0 && !flock(held, LOCK_EX));
    CHECK(!deq_io_replace(scratch_path("f"), &new, 1, &e) && scratch_is("f", "new"));
    CHECK(!deq_io_exists(scratch_path(".f.0123456789abcdef.tmp")) && scratch_is(".f.fedcba9876543210.tmp", "held"));
    for (size_t i = 0; i < DEQ_COUNT(others); i++)
        CHECK_MSG(scratch_is(others[i], "mine"), "%s", others[i]);
    CHECK(entries() == DEQ_COUNT(others) + 3);
    close(held);

    /* mode: as the umask says for a new one, as it was for an old one; another hard link keeps what it has */
    const mode_t mask = umask(027);
    unlink(scratch_path("f"));
    CHECK(!deq_io_replace(scratch_path("f"), &new, 1, &e) && !stat(scratch_path("f"), &st) &&
          (st.st_mode & 07777) == 0640);
    umask(mask);
    CHECK(!chmod(scratch_path("f"), 0604) && !link(scratch_path("f"), scratch_path("ff.link")));
    CHECK(!deq_io_replace(scratch_path("f"), &(struct deq_part){"newer", 5}, 1, &e) && !stat(scratch_path("f"), &st) &&
          (st.st_mode & 07777) == 0604);
    CHECK(scratch_is("f", "newer") && scratch_is("ff.link", "new"));
    for (size_t i = 0; i < DEQ_COUNT(others); i++)
        unlink(scratch_path(others[i]));
    scratch_end("f", "f.part", "ff.link", NULL);
}

TEST(io_replace_goes_through_links)
{
    REQUIRE(scratch_begin());
    struct deq_err e;
    struct stat st;
    const struct deq_part new = {"new", 3};
    CHECK(!deq_io_mkdir(scratch_path("sub"), &e));
    scratch_put("sub/real", "old");
    /* a chain of relative links, one through a directory, and one to what is not there yet */
    CHECK(!symlink("sub/second", scratch_path("first")) && !symlink("real", scratch_path("sub/second")) &&
          !symlink("sub/later", scratch_path("dangling")));
    CHECK(!symlink(scratch_path("sub/real"), scratch_path("absolute")) && !symlink("loop", scratch_path("loop")));
    CHECK(!deq_io_replace(scratch_path("first"), &new, 1, &e) && scratch_is("sub/real", "new"));
    CHECK(!deq_io_replace(scratch_path("absolute"), &(struct deq_part){"newer", 5}, 1, &e) &&
          scratch_is("sub/real", "newer"));
    CHECK(!deq_io_replace(scratch_path("dangling"), &new, 1, &e) && scratch_is("sub/later", "new"));
    static const char *const links[] = {"first", "sub/second", "absolute", "dangling"};
    for (size_t i = 0; i < DEQ_COUNT(links); i++)
        CHECK_MSG(!lstat(scratch_path(links[i]), &st) && S_ISLNK(st.st_mode), "%s", links[i]);
    CHECK(deq_io_replace(scratch_path("loop"), &new, 1, &e) == DEQ_EIO && strstr(e.text, "loop"));
    for (size_t i = 0; i < DEQ_COUNT(links); i++)
        unlink(scratch_path(links[i]));
    scratch_end("loop", "sub/real", "sub/later", "sub", NULL);
}

TEST(io_replace_writes_through_what_is_no_file)
{
    REQUIRE(scratch_begin());
    struct deq_err e;
    struct stat st;
    const struct deq_part parts[2] = {{"through", 7}, {"\n", 1}};
    char got[16] = "", path[64];
    CHECK(!mkfifo(scratch_path("fifo"), 0600) && !symlink("fifo", scratch_path("link")));
    const int reader = open(scratch_path("fifo"), O_RDONLY | O_NONBLOCK);
    CHECK(!deq_io_replace(scratch_path("link"), parts, 2, &e) && read(reader, got, sizeof got) == 8 &&
          !strcmp(got, "through\n"));
    CHECK(!lstat(scratch_path("fifo"), &st) && S_ISFIFO(st.st_mode) && !lstat(scratch_path("link"), &st) &&
          S_ISLNK(st.st_mode));
    close(reader);
    CHECK(!deq_io_replace("/dev/null", parts, 2, &e) && !stat("/dev/null", &st) && S_ISCHR(st.st_mode));

    const int s = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", scratch_path("s"));
    if (strlen(scratch_path("s")) < sizeof a.sun_path && !bind(s, (struct sockaddr *)&a, sizeof a))
        CHECK(deq_io_replace(scratch_path("s"), parts, 2, &e) == DEQ_EIO && strstr(e.text, "socket") &&
              !lstat(scratch_path("s"), &st) && S_ISSOCK(st.st_mode));
    close(s);

    /* descriptors of ours by name: at their place in the file, as `>> file` wants it; and where
     * they are not open for writing */
    scratch_put("f", "before ");
    const int fd = open(scratch_path("f"), O_WRONLY | O_APPEND), ro = open(scratch_path("f"), O_RDONLY);
    snprintf(path, sizeof path, "/dev/fd/%d", fd);
    CHECK(!deq_io_replace(path, parts, 2, &e) && scratch_is("f", "before through\n"));
    snprintf(path, sizeof path, "/proc/self/fd/%d", ro);
    CHECK(deq_io_replace(path, parts, 2, &e) == DEQ_EIO && scratch_is("f", "before through\n"));
    close(fd);
    close(ro);
    /* as a full disk answers; a node of our own, where we may make one */
    if (!mknod(scratch_path("full"), S_IFCHR | 0600, makedev(1, 7))) {
        CHECK(deq_io_replace(scratch_path("full"), parts, 2, &e) == DEQ_EIO && strstr(e.text, strerror(ENOSPC)));
        CHECK(!lstat(scratch_path("full"), &st) && S_ISCHR(st.st_mode));
    }
    unlink(scratch_path("full"));
    unlink(scratch_path("s"));
    scratch_end("f", "link", "fifo", NULL); /* and nothing beside them */
}

static bool put_in(const char *part, const char *text)
{
    char path[4400];
    snprintf(path, sizeof path, "%s/f", part);
    return !deq_io_replace(path, &(struct deq_part){text, strlen(text)}, 1, NULL);
}

TEST(io_new_directories)
{
    REQUIRE(scratch_begin());
    struct deq_err e;
    struct deq_new_dir d;
    /* what a killed writer left, with a file that was not complete; what somebody else has called so; what is no
     * file in it is not touched */
    CHECK(!deq_io_mkdir(scratch_path(".m.0123456789abcdef.tmp"), &e) && !deq_io_mkdir(scratch_path(".m.part"), &e) &&
          !deq_io_mkdir(scratch_path(".m.fedcba9876543210.tmp"), &e));
    scratch_put(".m.0123456789abcdef.tmp/.config.json.0123456789abcdef.tmp", "left");
    CHECK(!deq_io_mkdir(scratch_path(".m.fedcba9876543210.tmp/sub"), &e));
    CHECK(!deq_io_dir_begin(scratch_path("m//"), &d, &e));
    CHECK(!deq_io_exists(scratch_path(".m.0123456789abcdef.tmp")) && deq_io_exists(scratch_path(".m.part")) &&
          deq_io_exists(scratch_path(".m.fedcba9876543210.tmp/sub")));
    CHECK(put_in(d.part, "whole"));
    CHECK(!deq_io_exists(scratch_path("m")) && !deq_io_dir_end(&d, DEQ_OK, &e) && scratch_is("m/f", "whole"));
    CHECK(deq_io_dir_begin(scratch_path("m"), &d, &e) == DEQ_EINVAL && strstr(e.text, "exists already"));
    /* one that failed, and one whose place was taken meanwhile */
    CHECK(!deq_io_dir_begin(scratch_path("n"), &d, &e));
    CHECK(put_in(d.part, "part"));
    CHECK(deq_io_dir_end(&d, DEQ_ENUMERIC, &e) == DEQ_ENUMERIC && !deq_io_exists(scratch_path("n")) &&
          !deq_io_exists(d.part));
    CHECK(!deq_io_dir_begin(scratch_path("n"), &d, &e));
    scratch_put("n", "taken");
    CHECK(deq_io_dir_end(&d, DEQ_OK, &e) == DEQ_EIO && scratch_is("n", "taken") && !deq_io_exists(d.part));
    CHECK(deq_io_dir_begin(scratch_path("none/n"), &d, &e) == DEQ_ENOTFOUND &&
          deq_io_dir_begin("", &d, &e) == DEQ_EINVAL && deq_io_dir_begin("/", &d, &e) == DEQ_EINVAL);
    scratch_end("n", "m/f", "m", ".m.part", ".m.fedcba9876543210.tmp/sub", ".m.fedcba9876543210.tmp", NULL);
}

TEST(io_replace_is_all_or_nothing)
{
    REQUIRE(scratch_begin());
    struct deq_err e;
    const char *f = scratch_path("f");
    struct deq_part parts[3] = {{"ab", 2}, {NULL, 0}, {"c\n", 2}};
    CHECK(!deq_io_replace(f, parts, 3, &e) && scratch_is("f", "abc\n"));
    CHECK(!deq_io_replace(f, parts, 1, &e) && scratch_is("f", "ab")); /* shorter: nothing of the old file remains */
    CHECK(!deq_io_replace(f, NULL, 0, &e) && scratch_is("f", ""));
    scratch_put("f", "old");

    CHECK(!deq_io_mkdir(scratch_path("d"), &e) && !deq_io_mkdir(scratch_path("d"), &e));
    CHECK(deq_io_replace(scratch_path("d"), parts, 3, &e) == DEQ_EIO && strstr(e.text, "is a directory") &&
          deq_io_is_dir(scratch_path("d")));
    CHECK(deq_io_replace(scratch_path("new/"), parts, 3, &e) == DEQ_EINVAL);
    CHECK(deq_io_replace(scratch_path("none/x"), parts, 3, &e) == DEQ_ENOTFOUND);
    /* the disk takes only a part: a limit on file size stands in for a full one */
    struct rlimit old, small;
    if (!getrlimit(RLIMIT_FSIZE, &old)) {
        struct deq_part big = {calloc(1, 100000), 100000};
        void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
        small = (struct rlimit){.rlim_cur = 4096, .rlim_max = old.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        enum deq_rc rc = deq_io_replace(f, &big, 1, &e);
        CHECK(rc == DEQ_EIO && scratch_is("f", "old") && strstr(e.text, strerror(EFBIG)));
        char *line = calloc(1, 5000);
        memset(line, 'x', 4999);
        CHECK(deq_io_append_line(f, line, &e) == DEQ_EIO && scratch_is("f", "old")); /* and no part of it is there */
        free(line);
        setrlimit(RLIMIT_FSIZE, &old);
        signal(SIGXFSZ, handler);
        free((void *)(uintptr_t)big.data);
    }
    char *longest = calloc(1, 5000);
    memset(longest, 'p', 4999);
    CHECK(deq_io_replace(longest, parts, 3, &e) == DEQ_EINVAL);
    free(longest);

    CHECK(!deq_io_append_line(scratch_path("log"), "one", &e) && !deq_io_append_line(scratch_path("log"), "two", &e));
    CHECK(scratch_is("log", "one\ntwo\n"));
    CHECK(deq_io_append_line(scratch_path("none/log"), "x", &e) == DEQ_ENOTFOUND);
    CHECK(deq_io_append_line(scratch_path("d"), "x", &e) == DEQ_EIO);
    /* it does not wait */
    CHECK(!mkfifo(scratch_path("pipe"), 0600) && deq_io_append_line(scratch_path("pipe"), "x", &e) == DEQ_EIO &&
          strstr(e.text, "nobody reads"));
    CHECK(!unlink(scratch_path("pipe")));
    CHECK(!deq_io_append_line("/dev/null", "x", &e) &&
          deq_io_read("", 1, &(char *){NULL}, &(size_t){0}, &e) == DEQ_ENOTFOUND &&
          strstr(e.text, "\"\": cannot open"));
    CHECK(deq_io_mkdir(f, &e) == DEQ_EIO); /* exists, but is a file */
    CHECK(deq_io_exists(f) && !deq_io_is_dir(f) && !deq_io_exists(scratch_path("none")));
    char out[8];
    CHECK(deq_io_join(out, sizeof out, "abc", "def") && !strcmp(out, "abc/def"));
    CHECK(!deq_io_join(out, sizeof out, "abc", "defg"));
    scratch_end("f", "log", "d", NULL);
}

static struct deq_part piece(void *ctx, size_t i)
{
    static char held[8];
    snprintf(held, sizeof held, "%zu;", i + *(size_t *)ctx);
    return (struct deq_part){held, strlen(held)};
}

/* What is made piece by piece, and for its owner alone. */
TEST(io_replace_private_in_pieces)
{
    size_t from = 40;
    const struct deq_parts parts = {3, piece, &from};
    struct deq_err e;
    struct stat st;
    REQUIRE(scratch_begin());
    const mode_t mask = umask(0);
    CHECK(!deq_io_replace_private(scratch_path("f"), &parts, &e) && scratch_is("f", "40;41;42;"));
    CHECK(!stat(scratch_path("f"), &st) && (st.st_mode & 07777) == 0600);
    umask(mask);
    scratch_end("f", NULL);
}

/* A directory with all that is in it, but not what a link in it leads to; one that cannot go is not counted. */
TEST(io_sweep_removes_directories_with_what_is_in_them)
{
    static const char *const dirs[] = {".f.0123456789abcdef.tmp", ".f.0123456789abcdef.tmp/a",
                                       ".f.0123456789abcdef.tmp/a/b", ".f.0123456789abcdef.tmp/empty", "other"};
    char deep[128] = ".g.0123456789abcdef.tmp";
    REQUIRE(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(dirs); i++)
        CHECK(!mkdir(scratch_path(dirs[i]), 0700));
    scratch_put("other/kept", "mine");
    scratch_put(".f.0123456789abcdef.tmp/part", "left");
    scratch_put(".f.0123456789abcdef.tmp/a/b/part", "left");
    CHECK(!symlink("../other", scratch_path(".f.0123456789abcdef.tmp/link")));
    CHECK_EQ(deq_io_sweep(scratch_dir()), 1);
    CHECK_EQ(entries(), 1);
    CHECK(scratch_is("other/kept", "mine"));
    for (int i = 0; i < 12; i++) { /* deeper than anybody makes them */
        CHECK(!mkdir(scratch_path(deep), 0700));
        strcat(deep, "/d");
    }
    CHECK_EQ(deq_io_sweep(scratch_dir()), 0);
    while (strrchr(deep, '/')) {
        *strrchr(deep, '/') = 0;
        CHECK(!rmdir(scratch_path(deep)));
    }
    scratch_end("other/kept", "other", NULL);
}

/* Of any name, unless its writer is still at work; nothing else. */
TEST(io_sweep_removes_what_was_left)
{
    static const char *const others[] = {"f", "f.tmp", ".f.0123456789abcdeg.tmp", ".0123456789abcdef.tmp",
                                         "..0123456789abcdef.tm"};
    REQUIRE(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(others); i++)
        scratch_put(others[i], "mine");
    scratch_put(".f.safetensors.0123456789abcdef.tmp", "left");
    scratch_put(".g.0123456789abcdef.tmp", "left");
    scratch_put(".h.fedcba9876543210.tmp", "held");
    const int held = open(scratch_path(".h.fedcba9876543210.tmp"), O_RDONLY);
    CHECK(held >= 0 && !flock(held, LOCK_EX));
    CHECK_EQ(deq_io_sweep(scratch_dir()), 2);
    CHECK_EQ(entries(), DEQ_COUNT(others) + 1);
    for (size_t i = 0; i < DEQ_COUNT(others); i++)
        CHECK_MSG(scratch_is(others[i], "mine"), "%s", others[i]);
    close(held);
    CHECK_EQ(deq_io_sweep(scratch_path("none")), 0);
    scratch_end("f", "f.tmp", ".f.0123456789abcdeg.tmp", ".0123456789abcdef.tmp", "..0123456789abcdef.tm",
                ".h.fedcba9876543210.tmp", NULL);
}
