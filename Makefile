# make demo      one reservation, end to end, on real parts, as it happens
# make test      all tests; make test-unit, test-integration, test-perl: parts of them
# make lint      ruff, mypy --strict, perl -c and perlcritic, gofmt and go vet
# make bench     ratios against floors, measured side by side
# make bench-placement   what placement refuses, against Nova's default and the exact bound; ARGS='--seeds 20'
# make bench-leases   what the reading of lease files costs and how soon it tells; ARGS='--only index'
# make fuzz-leases    bytes for the parser of lease files, led by coverage; ARGS='-max_total_time=600'
# make test-galera   the claims on a real Galera cluster of three MariaDB servers
# make test-vcld VCL_SRC=/path/to/apache-vcl    the flows of the real vcld with our shim and service; more of tests/vcld/run
#                with RUN='--vcenter' or RUN='reserved capture'
SHELL := /bin/bash
VENV := .venv/bin
# ruff reads no setup.cfg; these two lines are its settings
RUFF := --isolated --line-length 120
RULES := --select E,F,W,I,B,UP,SIM,C4,RUF,PT,PERF,PGH,ANN --ignore ANN401,RUF001,RUF002,RUF003,PT011,SIM105,B008,PERF203
PYTHON_CODE := bridge esxprov tests benchmarks
PERL_LIB := bridge/perl/lib
PERL_CODE = $$(find bridge/perl tests/perl tests/vcld -name '*.pm' -o -name '*.t' -o -name '*.pl')

.PHONY: demo test test-unit test-integration test-perl lint lint-python lint-perl lint-go format bench bench-placement bench-leases fuzz-leases test-galera test-vcld bootstrap clean

demo: bootstrap
	@$(VENV)/python -m tests.demo

test: test-unit test-perl test-integration

test-unit: bootstrap
	$(VENV)/pytest tests/unit tests/test_layering.py

test-perl: bootstrap
	PERL5LIB=tests/perl/lib:$(PERL_LIB) prove -q -r bridge/perl/t

test-integration: bootstrap
	$(VENV)/pytest tests/integration

lint: lint-python lint-perl lint-go

lint-python: bootstrap
	$(VENV)/ruff check $(RUFF) $(RULES) $(PYTHON_CODE)
	$(VENV)/ruff format --check $(RUFF) $(PYTHON_CODE)
	$(VENV)/mypy

lint-perl: bootstrap
	@for file in $(PERL_CODE); do PERL5LIB=tests/perl/lib:$(PERL_LIB) perl -c $$file 2>&1 | grep -v ' syntax OK$$' && exit 1 || true; done
	perlcritic --quiet --severity 5 $(PERL_LIB) tests/perl

lint-go: bootstrap
	@test -z "$$(/usr/lib/go-1.19/bin/gofmt -l tests/testbed/vsim)" || { echo "run gofmt on tests/testbed/vsim"; exit 1; }
	@GO111MODULE=off GOFLAGS= CGO_ENABLED=0 GOPATH=/usr/share/gocode GOCACHE=$(CURDIR)/.build/gocache \
		/usr/lib/go-1.19/bin/go vet ./tests/testbed/vsim

format: bootstrap
	$(VENV)/ruff check --fix $(RUFF) $(RULES) $(PYTHON_CODE)
	$(VENV)/ruff format $(RUFF) $(PYTHON_CODE)

bench: bootstrap
	@$(VENV)/python -m benchmarks

bench-placement: bootstrap
	@$(VENV)/python -m benchmarks.placement $(ARGS)

bench-leases:
	@scripts/bootstrap bench
	@$(VENV)/python -m benchmarks.leases $(ARGS)

FUZZED := .build/fuzz-leases
fuzz-leases:
	@scripts/bootstrap fuzz
	@mkdir -p $(FUZZED)
	@$(VENV)/python -m tests.fuzz.leases $(FUZZED)/corpus -artifact_prefix=$(FUZZED)/ $(or $(ARGS),-max_total_time=60)

test-galera: bootstrap
	$(VENV)/pytest tests/galera

test-vcld:
	@test -n "$(VCL_SRC)" || { echo "usage: make test-vcld VCL_SRC=/path/to/apache-vcl [RUN='--vcenter FLOW...']" >&2; exit 64; }
	@scripts/bootstrap vcld
	@VCL_SRC="$(VCL_SRC)" tests/vcld/run $(RUN)

bootstrap:
	@scripts/bootstrap

clean:
	rm -rf .build .mypy_cache .ruff_cache build *.egg-info
