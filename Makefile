# A thin front for meson: what a newcomer types. Options go to meson: `meson configure build`.
BUILD ?= build

.PHONY: all demo test check bench install clean packages-build

all: packages-build
	@test -e $(BUILD)/build.ninja || meson setup $(BUILD) >/dev/null
	@meson compile -C $(BUILD)

packages-build:
	@tools/install-packages build

demo: all
	@tools/install-packages guest
	@tools/demo $(BUILD)

test:
	@tools/install-packages build guest test
	@tests/run

bench: all
	@tools/install-packages guest test bench
	@bench/run $(BUILD)

install: all
	@meson install -C $(BUILD) --no-rebuild $(if $(DESTDIR),--destdir $(DESTDIR))

clean:
	rm -rf $(BUILD) build-*
