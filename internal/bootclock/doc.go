// Package bootclock is the clock that counts from the machine's boot, and goes on
// while the machine is suspended. Nobody who sets the wall clock moves it.
package bootclock
