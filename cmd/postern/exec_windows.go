package main

import "os"

// passedSignals are those that must not end us before the command: the console sends
// its own to both.
func passedSignals() []os.Signal { return []os.Signal{os.Interrupt} }

func passSignal(*os.Process, os.Signal) {}

func exitStatus(state *os.ProcessState) int { return state.ExitCode() }
