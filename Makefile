# deqd: `make help` lists what there is. V=1 shows the commands themselves.
CC      ?= cc
# as many jobs as cores, unless the caller or a make above said how many
ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 1)
endif
SAN     ?=
comma   := ,
CONFIG  := $(if $(SAN),san-$(subst $(comma),-,$(SAN)),release)
OUT     := build
OBJ     := $(OUT)/$(CONFIG)
VERSION := 0.1.0

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wvla -Wformat=2
OPT     := $(if $(SAN),-O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN) -DDEQ_BUG_ENDS,-O3 -g1)
HARDEN  := -fstack-protector-strong $(if $(SAN),,-D_FORTIFY_SOURCE=2)
CFLAGS_  = -std=gnu11 $(OPT) $(WARN) $(HARDEN) $(PLACE) -fno-math-errno -fno-trapping-math -ffp-contract=off -I. -DDEQ_VERSION='"$(VERSION)"' -MMD -MP
LDFLAGS_:= -pie -Wl,-z,relro,-z,now $(if $(SAN),-fsanitize=$(SAN))
LIBS    := -ljansson -lyaml -lzip -lunistring -lm -lpthread
# core's objects go into programs and the shared library alike; what they have of each other nobody replaces
PLACE   := -fPIE
$(OBJ)/core/%: PLACE := -fPIC -fno-semantic-interposition
# What must be there to build: a header and the Debian package that has it (libmicrohttpd's brings GnuTLS's). README and docker/Dockerfile install the same (lint).
NEEDED  := stdio.h:libc6-dev jansson.h:libjansson-dev yaml.h:libyaml-dev zip.h:libzip-dev uninorm.h:libunistring-dev microhttpd.h:libmicrohttpd-dev gnutls/gnutls.h:libmicrohttpd-dev \
           seccomp.h:libseccomp-dev cblas.h:libopenblas-dev curl/curl.h:libcurl4-gnutls-dev

# the same for the unit tests alone
NEEDED_UNIT := simde/x86/avx512.h:libsimde-dev cmocka.h:libcmocka-dev

CORE    := $(filter-out core/examples/%,$(wildcard core/*.c core/*/*.c))
CLI     := $(wildcard models/cli/*.c models/cli/*/*.c)
SERVER  := $(wildcard server/*.c server/*/*.c)
UNIT    := $(wildcard tests/unit/*.c tests/unit/emulate/*.c tests/fault/*.c) models/cli/bench/stats.c models/cli/bench/sse.c models/cli/tune/choose.c
SIM     := $(wildcard tests/sim/*.c)
FUZZ    := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SHARED := $(filter-out tests/fuzz/fuzz_%.c tests/fuzz/replay.c,$(wildcard tests/fuzz/*.c)) models/cli/bench/sse.c
obj      = $(patsubst %.c,$(OBJ)/%.o,$(1))
# $(call quietly,CC,what,command): one line, and what the command has to say in one piece with it, since several run at a time
quietly  = $(if $(filter-out 0,$(V)),$(3),@said=$$($(3) 2>&1); code=$$?; [ -z "$$said" ] || exec >&2; \
	printf "  %-4s %s\n$${said:+%s\n}" '$(1)' '$(2)' $${said:+"$$said"}; exit $$code)

.DEFAULT_GOAL := all
# what is cleaned is not built at the same time
ifneq ($(filter clean,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif
##@ Build and run
.PHONY: all
all: link ## build build/deqd and build/deq (the default); CC=, CFLAGS=, SAN=address,undefined or SAN=thread

AVX512 := -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma
$(OBJ)/core/math/kern_avx2.o $(OBJ)/core/math/peak_avx2.o: ARCH := -mavx2 -mfma
$(OBJ)/core/math/kern_avx512.o $(OBJ)/core/math/peak_avx512.o: ARCH := $(AVX512)
$(OBJ)/core/math/kern_vnni.o $(OBJ)/core/math/peak_vnni.o: ARCH := $(AVX512) -mavx512vnni
$(OBJ)/core/math/kern_amx.o $(OBJ)/core/math/peak_amx.o: ARCH := $(AVX512) -mamx-tile -mamx-int8
# where the compiler has fused multiply-adds at hand
FUSING := $(patsubst %,$(OBJ)/core/math/kern_%.o,avx2 avx512 vnni amx)
# the levels' own code on intrinsics in plain C; more of the optimiser takes minutes
EMULATED := $(call obj,$(wildcard tests/unit/emulate/*.c))
$(EMULATED): ARCH := $(if $(SAN),-O0,-O1) -Wno-psabi
$(EMULATED) $(OBJ)/tests/unit/main.o: | needed-unit
# sixteen-lane loops under sanitizers take the optimiser minutes; the reference is not there for speed
$(if $(SAN),$(OBJ)/core/math/kern_ref.o: ARCH := -O0)
# and what is fuzzed is not the kernels
ifeq ($(CONFIG),fuzz)
$(patsubst %,$(OBJ)/core/math/kern_%.o,ref avx2 avx512 vnni amx): ARCH += -fno-sanitize=all
endif
# where numbers come from strangers and files, none changes its value unseen
$(OBJ)/core/data/%.o $(OBJ)/core/text/%.o $(OBJ)/server/%.o: ROOM := -Wconversion
$(OBJ)/%.o: %.c | needed
	@mkdir -p $(@D)
	$(call quietly,CC,$<,$(CC) $(CFLAGS_) $(ROOM) $(CFLAGS) $(ARCH) -c $< -o $@)

# One try with all headers; only when it fails, one after the other. cmocka.h wants others before it.
.PHONY: needed needed-unit
needed: WANTED := $(NEEDED)
needed-unit: WANTED := $(NEEDED_UNIT)
needed needed-unit:
	@finds() { for n; do case $$n in cmocka.h:*) printf '#include <%s.h>\n' stdarg stddef stdint setjmp ;; esac; \
	    echo "#include <$${n%%:*}>"; done | $(CC) $(filter-out --coverage,$(CFLAGS)) -fsyntax-only -x c - 2>/dev/null; }; \
	finds $(WANTED) && exit 0; \
	finds stddef.h || { echo 'deqd cannot be built: the C compiler "$(CC)" does not work. On Debian or Ubuntu, as root:' >&2; \
	    echo '    apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev' >&2; exit 1; }; \
	packages=; headers=; \
	for n in $(WANTED); do finds $$n && continue; headers="$$headers $${n%%:*}"; \
	    case " $$packages " in *" $${n##*:} "*) ;; *) packages="$$packages $${n##*:}" ;; esac; done; \
	echo "deqd cannot be built: missing$$headers. On Debian or Ubuntu, as root:" >&2; \
	echo "    apt-get update && apt-get install -y --no-install-recommends$$packages" >&2; exit 1

$(OBJ)/server/api/ep_about.o: server/api/openapi.json
$(OBJ)/server/api/ep_page.o: $(wildcard server/page/*)

$(OBJ)/libdeq.a: $(call obj,$(CORE))
	@rm -f $@
	$(call quietly,AR,$@,ar rcs $@ $^)

# What is installed of the library: one header, and a shared library that gives the names of core/deq.symbols and no other.
# Until 1.0 a minor version may change them and the structs, so the soname has it.
MINOR   := $(basename $(VERSION))
SHARED_LIBRARY := $(OBJ)/libdeq.so.$(VERSION)
$(OBJ)/deq.h: core/one_header.awk core/deq.h $(wildcard core/*/*.h) Makefile
	@mkdir -p $(@D)
	$(call quietly,AWK,$@,awk -v version=$(VERSION) -f core/one_header.awk core/deq.h > $@)
