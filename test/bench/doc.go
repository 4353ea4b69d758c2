// Package bench measures the whole system, in the namespaces of test/lab and side
// by side with Debian's fwknop where that is installed. `make bench` runs it;
// docs/BENCHMARKS.md has the figures.
package bench
