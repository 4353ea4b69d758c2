//go:build !windows

package service

import "context"

// Run runs nothing: a service is a process like any other here.
func Run(func(context.Context) int) (code int, isService bool) { return 0, false }
