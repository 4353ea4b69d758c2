// Package metrics tells Prometheus what a host agent's status tells people:
// numbers, with labels from closed lists. No label is a client, a session or an
// address, so the number of series does not grow.
package metrics
