# deqd: `make help` lists what there is.
CC      ?= cc
SAN     ?=
DEBUG   ?=
CONFIG  := $(if $(SAN),san-$(subst $(comma),-,$(SAN)),release)
comma   := ,
OUT     := build
OBJ     := $(OUT)/$(CONFIG)
VERSION := 0.1.0

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wvla -Wformat=2
OPT     := $(if $(SAN),-O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN),-O3 -g1)
HARDEN  := -fstack-protector-strong -fPIE $(if $(SAN),,-D_FORTIFY_SOURCE=2)
CFLAGS_ := -std=gnu11 $(OPT) $(WARN) $(HARDEN) -fno-math-errno -fno-trapping-math -ffp-contract=off -I. -DDEQ_VERSION='"$(VERSION)"' -MMD -MP
LDFLAGS_:= -pie -Wl,-z,relro,-z,now $(if $(SAN),-fsanitize=$(SAN))
LIBS    := -lopenblas -ljansson -lyaml -lm -lpthread

CORE    := $(wildcard core/*.c core/*/*.c)
CLI     := $(wildcard models/cli/*.c)
SERVER  := $(wildcard server/*.c)
UNIT    := $(wildcard tests/unit/*.c)
obj      = $(patsubst %.c,$(OBJ)/%.o,$(1))

.DEFAULT_GOAL := all
.PHONY: all
all: $(OUT)/deqd $(OUT)/deq

$(OBJ)/core/math/kern_avx2.o:   ARCH := -mavx2 -mfma
$(OBJ)/core/math/kern_avx512.o: ARCH := -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma
$(OBJ)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_) $(CFLAGS) $(ARCH) -c $< -o $@

$(OBJ)/libdeq.a: $(call obj,$(CORE))
	@rm -f $@
	ar rcs $@ $^

$(OBJ)/deq: $(call obj,$(CLI)) $(OBJ)/libdeq.a
	$(CC) $(LDFLAGS_) $(LDFLAGS) $^ $(LIBS) -o $@
$(OBJ)/deqd: $(call obj,$(SERVER)) $(OBJ)/libdeq.a
	$(CC) $(LDFLAGS_) $(LDFLAGS) $^ -lmicrohttpd $(LIBS) -o $@
$(OBJ)/unit: $(call obj,$(UNIT)) $(OBJ)/libdeq.a
	$(CC) $(LDFLAGS_) $(LDFLAGS) $^ $(LIBS) -o $@
$(OUT)/deq $(OUT)/deqd: $(OUT)/%: $(OBJ)/%
	ln -sf $(CONFIG)/$* $@

-include $(patsubst %.o,%.d,$(call obj,$(CORE) $(CLI) $(SERVER) $(UNIT)))
