// Package cmdlinetest checks that a program's help says all that people need, and
// that its manual pages have all of it.
package cmdlinetest