$(SHARED_LIBRARY): $(OBJ)/libdeq.a core/deq.symbols
	@{ echo 'LIBDEQ_$(MINOR) { global:'; sed 's/$$/;/' core/deq.symbols; echo 'local: *; };'; } > $(OBJ)/libdeq.map
	$(call quietly,LINK,$@,$(CC) -shared -Wl$(comma)-soname$(comma)libdeq.so.$(MINOR) -Wl$(comma)--version-script=$(OBJ)/libdeq.map \
	    -Wl$(comma)-z$(comma)defs$(comma)--as-needed $(filter-out -pie,$(LDFLAGS_)) $(LDFLAGS) $(addprefix -Wl$(comma)-u$(comma),$(shell cat core/deq.symbols)) $< $(LIBS) -o $@)
.PHONY: library
library: $(SHARED_LIBRARY) $(OBJ)/deq.h ## build libdeq.so and deq.h, the one header for those who build on it

$(OBJ)/deq: $(call obj,$(CLI)) $(OBJ)/libdeq.a
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) $^ -lcurl -lopenblas $(LIBS) -o $@)
$(OBJ)/deqd: $(call obj,$(SERVER)) $(OBJ)/libdeq.a
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) $^ -lmicrohttpd -lgnutls -lseccomp $(LIBS) -o $@)
$(OBJ)/unit: $(call obj,$(UNIT) $(filter-out server/main.c,$(SERVER))) $(OBJ)/libdeq.a
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) $^ -lcmocka -lmicrohttpd -lgnutls -lseccomp -lopenblas $(LIBS) -o $@)
# The simulation: what the daemon's own objects ask of the system, of libmicrohttpd and of a few doors of its own is answered in tests/sim.
SIMULATED := pthread_create pthread_join pthread_detach pthread_self pthread_setname_np pthread_mutex_lock pthread_mutex_unlock pthread_mutex_destroy pthread_rwlock_rdlock \
             pthread_rwlock_wrlock pthread_rwlock_unlock pthread_cond_wait pthread_cond_timedwait pthread_cond_signal pthread_cond_broadcast pthread_sigmask sigaction \
             sigtimedwait sigwaitinfo nanosleep clock_gettime getrandom fsync _exit epoll_create1 epoll_ctl epoll_wait poll ioctl getsockopt setsockopt send recv shutdown \
             close fcntl write listen_open deq_bug deq_step deq_expire deq_vocabulary_embed deq_allowance_reserve deq_budget_init sched_new sched_free sched_reserve sched_submit queue_admit fair_charge fair_places fair_share \
             metrics_init notify_ready getrusage fopen opendir
