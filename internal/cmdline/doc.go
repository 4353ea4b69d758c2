// Package cmdline is what the commands' command lines have in common: completion
// for the shells, and options that may follow arguments.
package cmdline
