# Lasthop: what one types. Everything here runs as root on Debian 12 with Rust (rustup.rs).

CARGO ?= cargo
LAB   ?= lasthop
RELEASE := target/release/lasthop

.PHONY: help demo test conformance bench bench-bgp simulate spoil build lab-up lab-down deps deps-test fmt lint unit doc test-e2e test-vm interop resilience

help:
	@echo "make demo      see it work: three hosts, a route reflector, workloads, on this machine"
	@echo "make test      everything a contributor needs: format, lints, tests, documentation, end to end"
	@echo "make conformance  all cases about policy, on the evaluator and as real packets on nftables and both iptables"
	@echo "make interop   every BGP scenario with BIRD, FRR, GoBGP, OpenBGPD and ExaBGP; writes docs/interop.md"
	@echo "make resilience  packets lost when something dies, with ourselves, BIRD and FRR; writes docs/resilience.md"
	@echo "make bench     the numbers, printed and written to bench/results/"
	@echo "make bench-bgp the speaker as a route reflector beside BIRD, FRR, OpenBGPD and GoBGP"
	@echo "make simulate  5,000 hosts behind three levels of reflectors under virtual time; make spoil: a million messages with mistakes"
	@echo "make lab-up    bring the reference network up; make lab-down takes it down"

build:
	$(CARGO) build --release --package lasthop

demo: deps build
	scripts/demo.sh $(RELEASE) $(LAB)

lab-up: deps build
	$(RELEASE) lab up --name $(LAB)

lab-down:
	$(RELEASE) lab down --name $(LAB)

bench: deps-test build
	$(CARGO) run --release --quiet --package lasthop-xtask -- bench

bench-bgp: deps-test build
	$(CARGO) run --release --quiet --package lasthop-xtask -- bench bgp

simulate:
	$(CARGO) run --release --quiet --package lasthop-xtask -- simulate

spoil:
	$(CARGO) run --release --quiet --package lasthop-xtask -- spoil

conformance: deps-test
	$(CARGO) build --quiet --package lasthop-xtask
	for engine in evaluator nft iptables-legacy iptables-nft; do \
		echo "policy, $$engine:" && \
		$(CARGO) run --quiet --package lasthop-xtask -- conformance policy conformance/policy_verdicts.json --engine $$engine || exit 1; \
	done
	$(CARGO) run --quiet --package lasthop-xtask -- conformance selectors conformance/selectors.json
	$(CARGO) run --quiet --package lasthop-xtask -- conformance validation conformance/validation.json

interop: deps-test
	$(CARGO) run --quiet --package lasthop-xtask -- interop

resilience: deps-test build
	$(CARGO) run --release --quiet --package lasthop-xtask -- resilience

test: deps-test fmt lint unit doc

deps:
	scripts/install-deps.sh

deps-test:
	scripts/install-deps.sh test

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

# All tests of the workspace: also those that need root, the end-to-end ones and the one with a real guest.
unit:
	scripts/test.sh

doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --quiet

test-e2e:
	$(CARGO) test --package lasthop --test 'e2e_*'

test-vm:
	$(CARGO) test --package lasthop --test e2e_topologies a_real_guest -- --nocapture