$(OBJ)/tests/sim/daemon.o: server/main.c | needed
	@mkdir -p $(@D)
	$(call quietly,CC,$< as deqd_main,$(CC) $(CFLAGS_) $(CFLAGS) -Dmain=deqd_main -c $< -o $@)
$(OBJ)/sim: $(call obj,$(SIM)) $(OBJ)/tests/sim/daemon.o $(call obj,$(filter-out server/main.c,$(SERVER))) $(OBJ)/libdeq.a
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) $(SIMULATED:%=-Wl$(comma)--wrap=%) $^ -lgnutls -lseccomp $(LIBS) -o $@)
$(OBJ)/timing: $(call obj,tests/timing/timing.c $(filter-out server/main.c,$(SERVER))) $(OBJ)/libdeq.a
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) $^ -lmicrohttpd -lgnutls -lseccomp $(LIBS) -o $@)
# fuzz targets take of the server, and of what they share, what each of them calls
$(OBJ)/libserver.a: $(call obj,$(filter-out server/main.c,$(SERVER)))
	@rm -f $@
	$(call quietly,AR,$@,ar rcs $@ $^)
$(OBJ)/libfuzz.a: $(call obj,$(FUZZ_SHARED))
	@rm -f $@
	$(call quietly,AR,$@,ar rcs $@ $^)
$(OBJ)/replay: $(call obj,$(FUZZ:%=tests/fuzz/fuzz_%.c) tests/fuzz/replay.c) $(OBJ)/libfuzz.a $(OBJ)/libserver.a $(OBJ)/libdeq.a
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) $^ -lmicrohttpd -lgnutls -lseccomp -lopenblas $(LIBS) -o $@)
$(OBJ)/fuzz_%: $(OBJ)/tests/fuzz/fuzz_%.o $(OBJ)/libfuzz.a $(OBJ)/libserver.a $(OBJ)/libdeq.a
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) -fsanitize=fuzzer $^ -lmicrohttpd -lgnutls -lseccomp -lopenblas $(LIBS) -o $@)
.SECONDARY: $(FUZZ:%=$(OBJ)/tests/fuzz/fuzz_%.o)
# the links follow the configuration that was built last
.PHONY: link
link: $(OBJ)/deq $(OBJ)/deqd
	@ln -sfn $(CONFIG)/deq $(OUT)/deq
	@ln -sfn $(CONFIG)/deqd $(OUT)/deqd

MODEL   ?= models/stories
LISTEN  ?= 127.0.0.1:8080
.PHONY: run test unit simulated sim sim-faults faults kills e2e readme check lint test-clients test-tokenizer bench claims fuzz fuzz-all replay test-k8s k8s-manifests test-observe test-page test-docker test-deb deb test-scaleout bench-scaleout test-paper test-looped-sizes clean help
run: all ## start the daemon on the shipped model; LISTEN=127.0.0.1:8081, MODEL=DIR
	$(OUT)/deqd --config etc/deqd.yaml --model $(MODEL) --listen $(LISTEN) --set state.dir=$(OUT)/states
clean: ## remove build/
	rm -rf $(OUT)
help: ## print this list
	@echo 'make [TARGET]... [VARIABLE=VALUE]...   (V=1 shows the commands; all cores are used, -j2 takes two)'
	@awk '/^##@ / { print "\n" substr($$0, 5) } \
	    /^[a-z0-9-]+:.*## / { \
	        line = sprintf("  %-17s", substr($$0, 1, index($$0, ":") - 1)); sub(/.*## /, ""); n = split($$0, words, " "); \
	        for (i = 1; i <= n; i++) { \
	            if (length(line) + length(words[i]) >= 100) { print line; line = sprintf("%19s", "") } \
	            line = line " " words[i] \
	        } \
	        print line \
	    }' Makefile

##@ Test: what needs the packages of the test line and nothing else
test: pytest lint unit simulated replay e2e readme ## run all of this group but check: what every change has to pass; minutes
# told before the building, not behind it
.PHONY: python
python:
	@command -v python3 > /dev/null || { echo 'this needs Python. On Debian or Ubuntu, as root:' >&2; \
	    echo '    apt-get update && apt-get install -y --no-install-recommends python3 python3-venv' >&2; exit 1; }
# python3, or Debian's where another comes before it
PYTEST   = $(shell for p in python3 /usr/bin/python3; do $$p -c 'import pytest, xdist' 2> /dev/null && echo $$p -m pytest && break; done)
.PHONY: pytest
pytest: python
	@[ '$(PYTEST)' ] || { echo 'the end-to-end tests need pytest and pytest-xdist. On Debian or Ubuntu, as root:' >&2; \
	    echo '    apt-get update && apt-get install -y --no-install-recommends python3-pytest python3-pytest-xdist' >&2; exit 1; }
