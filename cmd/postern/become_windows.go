package main

// become runs another program and ends with its exit code.
func (p program) become(path string, args []string) error { return p.runFor(path, args) }
