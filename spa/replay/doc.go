// Package replay lets each knock in once, ever: also after a crash of the
// process or of the machine, and when the clock runs backwards.
package replay