unit: $(OBJ)/unit unfused ## run the unit and golden tests; build/release/unit WORD runs those whose names contain WORD
	@OPENBLAS_NUM_THREADS=1 $(OBJ)/unit
simulated: $(OBJ)/sim ## run the whole daemon in a simulated world: 60,000 events, twice, and seeds that once found a fault
	@sh tests/sim/run.sh $(OBJ)/sim
.PHONY: unfused
unfused: $(FUSING) ## look for multiply-adds that the compiler fused by itself in the kernels (they change bits)
	@sh tests/lint/unfused.sh $(FUSING)
replay: $(OBJ)/replay ## run the fuzz targets over their committed inputs
	@OPENBLAS_NUM_THREADS=1 UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1 $(OBJ)/replay $(FUZZ:%=tests/fuzz/corpus/%)
e2e: pytest all $(if $(SAN),,library) ## test daemon and command line over real sockets and files; python3 -m pytest tests/e2e -k WORD: some of it
	@DEQ_BUILD=$(if $(SAN),$(OBJ),$(OUT)) $(PYTEST) -q -n auto --dist loadfile tests/e2e
readme: pytest all $(OBJ)/unit ## run the commands of all READMEs as they stand there
	@$(firstword $(PYTEST)) tests/e2e/readme.py
lint: ## check what the sources may include and call, widths, links, versions, texts that follow from tables
	@sh tests/lint/lint.sh
check: lint ## lint, then unit and end-to-end tests under ASan and UBSan, and the server under TSan
	$(MAKE) SAN=address,undefined sanitized
	$(MAKE) SAN=thread sanitized-threads
.PHONY: sanitized sanitized-threads
sanitized: pytest $(OBJ)/unit $(OBJ)/deq $(OBJ)/deqd replay
	OPENBLAS_NUM_THREADS=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 $(OBJ)/unit
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 DEQ_BUILD=$(OBJ) $(PYTEST) -q -n auto --dist loadfile tests/e2e
# unit tests that begin threads, without emulated kernels, which take gcc minutes
THREADED := test_pool.c test_log.c test_notify.c test_probe.c test_states.c test_sched.c test_store.c test_prefix_copy.c
$(OBJ)/unit_threads: $(call obj,tests/unit/main.c $(patsubst %,tests/unit/%.c,scratch jobs answers) $(THREADED:%=tests/unit/%)) $(OBJ)/libserver.a $(OBJ)/libdeq.a
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) $^ -lcmocka -lmicrohttpd -lgnutls -lseccomp $(LIBS) -o $@)
sanitized-threads: $(OBJ)/deq $(OBJ)/deqd $(OBJ)/unit_threads
	$(OBJ)/unit_threads
	DEQ_BUILD=$(OBJ) python3 tests/e2e/threads.py

##@ Test further: what fetches or needs other programs, or takes long
test-clients: all ## try real clients: openai for Python and Node, lm-eval, nginx, schemathesis, generated ones
	sh tests/clients/run.sh
test-tokenizer: all ## compare every code point and 10,000 random strings with the tokenizers library
	sh tests/golden/tokenizer/run.sh
test-observe: all ## try every rule and query of etc/prometheus and etc/grafana on a real Prometheus
	sh tests/observe/run.sh
test-page: all ## use the page at / in a real browser, as a person would; screenshots in build/page
	sh tests/page/run.sh
test-scaleout: all ## run three replicas behind HAProxy under load; one is killed, all are rolled
	sh tests/scaleout/run.sh scaleout
test-docker: ## build the container image and run it read-only, unprivileged, under limits; as root
	sh tests/docker/run.sh
test-deb: ## build the Debian packages, have lintian look, then install, use, upgrade, remove, purge; as root
	sh tests/deb/run.sh
test-k8s: all ## hold chart and manifests against Kubernetes' schemas and a running deqd; builds helm if need be
	sh tests/k8s/run.sh
TEXT    ?= models/README.md
test-paper: all ## import, load and serve a model of the paper's shape within limits, and score TEXT; 1 GB of disk
	DEQ_BUILD=$(OUT) python3 tests/paper/run.py $(TEXT)
SHAPES  ?= attractor-140m attractor-770m huginn-3.5b
test-looped-sizes: all ## the same with looped models of published sizes; 16 GB of disk, 9 GB of memory (with SHAPES=attractor-140m 2 and 1)
	DEQ_BUILD=$(OUT) python3 tests/sizes/run.py $(SHAPES)
SEED    ?= 1
EVENTS  ?= 10000000
KILLS   ?= 500
SERVED_KILLS ?= 200
faults: $(OBJ)/unit all ## make every allocation, system call and thread fail in turn, disks too; half an hour
	DEQ_FAULTS=all OPENBLAS_NUM_THREADS=1 $(OBJ)/unit fault_
	DEQ_FAULTS=all DEQ_BUILD=$(if $(SAN),$(OBJ),$(OUT)) python3 tests/fault/run.py
