// Package e2e runs the promises of the demo, and harder ones, as tests: the real
// binaries in the namespaces of test/lab.
package e2e
