# A thin front for meson: what a newcomer types. Options go to meson: `meson configure build`.
BUILD ?= build

.PHONY: all demo test bench install deb coverage format clean packages-build

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

# A Debian package, build-deb/oyako_*.deb
deb: packages-build
	@tools/install-packages package
	@tools/deb

# What the unit tests reach: build-coverage/meson-logs/coveragereport/index.html
coverage:
	@tools/install-packages build test coverage
	@test -e build-coverage/build.ninja || meson setup build-coverage -Db_coverage=true >/dev/null
	@meson test -C build-coverage --suite unit --suite cpu
	@# One after the other: both write gcov's files to the same places.
	@ninja -C build-coverage coverage-html
	@ninja -C build-coverage coverage-text
	@cat build-coverage/meson-logs/coverage.txt

format:
	@tools/install-packages test
	@tests/style/check-format --fix

clean:
	rm -rf $(BUILD) build-*