kills: all ## kill training 500 times and serving 200 times at random instants; KILLS=, SERVED_KILLS=, SEED=
	KILLS=$(KILLS) SERVED_KILLS=$(SERVED_KILLS) SEED=$(SEED) DEQ_BUILD=$(if $(SAN),$(OBJ),$(OUT)) python3 tests/fault/run.py kills
sim: $(OBJ)/sim ## run the simulated daemon from one seed, with invariants after every event; SEED=1, EVENTS=10000000; minutes
	@$(OBJ)/sim --seed $(SEED) --events $(EVENTS) --dir $(OUT)/sim-state
SEEDS   ?= 4
FAULT_EVENTS ?= 100000
sim-faults: $(OBJ)/sim ## plant faults in the daemon, each in turn: the simulation finds 9 of 10; SEEDS=4, FAULT_EVENTS=100000; FAULT="a slow reader"
	@COMPILE='$(CC) $(CFLAGS_) $(CFLAGS)' LINK='$(CC) $(LDFLAGS_) $(LDFLAGS) $(SIMULATED:%=-Wl$(comma)--wrap=%)' LIBRARIES='-lgnutls -lseccomp $(LIBS)' \
	    OBJECTS='$(call obj,$(SIM)) $(OBJ)/tests/sim/daemon.o $(call obj,$(filter-out server/main.c,$(SERVER))) $(OBJ)/libdeq.a' \
	    python3 tests/sim/planted.py $(OBJ) $(SEEDS) $(FAULT_EVENTS) $(if $(FAULT),"$(FAULT)")
test-python: wheel ## test the Python package from its wheel, in its own virtual environment
	sh tests/python/run.sh $(PYTHON_ENV) $(WHEEL)
RUNS    ?= $(if $(filter-out 0,$(SECS)),0,1000000)
SECS    ?= 0
fuzz: ## fuzz one target of tests/fuzz with libFuzzer, ASan and UBSan: T=body; SECS=60 or RUNS=1000000, FUZZ_ARGS=; needs clang
	@case " $(FUZZ) " in *" $(T) "*) ;; *) echo "make fuzz T=...: one of $(FUZZ)"; exit 1 ;; esac
	$(MAKE) $(FUZZ_BUILD) $(OUT)/fuzz/fuzz_$(T)
	@FUZZ_ARGS='$(FUZZ_ARGS)' sh tests/fuzz/run.sh $(SECS) $(RUNS) $(T)
fuzz-all: python ## fuzz every target for SECS=60 seconds, and tell how much ran since something was found; needs clang
	@command -v clang > /dev/null || { echo 'skipped: make fuzz-all needs clang (apt-get install clang libclang-rt-dev)'; exit 0; }; \
	$(MAKE) $(FUZZ_BUILD) $(FUZZ:%=$(OUT)/fuzz/fuzz_%) && sh tests/fuzz/run.sh $(if $(filter-out 0,$(SECS)),$(SECS),60) 0 $(FUZZ)
FUZZ_BUILD := CC=clang CONFIG=fuzz SAN=fuzzer-no-link,address,undefined CFLAGS="-gline-tables-only -fno-sanitize-recover=undefined -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION"

