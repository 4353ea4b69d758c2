// Package doctor tries each step of an access in turn, from this machine's clock to
// the service's own answer, and says which one fails and what to do about it. When
// nobody answers, it finds out what kind of network this is.
package doctor