##@ Review: other readers of the code
.PHONY: clang objects
objects: $(call obj,$(CORE) $(CLI) $(SERVER) $(UNIT) $(SIM) $(wildcard tests/fuzz/*.c))
clang: ## read every source with clang, whose warnings are errors; builds nothing
	@command -v clang > /dev/null || { echo "clang: skipped: there is none (apt-get install clang)"; exit 0; }; \
	$(MAKE) CC=clang CONFIG=clang CFLAGS="-Werror -fsyntax-only" objects && echo "clang: ok"

.PHONY: analyze msan memcheck cov cov-run mutate
analyze: ## run clang-tidy, cppcheck and gcc -fanalyzer: no finding that is not explained; ROOMS="server core/data"; minutes
	@sh tests/lint/analyze.sh $(ROOMS)
# MSan sees what clang compiled, and not what a library writes: these tests call none but cmocka, on sources that need no
# more. Memory from malloc and behind free counts as written: ours is zeros, cmocka's is its own.
READ_TESTS := test_utf8.c test_head.c test_header.c test_origin.c test_text.c test_tokens.c test_hash.c test_stream.c test_flags.c test_regex.c \
              test_gbnf.c test_spelling.c test_err.c test_buf.c test_half.c test_budget.c test_sse.c test_cholesky.c
READERS := $(wildcard core/base/*.c core/form/*.c) core/solve/cholesky.c core/text/stream.c server/net/head.c server/net/header.c server/net/origin.c models/cli/bench/sse.c
$(OBJ)/unit_read: $(call obj,tests/unit/main.c tests/unit/forms.c tests/unit/scratch.c $(READ_TESTS:%=tests/unit/%) $(READERS))
	$(call quietly,LINK,$@,$(CC) $(LDFLAGS_) $(LDFLAGS) $^ -lcmocka $(LIBS) -o $@)
msan: ## run the unit tests of what reads text under clang's MSan, as far as they call no library; MSAN=test_FILE.c; needs clang
	@command -v clang > /dev/null || { echo "msan: skipped: there is no clang (apt-get install clang libclang-rt-dev)"; exit 0; }; \
	$(MAKE) CC=clang SAN=memory CFLAGS=-fsanitize-memory-track-origins $(OUT)/san-memory/unit_read && \
	    MSAN_OPTIONS=poison_in_malloc=0:poison_in_free=0 $(OUT)/san-memory/unit_read $(MSAN)
# Valgrind takes everything for thirty times as long, and knows AVX2 at most.
MEMCHECK ?= test_request.c test_request_form.c test_request_messages.c test_fields.c test_head.c test_header.c test_json.c test_json_fields.c test_yaml.c test_utf8.c \
            test_stream.c test_tokenizer_load.c test_tokenizer_config.c test_safetensors.c test_pickle.c test_torchfile.c test_config.c test_chat_template.c test_jinja.c \
            test_auth.c test_fair.c test_sched.c test_engine_thread.c test_engine_open.c test_pages.c test_solver.c test_states.c test_checkpoint.c
memcheck: ## run valgrind over the unit tests of parsers, loaders, scheduler and solver; MEMCHECK=test_FILE.c; minutes
	@command -v valgrind > /dev/null || { echo "memcheck: skipped: there is no valgrind"; exit 0; }; \
	$(MAKE) $(OBJ)/unit && DEQ_CPU=avx2 OPENBLAS_CORETYPE=Haswell OPENBLAS_NUM_THREADS=1 \
	    valgrind --quiet --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite $(OBJ)/unit $(MEMCHECK)
cov: ## count lines and branches that the unit tests reach, by room (gcovr); COV=FILE.c: what is not reached of it; TESTS=test_FILE.c; E2E=1: end-to-end tests too
	@command -v gcovr > /dev/null || { echo "cov: skipped: there is no gcovr"; exit 0; }; \
	$(MAKE) CONFIG=cov CFLAGS="-O0 -U_FORTIFY_SOURCE --coverage -fprofile-update=atomic" LDFLAGS=--coverage cov-run
cov-run: $(OBJ)/unit $(if $(E2E),pytest $(OBJ)/deq $(OBJ)/deqd)
	find $(OBJ) -name '*.gcda' -delete
	OPENBLAS_NUM_THREADS=1 $(OBJ)/unit $(TESTS)
	$(if $(E2E),DEQ_BUILD=$(OBJ) $(PYTEST) -q -n auto --dist loadfile tests/e2e)
	gcovr --root . --filter core/ --filter server/ --json $(OBJ)/coverage.json $(OBJ)
	python3 tests/tools/coverage.py $(OBJ)/coverage.json $(COV)
COUNT   ?= 200
SEED    ?= 1
mutate: $(OBJ)/unit ## change COUNT=200 relations, constants and branches at random (SEED=1); a test of the module must fail for 90 %; MODULE="stop strings"; an hour
	@COMPILE='$(CC) $(CFLAGS_) $(CFLAGS)' LINK='$(CC) $(LDFLAGS_) $(LDFLAGS)' LIBRARIES='-lcmocka -lmicrohttpd -lgnutls -lseccomp -lopenblas $(LIBS)' \
	    OBJECTS='$(call obj,$(UNIT) $(filter-out server/main.c,$(SERVER))) $(OBJ)/libdeq.a' \
	    python3 tests/tools/mutate.py $(OBJ) $(COUNT) $(SEED) $(if $(MODULE),"$(MODULE)")

##@ Measure
bench: all ## measure kernels, engine and daemon on MODEL, beside the machine's limits
	$(OUT)/deq bench kernels $(MODEL)
	$(OUT)/deq bench engine $(MODEL)
	python3 tests/bench/daemon.py $(MODEL)
	python3 tests/bench/load.py $(MODEL)
.PHONY: soak slow overload timing cost
TRIALS  ?= 1000000
timing: $(OBJ)/timing ## show that the time of comparing API keys tells nothing: TRIALS=1000000
	$(OBJ)/timing --trials $(TRIALS)
MINUTES ?= 10
RATE    ?= 10
soak: all ## serve mixed clients for MINUTES=10 at RATE=10 a second: memory and answers stay the same; build/soak/soak.svg
	DEQ_BUILD=$(OUT) python3 tests/soak/soak.py --minutes $(MINUTES) --rate $(RATE)
SECONDS ?= 60
slow: all ## serve a good client beside 1,000 slow ones (slowhttptest), SECONDS=60 an attack
	DEQ_BUILD=$(OUT) python3 tests/soak/slow.py --seconds $(SECONDS) --model $(MODEL)
PART    ?=
cost: all ## measure time and memory a byte of every endpoint, loader and tokenizer; PART="endpoints heads files attacks"
	DEQ_BUILD=$(OUT) python3 tests/cost/cost.py $(PART)
overload: all ## offer 300 % of capacity in five runs, daemon and generator on a core each: goodput at least 95 %
	DEQ_BUILD=$(OUT) python3 tests/bench/load.py $(MODEL) overload --split --runs 5 --strict
bench-scaleout: all ## compare three replicas on this machine's cores with one
	sh tests/scaleout/run.sh throughput

# DATA: WikiText-2 as published; PLAN=1: the list and its hours; MEMORY=1: memory over depth alone; WORK, THREADS
# DEPTH=1: what makes a model good after one evaluation, on DATA with TinyStories
claims: python all ## measure the paper's three claims (models/claims/README.md): DATA=DIR, WORK=DIR, THREADS=N; hours; PLAN=1: what it would run; QUICK=1: ten minutes; MEMORY=1, DEPTH=1: a part
	@DEQ_BUILD=$(OUT) python3 models/claims/$(if $(DEPTH),depth,claims).py $(if $(QUICK),--quick) $(if $(PLAN),--plan) $(if $(MEMORY),--memory) $(if $(DATA),--data '$(DATA)') $(if $(WORK),--work '$(WORK)') $(if $(THREADS),--threads $(THREADS))

##@ Install and deploy
# What the Python package is made of: itself, and beside it the library, its header (also as its declarations alone) and the program
WHEEL   := $(OUT)/wheel
PYTHON_ENV := $(OUT)/python-venv
# made last: venv leaves a pip behind even where the packages could not be fetched
$(PYTHON_ENV)/complete:
	rm -rf $(PYTHON_ENV)
	python3 -m venv $(PYTHON_ENV)
	$(PYTHON_ENV)/bin/pip install --quiet --disable-pip-version-check 'setuptools>=65' wheel
	touch $@
.PHONY: wheel test-python
wheel: python all library $(PYTHON_ENV)/complete ## build the Python package deq with library and program inside; in build/wheel
	rm -rf $(WHEEL)
	mkdir -p $(WHEEL)/source
	cp -R core/python/pyproject.toml core/python/setup.py core/python/README.md core/python/deq $(WHEEL)/source
	mkdir -p $(WHEEL)/source/deq/lib
	cp $(SHARED_LIBRARY) $(WHEEL)/source/deq/lib/libdeq.so
	cp $(OUT)/deq $(OBJ)/deq.h $(WHEEL)/source/deq/lib
	strip --strip-debug $(WHEEL)/source/deq/lib/libdeq.so $(WHEEL)/source/deq/lib/deq
	grep -v '^#include' $(OBJ)/deq.h | $(CC) -E -P - > $(WHEEL)/source/deq/lib/deq.cdef
	$(PYTHON_ENV)/bin/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir $(WHEEL) $(WHEEL)/source
	@ls $(WHEEL)/deq-*.whl
# A tree of its own below build/deb, since dpkg wants debian/ at its top; flags are Debian's there (dpkg-buildflags), so the caller's are not passed on
DEB     := $(OUT)/deb
deb: ## make Debian packages in build/deb: daemon, command line, library, model; needs debhelper, help2man
	@command -v dh dpkg-buildpackage > /dev/null || { echo 'make deb needs debhelper. On Debian or Ubuntu, as root:' >&2; \
	    echo '    apt-get update && apt-get install -y --no-install-recommends build-essential debhelper help2man' >&2; exit 1; }
	rm -rf $(DEB)
	sh etc/debian/tree.sh $(DEB)/deqd-$(VERSION) $(VERSION)
	cd $(DEB)/deqd-$(VERSION) && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u CFLAGS -u LDFLAGS dpkg-buildpackage -us -uc -b
k8s-manifests: ## write docker/k8s/manifests, and what else follows from etc/deqd.yaml and the chart's values
	HELM=$$(sh tests/k8s/helm.sh) && export HELM && python3 docker/k8s/render.py
# The programs say it, help2man makes pages of it; without it there are none, and nothing else is missing.
MAN     := $(OUT)/man
.PHONY: man
man: $(MAN)/deqd.8 ## write the man pages to build/man, of what the programs say to --help; needs help2man
$(MAN)/deqd.8: $(OBJ)/deq $(OBJ)/deqd etc/man.sh Makefile
	@sh etc/man.sh $(OBJ) $(MAN) $(VERSION)
# Where things go: make install PREFIX=/usr DESTDIR=/tmp/package. A configuration that is there stays.
PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
STATEDIR   ?= /var/lib
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR     ?= $(PREFIX)/share/man
SHARED     := $(PREFIX)/share/deqd
UNITS      := $(PREFIX)/lib/systemd/system
INSTALLED  := $(wildcard etc/systemd/*.service etc/systemd/*.socket)
# what names the usual places, with these in their stead
placed      = sed 's|/usr/bin/deqd|$(PREFIX)/bin/deqd|; s|/usr/share|$(PREFIX)/share|g; s|/etc/deqd|$(SYSCONFDIR)/deqd|g; s|/var/lib/deqd|$(STATEDIR)/deqd|g' $(1)
# A path with a space in it would be two to rm -rf, and what sed or the shell reads otherwise another one.
.PHONY: install uninstall places
places:
	@for place in $(foreach p,DESTDIR PREFIX SYSCONFDIR STATEDIR LIBDIR INCLUDEDIR MANDIR,'$(p)=$($(p))'); do case $$place in \
	    DESTDIR=* | *=/* | *=) ;; *) echo "make: $$place: expected a path from the root on" >&2; exit 1 ;; esac; case $${place#*=} in \
	    *[[:space:]\&\|\;\<\>\(\)\$$\`\"\'\*\?\[\#\\]*) echo "make: $$place: expected a path without spaces and &|;<>()\$$\`\"'*?[#\\" >&2; exit 1 ;; esac; done
install: places all library man ## install programs, library, man pages, configuration, units, the model; PREFIX=/usr/local, DESTDIR=, LIBDIR=
	install -d $(addprefix $(DESTDIR),$(PREFIX)/bin $(LIBDIR)/pkgconfig $(INCLUDEDIR) $(SHARED)/models/stories $(PREFIX)/share/doc/deqd $(UNITS) $(SYSCONFDIR)/deqd $(STATEDIR)/deqd/models)
	install -d -m 0700 $(DESTDIR)$(SYSCONFDIR)/deqd/credentials
	install -m 0755 $(OUT)/deqd $(OUT)/deq $(DESTDIR)$(PREFIX)/bin
	install -m 0644 $(SHARED_LIBRARY) $(OBJ)/libdeq.a $(DESTDIR)$(LIBDIR)
	ln -sfn libdeq.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libdeq.so.$(MINOR)
	ln -sfn libdeq.so.$(MINOR) $(DESTDIR)$(LIBDIR)/libdeq.so
	install -m 0644 $(OBJ)/deq.h $(DESTDIR)$(INCLUDEDIR)
	sed 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@INCLUDEDIR@|$(INCLUDEDIR)|; s|@VERSION@|$(VERSION)|' core/deq.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/deq.pc
	install -m 0644 $(addprefix models/stories/,config.json model.safetensors tokenizer.json tokenizer_config.json README.md) $(DESTDIR)$(SHARED)/models/stories
	install -m 0644 LICENSE .github/CHANGELOG.md $(DESTDIR)$(PREFIX)/share/doc/deqd
	$(call placed,etc/installed.md) > $(DESTDIR)$(PREFIX)/share/doc/deqd/README.md
	for page in $(MAN)/*.[18]; do test -e $$page || continue; to=$(DESTDIR)$(MANDIR)/man$${page##*.}; install -d $$to || exit 1; \
	    sed 's|@SYSCONFDIR@|$(SYSCONFDIR)|; s|@MODEL@|$(SHARED)/models/stories|' $$page > $$to/$${page##*/} && chmod 0644 $$to/$${page##*/} || exit 1; done
	sed 's|"models/stories"|"$(SHARED)/models/stories"|' etc/deqd.yaml > $(DESTDIR)$(SHARED)/deqd.yaml
	ln -sfn $(SYSCONFDIR)/deqd $(DESTDIR)$(SHARED)/etc
	test -e $(DESTDIR)$(SYSCONFDIR)/deqd/deqd.yaml || install -m 0644 $(DESTDIR)$(SHARED)/deqd.yaml $(DESTDIR)$(SYSCONFDIR)/deqd/deqd.yaml
	for u in $(INSTALLED); do $(call placed,$$u) > $(DESTDIR)$(UNITS)/$$(basename $$u) || exit 1; done
	chmod 0644 $(DESTDIR)$(PREFIX)/share/doc/deqd/README.md $(DESTDIR)$(LIBDIR)/pkgconfig/deq.pc $(DESTDIR)$(SHARED)/deqd.yaml $(addprefix $(DESTDIR)$(UNITS)/,$(notdir $(INSTALLED)))
uninstall: places ## remove what install put there, but not your configuration and models
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,deqd deq) $(addprefix $(DESTDIR)$(UNITS)/,$(notdir $(INSTALLED)))
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/,libdeq.so libdeq.so.$(MINOR) libdeq.so.$(VERSION) libdeq.a pkgconfig/deq.pc) $(DESTDIR)$(INCLUDEDIR)/deq.h
	rm -f $(DESTDIR)$(MANDIR)/man8/deqd.8 $(DESTDIR)$(MANDIR)/man1/deq.1 $(DESTDIR)$(MANDIR)/man1/deq-*.1
	rm -rf $(DESTDIR)$(SHARED) $(DESTDIR)$(PREFIX)/share/doc/deqd

-include $(patsubst %.o,%.d,$(call obj,$(CORE) $(CLI) $(SERVER) $(UNIT) $(SIM) tests/sim/daemon.c $(wildcard tests/fuzz/*.c tests/timing/*.c)))
